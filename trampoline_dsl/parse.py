"""Text to syntax tree. The only module that knows Lark.

A file is parsed piece by piece: a piece begins where a line begins with the first word of a declaration. Of a piece
with a mistake, the lines of the mistake are blanked and the rest is parsed again, so that one does not hide others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import lark
from lark import Token, Tree
from lark.lexer import PatternRE, PatternStr, TerminalDef
from lark.parse_tree_builder import ExpandSingleChild
from lark.parsers.lalr_analysis import Shift

from . import syntax as s
from .diagnostics import Diagnostic, InputError, Source, Span, suggestion
from .kept import kept_file

MAXIMUM_NESTING = 200  # deeper than any program a person writes; keeps every later pass within Python's stack
MAXIMUM_PIECE = 1 << 16  # characters of a declaration
MAXIMUM_KEPT = 1 << 13  # characters of a declaration whose tree is kept
MAXIMUM_ERRORS = 20  # a file that is not in this language at all is not listed to its end
MAXIMUM_ERRORS_OF_PIECE = 10

_ITEM_WORDS = ("import", "const", "struct", "extern", "convention", "table", "trampoline", "check", "when")
_STATEMENT_WORDS = (
    *("save", "frame", "let", "call", "jump", "return", "resume", "if", "else", "while", "break", "continue"),
    *("on", "when", "asm", "expect", "trap", "syscall", "switch", "restore"),
)
_CHECK_WORDS = ("new", "var", "given", "signals", "finally")
_ITEM_START = re.compile(rf"^(?:{'|'.join(_ITEM_WORDS)})\b", re.MULTILINE)
_STATEMENT_START = re.compile(
    rf"^([ \t]*)(?:{'|'.join(word for word in _STATEMENT_WORDS if word != 'else')})\b", re.MULTILINE
)
_INNER_ITEM_START = re.compile(rf"^([ \t]*)(?:{'|'.join(_ITEM_WORDS)})\b", re.MULTILINE)
_BRACKETS = re.compile(r"#[^\n]*|\"[^\"\n]*\"|[(){}]")
_NUMBER = re.compile(r"0[xX]_*[0-9A-Fa-f][0-9A-Fa-f_]*|0[bB]_*[01][01_]*|[0-9][0-9_]*")
_CLOSING = {")": "(", "}": "{"}

_TERMINALS = {
    "NAME": "a name",
    "INTEGER": "a number",
    "STRING": "a text in double quotes",
    "TARGET": "a target",
    "COMPARE": "a comparison",
    "SHIFT": "`<<` or `>>`",
    "ADD": "`+` or `-`",
    "MINUS": "`-`",
    "ENTRY_SP": "`entry sp`",
    "PUSHED_PC": "`pushed pc`",
    "CALLER": "`caller pc`",
    "G_PLACE": "`g place`",
    "TABLE": "`table`",
    "TABLE_INDEX": "`table index`",
    "ARGUMENTS": "`argument words`",
    "IN_REGISTER": "`g in register`",
    "NOT": "`not`",
    "$END": "the end of the file",
}


_WORD_END = r"(?![A-Za-z0-9_·$])"  # or `usingc` would be two words

# What a person takes for one thing, if so many of its members are expected.
_GROUPS = (
    ("a declaration", 5, {f"`{word}`" for word in _ITEM_WORDS}),
    ("a statement", 8, {f"`{word}`" for word in _STATEMENT_WORDS if word != "else"} | {"`g place`"}),
    (
        "a value",
        5,
        {"`&`", "`(`", "`-`", "`~`", "a name", "a number", "`mem`", "`null`", "`offsetof`", "`sizeof`", "`not`"}
        | {"`entry sp`", "`pushed pc`", "`caller pc`", "`g place`", "`table index`", "`argument words`"},
    ),
    (
        "an operator",
        4,
        {"`&`", "`*`", "`+` or `-`", "`<<` or `>>`", "`^`", "`|`", "`as`", "a comparison", "`and`", "`or`"},
    ),
)
# Words of other languages.
_FOREIGN = {
    **dict.fromkeys(("elif", "elsif", "elseif"), "else if"),
    **dict.fromkeys(("for", "loop", "repeat", "do", "until"), "while"),
    **dict.fromkeys(("var", "auto", "mut"), "let"),
    **dict.fromkeys(("goto", "jmp", "tail"), "jump"),
    **dict.fromkeys(("unreachable", "abort", "panic", "ud2", "udf", "brk"), "trap"),
    **dict.fromkeys(("case", "unless"), "if"),
    **dict.fromkeys(("fn", "func", "function", "def", "proc", "sub"), "trampoline"),
    **dict.fromkeys(("include", "use", "require"), "import"),
    **dict.fromkeys(("assert", "require", "check"), "expect"),
    **dict.fromkeys(("type", "record", "union"), "struct"),
    **dict.fromkeys(("define", "equ", "enum"), "const"),
}


# What people write out of habit, as a line up to the token that is not expected, and how it is written here.
_HABITS = [
    (re.compile(pattern + r"\Z"), note)
    for pattern, note in (
        (r"(&&|\|\|).*", "`and` and `or` join conditions"),
        (r"!", "`not` negates a condition, and `!=` compares"),
        (r"\bcall\s+[\w.·$]+\(.*\bcall\s+[\w.·$]+", "a call is no argument: `let x = call ...` before it"),
        (r"\bcall\s+[\w.·$]+\(.*\)\s*[-+*&|^<>=!]+", "a call stands alone: `let x = call ...`, and then `x`"),
        (
            r"(=|[-+*&|^]|\b(return|if|while|and|or|not|expect))\s*[A-Za-z_][\w.·$]*\(",
            "`let x = call NAME(...)` calls a function",
        ),
        (r"(=|\breturn)\s*\*", "what lies at an address is `mem<u32>(ADDRESS)`, of whatever type"),
        (r":\s*\w+\s*\*", "a pointer is `ptr`, or `ptr<STRUCT>`"),
        (r"\d\.\d+", "numbers are whole: floating point values are passed on, and not made"),
        (r"[/%]", "there is no division"),
        (r"\basm\s*[{\"]", "`asm` says for which machines it is: `asm amd64 { ... }`"),
        (r"(=|\breturn|\()\s*\"", "values are numbers and addresses, and no texts"),
    )
]
_COMMENT = re.compile(r"//|/\*|--|;")


def _habit(source: Source, span: Span, possible: set[str]) -> list[str]:
    text = source.text
    if _COMMENT.match(text, span.start):
        return ["a comment begins with `#`"]
    if "`=`" in possible and span.text in "+-*&|^":
        return ["`=` alone assigns: `x = x + 1`"]
    line = text.rfind("\n", max(0, span.start - 200), span.start) + 1
    begin = max(line, span.start - 200)  # however long the line is
    return [note for pattern, note in _HABITS if pattern.search(text, begin, span.end)][:1]


@lru_cache(maxsize=2)
def _parser(*, keep_all_tokens: bool = False) -> lark.Lark:
    grammar = resources.files("trampoline_dsl.grammars").joinpath("trampoline.lark").read_text("utf-8")
    # To make the tables takes five times as long as to load them. Lark makes them anew where the file is missing,
    # spoilt or another version's.
    tables = kept_file("grammar with all tokens" if keep_all_tokens else "grammar", grammar)
    cache = str(tables) if tables is not None else False
    return lark.Lark(
        grammar,
        parser="lalr",
        propagate_positions=True,
        maybe_placeholders=True,
        keep_all_tokens=keep_all_tokens,
        cache=cache,
        edit_terminals=_end_keywords,
    )


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token where it stands: characters `start` up to, not including, `end`. `rule` is the grammar's rule that it is
    a part of, `begins` are those that it is the first token of."""

    text: str
    start: int
    end: int
    rule: str
    begins: tuple[str, ...]


def lexemes(source: Source) -> list[Lexeme]:
    """Every token of a file that `parse` has found to be right, for those who keep its layout."""
    tree = _parser(keep_all_tokens=True).parse(source.text)
    found = []
    rest: list[tuple[Any, str, tuple[str, ...]]] = [(tree, "", ())]
    while rest:
        node, rule, begins = rest.pop()
        if isinstance(node, Token):
            found.append(Lexeme(str(node), node.start_pos or 0, node.end_pos or 0, rule, begins))
        elif node is not None:
            own = str(node.data)
            children = [child for child in node.children if not (isinstance(child, Tree) and child.meta.empty)]
            for index, child in reversed(list(enumerate(c for c in children if c is not None))):
                rest.append((child, own, (*begins, own) if index == 0 else ()))
    return found


def _end_keywords(terminal: TerminalDef) -> None:
    if isinstance(terminal.pattern, PatternStr) and terminal.pattern.value[0].isalpha():
        terminal.pattern = PatternRE(terminal.pattern.value + _WORD_END)
        terminal.priority = 1  # before names


@lru_cache(maxsize=64)  # a command's files, which it looks at more than once
def parse(source: Source) -> s.File:
    """Parse a whole file; one that has not changed is not parsed again. Raises InputError with what is wrong in any
    part of it."""
    if not source.text.strip():
        raise InputError([Diagnostic("S002", "this file is empty", None, file=source.name, notes=(EMPTY,))])
    pieces = _pieces(source)
    items: list[s.Item] = []
    errors: list[Diagnostic] = []
    index = 0
    while index < len(pieces) and len(errors) < MAXIMUM_ERRORS:
        start, end = pieces[index]
        index += 1
        try:
            items += _parse_piece(source, start, end)
            continue
        except lark.UnexpectedInput:
            pass
        except InputError as error:
            errors += error.diagnostics
            continue
        if index < len(pieces):
            # A name at the start of a line may look like a declaration: then both pieces are one.
            try:
                items += _parse_piece(source, start, pieces[index][1])
                index += 1
                continue
            except (lark.UnexpectedInput, InputError):
                pass
        errors += _mistakes(source, start, end)
    if errors:
        raise InputError(errors[:MAXIMUM_ERRORS])
    return s.File(source, tuple(items))


EMPTY = "a file declares a trampoline: `trampoline name() using c { }`"


def _parse_piece(source: Source, start: int, end: int) -> tuple[s.Item, ...]:
    size = _size(source.text, start, end)
    if size > MAXIMUM_PIECE:
        length = len(source.text[start:end].split("\n", 1)[0].rstrip())
        message = f"this declaration has {size} characters, and {MAXIMUM_PIECE} are the most"
        span = Span(source, start, start + min(length, 100))
        raise InputError([Diagnostic("S006", message, span, notes=("split it into smaller pieces",))])
    when = None
    if source.text.startswith("when", start):
        with suppress(lark.UnexpectedInput, InputError):  # what is wrong is said of the whole
            when = _when_in_pieces(source, start, end, 0)
    return (when,) if when is not None else _parse_text(source, start, source.text[start:end], 0)


def _parse_text(source: Source, start: int, text: str, depth: int) -> tuple[s.Item, ...]:
    """The declarations of a text that lies at `start`, in as many nested rules as `depth`."""
    if len(text) > MAXIMUM_KEPT:
        return _Builder(source, start, depth).items(_parsed(text))
    kept = _kept_tree(text)
    items = _Builder(source, start, depth, later=kept.right).items(kept.tree)
    kept.right = True
    return items


def _when_in_pieces(source: Source, start: int, end: int, depth: int) -> s.ItemsWhen | None:
    """A `when` around declarations, each of them parsed by itself: where one changes, the others are not parsed again.
    None if it has to be parsed as a whole, for an `else`."""
    text = source.text
    bounds = _bounds(text, start, end, _INNER_ITEM_START)
    if bounds is None:
        return None
    opening, closing = bounds[0], bounds[-1]
    [head] = _parse_text(source, start, text[start:opening] + "}", depth)
    assert isinstance(head, s.ItemsWhen)
    declarations: list[s.Declaration] = []
    for inner, inner_end in pairwise(bounds):
        made = _when_in_pieces(source, inner, inner_end, depth + 2) if text.startswith("when", inner) else None
        for item in (made,) if made is not None else _parse_text(source, inner, text[inner:inner_end], depth + 2):
            if isinstance(item, s.Import):
                return None  # which stands at the top alone
            declarations.append(item)
    return s.ItemsWhen(head.targets, tuple(declarations), (), Span(source, start, closing + 1))


def _bounds(text: str, start: int, end: int, beginning: re.Pattern[str]) -> list[int] | None:
    """Where the parts of what stands in the first braces begin: behind the brace, and behind group 1 of each
    `beginning` that is in no other brackets; and where the braces end. None if something follows, or they do not."""
    brackets = _BRACKETS.finditer(text, start, end)
    opening = next((match.end() for match in brackets if match.group() == "{"), end)
    starts = (match.end(1) for match in beginning.finditer(text, opening, end))
    following = next(starts, end)
    bounds = [opening]
    level = 1
    for match in brackets:
        place = match.start()
        while following < place:
            if level == 1:
                bounds.append(following)
            following = next(starts, end)
        level += _LEVELS.get(match.group(), 0)
        if level == 0:
            bounds.append(place)
            right = match.group() == "}" and _BLANK_ALL.fullmatch(text, match.end(), end)
            return bounds if right else None
    return None


_LEVELS = {"{": 1, "(": 1, "}": -1, ")": -1}


class _KeptTree:
    """The tree of a declaration, and whether syntax nodes have been made of all of it, without a mistake."""

    def __init__(self, tree: Tree[Token]) -> None:
        self.tree = tree
        self.right = False


@lru_cache(maxsize=512)
def _kept_tree(text: str) -> _KeptTree:
    """A declaration that has not changed is not parsed again where others have, though it may have moved."""
    return _KeptTree(_parsed(text))


def _parsed(text: str) -> Tree[Token]:
    tree = _in_statements(text) or _driver().parse(text)
    return tree if tree is not None else _parser().parse(text)  # which says what is wrong


_ANY_TRAMPOLINE = "trampoline f()using c{"


@dataclass(frozen=True, slots=True)
class _Statements:
    """The trees of statements that were parsed in another trampoline. What is at `offset` here was the first of it
    there."""

    trees: tuple[Tree[Token], ...]
    offset: int


def _in_statements(text: str) -> Tree[Token] | None:
    """The tree of a trampoline, made of those of its statements: where some change, the others are not parsed again.
    None if it has to be parsed as a whole. A piece begins where a line begins with the first word of a statement: what
    could end before such a word does, other than `return`, which a call may follow."""
    bounds = _bounds(text, 0, len(text), _STATEMENT_START) if text.startswith("trampoline") else None
    if bounds is None or len(bounds) < 4:
        return None
    made: list[_Statements] = []
    index = 0
    while index < len(bounds) - 1:
        found = _statements_at(text, bounds, index)
        if found is None:
            return None
        statements, index = found
        made.append(statements)
    with suppress(lark.UnexpectedInput):  # what is wrong is said of the whole
        return _with_body(_kept_tree(text[: bounds[0]] + "}").tree, made, bounds[-1] + 1)
    return None


def _with_body(head: Tree[Any], body: list[Any], end: int) -> Tree[Any] | None:
    """A trampoline without statements, with some, and the end behind them. None if it is more than one declaration."""
    if len(head.children) != 1:
        return None
    [trampoline] = head.children
    *others, block = trampoline.children
    made = Tree("trampoline", [*others, Tree("block", body)])
    for new, before in ((made, trampoline), (made.children[-1], block)):
        new.meta.start_pos, new.meta.end_pos, new.meta.empty = before.meta.start_pos, end, False
    return Tree("start", [made])


def _statements_at(text: str, bounds: Sequence[int], index: int) -> tuple[_Statements, int] | None:
    """Those from one of the bounds to the next, or to the one behind that: a name may look like the first word of a
    statement. And the index of where they end. None where there are none."""
    start = bounds[index]
    for behind in range(index + 1, min(index + 3, len(bounds))):
        end = bounds[behind]
        trees = _kept_statements(text[start:end]) if end - start <= MAXIMUM_KEPT else None
        if trees is not None and (end == bounds[-1] or not _goes_on(trees)):
            return _Statements(trees, start - len(_ANY_TRAMPOLINE)), behind
    return None


def _goes_on(trees: Sequence[Tree[Any]]) -> bool:
    """Whether a call behind these statements is what the last one returns."""
    return bool(trees) and trees[-1].data == "return" and trees[-1].children == [None, None]


@lru_cache(maxsize=1024)
def _kept_statements(text: str) -> tuple[Tree[Token], ...] | None:
    """The trees of statements; None where they have a mistake."""
    tree: Any = _driver().parse(f"{_ANY_TRAMPOLINE}{text}}}")
    if tree is None or len(tree.children) != 1:
        return None
    return tuple(tree.children[0].children[-1].children)


@lru_cache(maxsize=1)
def _driver() -> _Driver:
    return _Driver(_parser())


_BLANK = re.compile(r"(?:[ \t\r\n\f]+|#[^\n]*)+")
_BLANK_BEGINS = frozenset(" \t\r\n\f#")
_BLANK_ALL = re.compile(rf"(?:{_BLANK.pattern})?")


class _Driver:
    """Lark's tables, scanners and tree builders, in a loop that does only what right text needs: lines and columns are
    not counted, and a rule that stands for its only part makes nothing. The trees are Lark's; of positions they have
    `start_pos` and `end_pos`."""

    def __init__(self, parser: lark.Lark) -> None:
        frontend: Any = parser.parser
        automaton = frontend.parser.parser
        self.lexers: dict[int, tuple[list[Callable[[str, int], Any]], Mapping[str, Callable[[Token], Token]]]] = {}
        self.all_lexers = frontend.lexer.lexers
        self.callbacks = automaton.callbacks
        self.states = automaton.parse_table.states
        self.begin = automaton.parse_table.start_states["start"]
        self.end = automaton.parse_table.end_states["start"]
        # By identity: the tables hold on to their rules.
        self.rules: dict[int, tuple[int, str, bool, Callable[[list[Any]], Any]]] = {}
        self.settled: dict[tuple[int, int, str], int] = {}

    def _rule(self, rule: Any) -> tuple[int, str, bool, Callable[[list[Any]], Any]]:
        """How many parts it has, its name, whether it may stand for its only part, and what makes a tree of it."""
        build = self.callbacks[rule].node_builder  # without what counts lines
        made = (len(rule.expansion), rule.origin.name, isinstance(build, ExpandSingleChild), build)
        return self.rules.setdefault(id(rule), made)

    def _lexer(self, state: int) -> tuple[list[Callable[[str, int], Any]], Mapping[str, Callable[[Token], Token]]]:
        """What finds the next terminal in a state, and what becomes of one that others may have the text of."""
        lexer = self.all_lexers[state]
        return self.lexers.setdefault(state, ([scanner.match for scanner in lexer.scanner._mres], lexer.callback))

    def _settle(self, below: int, state: int, kind: str) -> int:
        """The state behind all rules that stand for their only part, one around the other, before a terminal: it
        follows from the states and what comes next, and there are as many of those as the grammar has."""
        key = below, state, kind
        while (action := self.states[state].get(kind)) is not None and action[0] is not Shift:
            count, origin, single, _ = self._rule(action[1])
            if not single or count != 1:
                break
            state = self.states[below][origin][1]
        self.settled[key] = state
        return state

    def parse(self, text: str) -> Tree[Token] | None:
        """The tree of a text; None where it has a mistake."""
        states, lexers, rules, settled = self.states, self.lexers, self.rules, self.settled
        stack = [self.begin]
        values: list[Any] = []
        starts: list[int] = []  # of each value, what was inlined into it included; -1 if it has no text
        ends: list[int] = []
        position, size = 0, len(text)
        token: Token | None
        while True:
            state = stack[-1]
            if position < size and text[position] in _BLANK_BEGINS:
                blank = _BLANK.match(text, position)
                assert blank is not None
                position = blank.end()
            if position < size:
                scanners, same = lexers.get(state) or self._lexer(state)
                for scanner in scanners:
                    match = scanner(text, position)
                    if match is not None:
                        break
                else:
                    return None
                kind: str = match.lastgroup
                value = match.group()
                token = str.__new__(Token, value)
                token.type, token.value = kind, value
                token.start_pos, token.end_pos = position, match.end()
                if kind in same:  # another terminal has this very text
                    token = same[kind](token)
                    kind = token.type
            else:
                kind, token = "$END", None
            while True:
                action = states[state].get(kind)
                if action is None:
                    return None
                shift, goal = action
                if shift is Shift:
                    break
                rule = rules.get(id(goal)) or self._rule(goal)
                count, origin, single, build = rule
                if single and count == 1:
                    if token is not None:
                        known = settled.get((stack[-2], state, kind))
                        stack[-1] = state = self._settle(stack[-2], state, kind) if known is None else known
                        continue
                    stack.pop()
                else:
                    start = end = -1
                    children: list[Any] = []
                    if count:
                        children = values[-count:]
                        for start in starts[-count:]:
                            if start >= 0:
                                break
                        for end in ends[: -count - 1 : -1]:
                            if end >= 0:
                                break
                        del stack[-count:], values[-count:], starts[-count:], ends[-count:]
                    value = build(children)
                    if isinstance(value, Token):
                        start, end = value.start_pos or 0, value.end_pos or 0
                    elif start >= 0:
                        meta = value.meta
                        if meta.empty:
                            meta.start_pos, meta.end_pos, meta.empty = start, end, False
                    values.append(value)
                    starts.append(start)
                    ends.append(end)
                state = states[stack[-1]][origin][1]
                stack.append(state)
                if token is None and state == self.end:
                    made: Tree[Token] = values[-1]
                    return made
            if token is None:
                return None
            stack.append(goal)
            values.append(token)
            starts.append(position)
            position = match.end()
            ends.append(position)


def _size(text: str, start: int, end: int) -> int:
    """Characters of a piece; comments and blanks are counted only as long as there are few."""
    if end - start <= MAXIMUM_PIECE:
        return end - start
    return len(re.sub(r"\s+", " ", re.sub(r"#[^\n]*", "", text[start:end])))


@dataclass(frozen=True, slots=True)
class _Bracket:
    character: str
    offset: int


def _pieces(source: Source) -> list[tuple[int, int]]:
    """Where declarations begin and end: outside of brackets, unless one is never closed. Raises InputError where
    brackets are nested too deeply."""
    text = source.text
    closed = [0]
    starts = (match.start() for match in _ITEM_START.finditer(text))
    following = next(starts, None)
    depth = 0
    for match in _BRACKETS.finditer(text):
        while following is not None and following < match.start():
            if depth == 0:
                closed.append(following)
            following = next(starts, None)
        character = match.group()
        if character in "({":
            depth += 1
            if depth > MAXIMUM_NESTING:
                raise _too_deep(Span(source, match.start(), match.end()))
        elif character in ")}":
            depth = max(0, depth - 1)
    while following is not None:
        if depth == 0:
            closed.append(following)
        following = next(starts, None)
    pieces: list[tuple[int, int]] = []
    for start, end in zip(closed, [*closed[1:], len(text)], strict=True):
        if _size(text, start, end) <= MAXIMUM_PIECE and not (end == len(text) and depth):
            pieces.append((start, end))
            continue
        # Too long, or left open: whatever looks like a declaration is one.
        inner = [start, *(m.start() for m in _ITEM_START.finditer(text, start + 1, end))]
        pieces += zip(inner, [*inner[1:], end], strict=True)
    return [(start, end) for start, end in pieces if start < end]


def _too_deep(span: Span) -> InputError:
    notes = (
        f"{MAXIMUM_NESTING} levels are the most: an operator in a chain of them counts one, a block or an `else` two",
        "split it into smaller pieces",
    )
    return InputError([Diagnostic("S003", "this is nested too deeply", span, notes=notes)])


def _mistakes(source: Source, start: int, end: int) -> list[Diagnostic]:
    """Every mistake of a piece that does not parse: each one's lines are blanked in turn."""
    following = _ITEM_START.search(source.text, start + 1, end)
    if following:
        # More than one declaration in an open bracket: the first one alone does not parse either.
        inner = [start, *(m.start() for m in _ITEM_START.finditer(source.text, start + 1, end))]
        errors: list[Diagnostic] = []
        for a, b in zip(inner, [*inner[1:], end], strict=True):
            errors += _mistakes(source, a, b)
        return errors
    text: str | None = source.text[start:end]
    errors = []
    while text is not None and len(errors) < MAXIMUM_ERRORS_OF_PIECE:
        try:
            tree = _parser().parse(text)
        except lark.UnexpectedInput as error:
            offset = _offset(error, text)
            early = _closed_early(text, offset) if "$END" in _accepted(error) else None
            if early is not None:
                message = "this `}` closes the declaration, and more follows"
                span = Span(source, start + early, start + early + 1)
                errors.append(Diagnostic("S005", message, span, notes=("there is one too many before it, or here",)))
                break
            unclosed = _unclosed(text) if offset >= len(text.rstrip()) else None
            if unclosed is not None:
                errors.append(_not_closed(source, start, end, unclosed))
                break
            if text[offset : offset + 1] != "}" or not _blanked_before(source.text[start:end], text, offset):
                errors.append(_syntax_error(source, error, start + offset, end))
            text = _without(text, offset)
            continue
        try:
            _Builder(source, start).items(tree)
        except InputError as error:
            errors += error.diagnostics
        break
    return errors


def _offset(error: lark.UnexpectedInput, text: str) -> int:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return len(text.rstrip())
    position = error.pos_in_stream
    return len(text) if position is None or position < 0 else position


_GOES_ON = tuple("+-*&|^~=<>(,.:")  # what the last line of a statement does not end with
# What stands in for the part before `{` of a declaration whose own has a mistake.
_STANDING_IN = {
    "trampoline": "trampoline f()using c",
    "check": "check f",
    "struct": "struct s",
    "convention": "convention a like c",
}


def _without(text: str, offset: int) -> str | None:
    """The text with the lines of a mistake blanked: from the one where the word before it stands, on to where its
    brackets are closed. None where they are not."""
    before = text[:offset].rstrip()
    start = offset if not before or before.endswith(("{", "}")) else len(before)
    start = text.rfind("\n", 0, start) + 1
    while text[:start].rstrip().endswith(_GOES_ON):
        start = text.rfind("\n", 0, len(text[:start].rstrip())) + 1
    if not text[:start].strip():
        return _with_another_beginning(text, offset)
    end = offset
    while True:
        line_end = text.find("\n", end)
        end = len(text) if line_end < 0 else line_end + 1
        lines = text[start:end]
        opened: list[str] = []
        for match in _BRACKETS.finditer(lines):
            character = match.group()
            if character in "({":
                opened.append(character)
            elif character == "}" or (character == ")" and start + match.start() != offset):
                if not opened:
                    return None  # the bracket that it closes is of another statement
                if character == "}" and opened[-1] == "(":
                    return _without_unclosed(text, start, offset)
                opened.pop()
        if not opened:
            return text[:start] + re.sub(r"[^\n]", " ", lines) + text[end:]
        if end == len(text):
            return None


def _without_unclosed(text: str, start: int, offset: int) -> str | None:
    """The text with the lines from `start` on to the mistake blanked, in which a `(` is never closed."""
    line = text.rfind("\n", 0, offset) + 1
    end = line if not text[line:offset].strip() else text.find("\n", offset) + 1
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:] if end > start else None


def _blanked_before(whole: str, text: str, offset: int) -> bool:
    """Whether lines of a mistake were right before `offset`: what stands before them may have gone on there."""
    return whole[len(text[:offset].rstrip()) : offset].strip() != ""


def _with_another_beginning(text: str, offset: int) -> str | None:
    word = re.match(r"\s*(\w+)", text)
    brace = text.find("{", offset)
    beginning = _STANDING_IN.get(word[1]) if word else None
    if beginning is None or brace < len(beginning) or text.startswith(beginning):
        return None
    return beginning + re.sub(r"[^\n]", " ", text[len(beginning) : brace]) + text[brace:]


def _closed_early(text: str, offset: int) -> int | None:
    """Where a declaration ends, if what stands at `offset` looks like a part of it."""
    word = re.match(r"\w+", text[offset:])
    if word is None or word[0] not in (*_STATEMENT_WORDS, *_CHECK_WORDS):
        return None
    closing = [m.start() for m in _BRACKETS.finditer(text, 0, offset) if m.group() == "}"]
    return closing[-1] if closing else None


def _unclosed(text: str) -> _Bracket | None:
    """The bracket that is most likely the one never closed: by the indentation of those that are, or else the last."""
    opened: list[_Bracket] = []
    suspect: _Bracket | None = None
    for match in _BRACKETS.finditer(text):
        character = match.group()
        if character in "({":
            opened.append(_Bracket(character, match.start()))
        elif character in ")}" and opened and opened[-1].character == _CLOSING[character]:
            last = opened.pop()
            line = text.rfind("\n", 0, match.start()) + 1
            alone = not text[line : match.start()].strip()
            if alone and match.start() - line < _indentation(text, last.offset):
                suspect = suspect or last
    return (suspect or opened[-1]) if opened else None


def _indentation(text: str, offset: int) -> int:
    line = text[text.rfind("\n", 0, offset) + 1 :]
    return len(line) - len(line.lstrip(" \t"))


def _not_closed(source: Source, start: int, end: int, bracket: _Bracket) -> Diagnostic:
    span = Span(source, start + bracket.offset, start + bracket.offset + 1)
    closing = {"(": ")", "{": "}"}[bracket.character]
    message = f"this `{bracket.character}` is not closed: `{closing}` is missing"
    if end >= len(source.text.rstrip()):
        return Diagnostic("S005", message, span, notes=("the file ends before that",))
    word = _ITEM_START.match(source.text, end)
    related = ((Span(source, end, word.end()), "the next declaration begins before that"),) if word else ()
    return Diagnostic("S005", message, span, related=related)


def _syntax_error(source: Source, error: lark.UnexpectedInput, offset: int, end: int) -> Diagnostic:
    possible = _expected_words(_accepted(error))
    words = _grouped(possible)
    at_end = offset >= len(source.text[:end].rstrip())
    if at_end and end >= len(source.text.rstrip()):
        place = len(source.text.rstrip())
        found, span = "the end of the file", Span(source, place - 1, place)
    else:
        match = re.compile(r"[A-Za-z_0-9.·$]+|\s|.", re.DOTALL).match(source.text, end if at_end else offset)
        assert match is not None
        span = Span(source, match.start(), match.end())
        found = f"`{_shortened(span.text)}`" if span.text.isprintable() else f"the character {ord(span.text[0]):#x}"
    if span.text == "}" and "a declaration" in words:
        return Diagnostic("S005", "this `}` closes nothing", span, notes=("expected a declaration",))
    notes = []
    keywords = [word.strip("`") for word in possible if word.startswith("`") and word[1:2].isalpha()]
    if re.fullmatch(r"[A-Za-z_]+", span.text):
        notes = ("a declaration" in words and _foreign(span.text)) or suggestion(span.text, keywords)
        notes = [note for note in notes if f"`{span.text}`" not in note]
    before = re.search(r"([A-Za-z_]+)\s*$", source.text[max(0, offset - 200) : offset])
    if before is not None and "`=`" in possible:
        # A name alone was taken for the left side of an assignment: perhaps it is a misspelt statement.
        begin = max(0, offset - 200) + before.start(1)
        begun = Span(source, begin, begin + len(before[1]))
        if before[1] == "else":
            return Diagnostic("S001", "this `else` follows no block of an `if`", begun)
        if span.text == "(":
            note = f"a function is called by `call {before[1]}(...)`"
            return Diagnostic("S001", f"`{before[1]}` begins no statement", begun, notes=(note,))
        near = _foreign(before[1]) or suggestion(before[1].lower(), [*_STATEMENT_WORDS, *_ITEM_WORDS])
        if near and f"`{before[1]}`" not in near[0]:
            notes.insert(0, f"{near[0]} (nothing but an assignment begins with a name)")
            return Diagnostic("S001", f"`{before[1]}` begins no statement", begun, notes=tuple(notes))
    if habit := _habit(source, span, possible):
        notes += habit
    elif source.text.startswith("==", span.start):
        notes.append("a comparison is no value: it stands after `if`, `while` or `expect`")
    elif span.text == "=" and "a comparison" in possible:
        notes.append("`==` compares, `=` sets")
    if re.search(r"\bas\s+ptr\s*<\s*[^<>{}]*$", source.text[max(0, offset - 200) : offset]):
        notes.append("`ptr<...>` is one type; to compare a pointer, convert it in parentheses: `(... as ptr) < ...`")
    if span.text == '"' and '"' not in source.text[span.end :].split("\n", 1)[0]:
        notes.append('a text stands between two `"` on one line')
    if span.text.isalpha() and not span.text.isascii():
        notes.append("names are of the letters A to Z and a to z, digits, `_`, `·` and `$`")
    if "`using`" in possible and span.text in ("{", "writes", "suspends", "resumes", "switches", "clobbers"):
        notes.append("a function says by which convention it is called: `using c`")
    if words == ["a name", "a number"] and span.text == "}":
        notes.append("commas stand between the names of a list: `keeps rbx, rbp`")
    if span.text == "table":
        notes.append("a table is `table NAME[COUNT] enters TRAMPOLINE`")
    if span.text == "expect" and "`finally`" in possible:
        notes.append("`expect` stands in `on NAME(...) { }` or in `finally { }`")
    if words == ["a name"] and source.text[: span.start].rstrip().endswith(":"):
        words = ["a type"]
    if words:
        shown = words if len(words) <= 12 else [*words[:12], "..."]
        notes.insert(0, "expected " + _either(shown))
    return Diagnostic("S001", f"{found} is not expected here", span, notes=tuple(notes))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _foreign(word: str) -> list[str]:
    return [f"did you mean `{_FOREIGN[word]}`?"] if word in _FOREIGN else []


def _accepted(error: lark.UnexpectedInput) -> set[str]:
    """The terminals that could have stood there."""
    if isinstance(error, lark.UnexpectedToken):
        return set(error.accepts or error.expected)
    state = error.state  # of the parser, where the lexer gives up
    accepted = set()
    for terminal in getattr(error, "allowed", None) or ():
        trial = state.copy(deepcopy_values=False)
        trial.parse_conf = copy(trial.parse_conf)
        trial.parse_conf.callbacks = {}
        try:
            trial.feed_token(Token(terminal, ""))
        except lark.UnexpectedToken:
            continue
        accepted.add(terminal)
    return accepted


def _expected_words(expected: set[str]) -> set[str]:
    terminals = {t.name: t for t in _parser().terminals}
    words = set()
    for name in expected:
        if name in _TERMINALS:
            words.add(_TERMINALS[name])
        elif name in terminals:
            words.add(f"`{terminals[name].pattern.value.removesuffix(_WORD_END)}`")
    words.discard("`;`")
    return words


def _grouped(words: set[str]) -> list[str]:
    """What a person would call them, in the order of the alphabet; keywords last."""
    # `&` and `-` begin values and stand between them: one of the groups takes them.
    for group, enough, members in _GROUPS:
        if len(members & words) >= enough:
            words = (words - members) | {group}
    if len(words) > 6:
        words = words - {"`,`"}
    return sorted(words, key=lambda w: (w.startswith("`") and w[1:2].isalpha(), w))


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _token(child: Any) -> Token:
    assert isinstance(child, Token)
    return child


class _Builder:
    """Makes syntax nodes of Lark's trees; one method for each rule that is not merely a choice."""

    def __init__(self, source: Source, start: int, depth: int = 0, *, later: bool = False) -> None:
        self.source = source
        self.start = start  # where the piece that was parsed is in the source
        self.later = later  # nothing is wrong in it: what is in a check is made when it is asked for
        self.depth = depth  # of rules around
        self.errors: list[Diagnostic] = []

    def span(self, tree: Tree[Token] | Token) -> Span:
        start = self.start
        if isinstance(tree, Token):
            return Span(self.source, start + (tree.start_pos or 0), start + (tree.end_pos or 0))
        meta = tree.meta
        if meta.empty:
            return Span(self.source, start, start)
        return Span(self.source, start + meta.start_pos, start + meta.end_pos)

    def items(self, tree: Tree[Token]) -> tuple[s.Item, ...]:
        """The declarations of a piece. Raises InputError."""
        items = tuple(self.make(child) for child in tree.children)
        if self.errors:
            raise InputError(self.errors)
        return items

    def make(self, tree: Any) -> Any:
        self.depth += 1
        if self.depth > MAXIMUM_NESTING:
            raise _too_deep(self.span(tree))
        made = _MAKERS[tree.data](self, tree)
        self.depth -= 1
        return made

    def maybe(self, tree: Any) -> Any:
        return None if tree is None else self.make(tree)

    def name(self, token: Any) -> s.Name:
        span = Span(self.source, self.start + token.start_pos, self.start + token.end_pos)
        return s.Name((token.value,), (span,), span)

    def each(self, tree: Tree[Token]) -> Iterator[Any]:
        return (self.make(child) for child in tree.children if child is not None)

    def text(self, token: Any) -> str:
        return str(token)[1:-1]

    # -- declarations

    def _import(self, tree: Tree[Any]) -> s.Import:
        return s.Import(self.text(tree.children[0]), self.span(tree.children[0]))

    def _constant(self, tree: Tree[Any]) -> s.Constant:
        name, value = tree.children
        return s.Constant(self.name(name), self.make(value), self.span(tree))

    def _constant_by_target(self, tree: Tree[Any]) -> s.Constant:
        name, *cases, otherwise = tree.children
        value = s.ByTarget(tuple(self.make(case) for case in cases), self.maybe(otherwise), self.span(tree))
        return s.Constant(self.name(name), value, self.span(tree))

    def _constant_when(self, tree: Tree[Any]) -> s.ConstantWhen:
        targets, value = tree.children
        return s.ConstantWhen(self.make(targets), self.make(value), self.span(tree))

    def _constant_else(self, tree: Tree[Any]) -> s.Expression:
        value: s.Expression = self.make(tree.children[0])
        return value

    def _items_when(self, tree: Tree[Any]) -> s.ItemsWhen:
        targets, then, otherwise = tree.children
        others = self.make(otherwise) if otherwise is not None else ()
        return s.ItemsWhen(self.make(targets), self.make(then), others, self.span(tree))

    def _items_else(self, tree: Tree[Any]) -> tuple[s.Declaration, ...]:
        made = self.make(tree.children[0])
        return (made,) if isinstance(made, s.ItemsWhen) else made

    def _items(self, tree: Tree[Any]) -> tuple[s.Declaration, ...]:
        return tuple(self.make(child) for child in tree.children)

    def _struct(self, tree: Tree[Any]) -> s.Struct:
        name, header, *rest = tree.children
        fields = tuple(self.make(child) for child in rest if child.data == "field")
        gap = any(child.data == "gap" for child in rest)
        text = self.text(header.children[0]) if header else None
        header_span = self.span(header.children[0]) if header else None
        return s.Struct(self.name(name), text, fields, gap, header_span, self.span(tree))

    def _field(self, tree: Tree[Any]) -> s.Field:
        name, type_, offset = tree.children
        return s.Field(str(name), self.make(type_), self.maybe(offset), self.span(name))

    def _extern(self, tree: Tree[Any]) -> s.Extern:
        name, parameters, result, convention, clobbers = tree.children
        return s.Extern(
            self.make(name),
            self.maybe(parameters) or (),
            self.maybe(result),
            self.name(convention),
            tuple(self.each(clobbers)) if clobbers else None,
            self.span(tree),
        )

    def _extern_variable(self, tree: Tree[Any]) -> s.ExternVariable:
        name, type_ = tree.children
        return s.ExternVariable(self.make(name), self.make(type_), self.span(tree))

    def _clobber(self, tree: Tree[Any]) -> s.Clobbers:
        targets, *registers = tree.children
        return s.Clobbers(self.make(targets), tuple(self.name(r) for r in registers), self.span(tree))

    def _parameters(self, tree: Tree[Any]) -> tuple[s.Parameter, ...]:
        return tuple(self.each(tree))

    def _parameter(self, tree: Tree[Any]) -> s.Parameter:
        name, type_ = tree.children
        return s.Parameter(str(name), self.make(type_), self.span(name))

    def _result(self, tree: Tree[Any]) -> s.TypeName:
        type_: s.TypeName = self.make(tree.children[0])
        return type_

    def _convention(self, tree: Tree[Any]) -> s.ConventionDeclaration:
        name, like, *facts = tree.children
        return s.ConventionDeclaration(
            self.name(name), self.name(like), tuple(self.make(f) for f in facts), self.span(tree)
        )

    def _convention_when(self, tree: Tree[Any]) -> s.ConventionWhen:
        targets, *facts = tree.children
        return s.ConventionWhen(self.make(targets), tuple(self.make(f) for f in facts), self.span(tree))

    def _convention_fact(self, tree: Tree[Any]) -> s.ConventionFact:
        what, *values = [_token(child) for child in tree.children if child is not None]
        if values[0].type == "INTEGER":
            number = s.Integer(self.number(values[0]), self.span(values[0]))
            return s.ConventionFact(self.name(what), (), number, self.span(tree))
        return s.ConventionFact(self.name(what), tuple(self.name(n) for n in values), None, self.span(tree))

    def _table(self, tree: Tree[Any]) -> s.Table:
        _, name, count, trampoline = tree.children
        return s.Table(self.make(name), self.make(count), self.make(trampoline), self.span(tree))

    def _trampoline(self, tree: Tree[Any]) -> s.Trampoline:
        name, parameters, result, convention, *clauses, body = tree.children
        variadic = parameters is not None and parameters.data == "any_words"
        return s.Trampoline(
            self.make(name),
            () if variadic else self.maybe(parameters) or (),
            variadic,
            self.maybe(result),
            self.name(convention),
            tuple(self.make(clause) for clause in clauses),
            self.maybe(body),
            self.span(tree),
        )

    def _writes(self, tree: Tree[Any]) -> s.Writes:
        return s.Writes(tuple(self.make(name) for name in tree.children), self.span(tree))

    def _switches(self, tree: Tree[Any]) -> s.Switches:
        return s.Switches(self.span(tree))

    def _suspends(self, tree: Tree[Any]) -> s.Suspends:
        return s.Suspends(self.make(tree.children[0]), self.span(tree))

    def _resumes(self, tree: Tree[Any]) -> s.Resumes:
        context, of, giving, instead = tree.children
        return s.Resumes(
            self.name(context),
            self.maybe(of),
            self.name(giving) if giving is not None else None,
            s.Integer(self.number(_token(instead)), self.span(instead)) if instead is not None else None,
            self.span(tree),
        )

    # -- checks

    def _check(self, tree: Tree[Any]) -> s.Check:
        name, title, *items = tree.children
        text = self.text(title) if title else ""
        made = s.Later(lambda: self._check_items(items)) if self.later else self._check_items(items)
        span = self.span(tree)
        return s.Check(self.make(name), text, made, span.text, span)

    def _check_items(self, items: list[Any]) -> tuple[s.CheckItem, ...]:
        return tuple(self.make(item) for item in items)

    def _check_new(self, tree: Tree[Any]) -> s.CheckNew:
        return s.CheckNew(self.make(tree.children[0]), self.span(tree))

    def _check_stack(self, tree: Tree[Any]) -> s.CheckStack:
        return s.CheckStack(self.name(tree.children[0]), self.span(tree))

    def _check_var(self, tree: Tree[Any]) -> s.CheckVariable:
        name, type_, value = tree.children
        return s.CheckVariable(self.name(name), self.maybe(type_), self.maybe(value), self.span(tree))

    def _check_given(self, tree: Tree[Any]) -> s.CheckGiven:
        return s.CheckGiven(self.make(tree.children[0]), self.span(tree))

    def _check_on(self, tree: Tree[Any]) -> s.CheckOn:
        callee, names, body = tree.children
        return s.CheckOn(self.make(callee), self.maybe(names) or (), self.make(body), self.span(tree))

    def _check_signals(self, tree: Tree[Any]) -> s.CheckSignals:
        handler, restorer, stack = tree.children
        name = self.name(stack) if stack is not None else None
        return s.CheckSignals(self.make(handler), self.maybe(restorer), name, self.span(tree))

    def _check_finally(self, tree: Tree[Any]) -> s.CheckFinally:
        return s.CheckFinally(self.make(tree.children[0]), self.span(tree))

    def _check_when(self, tree: Tree[Any]) -> s.CheckWhen:
        targets, *items = tree.children
        return s.CheckWhen(self.make(targets), tuple(self.make(item) for item in items), self.span(tree))

    def _names(self, tree: Tree[Any]) -> tuple[s.Name, ...]:
        return tuple(self.name(token) for token in tree.children)

    # -- statements

    def _block(self, tree: Tree[Any]) -> s.Block:
        statements: list[s.Statement] = []
        for child in tree.children:
            if isinstance(child, _Statements):
                self.start += child.offset
                statements += map(self.make, child.trees)
                self.start -= child.offset
            else:
                statements.append(self.make(child))
        return s.Block(tuple(statements), self.span(tree))

    def _save(self, tree: Tree[Any]) -> s.Save:
        what, place = tree.children
        return s.Save(self.name(what), self.maybe(place), self.span(tree))

    def _restore(self, tree: Tree[Any]) -> s.Restore:
        what, place = tree.children
        return s.Restore(self.name(what), self.make(place), self.span(tree))

    def _frame(self, tree: Tree[Any]) -> s.FrameBlock:
        return s.FrameBlock(tuple(self.each(tree)), self.span(tree))

    def _slot(self, tree: Tree[Any]) -> s.FrameSlot:
        name, type_, place = tree.children
        where: s.Expression | str | None = None
        if place is not None:
            where = "bottom" if place.data == "bottom" else self.make(place)
        return s.FrameSlot(str(name), self.make(type_), where, self.span(name))

    def _let(self, tree: Tree[Any]) -> s.Let:
        name, type_, value = tree.children
        return s.Let(str(name), self.maybe(type_), self.make(value), self.span(name), self.span(tree))

    def _assign(self, tree: Tree[Any]) -> s.Assign:
        place, value = tree.children
        return s.Assign(self.make(place), self.make(value), self.span(tree))

    def _call_statement(self, tree: Tree[Any]) -> s.Call:
        return s.Call(self.make(tree.children[0]), self.span(tree))

    def _call(self, tree: Tree[Any]) -> s.CallExpression:
        callee, arguments, convention, result, at = tree.children
        return s.CallExpression(
            self.make(callee),
            self.maybe(arguments) or (),
            self.name(convention) if convention is not None else None,
            self.maybe(result),
            self.maybe(at),
            self.span(tree),
        )

    def _syscall(self, tree: Tree[Any]) -> s.CallExpression:
        number, arguments = tree.children
        span = self.span(tree)
        callee = s.Name(("syscall",), (span,), span)
        return s.CallExpression(callee, self.maybe(arguments) or (), None, None, None, span, self.make(number))

    def _arguments(self, tree: Tree[Any]) -> tuple[s.Expression, ...]:
        return tuple(self.each(tree))

    def _jump(self, tree: Tree[Any]) -> s.Jump:
        callee, arguments, convention = tree.children
        span = self.span(tree)
        call = s.CallExpression(
            self.make(callee),
            self.maybe(arguments) or (),
            self.name(convention) if convention is not None else None,
            None,
            None,
            span,
        )
        return s.Jump(call, span)

    def _return(self, tree: Tree[Any]) -> s.Return:
        value, popping = tree.children
        return s.Return(self.maybe(value), self.maybe(popping), self.keyword(tree, "return"))

    def keyword(self, tree: Tree[Any], word: str) -> Span:
        """The span of a statement; of its keyword where Lark leaves an empty tree without a position."""
        if not tree.meta.empty:
            return self.span(tree)
        return Span(self.source, self.start, self.start)

    def _resume(self, tree: Tree[Any]) -> s.Resume:
        sp, pc = tree.children
        return s.Resume(self.make(sp), self.make(pc), self.span(tree))

    def _trap(self, tree: Tree[Any]) -> s.Trap:
        return s.Trap(self.keyword(tree, "trap"))

    def _if(self, tree: Tree[Any]) -> s.If:
        condition, then, otherwise = tree.children
        return s.If(self.make(condition), self.make(then), self.maybe(otherwise), self.span(condition))

    def _else(self, tree: Tree[Any]) -> s.Block:
        return self._as_block(tree)

    def _as_block(self, tree: Tree[Any]) -> s.Block:
        node = self.make(tree.children[0])
        return node if isinstance(node, s.Block) else s.Block((node,), node.span)

    def _while(self, tree: Tree[Any]) -> s.While:
        condition, body = tree.children
        return s.While(self.make(condition), self.make(body), self.span(condition))

    def _break(self, tree: Tree[Any]) -> s.Break:
        return s.Break(self.keyword(tree, "break"))

    def _continue(self, tree: Tree[Any]) -> s.Continue:
        return s.Continue(self.keyword(tree, "continue"))

    def _on_stack(self, tree: Tree[Any]) -> s.OnStack:
        stack, pc, body = tree.children
        return s.OnStack(self.make(stack), self.maybe(pc), self.make(body), self.span(stack))

    def _switch_stack(self, tree: Tree[Any]) -> s.SwitchStack:
        return s.SwitchStack(self.make(tree.children[0]), self.span(tree))

    def _when(self, tree: Tree[Any]) -> s.When:
        targets, then, otherwise = tree.children
        return s.When(self.make(targets), self.make(then), self.maybe(otherwise), self.span(targets))

    def _when_else(self, tree: Tree[Any]) -> s.Block:
        return self._as_block(tree)

    def _targets(self, tree: Tree[Any]) -> s.TargetSet:
        negated, *names = tree.children
        return s.TargetSet(negated is not None, tuple(self.make(n) for n in names), self.span(tree))

    def _target_name(self, tree: Tree[Any]) -> s.TargetName:
        token = tree.children[0]
        return s.TargetName(re.sub(r"\s+", " ", str(token)), self.span(token))

    def _asm(self, tree: Tree[Any]) -> s.Asm:
        targets, *items = tree.children
        made = [self.make(item) for item in items]
        return s.Asm(
            self.make(targets),
            tuple(item for kind, item in made if kind == "in"),
            tuple(item for kind, item in made if kind == "out"),
            tuple(name for kind, item in made if kind == "clobbers" for name in item),
            tuple(item for kind, item in made if kind == "text"),
            self.span(tree),
        )

    def _asm_in(self, tree: Tree[Any]) -> tuple[str, s.AsmOperand]:
        register, value = tree.children
        return "in", s.AsmOperand(str(register), self.make(value), self.span(register), self.span(tree))

    def _asm_out(self, tree: Tree[Any]) -> tuple[str, s.AsmOperand]:
        register, name = tree.children
        return "out", s.AsmOperand(str(register), str(name), self.span(register), self.span(name))

    def _asm_clobbers(self, tree: Tree[Any]) -> tuple[str, tuple[s.Name, ...]]:
        return "clobbers", tuple(self.name(token) for token in tree.children)

    def _asm_text(self, tree: Tree[Any]) -> tuple[str, s.AsmLine]:
        return "text", s.AsmLine(self.text(tree.children[0]), self.span(tree.children[0]))

    def _expect(self, tree: Tree[Any]) -> s.Expect:
        return s.Expect(self.make(tree.children[0]), self.span(tree.children[0]))

    # -- expressions

    def _integer(self, tree: Tree[Any]) -> s.Integer:
        return s.Integer(self.number(_token(tree.children[0])), self.span(tree))

    def number(self, token: Token) -> int:
        """The value of an INTEGER; 0, and an error, for one that no machine word holds, or that looks octal."""
        digits = str(token).replace("_", "")
        if not _NUMBER.fullmatch(str(token)):
            self.wrong(token, f"`{_shortened(str(token))}` is no number", "a number is like 25, 0x19 or 0b11001")
        elif digits.isdigit() and len(digits) > 1 and digits[0] == "0":
            message = f"`{_shortened(str(token))}` is neither decimal (it begins with 0) nor hexadecimal (0x...)"
            self.wrong(token, message, "octal numbers are not written here")
        elif len(digits) > 80 or int(digits, 0) >= 1 << 64:
            # Counted before they are read: Python takes long for many digits.
            self.wrong(token, "this number does not fit 64 bits")
        else:
            return int(digits, 0)
        return 0

    def wrong(self, token: Token, message: str, *notes: str) -> None:
        self.errors.append(Diagnostic("S004", message, self.span(token), notes=notes))

    def _null(self, tree: Tree[Any]) -> s.Null:
        return s.Null(self.keyword(tree, "null"))

    def _path(self, tree: Tree[Any]) -> s.Path:
        name = self.make(tree.children[0])
        return s.Path(name, name.span)

    def _dotted(self, tree: Tree[Any]) -> s.Name:
        if len(tree.children) + self.depth > MAXIMUM_NESTING:
            raise _too_deep(self.span(tree))
        if len(tree.children) == 1:
            return self.name(tree.children[0])
        return s.Name(
            tuple(str(token) for token in tree.children),
            tuple(self.span(token) for token in tree.children),
            self.span(tree),
        )

    def _binary(self, operator: str, tree: Tree[Any]) -> s.Binary:
        left, right = tree.children[0], tree.children[-1]
        return s.Binary(operator, self.make(left), self.make(right), self.span(tree))

    def _or_bits(self, tree: Tree[Any]) -> s.Binary:
        return self._binary("|", tree)

    def _xor_bits(self, tree: Tree[Any]) -> s.Binary:
        return self._binary("^", tree)

    def _and_bits(self, tree: Tree[Any]) -> s.Binary:
        return self._binary("&", tree)

    def _mul(self, tree: Tree[Any]) -> s.Binary:
        return self._binary("*", tree)

    def _shift(self, tree: Tree[Any]) -> s.Binary:
        return self._binary(str(tree.children[1]), tree)

    def _sum(self, tree: Tree[Any]) -> s.Binary:
        return self._binary(str(tree.children[1]), tree)

    def _comparison(self, tree: Tree[Any]) -> s.Compare:
        left, operator, right = tree.children
        return s.Compare(str(operator), self.make(left), self.make(right), self.span(tree))

    def _or_(self, tree: Tree[Any]) -> s.Logical:
        left, right = tree.children
        return s.Logical("or", self.make(left), self.make(right), self.span(tree))

    def _and_(self, tree: Tree[Any]) -> s.Logical:
        left, right = tree.children
        return s.Logical("and", self.make(left), self.make(right), self.span(tree))

    def _not_(self, tree: Tree[Any]) -> s.Not:
        return s.Not(self.make(tree.children[-1]), self.span(tree))

    def _cast(self, tree: Tree[Any]) -> s.Cast:
        operand, type_ = tree.children
        return s.Cast(self.make(operand), self.make(type_), self.span(tree))

    def _negative(self, tree: Tree[Any]) -> s.Unary:
        return s.Unary("-", self.make(tree.children[-1]), self.span(tree))

    def _complement(self, tree: Tree[Any]) -> s.Unary:
        return s.Unary("~", self.make(tree.children[0]), self.span(tree))

    def _memory(self, tree: Tree[Any]) -> s.Memory:
        type_, address = tree.children
        return s.Memory(self.make(type_), self.make(address), self.span(tree))

    def _address_of(self, tree: Tree[Any]) -> s.AddressOf:
        return s.AddressOf(self.make(tree.children[0]), self.span(tree))

    def _size_of(self, tree: Tree[Any]) -> s.SizeOf:
        return s.SizeOf(self.make(tree.children[0]), self.span(tree))

    def _offset_of(self, tree: Tree[Any]) -> s.OffsetOf:
        struct, path = tree.children
        return s.OffsetOf(str(struct), self.make(path), self.span(tree))

    def _special(self, tree: Tree[Any]) -> s.Special:
        return s.Special(" ".join(str(tree.children[0]).split()), self.span(tree))

    # -- types

    def _plain_type(self, tree: Tree[Any]) -> s.TypeName:
        name, *pointee = tree.children
        return s.TypeName(str(name), str(pointee[0]) if pointee and pointee[0] else None, None, self.span(tree))

    def _array_type(self, tree: Tree[Any]) -> s.TypeName:
        name, count = tree.children
        return s.TypeName(str(name), None, self.make(count), self.span(tree))


_MAKERS: Mapping[str, Callable[[_Builder, Tree[Any]], Any]] = {
    name[1:]: method for name, method in vars(_Builder).items() if name.startswith("_") and callable(method)
}
