"""Functions of Go's runtime replaced by what `trampoline build --syntax plan9` makes, with `go build -overlay`.

The distribution stays as it is. Its assembly files are copied without the functions that are replaced into a
temporary folder, the offsets are taken from the header that its own build makes, and an overlay file says which file
stands for which.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.outside.toolchain import Machine, Missing, Toolchain

EXAMPLES = Path(__file__).parents[2] / "examples" / "go"


class Refused(Exception):
    """The trampolines cannot be built, or Go's sources are not what they are taken to be."""


@dataclass(frozen=True)
class Part:
    """A file of ours: the functions in it, and the package that it becomes part of."""

    source: str
    package: str
    functions: tuple[str, ...]
    local: tuple[str, ...] = ()  # those whose names in Go are one file's own (`sigtramp<>`)
    besides: str = ""  # data that our text refers to

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names in Go's files."""
        return (*(name for name in self.functions if f"{name.rpartition('·')[2]}<>" not in self.local), *self.local)


# Words of zeros that Go's cgocallback has in its own file, on windows/amd64; and the place of g's address, which has a
# name since Go 1.21 and was a number before (runtime/sys_windows_amd64.s, settls): ArbitraryUserPointer in the TEB.
_ZERO_TLS = "\nGLOBL runtime·zeroTLS(SB), RODATA, $64\n"
_OLD_TLS = {
    "386": "\nDATA runtime·tls_g+0(SB)/4, $0x14\nGLOBL runtime·tls_g(SB), NOPTR, $4\n",
    "amd64": "\nDATA runtime·tls_g+0(SB)/8, $0x28\nGLOBL runtime·tls_g(SB), NOPTR, $8\n",
}

# Exceptions on Windows, as they are since Go 1.21: before, the assembly did what sigtrampgo does now.
_EXCEPTIONS = (
    "runtime·sigtramp",
    "runtime·exceptiontramp",
    "runtime·firstcontinuetramp",
    "runtime·lastcontinuetramp",
    "runtime·sigresume",
)


def parts(toolchain: Toolchain) -> list[Part]:
    """What is replaced in this release."""
    old = toolchain.distribution.release < (1, 21)
    callback = "cgocallback.tramp" if old else "cgocallback_go1.21.tramp"
    crosscall2 = Part("crosscall2.tramp", "runtime/cgo", ("crosscall2",))
    if toolchain.machine.goos == "windows":
        data = _ZERO_TLS if toolchain.machine.goarch == "amd64" else ""
        data += _OLD_TLS[toolchain.machine.goarch] if old else ""
        return [
            crosscall2,
            Part(callback, "runtime", ("runtime·cgocallback",), besides=data),
            Part("callbackasm.tramp", "runtime", ("runtime·callbackasm1", "runtime·callbackasm")),
            *([] if old else [Part("exceptiontramp.tramp", "runtime", _EXCEPTIONS, local=("sigtramp<>",))]),
        ]
    return [
        crosscall2,
        Part(callback, "runtime", ("runtime·cgocallback",)),
        Part("sigtramp.tramp", "runtime", ("runtime·sigtramp", "runtime·sigfwd")),
        Part("cgo_sigtramp.tramp", "runtime", ("runtime·cgoSigtramp",)),
    ]


def text_of(symbol: str) -> re.Pattern[str]:
    """The TEXT line of a symbol. `·name` is the package's own."""
    package, _, name = symbol.rpartition("·")
    prefix = f"(?:{package})?·" if package else ""
    return re.compile(rf"TEXT\s+{prefix}{re.escape(name)}\(SB\)")


_BEGINS = re.compile(r"(?:TEXT|GLOBL|DATA|DEFINE_PPC64X_FUNCDESC)\b")


def without(text: str, symbols: Sequence[str]) -> tuple[str, dict[str, str]]:
    """An assembly file of Go's without some functions, and those. The preprocessor's lines stay in both: a function
    may stand between two of them."""
    patterns = {symbol: text_of(symbol) for symbol in symbols}
    rest: list[str] = []
    taken: dict[str, str] = {}
    inside = ""
    for line in text.splitlines():
        if _BEGINS.match(line):
            inside = next((symbol for symbol, pattern in patterns.items() if pattern.match(line)), "")
        if line.startswith("#"):
            rest.append(line)
        elif inside:
            taken[inside] = taken.get(inside, "") + line + "\n"
        else:
            rest.append(line)
    return "\n".join(rest) + "\n", taken


def header(toolchain: Toolchain, folder: Path) -> Path:
    """go_asm.h of this distribution for this machine, under the name that examples/go look for."""
    path = folder / f"go_asm_{toolchain.machine.goos}_{toolchain.machine.goarch}.h"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    built = toolchain.go("build", "-a", "-work", "runtime", cwd=toolchain.distribution.root / "src")
    work = re.search(r"^WORK=(.*)$", built.output, re.MULTILINE)
    if built.status != 0 or work is None:
        raise Refused(f"go build -a -work runtime: status {built.status}\n{built.output}")
    for found in Path(work[1]).glob("*/go_asm.h"):
        if "#define g_sched " in found.read_text(encoding="utf-8"):
            shutil.copy(found, path)
    shutil.rmtree(work[1])
    if not path.exists():
        raise Refused("go build -work left no go_asm.h of the runtime")
    return path


def generated(toolchain: Toolchain, folder: Path) -> list[tuple[Part, Path]]:
    """Our text of every part."""
    headers = folder / "headers"
    header(toolchain, headers)
    made = []
    for part in parts(toolchain):
        source = EXAMPLES / part.source
        command = [sys.executable, "-m", "trampoline_dsl", "build", str(source), "--target", toolchain.machine.target]
        command += ["--syntax", "plan9", "-I", str(headers), "-o", str(folder / "text")]
        built = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=EXAMPLES.parents[1], check=False
        )
        if built.returncode != 0:
            raise Refused(f"trampoline build {part.source}: status {built.returncode}\n{built.stdout}{built.stderr}")
        path = folder / "text" / f"{source.stem}_{toolchain.machine.goos}_{toolchain.machine.goarch}.s"
        text = path.read_text(encoding="utf-8")
        missing = [symbol for symbol in part.functions if not re.search(text_of(symbol).pattern, text)]
        if missing:
            raise Refused(f"{path} has no {', '.join(missing)}")
        made.append((part, path))
    return made


def overlay(
    toolchain: Toolchain,
    folder: Path,
    *,
    name: str = "overlay",
    change: Callable[[Part, str], str] = lambda part, text: text,
) -> Path:
    """The overlay file, NAME.json. `change` may spoil a text."""
    replace: dict[str, str] = {}
    root = toolchain.distribution.root
    folder.mkdir(parents=True, exist_ok=True)
    for part, path in generated(toolchain, folder):
        package = root / "src" / part.package
        wanted = set(part.replaced)
        for source in _assembly(package, toolchain.machine):
            text = Path(replace.get(str(source), source)).read_text(encoding="utf-8")
            rest, taken = without(text, part.replaced)
            if taken:
                wanted -= set(taken)
                cut = folder / name / "cut" / part.package / source.name
                cut.parent.mkdir(parents=True, exist_ok=True)
                cut.write_text(rest, encoding="utf-8")
                replace[str(source)] = str(cut)
        if wanted:
            raise Refused(f"{package} has no {', '.join(sorted(wanted))} for {toolchain.machine.target}")
        ours = folder / name / "ours" / part.package / f"zz_trampoline_{path.name}"
        ours.parent.mkdir(parents=True, exist_ok=True)
        ours.write_text(change(part, path.read_text(encoding="utf-8")) + part.besides, encoding="utf-8")
        replace[str(package / ours.name)] = str(ours)
    # Debian's distribution is a folder of symbolic links, and where go is run decides which name it has for a file.
    replace |= {str(Path(path).parent.resolve() / Path(path).name): ours for path, ours in replace.items()}
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"Replace": replace}, indent=1), encoding="utf-8")
    return file


_SYSTEMS = re.compile(r"_(linux|windows|darwin|freebsd|netbsd|openbsd|plan9|solaris|aix)_")


def _assembly(package: Path, machine: Machine) -> list[Path]:
    """A package's assembly files for a machine: those with its name, or with its family's and `x` (`mips64x`), and
    those with its operating system's."""
    goarch = machine.goarch
    family = {"mips": "mipsx", "mipsle": "mipsx", "mips64": "mips64x", "mips64le": "mips64x", "ppc64le": "ppc64x"}
    names = {goarch, family.get(goarch, goarch), machine.goos}
    found = [path for path in sorted(package.glob("*.s")) if path.stem.rpartition("_")[2] in names]
    if not found:
        raise Missing(f"{package} has no assembly for {goarch}: are Go's sources installed?")
    return [path for path in found if not (system := re.search(_SYSTEMS, path.name)) or system[1] == machine.goos]
