"""Text to syntax tree. The only module that knows Lark.

A file with a mistake is read on: the item with the mistake is set aside and the rest is parsed again, so that every
item's first syntax error is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import resources
from typing import Any

import lark
from lark import Token, Tree

from . import syntax as s
from .diagnostics import Diagnostic, InputError, Source, Span, suggestion

MAXIMUM_NESTING = 200  # deeper than any program a person writes; keeps every later pass within Python's stack
MAXIMUM_ERRORS = 20  # a file that is not in this language at all is not listed to its end

_ITEM_START = re.compile(r"^(?:import|const|struct|extern|convention|trampoline|check)\b", re.MULTILINE)
_STATEMENT_WORDS = (
    "save frame let call jump return resume if else while break continue on when asm expect".split()
)
_ITEM_WORDS = "import const struct extern convention trampoline check".split()

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
    "IN_REGISTER": "`g in register`",
    "NOT": "`not`",
    "$END": "the end of the file",
}


@lru_cache(maxsize=1)
def _parser() -> lark.Lark:
    grammar = resources.files("trampoline_dsl.grammars").joinpath("trampoline.lark").read_text("utf-8")
    return lark.Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def parse(source: Source) -> s.File:
    """Parse a whole file. Raises InputError with the first syntax error of every item that has one."""
    _refuse_deep_nesting(source)
    text = source.text
    errors: list[Diagnostic] = []
    while True:
        try:
            tree = _parser().parse(text)
            break
        except lark.UnexpectedInput as error:
            offset = _offset(error, text)
            errors.append(_syntax_error(source, error, offset))
            start = max((m.start() for m in _ITEM_START.finditer(text, 0, offset + 1)), default=0)
            following = _ITEM_START.search(text, max(offset, start + 1))
            end = following.start() if following else len(text)
            blank = re.sub(r"[^\n]", " ", text[start:end])
            if len(errors) >= MAXIMUM_ERRORS or blank == text[start:end]:
                raise InputError(errors) from None
            text = text[:start] + blank + text[end:]
    if errors:
        raise InputError(errors)
    return _Builder(source).file(tree)


def _offset(error: lark.UnexpectedInput, text: str) -> int:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return len(text.rstrip()) if text.strip() else 0
    position = error.pos_in_stream
    return len(text) if position is None or position < 0 else position


def _refuse_deep_nesting(source: Source) -> None:
    """Brackets, and chains of prefix operators and of `else if`, nest; the rest of the language does not."""
    depth = 0
    run = 0
    for token in re.finditer(r'#[^\n]*|"[^"\n]*"|[({]|[)}]|[~-]|\bnot\b|\belse\b|[^\s]', source.text):
        word = token.group()
        if word in "({":
            depth += 1
        elif word in ")}":
            depth -= 1
        if word in ("~", "-", "not"):
            run += 1
        elif word != "else":
            run = 0
        if max(depth, run) > MAXIMUM_NESTING:
            message = f"this is nested more than {MAXIMUM_NESTING} levels deep"
            span = Span(source, token.start(), token.end())
            raise InputError([Diagnostic("S003", message, span, notes=("split it into smaller pieces",))])


def _syntax_error(source: Source, error: lark.UnexpectedInput, offset: int) -> Diagnostic:
    expected = set(getattr(error, "accepts", None) or getattr(error, "expected", None) or ())
    if isinstance(error, lark.UnexpectedCharacters):
        expected = set(error.allowed or ())
    words = _expected_words(expected)
    token = getattr(error, "token", None)
    if offset >= len(source.text.rstrip()) or (token is not None and token.type == "$END"):
        end = len(source.text.rstrip())
        found, span = "the end of the file", Span(source, max(0, end - 1), max(end, 0))
    else:
        word = re.compile(r"[A-Za-z_0-9.·$]+|\s|.", re.DOTALL).match(source.text, offset)
        length = len(word.group()) if word else 1
        span = Span(source, offset, offset + length)
        found = f"`{span.text}`" if span.text.isprintable() else f"the character {ord(span.text[0]):#x}"
    notes: list[str] = []
    keywords = [word.strip("`") for word in words if word.startswith("`") and word[1:2].isalpha()]
    if re.fullmatch(r"[A-Za-z_]+", span.text):
        notes = suggestion(span.text, keywords)
    before = re.search(r"([A-Za-z_]+)\s*$", source.text[:offset])
    if before is not None and "`=`" in words:
        # A name alone was taken for the left side of an assignment: perhaps it is a misspelt statement.
        near = suggestion(before[1], [*_STATEMENT_WORDS, *_ITEM_WORDS])
        if near:
            span = Span(source, before.start(1), before.end(1))
            notes.insert(0, f"{near[0]} (nothing but an assignment begins with a name)")
            return Diagnostic("S001", f"`{before[1]}` begins no statement", span, notes=tuple(notes))
    if span.text.startswith('"'):
        notes.append('a text stands between two `"` on one line')
    if not source.text.strip():
        return Diagnostic("S002", "this file is empty", None, file=source.name)
    message = f"{found} is not expected here"
    if words:
        shown = words if len(words) <= 12 else [*words[:12], "..."]
        notes.insert(0, "expected " + _either(shown))
    return Diagnostic("S001", message, span, notes=tuple(notes))


def _expected_words(expected: set[str]) -> list[str]:
    terminals = {t.name: t for t in _parser().terminals}
    words = set()
    for name in expected:
        if name in _TERMINALS:
            words.add(_TERMINALS[name])
        elif name in terminals:
            pattern = terminals[name].pattern
            words.add(f"`{pattern.value}`" if type(pattern).__name__ == "PatternStr" else name.lower())
    words.discard("`;`")
    words.discard("`,`") if len(words) > 6 else None
    return sorted(words, key=lambda w: (w.startswith("`") and w[1:2].isalpha(), w))


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _token(child: Any) -> Token:
    assert isinstance(child, Token)
    return child


class _Builder:
    """Makes syntax nodes of Lark's trees; one method for each rule that is not merely a choice."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def span(self, tree: Tree[Token] | Token) -> Span:
        if isinstance(tree, Token):
            return Span(self.source, tree.start_pos or 0, tree.end_pos or 0)
        if tree.meta.empty:
            return Span(self.source, 0, 0)
        return Span(self.source, tree.meta.start_pos, tree.meta.end_pos)

    def file(self, tree: Tree[Token]) -> s.File:
        return s.File(self.source, tuple(self.make(child) for child in tree.children))

    def make(self, tree: Any) -> Any:
        method: Callable[[Tree[Token]], Any] = getattr(self, f"_{tree.data}")
        return method(tree)

    def maybe(self, tree: Any) -> Any:
        return None if tree is None else self.make(tree)

    def name(self, token: Any) -> s.Name:
        span = self.span(token)
        return s.Name((str(token),), (span,), span)

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
            number = s.Integer(int(str(values[0]).replace("_", ""), 0), self.span(values[0]))
            return s.ConventionFact(self.name(what), (), number, self.span(tree))
        return s.ConventionFact(self.name(what), tuple(self.name(n) for n in values), None, self.span(tree))

    def _trampoline(self, tree: Tree[Any]) -> s.Trampoline:
        name, parameters, result, convention, body = tree.children
        return s.Trampoline(
            self.make(name),
            self.maybe(parameters) or (),
            self.maybe(result),
            self.name(convention),
            self.make(body),
            self.span(tree),
        )

    # -- checks

    def _check(self, tree: Tree[Any]) -> s.Check:
        name, title, *items = tree.children
        text = self.text(title) if title else ""
        return s.Check(self.make(name), text, tuple(self.make(item) for item in items), self.span(tree))

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

    def _check_finally(self, tree: Tree[Any]) -> s.CheckFinally:
        return s.CheckFinally(self.make(tree.children[0]), self.span(tree))

    def _check_when(self, tree: Tree[Any]) -> s.CheckWhen:
        targets, *items = tree.children
        return s.CheckWhen(self.make(targets), tuple(self.make(item) for item in items), self.span(tree))

    def _names(self, tree: Tree[Any]) -> tuple[s.Name, ...]:
        return tuple(self.name(token) for token in tree.children)

    # -- statements

    def _block(self, tree: Tree[Any]) -> s.Block:
        return s.Block(tuple(self.each(tree)), self.span(tree))

    def _save(self, tree: Tree[Any]) -> s.Save:
        return s.Save(self.name(tree.children[0]), self.span(tree))

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
        return s.Return(self.maybe(tree.children[0]), self.keyword(tree, "return"))

    def keyword(self, tree: Tree[Any], word: str) -> Span:
        """The span of a statement; of its keyword where Lark leaves an empty tree without a position."""
        if not tree.meta.empty:
            return self.span(tree)
        return Span(self.source, 0, 0)

    def _resume(self, tree: Tree[Any]) -> s.Resume:
        sp, pc = tree.children
        return s.Resume(self.make(sp), self.make(pc), self.span(tree))

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
        return s.Integer(int(str(tree.children[0]).replace("_", ""), 0) if self._is_number(tree) else 0, self.span(tree))

    def _is_number(self, tree: Tree[Any]) -> bool:
        text = str(tree.children[0])
        digits = text.replace("_", "")
        span = self.span(tree)
        if digits.isdigit() and len(digits) > 1 and digits[0] == "0":
            message = f"`{text}` is neither decimal (it begins with 0) nor hexadecimal (0x...)"
            raise InputError([Diagnostic("S004", message, span, notes=("octal numbers are not written here",))])
        if digits in ("0x", "0X", "0b", "0B") or len(digits) > 80:
            raise InputError([Diagnostic("S004", "this is not a number that fits a machine word", span)])
        return True

    def _null(self, tree: Tree[Any]) -> s.Null:
        return s.Null(self.keyword(tree, "null"))

    def _path(self, tree: Tree[Any]) -> s.Path:
        name = self.make(tree.children[0])
        return s.Path(name, name.span)

    def _dotted(self, tree: Tree[Any]) -> s.Name:
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
        name, pointee = tree.children
        return s.TypeName(str(name), str(pointee) if pointee is not None else None, None, self.span(tree))

    def _array_type(self, tree: Tree[Any]) -> s.TypeName:
        name, count = tree.children
        return s.TypeName(str(name), None, self.make(count), self.span(tree))
