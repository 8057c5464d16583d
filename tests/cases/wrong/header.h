/* what a runtime writes for its assembly */
#define g_m 48
#define g_sched 56 // decimal
#define g__size 400
#define g_text (text)
