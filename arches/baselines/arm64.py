"""arm64: what is beyond the baselines."""

from __future__ import annotations

from trampoline_dsl.target import Extensions

# Arm Architecture Reference Manual, DDI 0487, A2 "Armv8-A Architecture Extensions". Hints, which are one row of words,
# do nothing on machines that do not know them: C6.2, "HINT".
_SCALAR_OR_VECTOR_OF_HALVES = r"\b(h\d+|v\d+\.[48]h)"
ARM64 = Extensions(
    {"crc": "CRC32", "crypto": "cryptographic extension", "pointer authentication": "pointer authentication"},
    (
        (r"(cas|swp)a?l?[bh]? |casp|(ld|st)(add|clr|eor|set|[su]m(ax|in))a?l?[bh]? ", "LSE"),
        (r"(ldla|stll)r[bh]? ", "LOR"),
        (r"ldapu?r(s?[bhw])? |stlur[bh]? ", "LRCPC"),
        (r"ldra[ab] ", "pointer authentication"),
        (r"sqrdml[as]h ", "RDM"),
        (r"(su|us|s|u)dot |(us|s|u)mmla ", "dot products and I8MM"),
        (r"fc(add|mla) ", "FCMA"),
        (r"fjcvtzs ", "JSCVT"),
        (r"fml[as]l2? ", "FHM"),
        (r"bf\w+ \w*[vhs]\d", "BF16"),
        (r"frint(32|64)[xz] ", "FRINTTS"),
        (r"(setf(8|16)|rmif|cfinv|axflag|xaflag)", "FlagM"),
        (r"sha512|eor3|rax1|xar |bcax|sm[34]\w+ ", "SHA512, SHA3, SM3, SM4"),
        (r"(irg|gmi|subps?|addg|subg|stz?2?g|stgp|stz?gm|ldgm?|cmpp) ", "MTE"),
        (r"t(start|commit|cancel|test)", "TME"),
        (r"sb$", "SB"),
        (r"dc (cvap|cvadp|g?zva_|gva|gzva|cgd?v|igd?[vs]|cigd?[vs])", "DC of later versions"),
        (r"m(rs|sr) (.*, )?(pan|uao|dit|ssbs|tco|rndr(rs)?)\b", "system registers of later versions"),
        (r"(?!fcvt |fcvt[ln]2? )(f\w+|[su]cvtf) .*" + _SCALAR_OR_VECTOR_OF_HALVES, "FP16"),
    ),
    ((0x1E000000, 0x04000000, "SVE"), (0x9E000000, 0x80000000, "SME")),
    within_words=((0xFFFFF01F, 0xD503201F),),
)
