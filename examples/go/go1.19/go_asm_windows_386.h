// Offsets of Go 1.19's runtime for GOOS=windows GOARCH=386: the lines of the go_asm.h that its build makes which examples/go use.
#define gobuf__size 28
#define gobuf_sp 0
#define gobuf_pc 4
#define g__size 240
#define g_m 24
#define g_sched 28
#define m__size 548
#define m_g0 0
#define m_curg 80
#define callbackArgs__size 16
#define callbackArgs_index 0
#define callbackArgs_args 4
#define callbackArgs_result 8
#define callbackArgs_retPop 12
