/* Steps through a trampoline, and walks from before each of its instructions to whoever has called it, as Windows does it:
   RtlLookupFunctionEntry, RtlVirtualUnwind. Then a callee walks too, with RtlCaptureStackBackTrace.

   `enter` sets all registers that a function has to keep, and calls it; each walk has to find what it has set. */

#include <windows.h>
#include <stdio.h>
#include <string.h>

#define SINGLE_STEP 0x100

extern unsigned long long through(unsigned long long); /* the trampoline */
extern unsigned long long enter(unsigned long long (*)(unsigned long long), unsigned long long);
extern char enter_returns[], trampolines_begin[], trampolines_end[];

unsigned long long kept[8 + 20] __attribute__((aligned(16))); /* rbx rsi rdi rbp r12 r13 r14 r15, xmm6 to xmm15 */
static unsigned long long entry_sp;
static int stepping, walks, wrong, traced;

static void compare(const CONTEXT *context, unsigned long long from) {
    const unsigned long long registers[8] = {context->Rbx, context->Rsi, context->Rdi, context->Rbp,
                                             context->R12, context->R13, context->R14, context->R15};
    if (context->Rsp != entry_sp || memcmp(registers, kept, sizeof registers) ||
        memcmp(&context->Xmm6, kept + 8, 160)) {
        wrong++;
        printf("at %#llx: rsp %#llx, not %#llx\n", from, context->Rsp, entry_sp);
        for (int n = 0; n < 8; n++)
            if (registers[n] != kept[n])
                printf("  register %d: %#llx, not %#llx\n", n, registers[n], kept[n]);
    }
}

static void walk(CONTEXT context) {
    unsigned long long from = context.Rip;
    for (int depth = 0; depth < 8; depth++) {
        if (context.Rip == (unsigned long long)enter_returns) {
            compare(&context, from);
            walks++;
            return;
        }
        DWORD64 base;
        RUNTIME_FUNCTION *function = RtlLookupFunctionEntry(context.Rip, &base, NULL);
        if (!function) {
            context.Rip = *(DWORD64 *)context.Rsp;
            context.Rsp += 8;
            continue;
        }
        void *data;
        DWORD64 frame;
        RtlVirtualUnwind(UNW_FLAG_NHANDLER, base, context.Rip, function, &context, &data, &frame, NULL);
    }
    wrong++;
    printf("at %#llx: the walk does not find enter\n", from);
}

static LONG CALLBACK stepped(EXCEPTION_POINTERS *pointers) {
    CONTEXT *context = pointers->ContextRecord;
    if (pointers->ExceptionRecord->ExceptionCode != EXCEPTION_SINGLE_STEP)
        return EXCEPTION_CONTINUE_SEARCH;
    if (context->Rip == (unsigned long long)through && !entry_sp)
        entry_sp = context->Rsp + 8;
    if (context->Rip == (unsigned long long)enter_returns)
        stepping = 0;
    if (context->Rip >= (unsigned long long)trampolines_begin && context->Rip < (unsigned long long)trampolines_end)
        walk(*context);
    if (stepping)
        context->EFlags |= SINGLE_STEP;
    else
        context->EFlags &= ~SINGLE_STEP;
    return EXCEPTION_CONTINUE_EXECUTION;
}

unsigned long long visit(unsigned long long x) {
    void *places[16];
    if (!stepping) {
        int count = RtlCaptureStackBackTrace(0, 16, places, NULL);
        for (int n = 0; n < count; n++)
            traced += places[n] == enter_returns;
    }
    return 2 * x;
}

int main(void) {
    for (int n = 0; n < 28; n++)
        kept[n] = 0x0123456789abcdefULL * (n + 3);
    unsigned long long plain = enter(through, 5);
    AddVectoredExceptionHandler(1, stepped);
    stepping = 1;
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "memory", "cc");
    unsigned long long again = enter(through, 5);
    printf("%d walks, %d wrong, %d traced, %llu %llu\n", walks, wrong, traced, plain, again);
    return wrong || traced != 2 || plain != again || walks < 60;
}

__asm__(".text\n"
        ".globl enter\n"
        ".def enter; .scl 2; .type 32; .endef\n"
        "enter:\n"
        ".seh_proc enter\n"
        "pushq %rbx\n.seh_pushreg %rbx\n"
        "pushq %rsi\n.seh_pushreg %rsi\n"
        "pushq %rdi\n.seh_pushreg %rdi\n"
        "pushq %rbp\n.seh_pushreg %rbp\n"
        "pushq %r12\n.seh_pushreg %r12\n"
        "pushq %r13\n.seh_pushreg %r13\n"
        "pushq %r14\n.seh_pushreg %r14\n"
        "pushq %r15\n.seh_pushreg %r15\n"
        "subq $200, %rsp\n.seh_stackalloc 200\n"
        "movaps %xmm6, 32(%rsp)\n.seh_savexmm %xmm6, 32\n"
        "movaps %xmm7, 48(%rsp)\n.seh_savexmm %xmm7, 48\n"
        "movaps %xmm8, 64(%rsp)\n.seh_savexmm %xmm8, 64\n"
        "movaps %xmm9, 80(%rsp)\n.seh_savexmm %xmm9, 80\n"
        "movaps %xmm10, 96(%rsp)\n.seh_savexmm %xmm10, 96\n"
        "movaps %xmm11, 112(%rsp)\n.seh_savexmm %xmm11, 112\n"
        "movaps %xmm12, 128(%rsp)\n.seh_savexmm %xmm12, 128\n"
        "movaps %xmm13, 144(%rsp)\n.seh_savexmm %xmm13, 144\n"
        "movaps %xmm14, 160(%rsp)\n.seh_savexmm %xmm14, 160\n"
        "movaps %xmm15, 176(%rsp)\n.seh_savexmm %xmm15, 176\n"
        ".seh_endprologue\n"
        "movq %rcx, %rax\n"
        "movq %rdx, %rcx\n"
        "leaq kept(%rip), %rdx\n"
        "movq (%rdx), %rbx\nmovq 8(%rdx), %rsi\nmovq 16(%rdx), %rdi\nmovq 24(%rdx), %rbp\n"
        "movq 32(%rdx), %r12\nmovq 40(%rdx), %r13\nmovq 48(%rdx), %r14\nmovq 56(%rdx), %r15\n"
        "movaps 64(%rdx), %xmm6\nmovaps 80(%rdx), %xmm7\nmovaps 96(%rdx), %xmm8\nmovaps 112(%rdx), %xmm9\n"
        "movaps 128(%rdx), %xmm10\nmovaps 144(%rdx), %xmm11\nmovaps 160(%rdx), %xmm12\nmovaps 176(%rdx), %xmm13\n"
        "movaps 192(%rdx), %xmm14\nmovaps 208(%rdx), %xmm15\n"
        "call *%rax\n"
        ".globl enter_returns\n"
        "enter_returns:\n"
        "movaps 32(%rsp), %xmm6\nmovaps 48(%rsp), %xmm7\nmovaps 64(%rsp), %xmm8\nmovaps 80(%rsp), %xmm9\n"
        "movaps 96(%rsp), %xmm10\nmovaps 112(%rsp), %xmm11\nmovaps 128(%rsp), %xmm12\nmovaps 144(%rsp), %xmm13\n"
        "movaps 160(%rsp), %xmm14\nmovaps 176(%rsp), %xmm15\n"
        "addq $200, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbp\npopq %rdi\npopq %rsi\npopq %rbx\n"
        "ret\n"
        ".seh_endproc\n");
