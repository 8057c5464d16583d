// Offsets of Go 1.24's runtime for GOOS=linux GOARCH=mips64: the lines of the go_asm.h that its build makes which examples/go use.
#define gobuf__size 56
#define gobuf_sp 0
#define gobuf_pc 8
#define g__size 440
#define g_m 48
#define g_sched 56
#define g_syscallsp 112
#define m__size 1832
#define m_g0 0
#define m_curg 200
#define m_ncgo 336
#define m_cgoCallers 344
#define m_cgoCallersUse 340
