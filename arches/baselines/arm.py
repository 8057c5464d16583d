"""arm: what is beyond the baselines."""

from __future__ import annotations

from trampoline_dsl.target import Extensions

# Arm Architecture Reference Manual, DDI 0406C, appendix A and A2.7.
_ARM_SIMD = {"neon": "Advanced SIMD", "crypto": "cryptographic extension"}
_ARM_LATER = {
    "v8": "Armv8",
    "crc": "CRC32",
    "fparmv8": "VFP of Armv8",
    "vfp4": "VFPv4",
    "virtualization": "virtualization extensions",
    "TRUSTZONE": "security extensions",
    "multpro": "multiprocessing extensions",
}
_ARM_NAMES = ((r"[su]div", "ARMv7 division"), (r"vac(ge|gt|le|lt)[.]", "Advanced SIMD"))
_ARM_WORDS = ((0x0F900DF0, 0x01000040, "CRC32"),)
ARM7 = Extensions({**_ARM_SIMD, **_ARM_LATER}, _ARM_NAMES, _ARM_WORDS, complete=False)
_VFP = dict.fromkeys(("vfp2", "vfp3", "dpvfp", "fpvmlx"), "floating point")
# Of the group "v6", multiplications with results of 32 and 64 bits are older: DDI 0406C, A4.4.3.
_CONDITION = r"(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
ARM5 = Extensions(
    {
        **_ARM_SIMD,
        **_ARM_LATER,
        **_VFP,
        "v6t2": "ARMv6T2",
        "v7": "ARMv7",
        "databarrier": "ARMv7 barriers",
    },
    (
        (r"v[a-z]+[a-z0-9.]* ", "floating point"),
        *_ARM_NAMES,
        (r"(clrex|(ldr|str)ex[bhd]?)" + _CONDITION + r"\b", "ARMv6K"),
        (r"(ldr|str)(h|sb|sh)t" + _CONDITION + r" ", "ARMv6T2"),
        (r"(cps(ie|id)?|rfe(da|db|ia|ib)?|srs(da|db|ia|ib)?|setend)\b", "ARMv6"),
        (r"[su](q|h)?(add|sub)(8|16)|[su](q|h)?(asx|sax)|q(add|sub)(8|16)|q(asx|sax)|[su]sat(16)?", "ARMv6"),
        (r"rev(16|sh)?|sel|pkh(bt|tb)|[su]xt(a?[bh](16)?)|sm(mul|mla|mls)r?|sm[lu][as]l?dx?|usada?8|umaal", "ARMv6"),
        (r"sm(uad|usd|lad|lsd|lald|lsld)x?|mrrc2|mcrr2", "ARMv6"),
        (r"(nop|yield|wf[ei]|sev|hint|dbg)", "ARMv6K"),
        (r"msr\w* [ac]psr_\w*g", "ARMv6"),
    ),
    _ARM_WORDS,
    complete=False,
)
