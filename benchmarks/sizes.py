"""How much code there is: crosscall2 and cgocallback beside what Go links for the same functions.

Go's are the bytes and instructions of its linked code: release 1.19.8, and for ppc64 and ppc64le crosscall2 as release
1.24 has it, which keeps the vectors too. Every ratio has to be below 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.pipeline import Artifact, compile_source
from trampoline_dsl.target import Bank
from trampoline_dsl.targets import default_targets

ROOT = Path(__file__).resolve().parent.parent
Size = tuple[int, int]  # bytes, instructions

GO: dict[str, dict[str, Size]] = {
    "linux/386": {"crosscall2": (67, 18), "runtime.cgocallback": (202, 53)},
    "linux/amd64": {"crosscall2": (99, 22), "runtime.cgocallback": (282, 62)},
    "linux/arm": {"crosscall2": (140, 34), "runtime.cgocallback": (212, 50)},
    "linux/arm64": {"crosscall2": (108, 27), "runtime.cgocallback": (240, 60)},
    "linux/mips": {"crosscall2": (220, 55), "runtime.cgocallback": (256, 64)},
    "linux/mipsle": {"crosscall2": (220, 55), "runtime.cgocallback": (256, 64)},
    "linux/mips64": {"crosscall2": (216, 54), "runtime.cgocallback": (272, 68)},
    "linux/mips64le": {"crosscall2": (216, 54), "runtime.cgocallback": (272, 68)},
    "linux/ppc64": {"crosscall2": (556, 139), "runtime.cgocallback": (244, 61)},
    "linux/ppc64le": {"crosscall2": (556, 139), "runtime.cgocallback": (244, 61)},
    "linux/s390x": {"crosscall2": (118, 26), "runtime.cgocallback": (288, 51)},
}
BANKS = {Bank.INTEGER: "integer", Bank.FLOAT: "float", Bank.VECTOR: "vector", Bank.CONTROL: "control"}


def kept(artifact: Artifact) -> str:
    """How many registers are saved for the caller, by kind; that with the return address is one of them."""
    saved = [register for register, _ in artifact.frame.request.saves]
    link = artifact.function.convention.return_address
    if artifact.frame.request.link and link is not None and link not in saved:
        saved.append(link)
    counts = {name: sum(r.bank is bank for r in saved) for bank, name in BANKS.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def main() -> int:
    targets = default_targets()
    compiled = {
        name: compile_source(read_source(ROOT / "examples" / "go" / file), targets)
        for name, file in (("crosscall2", "crosscall2.tramp"), ("runtime.cgocallback", "cgocallback.tramp"))
    }
    larger = 0
    for name, by_target in compiled.items():
        print(f"{name:20}  {'bytes':>5} {'Go':>4} {'ratio':>6}  {'insns':>5} {'Go':>4} {'ratio':>6}  registers kept")
        for target in targets:
            artifact = by_target[target.name][name]
            ours = (len(artifact.code), artifact.instruction_count)
            go = GO[target.name][name]
            ratios = (ours[0] / go[0], ours[1] / go[1])
            larger += max(ratios) >= 1
            print(
                f"{target.name:20}  {ours[0]:5} {go[0]:4} {ratios[0]:6.2f}  {ours[1]:5} {go[1]:4} {ratios[1]:6.2f}"
                f"  {kept(artifact)}"
            )
        print()
    print(f"{larger} of {len(compiled) * len(targets)} are not smaller than Go's")
    return 1 if larger else 0


if __name__ == "__main__":
    sys.exit(main())
