// Offsets of Go 1.24's runtime for GOOS=linux GOARCH=mipsle: the lines of the go_asm.h that its build makes which examples/go use.
#define gobuf__size 28
#define gobuf_sp 0
#define gobuf_pc 4
#define g__size 280
#define g_m 24
#define g_sched 28
#define g_syscallsp 56
#define m__size 1216
#define m_g0 0
#define m_curg 116
#define m_ncgo 208
#define m_cgoCallers 216
#define m_cgoCallersUse 212
