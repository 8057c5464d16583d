"""Whatever text is given, the answer is a program or located diagnostics: no other exception, no hang.

`python tests/test_fuzz_input.py SECONDS` goes on for that long, with other examples each time.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, seed, settings

from trampoline_dsl.diagnostics import Diagnostic, InputError, Source, decode_source, render
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.targets import find_target

ROOT = Path(__file__).resolve().parent.parent
TARGETS = [find_target("linux/386"), find_target("linux/s390x")]
PATIENCE = 20.0  # seconds of one text; the longest takes a fraction of one on an idle machine

FILES = sorted([*ROOT.glob("examples/**/*.tramp"), *ROOT.glob("tests/cases/*.tramp")])
SEEDS = [(path, path.read_bytes().decode()) for path in FILES if path.stat().st_size < 10_000]
TOKEN = re.compile(r'\s+|#[^\n]*|"[^"\n]*"|[A-Za-z_·$][\w·$]*|[0-9]\w*|<<|>>|[=!<>]=|\.\.\.|.', re.DOTALL)


def words(text: str) -> list[str]:
    return text.split()


KEYWORDS = words("""
    import const struct from extern using clobbers convention like trampoline save frame at bottom let call jump return
    resume if else while break continue on stack pushing pc when asm in out expect check new var given finally not and
    or as null mem sizeof offsetof entry sp pushed caller any callee_saves none keeps loses reserves thread pops callee
    align arguments results float_arguments scratch area red_zone first_stack_argument
""")
PLAIN = words("a b p q f g top LIMIT")
NAMES = words("a b a b a p q f p.x p.y g g.m top.top s.x h m c go0 mine rax r2 r11 r15 eax esi st0 xmm0 f0 a0")
TYPES = words("uptr uptr uptr u8 i8 u16 i16 u32 i32 u64 i64 iptr ptr f32 f64 ptr<s> ptr<t> ptr<g>")
NUMBERS = words("0 1 7 8 16 255 256 4096 40000 0x7fffffff 0xffffffff 0xffffffffffffffff 1<<40")
SYMBOLS = words("{ } ( ) < > [ ] : , ; = == != <= >= << >> + - * & | ^ ~ @ . ... -> # /")
PLACES = ["386", "s390x", "not 386", "amd64", "linux/s390x", "mips", "g in register"]
TEXTS = ['"nop"', '"title"', '"', "\n", "é", "\u2028"]
VOCABULARY = [*KEYWORDS, *PLAIN, *NAMES, *TYPES, *NUMBERS, *SYMBOLS, *PLACES, *TEXTS]


def check(text: str, name: str = "fuzz.tramp") -> None:
    started = time.monotonic()
    try:
        compiled = compile_source(Source(name, text), TARGETS)
        if "asm" not in text:  # what users write there is assembled by another process, which has tests of its own
            for program in compiled.values():
                program.assemble()
    except InputError as error:
        examine(error.diagnostics)
    assert time.monotonic() - started < PATIENCE


def examine(diagnostics: tuple[Diagnostic, ...]) -> None:
    assert diagnostics
    for diagnostic in diagnostics:
        assert re.fullmatch(r"[A-Z][0-9]{3}", diagnostic.code)
        assert diagnostic.message
        span = diagnostic.span
        assert diagnostic.file or span is not None
        if span is not None:
            assert 0 <= span.start <= span.end <= len(span.source.text), diagnostic
            line, column = span.source.position(span.start)
            assert column - 1 <= len(span.source.text.split("\n")[line - 1]), diagnostic
        assert render(diagnostic)
        assert json.dumps(diagnostic.as_json())


# --------------------------------------------------------------------------------------------- programs, nearly right


def one_of(*words: str) -> st.SearchStrategy[str]:
    return st.sampled_from(words)


def joined(*parts: st.SearchStrategy[str] | str, by: str = " ") -> st.SearchStrategy[str]:
    strategies = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*strategies).map(by.join)


def several(of: st.SearchStrategy[str], by: str, least: int = 0, most: int = 4) -> st.SearchStrategy[str]:
    return st.lists(of, min_size=least, max_size=most).map(by.join)


names = st.sampled_from(NAMES)
plain = st.sampled_from(PLAIN)
types = st.sampled_from(TYPES)
numbers = st.sampled_from(NUMBERS)
targets = st.sampled_from(PLACES)
operators = one_of("+", "-", "*", "&", "|", "^", "<<", ">>")
comparisons = one_of("==", "!=", "<", "<=", ">", ">=")
values = st.recursive(
    st.one_of(
        names, numbers, names, one_of("sp", "null", "g", "entry sp", "pushed pc", "caller pc", "any", "&f", "sizeof(s)")
    ),
    lambda inner: st.one_of(
        joined(inner, operators, inner),
        joined("(", inner, ")"),
        joined("(", inner, "as", types, ")"),
        joined(one_of("-", "~"), inner),
        joined("mem<", types, ">(", inner, ")"),
    ),
    max_leaves=6,
)
conditions = st.recursive(
    joined(values, comparisons, values),
    lambda inner: st.one_of(joined(inner, one_of("and", "or"), inner), joined("not", inner), joined("(", inner, ")")),
    max_leaves=4,
)
parameters = several(joined(plain, ":", types), ", ", most=9)
arguments = several(values, ", ", most=9)
calls = joined(
    "call",
    names,
    "(",
    arguments,
    ")",
    one_of("", "", "using c", "using go0", "using mine"),
    one_of("", "", "-> u32", "at top.top"),
)
slots = several(joined(plain, ":", types, one_of("", "", "at bottom", "at 16", "at 40000")), " ")
simple_statements = st.one_of(
    joined("let", plain, one_of("", ": u32", ": ptr<s>", ": f64"), "=", st.one_of(values, calls)),
    joined(st.one_of(names, joined("mem<", types, ">(", values, ")")), "=", st.one_of(values, values, calls)),
    calls,
    joined("jump", names, "(", arguments, ")"),
    joined("return", st.one_of(st.just(";"), values, calls)),
    joined("resume", values, ",", values),
    joined("frame {", slots, "}"),
    one_of("break", "continue", "save none", "save callee_saves", "return;"),
    joined("expect", conditions),
    joined("asm", targets, "{ in", plain, "=", values, "out", plain, "=", plain, "clobbers", plain, '"nop" }'),
)
statements = st.recursive(
    simple_statements,
    lambda inner: st.one_of(
        joined("if", conditions, "{", several(inner, "\n"), "}", st.one_of(st.just(""), joined("else {", inner, "}"))),
        joined("while", conditions, "{", several(inner, "\n"), "}"),
        joined(
            "on stack", values, st.one_of(st.just(""), joined("pushing pc", values)), "{", several(inner, "\n"), "}"
        ),
        joined("when", targets, "{", several(inner, "\n"), "}", st.one_of(st.just(""), joined("else {", inner, "}"))),
    ),
    max_leaves=12,
)
bodies = several(statements, "\n    ", most=8)
results = st.one_of(st.just(""), joined("->", types))
uses = one_of("using c", "using c", "using go0", "using mine")
facts = st.one_of(
    joined(
        one_of(
            "keeps",
            "loses",
            "reserves",
            "arguments",
            "results",
            "float_arguments",
            "float_results",
            "scratch",
            "thread",
        ),
        several(
            one_of("eax", "ecx", "esi", "ebp", "st0", "xmm0", "r1", "r2", "r5", "r9", "f0", "f4", "a0", "none", "sp"),
            ", ",
            1,
        ),
    ),
    joined(one_of("align", "red_zone", "area", "first_stack_argument"), numbers),
    joined("pops", one_of("caller", "callee")),
)
items = st.one_of(
    joined("const", one_of("LIMIT", "a", "b"), "=", values),
    joined(
        "struct",
        one_of("s", "t", "g", "point"),
        "{",
        several(joined(plain, ":", types, one_of("", "", "@ 8", "@ LIMIT")), " "),
        "}",
    ),
    joined("extern", plain, "(", parameters, ")", results, uses),
    joined("convention mine like", one_of("c", "go0", "mine"), "{", several(facts, " "), "}"),
    joined("convention mine like c { when", targets, "{", several(facts, " "), "} }"),
    joined("trampoline", plain, "(", parameters, ")", results, uses, "{\n    ", bodies, "\n}"),
    joined(
        "check",
        names,
        '"title" { new x: s stack top var y: u32 = 1 given {',
        bodies,
        "} on f() {",
        bodies,
        "} finally {",
        bodies,
        "} }",
    ),
)
programs = several(items, "\n", most=6).map(
    lambda text: (
        "struct s { x: uptr y: u32 }\nextern f() using c\ntrampoline start(a: uptr, p: ptr<s>) using c {\n return\n}\n"
        + text
    )
)


def conventions_of(name: str, *registers: str) -> st.SearchStrategy[str]:
    """Facts of a machine in words that it knows."""
    some = several(one_of(*registers), ", ", 1, 6)
    facts = one_of("keeps", "loses", "reserves", "scratch", "arguments", "results", "float_arguments", "float_results")
    numbers = joined(
        one_of("align", "area", "first_stack_argument", "red_zone"), one_of("0", "1", "4", "16", "64", "160")
    )
    fact = st.one_of(joined(facts, some), joined("thread", one_of(*registers)), numbers, joined(facts, "none"))
    return joined("when", name, "{", several(fact, " ", 0, 2), "}")


of_386 = conventions_of("386", *words("eax ebx ecx edx esi edi ebp esp st0 xmm0 xmm1 xmm7 mxcsr"))
of_s390x = conventions_of("s390x", *words("r0 r1 r2 r3 r6 r7 r9 r13 r14 r15 f0 f1 f2 f4 f8 v16 a0 fpc"))
own_conventions = joined(
    "convention mine like", one_of("c", "go0"), "{", of_386, of_s390x, "}\n",
    "extern callee(", several(joined("a", ":", types), ", ", most=0), ") using mine\n",
    "extern other(a: u32, b: f64, d: uptr, e: f32, h: u64) -> u64 using mine\n",
    "extern third(a: u32, b: f64, d: uptr) -> f64 using c\n",
    "trampoline first(a: uptr, b: f64, d: u32, e: f32, h: u64) -> u64 using", one_of("mine", "c", "go0"), "{\n",
    "on stack (a & -64) - 512 {", one_of("call callee()", "", "let q = call third(1, b, a)"), "}\n",
    "let r = call third(d, b, a) let s = call other(d, r, a, e, h) return s }\n",
    "trampoline second(a: u32, b: f64, d: uptr) -> f64 using mine {\n",
    one_of("jump third(a, b, d)", "return b", "let r = call third(a, b, d) call callee() return r"), "}\n",
)  # fmt: skip
soups = st.lists(st.sampled_from(VOCABULARY), max_size=60).map(" ".join)
edits = st.lists(
    st.tuples(
        st.sampled_from(["delete", "double", "swap", "replace", "insert", *6 * ["alike"]]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(VOCABULARY),
    ),
    min_size=1,
    max_size=3,
)


def _kind(token: str) -> str:
    return token if token.isspace() or token in KEYWORDS else "name" if token[0].isalpha() else "sign"


def edited(text: str, changes: list[tuple[str, float, float, str]]) -> str:
    tokens = TOKEN.findall(text)
    for what, first, second, word in changes:
        if not tokens:
            break
        i, j = int(first * len(tokens)), int(second * len(tokens))
        match what:
            case "alike":  # a word for a word, a number for a number, a sign for a sign
                kind = [token for token in tokens if _kind(token) == _kind(tokens[i])]
                tokens[i] = kind[int(second * len(kind))]
            case "delete":
                del tokens[i]
            case "double":
                tokens.insert(j, tokens[i])
            case "swap":
                tokens[i], tokens[j] = tokens[j], tokens[i]
            case "replace":
                tokens[i] = word
            case _:
                tokens.insert(i, f" {word} ")
    return "".join(tokens)


# --------------------------------------------------------------------------------------------------------------- tests


def check_changed(example: tuple[int, list[tuple[str, float, float, str]]]) -> None:
    path, text = SEEDS[example[0]]
    check(edited(text, example[1]), str(path))


def check_bytes(data: bytes) -> None:
    try:
        source = decode_source("fuzz.tramp", data)
    except InputError as error:
        examine(error.diagnostics)
        return
    check(source.text)


changed_files = st.tuples(st.sampled_from(range(len(SEEDS))), edits)
any_bytes = st.one_of(
    st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)


def fuzzed(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@fuzzed(150)
@given(programs)
def test_programs_that_are_nearly_right(text: str) -> None:
    check(text)


@fuzzed(250)
@given(changed_files)
def test_files_with_a_few_words_changed(example: tuple[int, list[tuple[str, float, float, str]]]) -> None:
    check_changed(example)


@fuzzed(150)
@given(own_conventions)
def test_conventions_of_any_shape(text: str) -> None:
    check(text)


@fuzzed(250)
@given(soups)
def test_words_in_any_order(text: str) -> None:
    check(text)


@fuzzed(400)
@given(any_bytes)
def test_bytes(data: bytes) -> None:
    check_bytes(data)


def again(strategy: st.SearchStrategy[Any], checked: Callable[[Any], None], number: int) -> None:
    @settings(fuzzed(200), derandomize=False)
    @seed(number)
    @given(strategy)
    def once(example: Any) -> None:
        checked(example)

    once()


def go_on(seconds: float) -> None:
    """Other examples than the tests have, until the time is over."""
    kinds: tuple[tuple[st.SearchStrategy[Any], Callable[[Any], None]], ...] = (
        (programs, check),
        (changed_files, check_changed),
        (own_conventions, check),
        (soups, check),
        (any_bytes, check_bytes),
    )
    end = time.monotonic() + seconds
    start = number = int(time.time())
    while time.monotonic() < end:
        for strategy, checked in kinds:
            again(strategy, checked, number)
        number += 1
    print(f"{number - start} rounds of {len(kinds)} times 200 texts, seeds {start} to {number - 1}")


if __name__ == "__main__":
    go_on(float(sys.argv[1]))
