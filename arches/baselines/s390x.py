"""s390x: what is beyond the baselines."""

from __future__ import annotations

from trampoline_dsl.target import Extensions

# z/Architecture Principles of Operation, SA22-7832-12, appendix B, and "Facility Indications".
Z13 = Extensions(
    {
        "guardedstorage": "guarded-storage facility (z14)",
        "insertreferencebitsmultiple": "insert-reference-bits-multiple facility (z14)",
        "messagesecurityassist7": "message-security assist 7 (z14)",
        "messagesecurityassist8": "message-security assist 8 (z14)",
        "miscellaneousextensions2": "miscellaneous-instruction-extensions facility 2 (z14)",
        "testpendingexternalinterruption": "test-pending-external-interruption facility (z14)",
        "vectorenhancements1": "vector-enhancements facility 1 (z14)",
        "vectorpackeddecimal": "vector packed-decimal facility (z14)",
    },
    codes=(
        (r"b9(f5|e5|7[4-7]|6[4-7]|f0|e3|c0)|b9e1[^0]|e50a", "miscellaneous-instruction-extensions facility 3 (z15)"),
        (r"e6.{8}0[1-7]|e6.{8}0[9abef]|e7.{8}8[67b]", "vector-enhancements facility 2 (z15)"),
        (r"b939", "DEFLATE-conversion facility (z15)"),
        (r"b938", "enhanced-sort facility (z15)"),
        (r"b93a", "message-security assist 9 (z15)"),
        (r"b93b|e6.{8}(5[56de]|75)", "neural-network-processing-assist facility (z16)"),
        (r"e6.{8}(7[024d]|5[14c])", "vector-packed-decimal-enhancement facility 2 (z16)"),
        (r"b98b|b20[01]|b28f|eb.{8}71", "z16"),
    ),
    complete=False,
)
