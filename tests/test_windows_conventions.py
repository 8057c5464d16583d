"""The tables of Windows' conventions, and 386's on Linux, derived anew as test_conventions_measured does it."""

from __future__ import annotations

from functools import cache, partial

import measure
import measure_coff
import pytest
import test_conventions_measured as measured
from measure import Laboratory
from test_conventions_measured import Signature

from trampoline_dsl.targets import find_target

ON_LINUX = [("linux/386", name) for name in ("stdcall", "fastcall", "thiscall")]
EVERYTHING = [*measure_coff.COMMANDS, *ON_LINUX]
C = [pair for pair in measure_coff.COMMANDS if pair[1] == "c"]


@cache
def laboratory(name: str, convention: str) -> Laboratory:
    target = find_target(name)
    attribute = "" if convention == "c" else f"__attribute__(({convention}))"
    lines = [measured.PREAMBLE]
    for index, signature in enumerate(measured.SIGNATURES):
        lines += measured._signature_text(index, signature, attribute)
    for register in measured._clobbered(target.architecture):
        asm = f'asm volatile("here_{register.name}: nop" ::: "{measured._gcc_name(target.architecture, register)}");'
        lines.append(f"void {attribute} clobber_{register.name}(void) {{ {asm} }}")
    for size in measured.LOCALS:
        check = f"u64 sum = 0; for (int n = 0; n < {size}; n++) sum += a[n] == (u8) (n + 1); out[0] = sum;"
        lines.append(
            f"void locals_{size}(void) {{ volatile u8 a[{size}]; for (int n = 0; n < {size}; n++) a[n] = n + 1;"
            f' asm volatile("" :: "r" (a) : "memory"); ((void (*)(void)) target)(); {check} }}'
        )
    text = "\n".join([*lines, ""])
    if target.os == "windows":
        return Laboratory(target, measure_coff.build(target, convention, text), convention)
    return Laboratory(target, measure.build(target, text), convention)


@pytest.fixture(params=EVERYTHING, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def lab(request: pytest.FixtureRequest) -> Laboratory:
    return laboratory(*request.param)


def differs(lab: Laboratory, signature: Signature) -> bool:
    """Whether MinGW's gcc does something else than Microsoft documents: behind an integer of 64 bits it takes no
    further register, as on Linux. Such rows rest on Microsoft's text."""
    if lab.target.os != "windows" or lab.convention.name not in ("fastcall", "thiscall"):
        return False
    kinds = [measured.TYPES[name] for name in signature.arguments]
    gnu = find_target("linux/386").conventions[lab.convention.name]
    return lab.convention.place(kinds, None) != gnu.place(kinds, None)


def test_callers_put_arguments_where_the_table_says_and_find_results_there(lab: Laboratory) -> None:
    measured.measure_callers(lab, partial(differs, lab))


def test_callees_take_arguments_from_there_and_leave_results_there(lab: Laboratory) -> None:
    measured.measure_callees(lab, partial(differs, lab))


def test_most_signatures_are_measured(lab: Laboratory) -> None:
    assert sum(not differs(lab, signature) for signature in measured.SIGNATURES) > len(measured.SIGNATURES) // 2


def test_kept_registers_are_those_that_functions_bring_back_bit_by_bit(lab: Laboratory) -> None:
    measured.test_kept_registers_are_those_that_functions_bring_back_bit_by_bit(lab)


@pytest.mark.parametrize("pair", C, ids=lambda pair: pair[0])
def test_callers_leave_the_area_to_callees_and_own_what_is_above_it(pair: tuple[str, str]) -> None:
    measured.test_callers_leave_the_area_to_callees_and_own_what_is_above_it(laboratory(*pair))
