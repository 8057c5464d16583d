"""What is Windows' own: its records, its assembly text, and how its C programs find what they call."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import broken
import gnu
import pytest
from cross import compiler
from tools import need

from trampoline_dsl import compile_text
from trampoline_dsl.emulate import Machine
from trampoline_dsl.target import Register
from trampoline_dsl.targets import all_targets

WINDOWS = [name for name, target in all_targets().items() if target.os == "windows"]
EXCEPTIONS = broken.ROOT / "examples" / "go" / "exceptiontramp.tramp"
MINGW = Path("/usr/share/mingw-w64/include")
# What compiles C for each, with the Windows SDK's structures as MinGW has them.
COMPILERS = {
    "windows/386": (compiler("windows/386"),),
    "windows/amd64": (compiler("windows/amd64"),),
    "windows/arm": ("clang-14", "--target=armv7-windows-gnu", f"-I{MINGW}"),
    "windows/arm64": ("clang-14", "--target=aarch64-windows-gnu", f"-I{MINGW}"),
}
# Where CONTEXT's names for registers are not those of the registers.
FIELDS = {
    "windows/386": {"eflags": "EFlags", "fpcw": "ExtendedRegisters[0]", "mxcsr": "ExtendedRegisters[24]"}
    | {f"xmm{n}": f"ExtendedRegisters[{160 + 16 * n}]" for n in range(8)},
    "windows/amd64": {"eflags": "EFlags", "mxcsr": "MxCsr", "fpcw": "FltSave.ControlWord"},
    "windows/arm": {"apsr": "Cpsr"} | {f"d{n}": f"D[{n}]" for n in range(32)},
    "windows/arm64": {"nzcv": "Cpsr", "x29": "Fp", "x30": "Lr"} | {f"v{n}": f"V[{n}]" for n in range(32)},
}
PROGRAM_COUNTERS = {"windows/386": "Eip", "windows/amd64": "Rip", "windows/arm": "Pc", "windows/arm64": "Pc"}


def field(target: str, register: Register) -> str:
    known = FIELDS[target].get(register.name)
    return known if known is not None else register.name.capitalize()


@pytest.mark.parametrize("target", WINDOWS)
def test_context_records_are_those_of_winnt_h(target: str, tmp_path: Path) -> None:
    record = all_targets()[target].architecture.context_record
    assert record is not None
    places = {field(target, register): offset for register, (offset, _) in record.registers.items()}
    places |= {PROGRAM_COUNTERS[target]: record.pc, "ContextFlags": record.flags}
    lines = ["#include <stddef.h>", "#include <windows.h>"]
    lines += [f'_Static_assert(offsetof(CONTEXT, {name}) == {at}, "{name}");' for name, at in places.items()]
    lines += [f'_Static_assert(sizeof(CONTEXT) == {record.size}, "size");']
    (tmp_path / "context.c").write_text("\n".join([*lines, ""]), "utf-8")
    command = COMPILERS[target]
    need(command[0])
    done = subprocess.run(
        [*command, "-fsyntax-only", str(tmp_path / "context.c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = {offset + size for offset, size in record.registers.values()}
    assert max(ends) <= record.size
    assert {r.bits // 8 for r in record.registers} >= {size for _, size in record.registers.values()} - {4}


@pytest.mark.parametrize("target", WINDOWS)
def test_resuming_takes_two_instructions_and_no_stack(target: str) -> None:
    artifact = broken.compiled(target, EXCEPTIONS)["runtime.sigresume"]
    move, jump = (insn for insn in artifact.instructions if insn.label is None)
    assert move.writes == {artifact.target.architecture.sp}
    assert jump.transfer == "jump"
    assert not jump.writes
    assert (move.memory, jump.memory) == ("none", "none")
    assert artifact.frame.size in (0, artifact.target.architecture.word)


@pytest.mark.parametrize("target", WINDOWS)
def test_handlers_are_entered_by_a_constant_and_a_jump(target: str) -> None:
    compiled = broken.compiled(target, EXCEPTIONS)
    for name in ("runtime.exceptiontramp", "runtime.lastcontinuetramp"):
        constant, jump = (insn.text for insn in compiled[name].instructions)
        assert re.search(r"\b(jmp|b) \S*runtime\.sigtramp", jump), jump
        assert "sp" not in constant


# ------------------------------------------------------------------------------------------------- beside C programs

SOURCE = """
extern twice(a: i32, b: i64) -> i32 using {convention}

trampoline sum(a: i32, b: i32) -> i32 using {convention} {{
    let first = call twice(a, 5)
    return first + b
}}

trampoline by_name(a: i32) -> i32 using c {{
    return call sum(a, 3)
}}
"""
C = """
int __attribute__(({convention})) twice(int a, long long b) {{ return a * 2 + (int) b; }}
int __attribute__(({convention})) sum(int a, int b);
int by_name(int a);
int main(void) {{ return sum(1, 2) + by_name(3); }}
"""


@pytest.mark.parametrize("convention", ["cdecl", "stdcall", "fastcall"])
@pytest.mark.parametrize("target", ["windows/386", "windows/amd64"])
def test_c_programs_link_with_the_assembly(target: str, convention: str, tmp_path: Path) -> None:
    [gcc] = COMPILERS[target]
    need(gcc)
    source = SOURCE.format(convention={"cdecl": "c"}.get(convention, convention))
    (tmp_path / "trampolines.s").write_text(compile_text(source, target).text, "utf-8")
    (tmp_path / "main.c").write_text(C.format(convention=convention), "utf-8")
    command = [gcc, "-Wall", "-Werror", "-o", "out.exe", "main.c", "trampolines.s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_llvm_takes_the_assembly_for_arm64(tmp_path: Path) -> None:
    need("clang-14")
    (tmp_path / "in.s").write_text(compile_text(SOURCE.format(convention="c"), "windows/arm64").text, "utf-8")
    subprocess.run(["clang-14", "--target=aarch64-windows-gnu", "-c", "in.s"], cwd=tmp_path, check=True)
    found = {name: (section, kind) for name, _, section, kind, _ in gnu.coff_symbols((tmp_path / "in.o").read_bytes())}
    assert found["sum"] == (1, 0x20)  # a function
    assert found["twice"][0] == 0  # elsewhere


# ------------------------------------------------------------------------------------------------ ARM and Thumb state

CODE, CALLEE, CALLER, STACK = 0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000
THROUGH = """
trampoline through(f: ptr, x: u32) -> u32 using c {
    let result = call f(x) using c -> u32
    return result + 1
}

trampoline hand_on(f: ptr, x: u32) -> u32 using c {
    jump f(x) using c
}
"""
# add r0, #5; bx lr
CALLEES = {"arm": bytes.fromhex("050080e2 1eff2fe1"), "thumb": bytes.fromhex("0530 7047")}
# blx r4; nop
CALLERS = {"arm": bytes.fromhex("34ff2fe1 00f020e3"), "thumb": bytes.fromhex("a047 00bf")}


@pytest.mark.parametrize("target", ["windows/arm", "linux/arm"])
@pytest.mark.parametrize("callee", CALLEES)
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("name", "more"), [("through", 6), ("hand_on", 5)])
def test_arm_code_is_called_and_calls_in_either_state(
    target: str, caller: str, callee: str, name: str, more: int
) -> None:
    machine = Machine(all_targets()[target].architecture)
    for base in (CODE, CALLEE, CALLER, STACK):
        machine.map(base, 0x1000)
    machine.write(CODE, compile_text(THROUGH, target)[name].code)
    machine.write(CALLEE, CALLEES[callee])
    machine.write(CALLER, CALLERS[caller])
    registers = machine.architecture.registers
    machine.set_many({registers["r0"]: CALLEE | (callee == "thumb"), registers["r1"]: 10, registers["r4"]: CODE})
    machine.sp = STACK + 0x800
    # Behind the instruction that is returned to: it is one in the right state only.
    stop = machine.run(CALLER | (caller == "thumb"), 100, CALLER + len(CALLERS[caller]))
    assert stop.reason == "reached", stop
    assert machine.get(registers["r0"]) == 10 + more
    assert machine.sp == STACK + 0x800
