"""How long the command takes to begin, against Python itself."""

from __future__ import annotations

import sys
import time

from timing import run, seconds, trampoline

MOST = 0.150  # seconds


def main() -> None:
    bare = seconds(lambda: run([sys.executable, "-c", "pass"]), clock=time.perf_counter)
    for name, command in {
        "trampoline --help": trampoline("--help"),
        "import trampoline_dsl": [sys.executable, "-c", "import trampoline_dsl"],
        "import trampoline_dsl.pytest_plugin": [sys.executable, "-c", "import trampoline_dsl.pytest_plugin"],
        "trampoline targets": trampoline("targets"),
    }.items():
        run(command)
        ours = seconds(lambda command=command: run(command), clock=time.perf_counter)  # type: ignore[misc]
        limit = f" ({'within' if ours <= MOST else 'ABOVE'} {MOST * 1e3:.0f} ms)" if "--help" in name else ""
        print(f"{name:36} {ours * 1e3:6.0f} ms, {ours / bare:4.1f} times `python -c pass`{limit}")


if __name__ == "__main__":
    main()
