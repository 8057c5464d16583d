"""Verifying one run of crosscall2 against the least that could be done: a bare Unicorn run, and a process of qemu-user.

The bare run sets all registers, executes, reads all of them at every call, sets them again and goes on behind it, and
reads them at the end, by Unicorn's own Python interface: what the judge does, without judging, without hostile memory
and without a callback. The process
of qemu-user is a static program that sets every kept integer register, calls crosscall2, whose callee overwrites all
that it may, and compares.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from timing import ROOT, assembler, seconds, verdict

from trampoline_dsl.diagnostics import read_source
from trampoline_dsl.emulate import Machine
from trampoline_dsl.link import link
from trampoline_dsl.pipeline import Compiled, compile_source
from trampoline_dsl.target import Architecture, Bank, Code, Convention, FrameRequest, Insn, Register, Target
from trampoline_dsl.targets import default_targets
from trampoline_dsl.verify import Session

NAME = "crosscall2"
RUNS = 32

# How a program ends with the status in a register: that register, and instructions. Linux's calling conventions for
# system calls; the numbers are those of exit in arch/*/include/uapi/asm/unistd.h.
EXITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "386": ("ebx", ("mov eax, 1", "int 0x80")),
    "amd64": ("rdi", ("mov eax, 60", "syscall")),
    "arm": ("r0", ("mov r7, #1", "svc #0")),
    "arm64": ("x0", ("mov x8, #93", "svc #0")),
    "mips": ("a0", ("li $v0, 4001", "syscall")),
    "mips64": ("a0", ("li $v0, 5058", "syscall")),
    "ppc64": ("r3", ("li %r0, 1", "sc")),
    "s390x": ("r2", ("svc 1",)),
}
EMULATORS = {
    "386": "qemu-i386",
    "amd64": "qemu-x86_64",
    "arm64": "qemu-aarch64",
    "mipsle": "qemu-mipsel",
    "mips64le": "qemu-mips64el",
}


# ------------------------------------------------------------------------------------------------------- bare Unicorn


class Bare(Machine):
    """A machine that calls nobody."""

    def _add_hooks(self) -> None:
        pass


def bare_run(session: Session, compiled: Compiled) -> float:
    """Seconds of one run without a judge."""
    architecture, build = session.bench.architecture, session.build
    machine = Bare(architecture)
    for region in build.plan.regions:
        machine.map(region.base, region.size)
    artifact = compiled[NAME]
    entry = build.symbols[NAME]
    machine.write(entry, link(architecture, artifact.code, artifact.relocations, entry, build.symbols))
    engine, places = machine._uc, machine._layout.places
    # What Unicorn gives only in the saved state of its CPU is left out: that is no part of its interface.
    registers = [r for r in session.bench.observable if r is not architecture.sp and places[r.name].pieces]
    pieces = [machine.number(piece) for r in registers for piece in places[r.name].pieces]
    world, trace = session.expected(artifact.function, None, 1)
    callees = [build.symbols[event.callee] for event in trace.events if event.kind == "call"]
    end = build.plan.returns.base
    link_register = artifact.function.convention.return_address
    initial = machine.save()
    values = [engine.reg_read(piece) for piece in pieces]

    def one() -> None:
        machine.restore(initial)
        for piece, value in zip(pieces, values, strict=True):
            engine.reg_write(piece, value)
        machine.sp = world.sp
        if link_register is None:
            machine.sp -= architecture.word
            machine.write(machine.sp, end.to_bytes(architecture.word, architecture.order))
        else:
            machine.set(link_register, end)
        position = entry
        for place in (*callees, end):
            stop = machine.run(position, 1000, place)
            assert stop.reason == "reached", stop
            found = [engine.reg_read(piece) for piece in pieces]
            if place == end:
                return
            if link_register is None:
                sp = machine.sp
                position = int.from_bytes(machine.read(sp, architecture.word), architecture.order)
                machine.sp = sp + architecture.word
            else:
                position = machine.get(link_register)
            for piece, value in zip(pieces, found, strict=True):
                engine.reg_write(piece, value)

    one()
    return seconds(lambda: [one() for _ in range(RUNS)]) / RUNS


def without_signals(compiled: Compiled) -> Compiled:
    """The same program, whose checks deliver none: each of those is a run more, with another one inside it before every
    instruction."""
    scenarios = tuple(replace(scenario, signals=()) for scenario in compiled.program.scenarios)
    return replace(compiled, program=replace(compiled.program, scenarios=scenarios))


def verified_run(session: Session, compiled: Compiled) -> float:
    """Seconds of one run with the judge, the reference interpreter and the making of its world included."""
    artifact = compiled[NAME]
    report = session.judge(artifact, 1, RUNS)
    assert report.good
    assert (report.runs, report.deliveries) == (RUNS, 0)
    return seconds(lambda: session.judge(artifact, 2, RUNS)) / RUNS


# ----------------------------------------------------------------------------------------------------------- qemu-user


def program(target: Target, compiled: Compiled) -> str:
    """A whole program in assembly: the trampoline, its callees, and the check."""
    architecture = target.architecture
    artifact = compiled[NAME]
    c = target.conventions["c"]
    lines = [*architecture.header, artifact.text]
    for name, extern in compiled.program.externs.items():
        spared = extern.clobbers is not None  # load_g and save_g leave nearly all registers alone
        lines += function(architecture, name, extern.convention, hostile(architecture, extern.convention, spared))
    lines += function(architecture, "_start", c, check(architecture, c))
    return "\n".join([*lines, *architecture.trailer()]) + "\n"


def function(architecture: Architecture, name: str, convention: Convention, code: Code) -> Iterator[str]:
    yield from architecture.function_header(name, convention)
    for insn in architecture.improve(list(code)):
        yield f"{insn.label}:" if insn.label is not None else f"\t{insn.text}"
    yield from architecture.function_footer(name, convention)


def hostile(architecture: Architecture, convention: Convention, spared: bool) -> Code:
    """A callee that overwrites every integer register that it may."""
    frame = architecture.layout(FrameRequest(convention, 0, (), False, 1))
    yield from architecture.prologue(frame)
    if not spared:
        for number, register in enumerate(architecture.allocatable(convention)):
            if not convention.keeps(register):
                yield from architecture.constant(register, 0x700 + number)
    yield from architecture.epilogue(frame)
    yield from architecture.leave(frame, 0)


def check(architecture: Architecture, c: Convention) -> Code:
    """Set what is to be kept, call, compare; ends with status 0 or 1."""
    kept = [r for r in architecture.allocatable(c) if c.keeps(r) and r.bank is Bank.INTEGER]
    room = -512 & ((1 << 8 * architecture.word) - 1)  # for all that a callee may write above its stack pointer
    yield from architecture.binary("add", architecture.sp, architecture.sp, room)
    for number, register in enumerate(kept):
        yield from architecture.constant(register, 0x51 + number)
    yield from architecture.call(NAME, c)
    for number, register in enumerate(kept):
        yield from architecture.compare_branch("ne", register, 0x51 + number, ".Lwrong")
    yield from leave(architecture, 0)
    yield Insn("", label=".Lwrong")
    yield from leave(architecture, 1)


def leave(architecture: Architecture, status: int) -> Code:
    name, texts = EXITS[architecture.name.removesuffix("le")]
    register: Register = architecture.registers[name]
    yield from architecture.constant(register, status)
    for text in texts:
        yield Insn(text)


def emulated(target: Target, compiled: Compiled, folder: Path) -> float | None:
    """Seconds of one process; None, said, where something for it is missing."""
    command = assembler(target)
    emulator = EMULATORS.get(target.architecture.name, f"qemu-{target.architecture.name}")
    if command is None or shutil.which(emulator) is None:
        print(f"{target.name}: no {emulator if command else command} here; that column is left out")
        return None
    source, binary = folder / "check.s", folder / "check"
    source.write_text(program(target, compiled))
    subprocess.run([*command, "-o", folder / "check.o", source], check=True)
    linker = command[0].removesuffix("-as") + "-ld"
    # What unwinds is named in code for arm (Exception Handling ABI for the Arm Architecture). Here nothing does.
    nobody = [f"--defsym=__aeabi_unwind_cpp_pr{number}=0" for number in range(2)]
    options = {"386": ["-m", "elf_i386"], "arm": nobody}.get(target.architecture.name, [])
    subprocess.run([linker, *options, "-static", "-e", "_start", "-o", binary, folder / "check.o"], check=True)
    return seconds(lambda: subprocess.run([emulator, binary], check=True))


def main() -> None:
    print(f"{NAME}: one verified run, a bare Unicorn run, one qemu-user process (microseconds)")
    print(f"{'':16} {'verified':>9} {'bare':>9} {'ratio':>6} {'qemu':>9} {'ratio':>6}")
    sums = [0.0, 0.0]
    against_qemu = [0.0, 0.0]
    source = read_source(ROOT / "examples" / "go" / "crosscall2.tramp")
    with tempfile.TemporaryDirectory() as folder:
        for target in default_targets():
            if target.os != "linux":
                continue  # qemu-user runs programs for Linux
            compiled = compile_source(source, [target])[target.name]
            session = Session(without_signals(compiled))
            verified, bare = verified_run(session, compiled), bare_run(session, compiled)
            sums = [sums[0] + verified, sums[1] + bare]
            line = f"{target.name:16} {verified * 1e6:9.0f} {bare * 1e6:9.0f} {verified / bare:6.2f}"
            qemu = emulated(target, compiled, Path(folder))
            if qemu is not None:
                against_qemu = [against_qemu[0] + verified, against_qemu[1] + qemu]
                line += f" {qemu * 1e6:9.0f} {verified / qemu:6.3f}"
            print(line)
    verdict("verified run / bare Unicorn run", sums[0] / sums[1], 3)
    if against_qemu[1]:
        verdict("verified run / qemu-user process", against_qemu[0] / against_qemu[1], 0.1)


if __name__ == "__main__":
    main()
