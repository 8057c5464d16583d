"""Files kept from one process to the next save time, and decide nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lark import Tree, UnexpectedInput

from trampoline_dsl import assemble, cli, parse, syntax
from trampoline_dsl import resolve as resolve_module
from trampoline_dsl.diagnostics import InputError, Source, Span, read_source, render
from trampoline_dsl.kept import kept_file, read_table, write_table
from trampoline_dsl.pipeline import compile_source
from trampoline_dsl.resolve import Module, load_module, resolve
from trampoline_dsl.target import Engines, Insn
from trampoline_dsl.targets import find_target

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
from trampoline_dsl.diagnostics import Source
from trampoline_dsl.parse import parse
print(parse(Source("a", "trampoline nothing() using c { return }")))
"""


def parsed_by_a_new_process(cache: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""
    return run.stdout


def test_the_parser_is_the_same_whatever_is_kept(tmp_path: Path) -> None:
    first = parsed_by_a_new_process(tmp_path)
    [kept] = (tmp_path / "trampoline").iterdir()
    assert parsed_by_a_new_process(tmp_path) == first
    half = kept.read_bytes()[: kept.stat().st_size // 2]
    kept.write_bytes(half)
    assert parsed_by_a_new_process(tmp_path) == first
    assert len(kept.read_bytes()) > len(half), "what was spoilt is made anew"


def test_another_grammar_is_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept_file("grammar", "one") == kept_file("grammar", "one") != kept_file("grammar", "two")


def test_nothing_is_kept_where_others_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "trampoline"
    folder.mkdir()
    folder.chmod(0o777)
    assert kept_file("grammar", "one") is None
    folder.chmod(0o700)
    assert kept_file("grammar", "one") is not None
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert kept_file("grammar", "one") is None


def test_nothing_is_kept_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kept_file("grammar", "one") is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The statements that Keystone is asked for, while what it answers is kept in a folder of the test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    statements: list[str] = []
    encode = assemble.Keystone.encode

    def listening(engine: assemble.Keystone, engines: Engines, statement: str, address: int) -> bytes:
        statements.append(statement)
        return encode(engine, engines, statement, address)

    monkeypatch.setattr(assemble.Keystone, "encode", listening)
    return statements


CODE = [Insn("", label=".Lagain"), Insn("mov x0, #5"), Insn("cbz x0, .Lagain", transfer="branch", target=".Lagain")]


def assembled_anew(code: list[Insn], target: str = "linux/arm64") -> bytes:
    """As a process does that has assembled nothing yet, and keeps answers for the next one."""
    assemble._encoders.clear()
    with assemble.answers_kept():
        return assemble.assemble(find_target(target).architecture, code).code


def test_another_process_does_not_ask_keystone_again(asked: list[str], tmp_path: Path) -> None:
    first = assembled_anew(CODE)
    assert len(asked) == 2
    assert assembled_anew(CODE) == first
    assert len(asked) == 2
    other = [Insn("mov x0, #6"), CODE[0], *CODE[1:]]
    assert assembled_anew(other)[-8:] == first
    assert len(asked) == 3, "the new one alone"
    [kept] = (tmp_path / "trampoline").iterdir()
    for spoilt in (kept.read_bytes()[:-1], b"", bytes(100), kept.read_bytes()[:40] + b"?" + kept.read_bytes()[41:]):
        kept.write_bytes(spoilt)
        before = len(asked)
        assert assembled_anew(CODE) == first
        assert len(asked) == before + 2
    assemble._encoders.clear()
    assemble.assemble(find_target("linux/arm64").architecture, CODE)
    assert len(asked) == before + 4, "only the command keeps answers"


def test_answers_for_one_machine_are_no_answers_for_another(asked: list[str]) -> None:
    code = [Insn("add $v0, $v0, $v1")]
    assert assembled_anew(code, "linux/mips") == assembled_anew(code, "linux/mipsle")[::-1]
    assert len(asked) == 2


def test_what_keystone_gets_wrong_is_not_kept(asked: list[str], tmp_path: Path) -> None:
    wrong = [Insn("", label=".Lfar"), *[Insn("nop")] * (1 + (1 << 13)), Insn("tbz x0, #1, .Lfar", target=".Lfar")]
    for _ in range(2):
        with pytest.raises(assemble.AssemblyError, match="far"):
            assembled_anew(wrong)
    assert [statement.split()[0] for statement in asked] == ["nop", "tbz", "tbz"]
    [kept] = (tmp_path / "trampoline").iterdir()
    assert [statement for _, statement, _ in read_table(kept)] == ["nop"]


def test_answers_of_another_engine_are_not_used(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = assembled_anew(CODE)
    content = assemble._engine_content()
    monkeypatch.setattr(assemble, "_engine_content", lambda: content + " ")
    assert assembled_anew(CODE) == first
    assert len(asked) == 4
    assert content.count("libkeystone") == 1, "the engine itself is a part of what its answers follow from"


def test_answers_do_not_pile_up(asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assemble, "_MOST_ANSWERS", 3)
    for number in range(6):
        assembled_anew([Insn(f"mov x0, #{number}")])
        [kept] = (tmp_path / "trampoline").iterdir()
        assert f"mov x0, #{number}" in {statement for _, statement, _ in read_table(kept)}
        assert len(read_table(kept)) <= 3
    assert len(asked) == 6


def test_a_table_that_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "table"
    write_table(tmp_path / "missing" / "table", {"a": b"b"})
    assert read_table(tmp_path / "missing" / "table") == {}
    file.mkdir()
    write_table(file, {"a": b"b"})
    assert read_table(file) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["table"], "nothing is left over"


def texts() -> Iterator[str]:
    for path in sorted(ROOT.glob("**/*.tramp")):
        try:
            source = read_source(path)
            yield from (source.text[start:end] for start, end in parse._pieces(source))
        except InputError:
            pass  # no text at all, or nested too deeply


def alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tree):
        what = ("type", "value", "start_pos", "end_pos")
        return one == other and all(getattr(one, a, None) == getattr(other, a, None) for a in what)
    places = [None if tree.meta.empty else (tree.meta.start_pos, tree.meta.end_pos) for tree in (one, other)]
    same = one.data == other.data and places[0] == places[1] and len(one.children) == len(other.children)
    return same and all(map(alike, one.children, other.children))


def test_the_quick_loop_makes_the_trees_that_lark_makes() -> None:
    right = wrong = 0
    for text in texts():
        quick = parse._driver().parse(text)
        try:
            tree = parse._parser().parse(text)
        except UnexpectedInput:
            assert quick is None, text
            wrong += 1
            continue
        assert alike(tree, quick), text
        right += 1
    assert right > 300
    assert wrong > 20


WHENS = (
    "when linux { const a = 1\n  const b = 2 }",
    "when linux {\n  const a = 1 # {\n  when arm {\n    const b = 2\n  }\n}\n\n# after\n",
    "when linux { when arm {\n const a = 1\n }\n}",
    "when linux {\n  const a =\n  check\n  const b = 2\n}",
    "when linux {\n  struct s {\n  check: u32\n  }\n}",
    "when linux { }",
    "when linux {\n  const a = 1\n} else {\n  const a = 2\n}",
    "when linux {\n  when arm {\n    const a = 1\n  } else {\n    const a = 2\n  }\n  const b = 1\n}",
    'when linux {\n  import "a.tramp"\n}',
    "when linux {\n  const a = 1\n  const = 2\n}",
    "when linux {\n  const a = 1\n} }",
    "when linux {\n  const a = 1 )\n}",
    "when linux {\n  const a = 1",
    "when linux",
    "whenever {\n  const a = 1\n}",
)


def test_what_is_in_a_when_is_parsed_apart_as_it_is_together() -> None:
    apart = wrong = 0
    for text in (*WHENS, *(text for text in texts() if text.startswith("when"))):
        source = Source("a", text)
        parse.parse.cache_clear()
        parse._kept_tree.cache_clear()
        try:
            [whole] = parse._Builder(source, 0).items(parse._parsed(text))
        except (UnexpectedInput, InputError):
            with pytest.raises(InputError):
                parse.parse(source)
            wrong += 1
            continue
        [made] = parse.parse(source).items
        assert repr(made) == repr(whole), text
        assert (made.span.start, made.span.end) == (whole.span.start, whole.span.end)
        apart += parse._kept_tree.cache_info().currsize > 2  # what begins it, and more than one declaration
    assert apart > 5
    assert wrong > 5


BODIES = (
    "let a = 1\nlet b = 2\nreturn",
    "return\ncall f()",
    "return # call\n\n  syscall 1()",
    "return\nlet a = 1\nx = a",
    "let a =\ncall f()\nlet b = 2",
    "let a =\n  frame\nlet b = 2\n  return b",
    "save\ncall\ncall f()",
    "if a == 1 { }\nelse\nif b == 1 { }\nlet b = 1",
    "if a == 1 {\n  let a = 1\n}\nwhen arm { # }\n let b = 1 }\non\nstack b { }",
    "let a = 1\n} let b = 2\nlet c = 3",
    "let a = 1\nlet b = 2 }\ntrampoline g() using c {\nlet c = 3",
    "let a = 1\nlet b = 099\nlet c = 098\n",
    "let a = (1\nlet b = 2)\nlet c = 3",
    "let a = 1\nlet = 2\nlet c = 3",
    "let a = 1\nlet b = 2\n}}",
)


def with_line_ends(text: str, random: Random) -> str:
    """The same text with other line ends: they mean nothing but the end of a comment."""
    return re.sub(r"#[^\n]*\n|[ \n]", lambda blank: blank[0] if blank[0][0] == "#" else random.choice(" \n"), text)


def seen(node: Any) -> Any:
    """All that there is of a node, the ends of its positions too."""
    if isinstance(node, Span):
        return node.start, node.end
    if isinstance(node, (tuple, syntax.Later)):
        return tuple(map(seen, node))
    fields = getattr(node, "__dataclass_fields__", ())
    return (type(node), *(seen(getattr(node, name)) for name in fields)) if fields else node


def test_statements_are_parsed_apart_as_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    trampolines = [text for text in texts() if text.startswith("trampoline")]
    apart = wrong = 0
    for text in (
        *(f"trampoline f() using c {{ {body} }}" for body in BODIES),
        *trampolines,
        *(with_line_ends(text, random) for text in trampolines),
    ):
        found = []
        for whole in (False, True):
            with monkeypatch.context() as patch:
                if whole:
                    patch.setattr(parse, "_in_statements", lambda _: None)
                else:
                    apart += parse._in_statements(text) is not None
                parse.parse.cache_clear()
                parse._kept_tree.cache_clear()
                try:
                    found.append(seen(parse.parse(Source("a", text)).items))
                except InputError as error:
                    found.append([render(diagnostic) for diagnostic in error.diagnostics])
        assert found[0] == found[1], text
        wrong += isinstance(found[0], list)
    assert apart > 200
    assert wrong > 5


IMPORTED = "extern f(a: u32) using c\ntrampoline inner(a: u32) using c { call f(a) }\n"
MAIN = """
import "inner.tramp"
struct s from "s.h" { a: u32 }
trampoline outer(p: ptr<s>) using c { call inner(p.a) }
check outer {
    new object: s
    given { object.a = 1 }
    on f(a) { expect a == 1 }
}
"""


def built(folder: Path, text: str) -> str:
    """The codes of what is wrong with a program; where nothing is, its trampolines and those that it checks."""
    target = find_target("linux/arm64")
    try:
        compiled = compile_source(Source(str(folder / "main.tramp"), text), [target])[target.name]
    except InputError as error:
        return " ".join(d.code for d in error.diagnostics)
    compiled.assemble()
    return " ".join([*compiled.artifacts, *(s.trampoline for s in compiled.program.scenarios)])


def test_what_was_right_is_found_wrong_when_what_it_depends_on_has_changed(tmp_path: Path) -> None:
    inner, header = tmp_path / "inner.tramp", tmp_path / "s.h"
    inner.write_text(IMPORTED)
    header.write_text("#define s_a 8\n")
    for _ in range(2):
        assert built(tmp_path, MAIN) == "inner outer outer"
    assert built(tmp_path, MAIN.replace("object.a = 1", "object.b = 1")) == "R033"
    assert built(tmp_path, MAIN.replace("call inner(p.a)", "call inner(p.b)")) == "R033"
    inner.write_text(IMPORTED.replace("call f(a)", "call f(b)"))
    assert built(tmp_path, MAIN) == "R041"
    inner.write_text("extern f(a: u32, b: u32) using c\ntrampoline inner(a: u32) using c { call f(a, a) }\n")
    assert built(tmp_path, MAIN) == "R059", "the check's `on` names one parameter"
    inner.write_text(IMPORTED)
    header.write_text("#define s_b 8\n")
    assert built(tmp_path, MAIN) == "H002"
    header.write_text("#define s_a 8\n")
    assert built(tmp_path, MAIN) == "inner outer outer"


LIBRARY = """
const size = 4
const twice = size + size
struct s { a: u32, b: u32 }
struct from_header from "s.h" { a: u32 }
convention mine like c { }
extern f(a: u32) using mine
extern var: u32
trampoline inner(a: u32) using c { call f(a) }
trampoline entered() using c { }
table entries[4] enters entered
check inner { on f(a) { } }
"""
IMPORTERS = (
    "",
    "const other = twice\nstruct t { p: ptr<s>, inside: s, many: u8[twice] }",
    "const other = missing",
    "const size = 5",
    "const f = 5",
    "const inner = 5",
    "const var = 5",
    "const entries = 5",
    "const s = 5",
    "struct s { a: u32 }",
    "struct f { a: u32 }",
    "struct t { inside: missing }",
    'struct t from "s.h" { a: u32, b: u32 }',
    "convention mine like c { }",
    "convention yours like mine { }\nextern g() using yours",
    "convention yours like missing { }",
    "extern f(a: u32) using mine",
    "extern f(a: u64) using mine",
    "extern inner(a: u32) using c",
    "extern inner(b: u32, c: u32) using c",
    "extern var(a: u32) using c",
    "extern size(a: u32) using c",
    "extern entries(a: u32) using c",
    "extern var: u32",
    "extern var: u64",
    "extern f: u32",
    "extern entries: u32",
    "trampoline f(a: u32) using mine { }",
    "trampoline f(a: u16) using mine { }",
    "trampoline inner(a: u32) using c { }",
    "trampoline entries() using c { }",
    "table entries[4] enters main",
    "table more[4] enters entered",
    "table more[4] enters main",
    "table f[4] enters main",
    "table more[4] enters inner",
    "check inner { on f(a) { expect a == 1 } }",
    "check missing { }",
)
NEEDY = (  # what these import needs something of theirs
    ("extern h(p: ptr<t>) using c", "struct t { a: u32 }"),
    ("extern h() using yours", "convention yours like c { }"),
    ("const c = d", "const d = 1"),
    ("struct a { inside: t }", "struct t { a: u32 }"),
    ("table more[4] enters main", ""),
    ("trampoline h() using c { call g() }", "extern g() using c"),
    ("trampoline h() using c { call g() }", "extern g(a: u32) using c"),
)


def resolved(module: Module) -> tuple[object, ...] | list[str]:
    """What there is to be seen of a program, or all that is wrong with it."""
    try:
        program = resolve(module, find_target("linux/amd64"))
    except InputError as error:
        return [render(diagnostic) for diagnostic in error.diagnostics]
    found = {name: repr(program.functions[name]) for name in program.functions}
    rest = (program.structs, program.externs, program.variables, program.tables, tuple(program.scenarios), program.own)
    return (repr(found), *map(repr, rest), program.own_tables, repr(program.contracts))


@pytest.mark.parametrize(
    ("library", "text"), [*((LIBRARY, text) for text in IMPORTERS), *((LIBRARY + more, text) for more, text in NEEDY)]
)
def test_imported_declarations_are_kept_and_change_nothing(tmp_path: Path, library: str, text: str) -> None:
    (tmp_path / "library.tramp").write_text(library)
    main = f'import "library.tramp"\n{text}\ntrampoline main(a: u32) using c {{ call inner(a + twice) }}\n'
    for header in ("#define s_a 4\n#define from_header_a 4\n#define t_a 8\n", "#define from_header_a 8\n", ""):
        (tmp_path / "s.h").write_text(header)
        module = load_module(Source(str(tmp_path / "main.tramp"), main))
        expected = resolved(replace(module, imports=None))
        for _ in range(2):
            moved = load_module(Source(module.name, main))
            assert moved.imports is module.imports
            assert resolved(moved) == expected


def test_imported_declarations_are_not_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "library.tramp").write_text(LIBRARY)
    (tmp_path / "s.h").write_text("#define from_header_a 4\n")
    made: list[str] = []
    signature = resolve_module._signature

    def listening(item: Any, environment: Any) -> Any:
        made.append(str(item.name))
        return signature(item, environment)

    monkeypatch.setattr(resolve_module, "_signature", listening)
    for name, number in (("main", 1), ("main", 2), ("other", 2), ("main", 3)):
        main = f'import "library.tramp"\ntrampoline {name}() using c {{ call inner({number}) }}\n'
        resolved(load_module(Source(str(tmp_path / "main.tramp"), main)))
    assert made == ["f", "inner", "entered", "main", "other"]


OWN = """
import "library.tramp"
extern announced(a: uptr) -> uptr using c clobbers { when amd64 { rax } }
extern pointer: ptr<own>
extern pointer: ptr<own>
const eight = 2 * size
const by_target { when amd64 { eight } else { 2 } }
struct own { a: u32, nested: t, b: u64[by_target] @ 32 }
struct t from "s.h" { from_header_a: u32 }
convention own_mine like mine { when amd64 { loses rbx } }
when linux { extern using_mine(a: ptr<own>) using own_mine } else { extern elsewhere() using c }
table own_entries[4] enters first
trampoline first() using c { BODY }
trampoline second(a: ptr<own>) using own_mine writes a
trampoline announced(a: uptr) -> uptr using c { return a }
const elsewhere_only { when arm64 { 1 } }
check announced { finally { expect a == sizeof(own) } }
"""
EDITS = (
    ("BODY", "call f(&pointer)"),
    ("BODY", "let x = table index  call announced(x)"),
    ("import", "\n# further down\n\nimport"),  # the convention, too
    ("table", "\n\n  table"),
    ("{ BODY }", "{\n\n call announced() }"),  # which is told with where it is declared, now further down
    ("{ BODY }", "{\n\n let x = elsewhere_only }"),
    ("sizeof", "1 + sizeof"),
    ("expect", "expect 1 == 2  expect"),
    ("{ return a }", ""),
    ("{ return a }", "{ return b }"),
    ("a: u32,", "a: u16,"),
    ("when amd64 { eight }", "when arm64 { eight }"),
    ("when linux", "when not linux"),
    ("loses rbx", "loses rbp"),
    ("enters first", "enters announced"),
    ("-> uptr using c {", "-> uptr using own_mine {"),
    ("const eight", "const inner"),
)


@pytest.mark.parametrize(("before", "after"), EDITS, ids=range(len(EDITS)))
def test_own_declarations_are_kept_and_change_nothing(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "library.tramp").write_text(LIBRARY)
    header = tmp_path / "s.h"
    right = "#define from_header_a 4\n#define t_from_header_a 4\n"
    for written in (right, right.replace("4", "8"), ""):
        header.write_text(written)
        for text in (OWN, OWN.replace(before, after), OWN):
            module = load_module(Source(str(tmp_path / "main.tramp"), text.replace("BODY", "")))
            expected = resolved(replace(module, imports=None))
            assert resolved(module) == expected
            assert isinstance(expected, tuple) or text is not OWN or not written, expected


def test_a_command_parses_each_of_its_files_once(tmp_path: Path) -> None:
    parse.parse.cache_clear()
    # Those of examples/contracts import files of another folder, which have another name there.
    folders = [ROOT / "examples" / name for name in ("c", "go")]
    main = ["build", *map(str, folders), "-o", str(tmp_path), "--target", "linux/amd64"]
    assert cli.main(main) == 0
    assert parse.parse.cache_info().misses == sum(len(list(folder.glob("**/*.tramp"))) for folder in folders)
