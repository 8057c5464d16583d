"""How much code there is: our trampolines beside what Go links for the same functions.

Go's are the bytes and instructions of its linked code: crosscall2 and cgocallback of release 1.19.8 (for ppc64 and
ppc64le crosscall2 as release 1.24 has it, which keeps the vectors too), the others of 1.24.11. Some of Go's keep fewer
registers than C's convention wants: beside those stands what ours would be if it lost the same ones. Every ratio
between functions that keep the same has to be below 1, but for the number of instructions on windows/386: there the
direction flag is kept and cleared, which Go's leave out, and g is loaded anew where Go's cgocallback holds on to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trampoline_dsl.diagnostics import Source, read_source
from trampoline_dsl.pipeline import Artifact, compile_source
from trampoline_dsl.target import Bank
from trampoline_dsl.targets import find_target

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "go"
Size = tuple[int, int]  # bytes, instructions

FILES = {
    "crosscall2": "crosscall2.tramp",
    "runtime.cgocallback": "cgocallback.tramp",
    "runtime.sigtramp": "sigtramp.tramp",
    "windows runtime.sigtramp": "exceptiontramp.tramp",
    "runtime.callbackasm1": "callbackasm.tramp",
}
GO: dict[str, dict[str, Size]] = {
    "crosscall2": {
        "linux/386": (67, 18),
        "linux/amd64": (99, 22),
        "linux/arm": (140, 34),
        "linux/arm64": (108, 27),
        "linux/mips": (220, 55),
        "linux/mipsle": (220, 55),
        "linux/mips64": (216, 54),
        "linux/mips64le": (216, 54),
        "linux/ppc64": (556, 139),
        "linux/ppc64le": (556, 139),
        "linux/s390x": (118, 26),
        "windows/386": (67, 18),
        "windows/amd64": (275, 48),
        "windows/arm": (140, 34),
        "windows/arm64": (108, 27),
    },
    "runtime.cgocallback": {
        "linux/386": (202, 53),
        "linux/amd64": (282, 62),
        "linux/arm": (212, 50),
        "linux/arm64": (240, 60),
        "linux/mips": (256, 64),
        "linux/mipsle": (256, 64),
        "linux/mips64": (272, 68),
        "linux/mips64le": (272, 68),
        "linux/ppc64": (244, 61),
        "linux/ppc64le": (244, 61),
        "linux/s390x": (288, 51),
        "windows/386": (212, 56),
        "windows/amd64": (328, 72),
        "windows/arm": (212, 50),
        "windows/arm64": (240, 60),
    },
    "runtime.sigtramp": {
        "linux/386": (67, 18),
        "linux/amd64": (108, 24),
        "linux/arm": (72, 16),
        "linux/arm64": (132, 33),
        "linux/mips": (80, 20),
        "linux/mipsle": (80, 20),
        "linux/mips64": (104, 26),
        "linux/mips64le": (104, 26),
        "linux/ppc64": (568, 142),
        "linux/ppc64le": (568, 142),
        "linux/s390x": (82, 16),
    },
}
GO["windows runtime.sigtramp"] = {
    "windows/386": (58, 16),
    "windows/amd64": (299, 57),
    "windows/arm": (56, 14),
    "windows/arm64": (128, 32),
}
GO["runtime.callbackasm1"] = {
    "windows/386": (105, 35),
    "windows/amd64": (378, 67),
    "windows/arm": (92, 22),
    "windows/arm64": (144, 36),
}
_SAVED = "s0, s1, s2, s3, s4, s5, s6, s7, fp"
_O32 = f"{_SAVED}, f20, f21, f22, f23, f24, f25, f26, f27, f28, f29, f30, f31"
_N64 = f"{_SAVED}, gp, f24, f25, f26, f27, f28, f29, f30, f31"
# What Go's version of a function loses, although C's convention keeps it.
LOSES: dict[str, dict[str, str]] = {
    "crosscall2": {"windows/386": "eflags"},
    "runtime.sigtramp": {
        "linux/arm": "d8, d9, d10, d11, d12, d13, d14, d15",
        "linux/mips": _O32,
        "linux/mipsle": _O32,
        "linux/mips64": _N64,
        "linux/mips64le": _N64,
        "linux/s390x": "r6, r7, r8, r9, r10, r11, r12, r13, f8, f9, f10, f11, f12, f13, f14, f15",
    },
    "runtime.callbackasm1": {
        "windows/386": "eflags",
        "windows/arm": "d8, d9, d10, d11, d12, d13, d14, d15",
        "windows/arm64": "v8, v9, v10, v11, v12, v13, v14, v15",
    },
}
MORE_INSTRUCTIONS = {"windows/386"}
BANKS = {Bank.INTEGER: "integer", Bank.FLOAT: "float", Bank.VECTOR: "vector", Bank.CONTROL: "control"}


@dataclass(frozen=True)
class Comparison:
    """Our code beside Go's. `alike` is ours if it lost what Go's loses; else it is `ours`."""

    ours: Artifact
    alike: Artifact
    go: Size

    @property
    def ratio(self) -> tuple[float, float]:
        """Ours to Go's where the same is kept: bytes, and instructions."""
        size, count = self.go
        return len(self.alike.code) / size, self.alike.instruction_count / count


def kept(artifact: Artifact) -> str:
    """How many registers are saved for the caller, by kind; that with the return address is one of them."""
    saved = [register for register, _ in artifact.frame.request.saves]
    link = artifact.function.convention.return_address
    if artifact.frame.request.link and link is not None and link not in saved:
        saved.append(link)
    counts = {name: sum(r.bank is bank for r in saved) for bank, name in BANKS.items()}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def without(source: Source, name: str, losses: Mapping[str, str]) -> Source:
    """The same file, where the function may lose what Go's does."""
    facts = "\n".join(f"    when {target} {{ loses {registers} }}" for target, registers in losses.items())
    changed = re.sub(rf"(trampoline {re.escape(name)}\(.*\).* using )c ", r"\1as_go_does ", source.text)
    return Source(source.name, f"{changed}\nconvention as_go_does like c {{\n{facts}\n}}\n")


def comparisons() -> Iterator[Comparison]:
    """Every trampoline that Go has too, for every target."""
    for name, sizes in GO.items():
        source = read_source(FOLDER / FILES[name])
        name = name.rpartition(" ")[2]
        targets = [find_target(target) for target in sizes]
        compiled = compile_source(source, targets)
        losses = {target: lost for target, lost in LOSES.get(name, {}).items() if target in sizes}
        lossy = compile_source(without(source, name, losses), targets) if losses else compiled
        for target, size in sizes.items():
            ours = compiled[target].artifacts[name]
            yield Comparison(ours, lossy[target].artifacts[name] if target in losses else ours, size)


def main() -> None:
    larger = longer = total = 0
    name = ""
    for comparison in comparisons():
        ours, alike = comparison.ours, comparison.alike
        if ours.name != name:
            name = ours.name
            head = f"{name:20} {'bytes':>6} {'Go':>4} {'ratio':>6} {'insns':>6} {'Go':>4} {'ratio':>6}"
            print(f"\n{head}  registers kept")
        size, count = comparison.go
        by_bytes, by_count = comparison.ratio
        more = "" if ours is alike else f"; with {kept(ours)}: {len(ours.code)} bytes, {ours.instruction_count}"
        print(
            f"{ours.target.name:20} {len(alike.code):6} {size:4} {by_bytes:6.2f}"
            f" {alike.instruction_count:6} {count:4} {by_count:6.2f}  {kept(alike)}{more}"
        )
        total += 1
        larger += by_bytes >= 1
        longer += by_count >= 1
    print(f"\n{larger} of {total} are not smaller than Go's; {longer} have not fewer instructions")


if __name__ == "__main__":
    main()
