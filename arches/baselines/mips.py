"""mips and mips64: what is beyond the baselines."""

from __future__ import annotations

from dataclasses import replace

from trampoline_dsl.target import Extensions

# MIPS32 Architecture for Programmers, volume II, "Instruction Set"; MIPS IV Instruction Set, revision 3.2.
_MIPS_GROUPS = {
    "mips32r2": "MIPS32 release 2",
    "mips3_32r2": "MIPS32 release 2",
    "mips4_32r2": "MIPS32 release 2",
    "mips5_32r2": "MIPS32 release 2",
    "mips64": "MIPS64",
    "mips64r2": "MIPS64 release 2",
    "mips32r6": "MIPS32 release 6",
    "mips64r6": "MIPS64 release 6",
    "dsp": "DSP",
    "dspr2": "DSP release 2",
    "msa": "MSA",
    "cnmips": "Octeon",
    "micromips": "microMIPS",
}
# Linux reads the thread's pointer for those who have no such instruction: arch/mips/kernel/traps.c, simulate_rdhwr.
_RDHWR = r"rdhwr \$v1, \$29"
_MIPS_NAMES = ((r"rdhwr ", "MIPS32 release 2"),)
MIPS32 = Extensions(_MIPS_GROUPS, _MIPS_NAMES, within=_RDHWR, complete=False)
MIPS3 = Extensions(
    {
        **{name: feature.replace("MIPS32 release 2", "MIPS IV or later") for name, feature in _MIPS_GROUPS.items()},
        "mips3_32r2": "",
        "mips4_32": "MIPS IV",
        "mips3_32": "MIPS IV",
        "mips32": "MIPS32",
        "mips32r2": "MIPS32 release 2",
    },
    (*_MIPS_NAMES, (r".*\$fcc[1-7]", "MIPS IV")),
    within=_RDHWR + r"|sync$|cache |jalx |jalr\.hb |jr\.hb |di?mfc0 |d?m[tf]c0 ",
)
_MIPS_FLOAT = ((r".*\$f(cc)?\d|c[tf]c1 |bc1|[\w.]+\.[sdwl](\.[sdwl])? ", "floating point"),)


def _soft(extensions: Extensions) -> Extensions:
    """The same for machines without floating point."""
    return replace(extensions, texts=(*_MIPS_FLOAT, *extensions.texts))


MIPS32_SOFT, MIPS3_SOFT = _soft(MIPS32), _soft(MIPS3)
