"""Trampolines in this process: real calls, to C, to Python and among themselves; and all that is refused."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gnu
import pytest
from tools import need, need_host

import trampoline_dsl.load
from trampoline_dsl import CallError, LoadError, compile_file, compile_text, find_target, host_target
from trampoline_dsl.assemble import assemble
from trampoline_dsl.emulate import Machine
from trampoline_dsl.load import image_of
from trampoline_dsl.pipeline import Compiled
from trampoline_dsl.targets import all_targets

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LOADABLE = sorted(t.name for t in all_targets().values() if t.architecture.hosts and t.os == "linux")


def host() -> str:
    try:
        return host_target().name
    except LoadError as error:
        need_host("a machine that code is loaded on", str(error))


def compiled(text: str) -> Compiled:
    return compile_text(text, host())


def example(name: str) -> Compiled:
    return compile_file(EXAMPLES / name, host())


def protection(address: int) -> str | None:
    """What /proc/self/maps says of an address."""
    for line in Path("/proc/self/maps").read_text("ascii", "replace").splitlines():
        place, access = line.split()[:2]
        low, high = (int(end, 16) for end in place.split("-"))
        if low <= address < high:
            return access
    return None


ONE = """
extern f(x: u32) -> u32 using c
trampoline one(x: u32) -> u32 using c { return call f(x) }
"""


# ----------------------------------------------------------------------------------------------------------- real calls


def test_qsort_calls_a_loaded_comparison_that_calls_python() -> None:
    libc = ctypes.CDLL(None)
    seen = []

    def compare_in(a: int, b: int, context: int) -> int:
        seen.append(context)
        left, right = (ctypes.c_int.from_address(where).value for where in (a, b))
        return (left > right) - (left < right)

    numbers = (ctypes.c_int * 6)(5, -1, 3, 9, 0, 2)
    with example("c/callback_with_context.tramp")["compare"].load(
        {"current_context": lambda: 0xFFFF_0000_0000_1234, "compare_in": compare_in}
    ) as compare:
        libc.qsort(numbers, ctypes.c_size_t(6), ctypes.c_size_t(4), ctypes.c_void_p(compare.address))
    assert list(numbers) == [-1, 0, 2, 3, 5, 9]
    assert set(seen) == {0xFFFF_0000_0000_1234}


def test_every_kind_of_argument_arrives() -> None:
    seen: list[tuple[Any, ...]] = []

    def integers_first(*arguments: Any) -> float:
        seen.append(arguments)
        return 0.1

    loaded = example("c/float_arguments.tramp").load({"integers_first": integers_first, "swapped": lambda y, x: y})
    floats = [0.5 * n for n in range(8)]
    integers = [(1 << 64) - 1, -128, 0xFFFF, -(1 << 31), 1 << 63]
    assert loaded["floats_first"](*floats, 0.25, *integers) == 0.1
    assert seen == [(*integers, 0.25, *floats)]
    assert loaded["swap"](2.5, 1.5) == 1.5
    assert sorted(loaded) == ["floats_first", "swap"]


def test_a_call_on_another_stack() -> None:
    stack = ctypes.create_string_buffer(1 << 20)
    places = []

    @ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)
    def work(x: int) -> int:
        places.append(stack_pointer())
        return 2 * x

    with example("c/call_on_stack.tramp").load() as loaded:
        stack_pointer = compiled("trampoline s() -> uptr using c { return sp }")["s"].load()
        low = ctypes.addressof(stack)
        where = ctypes.cast(work, ctypes.c_void_p).value
        assert loaded["call_on_stack"](low + len(stack), where, 21) == 42
        assert low < places[0] < low + len(stack)


def test_results_have_the_sign_and_the_width_of_their_type() -> None:
    for name, given, result in (
        ("i8", 0x80, -128),
        ("u8", -1, 255),
        ("i32", 1 << 31, -(1 << 31)),
        ("u64", -1, 2**64 - 1),
    ):
        code = compiled(
            f"extern f(x: {name}) -> {name} using c\ntrampoline t(x: {name}) -> {name} using c {{ return call f(x) }}"
        )
        seen: list[int] = []

        def f(x: int, seen: list[int] = seen) -> int:
            seen.append(x)
            return x

        assert code["t"].load({"f": f})(given) == result
        assert seen == [result]


def test_variables_are_objects_or_addresses() -> None:
    code = compiled("""
struct pair { a: u32  b: u64 }
extern counter: u32
extern both: pair
trampoline next() -> u32 using c { counter = counter + 1  both.b = 7  return counter }
trampoline place() -> ptr<pair> using c { return &both }
""")
    counter, both = ctypes.c_uint32(41), ctypes.create_string_buffer(16)
    with code.load({"counter": counter, "both": ctypes.addressof(both)}) as loaded:
        assert loaded["next"]() == 42 == counter.value
        assert loaded["place"]() == ctypes.addressof(both)
        assert both.raw[8] == 7


def test_trampolines_call_each_other() -> None:
    code = compiled("""
extern f(x: u32) -> u32 using c
trampoline inner(x: u32) -> u32 using c { return call f(x) }
trampoline outer(x: u32) -> u32 using c { let y = call inner(x)  return y + 1 }
""")
    with code.load({"f": lambda x: 10 * x}) as loaded:
        assert loaded["outer"](4) == 41
        assert protection(loaded["outer"].address) == "r-xp"
    # Or one by one.
    inner = code["inner"].load({"f": lambda x: 5 * x})
    outer = code["outer"].load({"inner": inner})
    assert outer(4) == 21
    with pytest.raises(LoadError, match="other loaded code calls this"):
        inner.close()
    outer.close()
    inner.close()


def test_imported_trampolines_come_along(tmp_path: Path) -> None:
    (tmp_path / "library.tramp").write_text(ONE + "trampoline unused() using c { call g() }\nextern g() using c\n")
    (tmp_path / "main.tramp").write_text(
        'import "library.tramp"\ntrampoline twice(x: u32) -> u32 using c { let y = call one(x)  return call one(y) }\n'
    )
    with compile_file(tmp_path / "main.tramp", host()).load({"f": lambda x: x + 3}) as loaded:
        assert loaded["twice"](1) == 7
        assert sorted(loaded) == ["one", "twice"]


def test_the_entries_of_a_table() -> None:
    code = compiled("""
table entries[300] enters dispatch
extern handle(index: uptr, what: uptr) -> uptr using c
trampoline dispatch(what: uptr) -> uptr using c { return call handle(table index, what) }
trampoline first() -> ptr using c { return &entries }
""")
    with code.load({"handle": lambda index, what: 1000 * index + what}) as loaded:
        entries = loaded["entries"]
        assert [entries[n](5) for n in (0, 1, 255, 256, -1)] == [5, 1005, 255005, 256005, 299005]
        assert len(entries) == 300
        assert entries[:2][1].address == entries[1].address
        assert loaded["first"]() == entries.address == entries[0].address
        with pytest.raises(IndexError):
            entries[300]
        with pytest.raises(LoadError, match="through the table `entries` alone"):
            loaded["dispatch"]
    with pytest.raises(LoadError, match=r"compiled\.load"):
        code["dispatch"].load({"handle": lambda *_: 0})


def test_go_conventions_have_an_address_and_cannot_be_called() -> None:
    code = compiled("""
extern f(x: uptr) -> uptr using go0
trampoline go(x: uptr) -> uptr using go0 { return call f(x) }
trampoline c(x: uptr) -> uptr using c { return call go(x) }
trampoline back(x: uptr) -> uptr using go0 { return x + 1 }
""")
    back = code["back"].load()
    with pytest.raises(CallError, match=f"uses go0, .* C's convention only; `address` is {back.address:#x}"):
        back(1)
    with code.load({"f": back.address}) as loaded:
        assert loaded["c"](41) == 42
    with pytest.raises(LoadError, match="a Python callable is given, and `f` uses go0"):
        code.load({"f": lambda x: x})
    with pytest.raises(LoadError, match="is another function"):
        code.load({"f": compiled("trampoline c(x: uptr) -> uptr using c { return x }")["c"].load()})
    assert code["go"].load({"f": back}).address


# ------------------------------------------------------------------------------------------------ among hostile callees

# A driver that has marks in all registers that the System V ABI keeps, and a callee that overwrites all others.
HOSTILE = """
#include <stdint.h>
uint64_t kept_wrong;
uint64_t drive(void *function, uint64_t a, uint64_t b);
__asm__(
".text\\n"
".globl drive\\n"
"drive: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\\n"
"mov %rdi, %rax; mov %rsi, %rdi; mov %rdx, %rsi\\n"
"mov $0x1111111111, %rbx; mov $0x2222222222, %rbp; mov $0x3333333333, %r12\\n"
"mov $0x4444444444, %r13; mov $0x5555555555, %r14; mov %rsp, %r15\\n"
"call *%rax\\n"
"mov $0x1111111111, %rcx; xor %rcx, %rbx; mov $0x2222222222, %rcx; xor %rcx, %rbp\\n"
"mov $0x3333333333, %rcx; xor %rcx, %r12; mov $0x4444444444, %rcx; xor %rcx, %r13\\n"
"mov $0x5555555555, %rcx; xor %rcx, %r14; xor %rsp, %r15\\n"
"or %rbp, %rbx; or %r12, %rbx; or %r13, %rbx; or %r14, %rbx; or %r15, %rbx\\n"
"mov kept_wrong@GOTPCREL(%rip), %rcx; mov %rbx, (%rcx)\\n"
"add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\\n"
".globl hostile\\n"
"hostile: lea 7(%rdi), %rax; mov $0xbad, %ecx; mov %rcx, %rdx; mov %rcx, %rsi; mov %rcx, %rdi\\n"
"mov %rcx, %r8; mov %rcx, %r9; mov %rcx, %r10; mov %rcx, %r11\\n"
"movq %rcx, %xmm0; movq %rcx, %xmm7; movq %rcx, %xmm15\\n"
"mov %rcx, -8(%rsp); mov %rcx, -120(%rsp); cmp %rcx, %rsp; ret\\n"
);
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if host() != "linux/amd64":
        need_host("linux/amd64", "the driver is assembly for linux/amd64")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.c").write_text(HOSTILE)
    command = [need("gcc"), "-shared", "-fPIC", "-o", str(folder / "hostile.so"), str(folder / "hostile.c")]
    subprocess.run(command, check=True, timeout=120)
    library = ctypes.CDLL(str(folder / "hostile.so"))
    library.drive.restype = ctypes.c_uint64
    library.drive.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
    return library


def test_values_and_kept_registers_survive_a_hostile_callee(hostile: ctypes.CDLL) -> None:
    code = compiled("""
extern f(x: uptr) -> uptr using c
trampoline t(a: uptr, b: uptr) -> uptr using c {
    let one = call f(a)
    let two = call f(b)
    let three = call f(one + two)
    return a * 1000000 + b * 1000 + three
}
""")
    with code["t"].load({"f": hostile.hostile}) as t:
        assert hostile.drive(t.address, 3, 5) == 3_005_029
        assert ctypes.c_uint64.in_dll(hostile, "kept_wrong").value == 0
        assert t(3, 5) == 3_005_029
    # The driver sees what is not given back.
    bad = compiled("""
convention careless like c { when amd64 { loses rbx } }
trampoline t(a: uptr, b: uptr) -> uptr using careless {
    when amd64 { asm amd64 { clobbers rbx "xor ebx, ebx" } }
    return a
}
""")["t"].load()
    hostile.drive(bad.address, 3, 5)
    assert ctypes.c_uint64.in_dll(hostile, "kept_wrong").value == 0x1111111111


# ----------------------------------------------------------------------------------------------------- what is far away

FAR = """
extern far(x: uptr) -> uptr using c
trampoline called(x: uptr) -> uptr using c { let y = call far(x)  return y + 1 }
trampoline jumped(x: uptr) -> uptr using c { jump far(x) }
trampoline pointed(x: uptr) -> uptr using c { let p: ptr = &far  let y = call p(x) using c -> uptr  return y + 2 }
"""


def test_calls_reach_as_far_as_addresses_do() -> None:
    answer = compiled("trampoline far(x: uptr) -> uptr using c { return x * 2 }")["far"].code
    size = 1 << 16
    far = trampoline_dsl.load._map(0x1234_5678_0000 & ~0xFFFF, size)
    try:
        ctypes.memmove(far, answer, len(answer))
        trampoline_dsl.load._make_executable(far, size)
        with compiled(FAR).load({"far": far}) as loaded:
            assert abs(loaded["called"].address - far) > 1 << 32
            assert [loaded[name](21) for name in ("called", "jumped", "pointed")] == [43, 42, 44]
    finally:
        trampoline_dsl.load._unmap(far, size)


@pytest.mark.parametrize("name", LOADABLE)
@pytest.mark.parametrize("distance", [0x10_0000, 0x1000_0000, 0x100_0000_0000])
def test_images_run_wherever_externs_are(name: str, distance: int) -> None:
    """On every target that can be loaded, whatever the host is: the linked image in the emulator."""
    target = find_target(name)
    code = compile_text(FAR, target)
    answer = compile_text("trampoline far(x: uptr) -> uptr using c { return x * 2 }", target)["far"].code
    base, stack, stop = 0x40_0000_0000, 0x7000_0000, 0x6000_0000
    image = image_of(target, list(code.own), ["far"])
    linked = image.link(base, {"far": base + distance})
    convention = target.conventions["c"]
    for trampoline, expected in (("called", 43), ("jumped", 42), ("pointed", 44)):
        machine = Machine(target.architecture)
        for place in (base, base + distance, stack - 0x10000):
            machine.map(place, 0x10000)
        machine.map(stop, 0x1000)
        machine.write(base, linked)
        machine.write(base + distance, answer)
        sp = stack - 0x100
        if convention.return_address is None:
            sp -= target.architecture.word
            machine.write(sp, stop.to_bytes(target.architecture.word, target.architecture.order))
        else:
            machine.set(convention.return_address, stop)
        machine.sp = sp
        machine.set(convention.integer_arguments[0], 21)
        machine.run(base + image.pieces[trampoline][0], 100, stop)
        assert machine.pc == stop
        assert machine.get(convention.integer_results[0]) == expected


@pytest.mark.parametrize("symbol", ["beyond", "far"])  # the latter is a word of Intel syntax
@pytest.mark.parametrize("name", LOADABLE)
def test_stubs_are_what_gnu_as_makes_of_them(name: str, symbol: str) -> None:
    architecture = find_target(name).architecture
    stub = list(architecture.far_jump(symbol))
    made = assemble(architecture, stub)
    code, relocations = gnu.assemble(architecture, "".join(f"{insn.text}\n" for insn in stub))
    assert made.code == code
    assert [(r.offset, r.type, r.symbol, r.addend) for r in made.relocations] == relocations


def test_code_goes_where_it_reaches_the_variables() -> None:
    size = 1 << 16
    place = trampoline_dsl.load._map(0x1234_5678_0000 & ~0xFFFF, size)
    code = compiled("extern far: u64\nextern near: u64\ntrampoline t() -> u64 using c { return far + near }")
    try:
        ctypes.c_uint64.from_address(place).value = 40
        ctypes.c_uint64.from_address(place + 8).value = 2
        with code["t"].load({"far": place, "near": place + 8}) as t:
            assert t() == 42
            assert abs(t.address - place) < 1 << 31
        with pytest.raises(LoadError, match="near each other"):
            code["t"].load({"far": place, "near": ctypes.c_uint64(2)})
    finally:
        trampoline_dsl.load._unmap(place, size)


# ----------------------------------------------------------------------------------------------------------- exceptions


class Unlucky(Exception):
    pass


def fails(x: int) -> int:
    raise Unlucky(x)


def test_an_exception_reaches_the_caller_once_the_code_has_returned() -> None:
    code = compiled("""
extern f(x: u32) -> u32 using c
extern g(x: u32) -> u32 using c
trampoline t(x: u32) -> u32 using c { let a = call f(x)  let b = call g(a)  return a + b }
""")
    seen = []
    with code["t"].load({"f": fails, "g": lambda x: seen.append(x) or 5}) as t:
        with pytest.raises(Unlucky, match="7"):
            t(7)
        assert seen == [0]  # what f's result is then
    with code["t"].load({"f": fails, "g": fails}) as t, pytest.raises(Unlucky) as raised:
        t(7)
    assert raised.value.args == (7,)
    assert raised.value.__notes__ == ["later in the same call: Unlucky(0)"]


def test_exceptions_pass_through_nested_calls() -> None:
    code = compiled(ONE)
    inner = code["one"].load({"f": fails})
    outer = code["one"].load({"f": inner})
    through_python = code["one"].load({"f": lambda x: inner(x + 1)})
    with pytest.raises(Unlucky, match="1"):
        outer(1)
    with pytest.raises(Unlucky, match="2"):
        through_python(1)

    def handled(x: int) -> int:
        with pytest.raises(Unlucky):
            inner(x)
        return x + 5

    assert code["one"].load({"f": handled})(1) == 6


def test_an_exception_below_c_alone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_value))
    one = compiled(ONE)["one"].load({"f": fails})
    native = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32)(one.address)
    native(3)
    assert [type(value) for value in reported] == [Unlucky]


def test_exceptions_stay_in_their_thread() -> None:
    both = threading.Barrier(2, timeout=60)

    def f(x: int) -> int:
        both.wait()
        if x:
            raise Unlucky(x)
        return 8

    one = compiled(ONE)["one"].load({"f": f})
    results: list[object] = []

    def call(x: int) -> None:
        try:
            results.append(one(x))
        except Unlucky as error:
            results.append(error.args)

    threads = [threading.Thread(target=call, args=(x,)) for x in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results, key=str) == [(1,), 8]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "what the callable for `f` returned is a NoneType, and u32 is wanted: an int"),
        (1.0, "what the callable for `f` returned is a float, and u32 is wanted: an int"),
        (1 << 32, r"what the callable for `f` returned is 0x100000000, which does not fit u32 \(32 bits\)"),
    ],
)
def test_answers_of_callables_are_checked(answer: object, said: str) -> None:
    with pytest.raises(CallError, match=said):
        compiled(ONE)["one"].load({"f": lambda x: answer})(1)


# --------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), r"`one` takes \(x: u32\), and 0 were given"),
        ((1, 2), r"`one` takes \(x: u32\), and 2 were given"),
        (("1",), "argument 1 of `one` is a str, and u32 is wanted: an int"),
        ((1.0,), "argument 1 of `one` is a float, and u32 is wanted: an int"),
        ((True,), "argument 1 of `one` is a bool"),
        ((1 << 32,), "argument 1 of `one` is 0x100000000, which does not fit u32"),
        ((-(1 << 31) - 1,), "argument 1 of `one` is -0x80000001, which does not fit u32"),
    ],
)
def test_arguments_are_checked(arguments: tuple[object, ...], said: str) -> None:
    one = compiled(ONE)["one"].load({"f": lambda x: x})
    with pytest.raises(CallError, match=said):
        one(*arguments)


def test_pointers_are_addresses() -> None:
    t = compiled("trampoline t(p: ptr, d: f64) -> ptr using c { return p }")["t"].load()
    with pytest.raises(CallError, match=r"is a c_char_Array_4, and ptr is wanted: an int \(ctypes.addressof gives"):
        t(ctypes.create_string_buffer(4), 1.0)
    with pytest.raises(CallError, match="argument 2 of `t` is a str, and f64 is wanted: a float"):
        t(0, "1")
    assert t(0, 1) == 0


@pytest.mark.parametrize(
    ("externs", "said"),
    [
        ({}, "nothing is given for `f`: give an address, a Python callable or a loaded trampoline for each function"),
        ({"f": 0}, "`f` is given as 0x0, which is no address"),
        ({"f": 1 << 64}, "which is no address"),
        ({"f": "f"}, "`f` is given as a str"),
        ({"f": True}, "`f` is given as a bool"),
        ({"f": 1, "g": 1}, "`g` is given, and the file declares no such extern"),
        ({"f": 1, "one": 1}, "`one` is given, and is among the trampolines that are loaded"),
    ],
)
def test_externs_are_checked(externs: dict[str, object], said: str) -> None:
    with pytest.raises(LoadError, match=said):
        compiled(ONE).load(externs)


def test_a_trampoline_of_the_same_file_is_an_extern_to_another() -> None:
    code = compiled(ONE + "trampoline two(x: u32) -> u32 using c { return call one(x) }")
    with pytest.raises(LoadError, match=r"`one` is a trampoline of the same program: compiled\.load"):
        code["two"].load({})
    with pytest.raises(LoadError, match=r"declared as \(x: u32\) -> u32 using c, and `other` is another function"):
        code["two"].load({"one": compiled("trampoline other(x: u16) using c { }")["other"].load()})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: 0, "`v` is a variable, and a function is given: give its address, or a ctypes object"),
        (ctypes.c_uint32(), "`v` has 8 bytes, and the ctypes object that is given has 4"),
        (0, "which is no address"),
    ],
)
def test_variables_are_checked(value: object, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        compiled("extern v: u64\ntrampoline t() -> u64 using c { return v }")["t"].load({"v": value})


def test_code_for_another_machine_is_refused() -> None:
    for other in ("linux/s390x", "windows/amd64", "windows/arm64"):
        with pytest.raises(LoadError, match=f"this is code for {other}, and this process runs linux on .*host_target"):
            compile_text(ONE, other).load({"f": 1})


def test_a_host_without_a_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(
        LoadError, match=r"no target's code runs in this process \(linux on vax with pointers of 64 bits\)"
    ):
        host_target()


# --------------------------------------------------------------------------------------------------------------- memory


def test_closed_code_is_not_called() -> None:
    one = compiled(ONE)["one"].load({"f": lambda x: x})
    address = one.address
    assert protection(address) == "r-xp"
    one.close()
    one.close()
    assert protection(address) != "r-xp"
    with pytest.raises(CallError, match="no longer loaded"):
        one(1)
    with pytest.raises(LoadError, match="`f` is given as `one`, which is closed"):
        compiled(ONE)["one"].load({"f": one})
    assert repr(one).endswith("closed>")


def test_running_code_is_not_closed() -> None:
    def f(x: int) -> int:
        one.close()
        return x

    one = compiled(ONE)["one"].load({"f": f})
    with pytest.raises(LoadError, match="this code is running"):
        one(1)
    assert protection(one.address) == "r-xp"


def test_memory_is_given_back_with_the_last_handle() -> None:
    loaded = compiled(ONE).load({"f": lambda x: x + 1})
    one = loaded["one"]
    address = one.address
    del loaded
    gc.collect()
    assert one(1) == 2
    del one
    gc.collect()
    assert protection(address) != "r-xp"


class Refusing:
    """The C library, with one function that fails."""

    def __init__(self, libc: ctypes.CDLL, name: str, result: int) -> None:
        self.libc, self.name, self.result = libc, name, result

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> int:
            ctypes.set_errno(13)
            return self.result

        return refuse if name == self.name else getattr(self.libc, name)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    real = trampoline_dsl.load._libc

    def refuse(name: str, result: int) -> None:
        monkeypatch.setattr(trampoline_dsl.load, "_libc", lambda: Refusing(real(), name, result))

    return refuse


def test_a_system_that_refuses_is_reported(without: Callable[[str, int], None]) -> None:
    code = compiled(ONE)
    before = Path("/proc/self/maps").read_text().count("rw-p")
    without("mprotect", -1)
    with pytest.raises(LoadError, match="does not let memory become executable: Permission denied"):
        code.load({"f": 1})
    assert Path("/proc/self/maps").read_text().count("rw-p") <= before
    without("mmap", (1 << 64) - 1)
    with pytest.raises(LoadError, match="no memory for 4096 bytes of code: Permission denied"):
        code.load({"f": 1})


def test_free_places_keep_their_distance() -> None:
    maps = "555500000000-555500100000 rw-p\n7ffff0000000-7ffff0100000 rw-p [stack]\n"
    hints = trampoline_dsl.load._hints(0x1000, 0x5555_0000_0800, maps)
    assert hints[0] == 0x5555_0000_0000 - trampoline_dsl.load.MARGIN - 0x1000
    assert hints[1] == 0x5555_0010_0000 + trampoline_dsl.load.MARGIN
    assert trampoline_dsl.load._hints(0x1000, 0x5555_9000_0800, maps)[0] == 0x5555_9000_0000
