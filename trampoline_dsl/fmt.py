"""The canonical layout of a .tramp file: `trampoline fmt`.

It works on the tokens of a file that parses, with the comments between them. Where lines end stays the author's choice
as far as it says something: a block written on one line stays on it if it fits, fields stay grouped, a list of
parameters stays broken where it was. Everything else has one form: the spaces, the indentation, a statement to a line,
no more than one blank line, trailing comments of neighbouring lines in one column. The result means what the source
meant, or a `LayoutError` says that this module is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .diagnostics import Diagnostic, InputError, Source
from .parse import Lexeme, lexemes, parse

INDENT = 4  # columns
WIDTH = 100  # columns that a block on one line may end in
_WIDEST_COMMENT = 80  # columns before a trailing comment, at most, if the code leaves the choice

_ITEMS = frozenset(
    {
        "import",
        "constant",
        "constant_by_target",
        "struct",
        "extern",
        "extern_variable",
        "convention",
        "table",
        "trampoline",
        "check",
        "items_when",
    }
)
_HOLDS_ITEMS = frozenset({"items_when", "items_else"})
_LINES = frozenset(  # what has a line of its own
    {
        *(
            "save",
            "restore",
            "frame",
            "let",
            "assign",
            "call_statement",
            "jump",
            "return",
            "resume",
            "trap",
            "if",
            "while",
            "break",
        ),
        *(
            "continue",
            "on_stack",
            "switch_stack",
            "when",
            "asm",
            "expect",
            "convention_when",
            "clobber",
            "constant_when",
            "constant_else",
        ),
        *("check_new", "check_stack", "check_var", "check_given", "check_on", "check_signals", "check_finally"),
        "check_when",
    }
)
_WORDS = frozenset(  # what may share a line
    {"field", "gap", "slot", "convention_fact", "asm_in", "asm_out", "asm_clobbers", "asm_text"}
)
_CALLS = frozenset(  # no space is before their `(`
    {"call", "syscall", "jump", "extern", "trampoline", "memory", "size_of", "offset_of", "check_on"}
)
_UNARY = frozenset({"negative", "complement", "address_of"})


class LayoutError(Exception):
    """The formatter would have changed more than the layout."""


# ------------------------------------------------------------------------------------------------------ what is there


@dataclass(frozen=True, slots=True)
class _Comment:
    """`column` is where it stands in the source, from 0; `blank`: a blank line is before it."""

    text: str
    column: int
    trailing: bool
    blank: bool


@dataclass(frozen=True, slots=True)
class _Token:
    """`newline`, `blank`: a line end, a blank line directly before the token; `comments` are before that."""

    lexeme: Lexeme
    comments: tuple[_Comment, ...]
    newline: bool
    blank: bool

    @property
    def text(self) -> str:
        return " ".join(self.lexeme.text.split()) if not self.lexeme.text.startswith('"') else self.lexeme.text

    def begins(self, rules: frozenset[str]) -> bool:
        return not rules.isdisjoint(self.lexeme.begins)


def _tokens(source: Source) -> tuple[list[_Token], list[_Comment]]:
    """The tokens, and the comments behind the last one."""
    tokens: list[_Token] = []
    end = 0
    for lexeme in lexemes(source):
        comments, newline, blank = _between(source.text, end, lexeme.start)
        tokens.append(_Token(lexeme, comments, newline, blank))
        end = lexeme.end
    comments, _, _ = _between(source.text, end, len(source.text))
    return tokens, list(comments)


def _between(text: str, start: int, end: int) -> tuple[tuple[_Comment, ...], bool, bool]:
    """The comments of a gap, and whether a line end and a blank line are behind the last of them."""
    comments: list[_Comment] = []
    position = start
    for match in re.finditer(r"#[^\n]*", text[start:end]):
        at = start + match.start()
        before = text[position:at]
        line_start = text.rfind("\n", 0, at) + 1
        column = len(text[line_start:at].expandtabs(INDENT))
        trailing = "\n" not in before and not comments and start > 0
        comments.append(
            _Comment(match.group().rstrip(), column, trailing, before.count("\n") > (1 if not comments else 0))
        )
        position = start + match.end() + 1
    rest = text[position:end] if position <= end else ""
    # The line end that closes a comment belongs to the comment.
    newlines = rest.count("\n") + (1 if comments else 0)
    return tuple(comments), newlines > 0, newlines > 1


# ---------------------------------------------------------------------------------------------------------- the layout


@dataclass(slots=True)
class _Line:
    """A line of the result: code and a trailing comment, or a comment alone, or nothing."""

    code: str = ""
    comment: _Comment | None = None

    @property
    def level(self) -> tuple[int, bool]:
        """Lines of the same level have their comments in one column: equally indented, and no ends of blocks."""
        code = self.code.lstrip()
        return len(self.code) - len(code), code.startswith("}")


@dataclass(slots=True)
class _Bracket:
    """An open bracket. `indent` is that of the line it began in (of a block: of what stands in it); `column` is where
    what is in parentheses is aligned; `spread`: it is on several lines; `forced`: it was on one, and too long."""

    kind: str
    indent: int
    column: int = 0
    spread: bool = False
    forced: bool = False


@dataclass(slots=True)
class _Writer:
    tokens: Sequence[_Token]
    lines: list[_Line] = field(default_factory=list)
    brackets: list[_Bracket] = field(default_factory=list)
    unit: int = 0  # the indentation of the statement or declaration that is being written
    line: str = ""
    started: bool = False  # whether the line has a token

    def run(self, last: Sequence[_Comment]) -> list[_Line]:
        for index, token in enumerate(self.tokens):
            self._before(index, token)
            self._put(index, token)
        self._end()
        self._comments(last, 0, keep_blank=True)
        return self.lines

    # -- between two tokens

    def _before(self, index: int, token: _Token) -> None:
        before = self.tokens[index - 1] if index else None
        inner = self.brackets[-1] if self.brackets else None
        indent, keep_blank = self._break(before, token, inner)
        if indent is None and not token.comments:
            if before is not None:
                self.line += _space(before, token)
            return
        if indent is None:
            indent = self._continued(inner)
        level = indent
        if inner is not None and inner.spread and token.text == "}":
            level = inner.indent
        self._end()
        own = [c for c in token.comments if not c.trailing]
        if token.comments and token.comments[0].trailing:
            self._trail(token.comments[0])
        after_open = before is not None and before.text == "{" and inner is not None and inner.kind == "{"
        self._comments(own, level, keep_blank=keep_blank, first=after_open or not self.lines)
        blank = token.blank and keep_blank and token.text != "}" and (bool(own) or not after_open) and bool(self.lines)
        if blank:
            self.lines.append(_Line())
        self.line = " " * indent

    def _break(self, before: _Token | None, token: _Token, inner: _Bracket | None) -> tuple[int | None, bool]:
        """The indentation of the line that begins with this token, or None if it goes on; and whether a blank line
        before it is kept."""
        if token.begins(_ITEMS) and (before is None or before.text != "else"):
            self.unit = inner.indent if inner is not None else 0
            return self.unit, True
        assert before is not None  # a file begins with a declaration
        if inner is not None and inner.kind == "{" and inner.spread:
            if token.text == "}":
                return inner.indent - INDENT, True
            begins = token.begins(_LINES | _WORDS) and before.text != "else"
            if before.text == "{" or (begins and (token.begins(_LINES) or inner.forced or token.newline)):
                self.unit = inner.indent
                return inner.indent, True
            if begins:
                return None, False
        if not token.newline or token.comments or not self._may_break(before, token):
            return None, False
        if token.text == ")" and inner is not None:
            return inner.indent, False
        return self._continued(inner), False

    def _may_break(self, before: _Token, token: _Token) -> bool:
        if token.text in ("{", "}", "else") or before.text in ("{", "}", "else"):
            return False
        if token.text == ")":
            # On a line of its own only where the list begins on one too.
            return bool(self.brackets) and self.brackets[-1].kind == "(" and self.brackets[-1].spread
        return before.text == "(" or _space(before, token) != ""

    def _continued(self, inner: _Bracket | None) -> int:
        """Where a line goes on that has been broken."""
        if inner is not None and inner.kind == "(":
            return inner.column if not inner.spread else inner.indent + INDENT
        return self.unit + INDENT

    # -- a token

    def _put(self, index: int, token: _Token) -> None:
        text = token.text
        if text in ("}", ")", "]") and self.brackets:
            closed = self.brackets.pop()
            if closed.kind == "{" and closed.spread:
                self.unit = closed.indent - INDENT
        self.line += text
        self.started = True
        if text == "{":
            spread, forced = self._spread(index)
            if spread:
                self.brackets.append(_Bracket("{", self.unit + INDENT, spread=True, forced=forced))
            else:
                self.brackets.append(_Bracket("{", self.unit))
        elif text in ("(", "["):
            follower = self.tokens[index + 1]
            spread = text == "(" and follower.newline and not follower.comments and follower.text != ")"
            indent = len(self.line) - len(self.line.lstrip())
            self.brackets.append(_Bracket("(", indent, column=len(self.line), spread=spread))

    def _spread(self, index: int) -> tuple[bool, bool]:
        """Whether a block takes several lines; and whether that is because it is too long for one."""
        end = _matching(self.tokens, index)
        if self.tokens[index].lexeme.rule in _HOLDS_ITEMS and end > index + 1:
            return True, False
        if end == index + 1:
            return bool(self.tokens[end].comments), False
        inside = self.tokens[index + 1 : end + 1]
        if any(token.newline or token.comments for token in inside):
            return True, False
        flat = self.line
        for position in range(index + 1, end + 1):
            flat += _space(self.tokens[position - 1], self.tokens[position]) + self.tokens[position].text
        long = len(flat) > WIDTH
        return long, long

    # -- lines

    def _end(self) -> None:
        if self.started:
            self.lines.append(_Line(self.line.rstrip()))
        self.line, self.started = "", False

    def _trail(self, comment: _Comment) -> None:
        self.lines[-1].comment = comment

    def _comments(self, comments: Sequence[_Comment], indent: int, *, keep_blank: bool, first: bool = False) -> None:
        for index, comment in enumerate(comments):
            if comment.trailing:
                self._trail(comment)
                continue
            if comment.blank and keep_blank and self.lines and not (first and index == 0):
                self.lines.append(_Line())
            self.lines.append(_Line(" " * indent + comment.text))


def _matching(tokens: Sequence[_Token], index: int) -> int:
    depth = 0
    for position in range(index, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[position].lexeme.text, 0)
        if not depth:
            return position
    raise LayoutError("a block is not closed")


def _space(before: _Token, token: _Token) -> str:
    """What stands between two tokens on one line."""
    left, right = before.text, token.text
    rule, left_rule = token.lexeme.rule, before.lexeme.rule
    tight = (
        right in (",", ";", ")", "]", ":")
        or left in ("(", "[")
        or (right == "." and rule == "dotted")
        or (left == "." and left_rule == "dotted")
        or (right == "[" and rule in ("array_type", "table"))
        or (right == "(" and rule in _CALLS)
        or (right in ("<", ">") and rule in ("plain_type", "memory"))
        or (left == "<" and left_rule in ("plain_type", "memory"))
        or (left_rule in _UNARY and left in ("-", "~", "&"))
    )
    if tight:
        return ""
    if token.begins(_LINES | _WORDS) and left not in ("{", ",", ";", "else") and right != "else":
        return "  "  # two statements or two fields on one line
    return " "


def _aligned(lines: Sequence[_Line]) -> list[str]:
    """The lines as text: trailing comments of lines of one level that follow each other stand in one column, the
    first one's own if that leaves room."""
    result = []
    index = 0
    while index < len(lines):
        end = index
        while end < len(lines) and lines[end].comment is not None and lines[end].level == lines[index].level:
            end += 1
        run = lines[index:end]
        if run:
            needed = max(len(line.code) for line in run) + 2
            first = run[0].comment
            column = first.column if first is not None and needed <= first.column <= _WIDEST_COMMENT else needed
            result += [f"{line.code:<{column}}{line.comment.text}" for line in run if line.comment is not None]
            index = end
        else:
            result.append(lines[index].code)
            index += 1
    return result


def layout(source: Source) -> str:
    """The text of a file in its canonical layout. Raises InputError if it does not parse."""
    before = parse(source)
    tokens, last = _tokens(source)
    text = "\n".join(_aligned(_Writer(tokens).run(last))) + "\n"
    result = Source(source.name, text)
    if parse(result) != before or _all_comments(result) != _all_comments(source):
        raise LayoutError(f"the layout of {source.name} would change what it says")
    return text


def _all_comments(source: Source) -> list[str]:
    tokens, last = _tokens(source)
    return [comment.text for token in tokens for comment in token.comments] + [comment.text for comment in last]


# ----------------------------------------------------------------------------------------------------------- the files


def rewrite(path: Path, text: str) -> None:
    """Put a text into the place of a file, whole or not at all. Raises InputError if that cannot be done."""
    final = Path(os.path.realpath(path))  # a link goes on leading to the file
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=final.parent, prefix=".trampoline-")
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        shutil.copymode(final, temporary)
        os.replace(temporary, final)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        message = f"cannot write this file: {error.strerror or error}"
        raise InputError([Diagnostic("F005", message, None, file=str(path))]) from None
