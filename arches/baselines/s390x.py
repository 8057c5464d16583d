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
    }
)
