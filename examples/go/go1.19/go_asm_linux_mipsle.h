// Offsets of Go 1.19's runtime for GOOS=linux GOARCH=mipsle: the lines of the go_asm.h that its build makes which examples/go use.
#define g__size 240
#define g_m 24
#define g_sched 28
#define g_syscallsp 56
#define m__size 572
#define m_g0 0
#define m_curg 116
#define m_ncgo 204
#define m_cgoCallers 212
#define m_cgoCallersUse 208
#define gobuf__size 28
#define gobuf_sp 0
#define gobuf_pc 4
