"""How much code there is: crosscall2 and cgocallback beside what Go links for the same functions.

Go's are the bytes and instructions of its linked code: release 1.19.8, and for ppc64 and ppc64le crosscall2 as release
1.24 has it, which keeps the vectors too. Every ratio has to be below 1.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def ratio(artifact: Artifact) -> tuple[float, float]:
    """Ours to Go's: bytes, and instructions."""
    size, count = GO[artifact.target.name][artifact.name]
    return len(artifact.code) / size, artifact.instruction_count / count


def artifacts() -> Iterator[Artifact]:
    """Every trampoline that Go has too, for every target."""
    targets = default_targets()
    for file in ("crosscall2.tramp", "cgocallback.tramp"):
        compiled = compile_source(read_source(ROOT / "examples" / "go" / file), targets)
        for target in targets:
            yield from compiled[target.name].own


def main() -> None:
    larger = total = 0
    name = ""
    for artifact in artifacts():
        if artifact.name != name:
            name = artifact.name
            head = f"{name:20} {'bytes':>6} {'Go':>4} {'ratio':>6} {'insns':>6} {'Go':>4} {'ratio':>6}"
            print(f"\n{head}  registers kept")
        go_bytes, go_count = GO[artifact.target.name][name]
        by_bytes, by_count = ratio(artifact)
        print(
            f"{artifact.target.name:20} {len(artifact.code):6} {go_bytes:4} {by_bytes:6.2f}"
            f" {artifact.instruction_count:6} {go_count:4} {by_count:6.2f}  {kept(artifact)}"
        )
        total += 1
        larger += max(by_bytes, by_count) >= 1
    print(f"\n{larger} of {total} are not smaller than Go's")


if __name__ == "__main__":
    main()
