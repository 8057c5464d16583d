"""The trampolines of two commits to Go, and on which targets each holds: what `trampoline verify examples/go` finds.

The first, "simplify C -> Go call path", rewrote crosscall2, cgocallback and the Windows callbacks, and left those of
windows/arm as they were, for want of a way to test them. The second, "factor out windows sigtramp", is the exceptions'
part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINUX = ("386", "amd64", "arm", "arm64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "s390x")
WINDOWS = ("386", "amd64", "arm", "arm64")
SEEDS = {
    "simplify C -> Go call path": ("crosscall2", "runtime.cgocallback", "runtime.callbackasm1"),
    "factor out windows sigtramp": (
        "runtime.exceptiontramp",
        "runtime.firstcontinuetramp",
        "runtime.lastcontinuetramp",
        "runtime.sigtramp",
        "runtime.sigresume",
    ),
    "beside them, on Linux": ("runtime.cgoSigtramp", "runtime.sigfwd", "runtime.sigreturn"),
}


def mark(obligations: dict[str, str]) -> str:
    """One sign for all obligations that apply."""
    states = {state for state in obligations.values() if state != "not applicable"}
    return "✓" if states == {"held"} else "✗" if "violated" in states else "?"


def main() -> int:
    command = [sys.executable, "-m", "trampoline_dsl", "verify", str(ROOT / "examples" / "go"), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode not in (0, 1):
        sys.stderr.write(found.stderr)
        return found.returncode
    results = json.loads(found.stdout)["results"]
    marks = {(r["trampoline"], r["target"]): mark(r["obligations"]) for r in results}
    targets = [f"linux/{name}" for name in LINUX] + [f"windows/{name}" for name in WINDOWS]
    print(f"{'':30}{'linux':<{sum(len(n) + 1 for n in LINUX)}}  windows")
    print(f"{'':30}{' '.join(LINUX)}   {' '.join(WINDOWS)}")
    for seed, symbols in SEEDS.items():
        print(f"\n{seed}")
        for symbol in symbols:
            cells = [marks.get((symbol, target), "-").ljust(len(target.split("/")[1])) for target in targets]
            print(f"  {symbol:28}{' '.join(cells[: len(LINUX)])}   {' '.join(cells[len(LINUX) :])}".rstrip())
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
