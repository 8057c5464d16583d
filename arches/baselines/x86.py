"""386 and amd64: what is beyond the baselines."""

from __future__ import annotations

from trampoline_dsl.target import Extensions

# ENDBR does nothing on machines without. TZCNT is BSF there (SDM volume 2B, "TZCNT"), for which compilers write it.
_WITHIN = r"endbr(32|64)|tzcnt "

# Intel SDM, volume 1, chapter 5, "Instruction Set Summary"; AMD64 Architecture Programmer's Manual, volume 3, appendix
# D, "Instruction Subsets and CPUID Feature Flags".
_X86_GROUPS = {
    "sse3": "SSE3",
    "ssse3": "SSSE3",
    "sse41": "SSE4.1",
    "sse42": "SSE4.2",
    "sse4a": "SSE4a",
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512": "AVX-512",
    "bmi": "BMI1",
    "bmi2": "BMI2",
    "tbm": "TBM",
    "xop": "XOP",
    "fma": "FMA",
    "fma4": "FMA4",
    "fc16": "F16C",
    "adx": "ADX",
    "aes": "AES",
    "pclmul": "PCLMULQDQ",
    "sha": "SHA",
    "fsgsbase": "FSGSBASE",
    "rtm": "RTM",
    "3dnow": "3DNow!",
    "vm": "virtualization",
    "smap": "SMAP",
    "sgx": "SGX",
}
_X86_NAMES = (
    (r"(v(?!err |erw )\w+|k\w+) ", "AVX or later"),
    (r"(pabs[bwd]|palignr|ph(add|sub)(w|d|sw)|pmaddubsw|pmulhrsw|pshufb|psign[bwd]) ", "SSSE3"),
    (r"phminposuw ", "SSE4.1"),
    (r"pcmp[ei]str[im] ", "SSE4.2"),
    (r"fisttp ", "SSE3"),
    (r"popcnt ", "POPCNT"),
    (r"lzcnt ", "LZCNT"),
    (r"movbe ", "MOVBE"),
    (r"cmpxchg16b ", "CMPXCHG16B"),
    (r"prefetchwt?1? ", "PREFETCHW"),
    (r"rdtscp", "RDTSCP"),
    (r"rd(rand|seed|pid) ", "RDRAND, RDSEED, RDPID"),
    (r"(rd|wr)pkru", "PKU"),
    (r"x(getbv|setbv|(save|rstor)\w*)", "XSAVE"),
    (r"x(begin|end|abort|test)", "RTM"),
    (r"bnd(cl|cn|cu|ldx|mk|mov|stx) ", "MPX"),
    (r"gf2p8\w+ ", "GFNI"),
    (r"cl(demote|flushopt|wb|zero)", "CLFLUSHOPT, CLWB, CLDEMOTE, CLZERO"),
    (r"(u?monitorx?|u?mwaitx?|tpause)", "MONITOR, WAITPKG"),
    (r"movdir(i|64b) ", "MOVDIRI, MOVDIR64B"),
    (r"(incssp|rdssp|wru?ss)[dq]|(saveprevssp|setssbsy|clrssbsy|rstorssp)", "CET shadow stacks"),
    (r"(rep \w+ )?(xcrypt\w+|xsha(1|256)|xstore(rng)?|montmul)", "VIA PadLock"),
    (r"(encl[suv]|getsec|pconfig|ptwrite|wbnoinvd|invpcid|clac|stac|[ls]lwpcb|lwp\w+)", "system extensions"),
)
AMD64 = Extensions(
    _X86_GROUPS,
    _X86_NAMES,
    within=_WITHIN,
    codes=((r"62", "AVX-512"), (r"c[45]", "AVX or later")),  # SDM volume 2A, 2.3.5 and 2.7: prefixes
)
SSE2 = Extensions(_X86_GROUPS, (*_X86_NAMES, (r"sys(call|ret)", "SYSCALL in 32-bit mode")), within=_WITHIN)
