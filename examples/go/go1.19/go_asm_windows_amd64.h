// Offsets of Go 1.19's runtime for GOOS=windows GOARCH=amd64: the lines of the go_asm.h that its build makes which examples/go use.
#define gobuf__size 56
#define gobuf_sp 0
#define gobuf_pc 8
#define g__size 392
#define g_m 48
#define g_sched 56
#define m__size 992
#define m_g0 0
#define m_curg 144
#define callbackArgs__size 32
#define callbackArgs_index 0
#define callbackArgs_args 8
#define callbackArgs_result 16
#define callbackArgs_retPop 24
