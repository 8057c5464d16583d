// Offsets of Go 1.19's runtime for GOOS=linux GOARCH=amd64: the lines of the go_asm.h that its build makes which examples/go use.
#define g__size 392
#define g_m 48
#define g_sched 56
#define g_syscallsp 112
#define m__size 1008
#define m_g0 0
#define m_curg 192
#define m_ncgo 312
#define m_cgoCallers 320
#define m_cgoCallersUse 316
#define gobuf__size 56
#define gobuf_sp 0
#define gobuf_pc 8
