"""The canonical layout: what it does to a file, that it does it once, and that it changes nothing else."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trampoline_dsl.cli import main
from trampoline_dsl.diagnostics import InputError, Source, read_source
from trampoline_dsl.fmt import WIDTH, layout
from trampoline_dsl.parse import lexemes, parse

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("**/*.tramp"))
FILES = [*EXAMPLES, *sorted((ROOT / "tests" / "fixedbugs").glob("*.tramp"))]

UNTIDY = """\
import   "runtime.tramp"
struct g{stack:uptr m:ptr < m >@48}


extern notify( a:ptr,b :u8 )->  uptr   using c clobbers{when arm{r0 r1}when not s390x { }}
   trampoline f(a:ptr<g>,n:i32)->uptr using c{ # the header's
  save callee_saves;frame{x:uptr at bottom y:u32}

if a==null or not(n<-1){return 0}else if n>1{ call   notify(&f,~1)
# own line


} # after it
x=mem<u16>((a as uptr)+2*3)#short
y=1   # longer
while x!=y{break}
return call notify (a,1)
        # last
}
# at the end
"""

TIDY = """\
import "runtime.tramp"
struct g { stack: uptr  m: ptr<m> @ 48 }

extern notify(a: ptr, b: u8) -> uptr using c clobbers { when arm { r0 r1 }  when not s390x { } }
trampoline f(a: ptr<g>, n: i32) -> uptr using c {  # the header's
    save callee_saves;
    frame { x: uptr at bottom  y: u32 }

    if a == null or not (n < -1) { return 0 } else if n > 1 {
        call notify(&f, ~1)
        # own line
    }  # after it
    x = mem<u16>((a as uptr) + 2 * 3)  #short
    y = 1                              # longer
    while x != y { break }
    return call notify(a, 1)
    # last
}
# at the end
"""


def tidy(text: str) -> str:
    return layout(Source("<text>", text))


def test_the_layout_is_canonical() -> None:
    assert tidy(UNTIDY) == TIDY


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_are_in_it(path: Path) -> None:
    assert layout(read_source(path)) == path.read_text("utf-8")


def test_a_block_that_does_not_fit_one_line_gets_several() -> None:
    names = [f"number_{i}" for i in range(12)]
    fields = [f"{name}: u64" for name in names]
    spread = tidy(f"struct s {{ {' '.join(fields)} }}")
    assert spread == "struct s {\n" + "".join(f"    {field}\n" for field in fields) + "}\n"
    assert tidy(f"struct s {{ {' '.join(fields[:4])} }}").count("\n") == 1
    assert max(map(len, tidy(f"struct s {{ {' '.join(fields[:6])} }}").splitlines())) <= WIDTH


def test_fields_stay_grouped_and_statements_do_not() -> None:
    text = "struct s {\n a: u8 b: u8\n c: u8 }\ntrampoline f(a: u8) using c {\n a = 1 a = 2\n a = 3 }"
    assert tidy(text) == (
        "struct s {\n    a: u8  b: u8\n    c: u8\n}\n"
        "trampoline f(a: u8) using c {\n    a = 1\n    a = 2\n    a = 3\n}\n"
    )


def test_lists_stay_broken_where_they_were() -> None:
    text = (
        "extern f(a: u8,\n  b: u8) using c\n"
        "extern g(\n a: u8,\n b: u8\n ) using c\n"
        "trampoline t(a: u8) using c {\n call f(a,\n a)\n let x = a +\n a\n }"
    )
    assert tidy(text) == (
        "extern f(a: u8,\n         b: u8) using c\n"
        "extern g(\n    a: u8,\n    b: u8\n) using c\n"
        "trampoline t(a: u8) using c {\n    call f(a,\n           a)\n    let x = a +\n        a\n}\n"
    )


def test_trailing_comments_stand_in_one_column_that_of_the_first_if_there_is_room() -> None:
    text = "const A = 1          # first\nconst LONG = 2 # second\n\nconst B = 3   # alone\n"
    assert tidy(text) == "const A = 1          # first\nconst LONG = 2       # second\n\nconst B = 3   # alone\n"
    assert (
        tidy("const A = 1 # first\nconst LONG = 2 # second\n") == "const A = 1     # first\nconst LONG = 2  # second\n"
    )


def test_line_ends_of_other_systems_become_plain_ones() -> None:
    assert tidy("const A = 1  # one\r\nconst B = 2\r\n") == "const A = 1  # one\nconst B = 2\n"


# --------------------------------------------------------------------------------------------------- whatever comes in


SPACES = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\n\n\n",
    "\t",
    "\r\n",
    "  # a remark\n",
    "\n# on its own\n",
    "\n\n   # apart\n\n",
]
WORDS = [pytest.param(path, id=path.stem) for path in FILES]


def mangled(source: Source, choose: list[int]) -> str:
    """The file with other white space and comments between its tokens. `choose`: one number for each gap, and about one
    in four of the gaps is changed."""
    tokens = lexemes(source)
    pieces = []
    end = 0
    for number, token in zip(choose, tokens, strict=False):
        gap = source.text[end : token.start]
        if number < len(SPACES) and end:
            new = SPACES[number]
            touching = source.text[end - 1].isalnum() and token.text[0].isalnum() and not new
            # A declaration begins a line, and only a declaration begins with such a word.
            gap = gap if touching or "#" in gap or "start" in token.begins else new + " "
            gap = (
                gap[:-1]
                if new == "" and "#" not in gap and not (source.text[end - 1] + token.text[0]).strip("(){}:,")
                else gap
            )
        pieces += [gap, token.text]
        end = token.end
    return "".join(pieces) + source.text[end:]


@pytest.mark.parametrize("path", WORDS)
@given(data=st.data())
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_it_is_reached_at_once_and_means_the_same(path: Path, data: st.DataObject) -> None:
    source = read_source(path)
    count = len(lexemes(source))
    choose = data.draw(st.lists(st.integers(0, 4 * len(SPACES)), min_size=count, max_size=count))
    text = mangled(source, choose)
    before = parse(Source("mangled", text))
    once = layout(Source("mangled", text))
    assert layout(Source("once", once)) == once
    assert parse(Source("once", once)) == before
    assert once.count("#") == text.count("#")
    assert not any(line != line.rstrip() for line in once.split("\n"))
    assert "\n\n\n" not in once


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_what_changes_and_lists_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, untidy = tmp_path / "good.tramp", tmp_path / "untidy.tramp"
    good.write_text("const A = 1\n")
    untidy.write_text("const   B=2\n")
    untidy.chmod(0o640)
    (tmp_path / "link.tramp").symlink_to(untidy)
    assert main(["fmt", "--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.split() == [str(tmp_path / "link.tramp")]
    assert untidy.read_text() == "const   B=2\n"
    assert main(["fmt", str(tmp_path)]) == 0
    assert untidy.read_text() == "const B = 2\n"
    assert stat.S_IMODE(untidy.stat().st_mode) == 0o640
    assert (tmp_path / "link.tramp").is_symlink()
    assert main(["fmt", "--check", str(tmp_path)]) == 0
    assert sorted(os.listdir(tmp_path)) == ["good.tramp", "link.tramp", "untidy.tramp"]


def test_a_file_with_a_mistake_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tramp").write_text("const   A=1\n")
    (tmp_path / "b.tramp").write_text("const B = = 2\n")
    assert main(["fmt", str(tmp_path)]) == 2
    assert "b.tramp:1:11: error[S001]" in capsys.readouterr().err
    assert (tmp_path / "a.tramp").read_text() == "const   A=1\n"
    with pytest.raises(InputError):
        tidy("trampoline f( using c { }")


def test_standard_input_is_filtered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status, output in (
        (["fmt", "-"], 0, "const A = 1\n"),
        (["fmt", "--check", "-"], 1, "<stdin>\n"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"const   A=1")))
        assert main(arguments) == status
        assert capsys.readouterr().out == output


def test_a_constant_by_target_is_a_table() -> None:
    text = "const A{when  386,arm{1} when amd64{2*(3+B)}\nelse{4}}\nconst B{when x86{1}else{2}}\n"
    lines = ["const A {", "    when 386, arm { 1 }", "    when amd64 { 2 * (3 + B) }", "    else { 4 }", "}"]
    assert tidy(text) == "\n".join([*lines, "const B { when x86 { 1 } else { 2 } }", ""])


def test_variables_and_traps_have_their_lines() -> None:
    text = "extern a.b :ptr < s >\nextern c:u8 [ 2*4 ]\ntrampoline f() using c{if a.b==null{trap}  trap}\n"
    lines = [
        "extern a.b: ptr<s>",
        "extern c: u8[2 * 4]",
        "trampoline f() using c { if a.b == null { trap }  trap }",
        "",
    ]
    assert tidy(text) == "\n".join(lines)
