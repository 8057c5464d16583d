"""Debian's cross compilers for the targets, and what runs their programs here: the host itself, or qemu-user."""

from __future__ import annotations

from dataclasses import dataclass

from tools import need

from trampoline_dsl.targets import find_target


def prefix(target: str) -> str:
    """What the names of a target's GNU tools begin with: "s390x-linux-gnu-"."""
    return find_target(target).architecture.gnu_as[0].removesuffix("as")


def compiler(target: str) -> str:
    """The gcc that belongs to the GNU assembler of a target."""
    return prefix(target) + "gcc"


@dataclass(frozen=True)
class Machine:
    """A target of Linux. `runner`: the command before a program, empty where the host runs it; `linking`: options of
    the compiler without which a program does not find its shared libraries here."""

    compiler: str
    runner: tuple[str, ...] = ()
    linking: tuple[str, ...] = ()


# Debian's cross libraries for i686 are not where a program looks for them; it is told where when it is linked.
_I686 = "/usr/i686-linux-gnu/lib"
_LINKING = {
    "linux/386": (f"-Wl,--dynamic-linker={_I686}/ld-linux.so.2", f"-Wl,-rpath,{_I686}", "-Wl,--disable-new-dtags"),
}
# None: the host runs it. So it does 386, since qemu-i386 7.2 fails on Go programs.
_EMULATORS = {
    "linux/386": None,
    "linux/amd64": None,
    "linux/arm": "qemu-arm",
    "linux/arm64": "qemu-aarch64",
    "linux/mips": "qemu-mips",
    "linux/mipsle": "qemu-mipsel",
    "linux/mips64": "qemu-mips64",
    "linux/mips64le": "qemu-mips64el",
    "linux/ppc64": "qemu-ppc64",
    "linux/ppc64le": "qemu-ppc64le",
    "linux/s390x": "qemu-s390x",
}


def _machine(target: str, emulator: str | None) -> Machine:
    libraries = f"/usr/{prefix(target).removesuffix('-')}"
    runner = (emulator, "-L", libraries) if emulator is not None else ()
    return Machine(compiler(target), runner, _LINKING.get(target, ()))


MACHINES = {target: _machine(target, emulator) for target, emulator in _EMULATORS.items()}


def need_machine(target: str) -> Machine:
    """A target's compiler and emulator. Without them the test is skipped, or fails where tools are required."""
    machine = MACHINES[target]
    for program in (machine.compiler, *machine.runner[:1]):
        need(program)
    return machine
