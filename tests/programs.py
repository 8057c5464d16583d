"""Random trampolines, well-typed by construction: what the fuzz test compiles and judges on every target.

The same seed gives the same program. A program says nothing that a machine may answer in its own way: addresses are
aligned, shifts are in range, loops end, and no 64-bit value is multiplied or shifted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from trampoline_dsl.target import Bank, Convention
from trampoline_dsl.targets import default_targets

INTEGERS = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "uptr", "iptr")
FLOATS = ("f32", "f64")
SCALARS = (*INTEGERS, "ptr", *FLOATS)
GO = ("go0", "goregs")
FIELDS = {
    "a": "u8",
    "b": "i8",
    "c": "u16",
    "d": "i16",
    "e": "u32",
    "f": "i32",
    "h": "u64",
    "k": "i64",
    "w": "uptr",
    "x": "iptr",
    "y": "f32",
    "z": "f64",
    "p": "ptr",
    "inner.u": "u16",
    "inner.v": "i64",
    "inner.s": "f32",
    "inner.t": "u8",
}
SIZES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8, "f32": 4, "f64": 8}
STRUCTS = """\
struct small { u: u16  v: i64  s: f32  t: u8 }
struct node { next: ptr<node>  a: u8  b: i8  c: u16  d: i16  e: u32  f: i32  h: u64  k: i64  w: uptr  x: iptr
              y: f32  z: f64  p: ptr  inner: small  room: u64[12] }
struct g { next: ptr<node>  a: u32 }
extern lib.head: ptr<node>
extern lib.first: node
"""
STRUCT_SLOT = {"u": "u16", "v": "i64", "s": "f32", "t": "u8"}
GLOBALS = {
    "u8": "lib.byte",
    "i16": "lib.half",
    "u32": "lib.count",
    "i64": "lib.wide",
    "uptr": "lib.word",
    "f64": "lib.real",
}
STRUCTS += "".join(f"extern {name}: {type_}\n" for type_, name in GLOBALS.items())
ROOM = 96  # bytes of `room`, which `mem` reads and writes


def user_convention(random_: random.Random) -> str:
    """A convention like c, with its argument registers turned round, and some of its registers kept or lost."""
    lines = ["convention mine like c {"]
    for target in default_targets():
        base = target.conventions["c"]
        facts = _facts(base, random_)
        if facts:
            lines.append(f"    when {target.name} {{ {' '.join(facts)} }}")
    return "\n".join([*lines, "}"])


def _facts(base: Convention, random_: random.Random) -> list[str]:
    facts = []
    if base.return_address is None and not base.integer_arguments:
        # 386: register arguments of any count, and arguments that the callee pops.
        if random_.random() < 0.5:
            facts.append("arguments " + ", ".join(random_.sample(["eax", "ecx", "edx"], random_.randrange(1, 4))))
        if random_.random() < 0.5:
            facts.append("pops callee")
    if base.integer_arguments and random_.random() < 0.8:
        registers = [r.name for r in base.integer_arguments]
        turn = random_.randrange(len(registers))
        registers = registers[turn:] + registers[:turn]
        facts.append(f"arguments {', '.join(registers)}")
    if base.float_arguments and random_.random() < 0.3:
        floats = [r.name for r in base.float_arguments]
        facts.append(f"float_arguments {', '.join(reversed(floats))}")
    special = {*base.reserved, *base.integer_arguments, *base.save_area, base.call_through}
    kept = [r for r in base.kept if r.bank is Bank.INTEGER and r not in special]
    if kept and random_.random() < 0.5:
        facts.append(f"loses {random_.choice(kept).name}")
    return facts


@dataclass
class Variable:
    name: str
    type: str
    depth: int = 0  # of a ptr<node>: how many further nodes can be reached


@dataclass
class Callee:
    name: str
    parameters: list[str]
    result: str | None
    convention: str


@dataclass
class Scope:
    variables: list[Variable]
    slots: list[Variable] = field(default_factory=list)  # that have been set
    on_stack: int = 0
    pushed: bool = False
    aligned: bool = True  # whether the stack pointer is, as callees by any convention want it
    loops: int = 0  # loops around, on this stack
    depth: int = 0

    def inner(self) -> Scope:
        return replace(self, variables=list(self.variables), slots=list(self.slots), depth=self.depth + 1)


class Program:
    """One file: `text` is its source."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.places = random.Random(f"stacks of {seed}")
        self.names = 0
        self.callees: list[Callee] = []
        self.lines = [f"# seed {seed}", STRUCTS, user_convention(self.random)]
        for _ in range(self.random.randrange(2, 6)):
            self._extern()
        for number in range(self.random.choice((1, 1, 1, 2))):
            self._trampoline(f"t{number}")
        self.text = "\n".join(self.lines) + "\n"

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def _types(self, most: int) -> list[str]:
        kinds = self.random.choice((SCALARS, SCALARS, INTEGERS, ("uptr", "ptr", "i32"), (*FLOATS, "i32", "u64")))
        return [self.random.choice(kinds) for _ in range(self.random.randrange(most + 1))]

    def _result(self) -> str | None:
        return self.random.choice((None, *SCALARS))

    def _extern(self) -> None:
        convention = self.random.choice(("c", "c", "go0", "goregs", "mine"))
        callee = Callee(self.name("ext"), self._types(self.random.choice((4, 12))), self._result(), convention)
        self._declare(callee)

    def _declare(self, callee: Callee) -> None:
        self.callees.append(callee)
        parameters = ", ".join(f"a{i}: {t}" for i, t in enumerate(callee.parameters))
        result = f" -> {callee.result}" if callee.result else ""
        clobbers = self._clobbers(callee.convention) if self.chance(0.2) else ""
        self.lines.append(f"extern {callee.name}({parameters}){result} using {callee.convention}{clobbers}")

    def _clobbers(self, convention: str) -> str:
        """All that a callee changes, where that is less than its convention allows."""
        lines = []
        for target in default_targets():
            known = target.conventions.get(convention, target.conventions["c"])
            architecture = target.architecture
            usable = [*architecture.allocatable(known), *architecture.float_allocatable(known)]
            registers = [r.name for r in usable if not known.keeps(r) and self.chance(0.4)]
            lines.append(f"    when {target.name} {{ {' '.join(registers)} }}")
        return "\n".join([" clobbers {", *lines, "}"])

    def _source(self, type_: str) -> str:
        """A new callee that returns such a value."""
        callee = Callee(self.name("ext"), [], type_, self.convention)
        self._declare(callee)
        return callee.name

    def _trampoline(self, name: str) -> None:
        self.convention = self.random.choice(("c", "c", "go0", "goregs", "mine"))
        self.result = self._result()
        variables = [Variable(f"p{i}", t) for i, t in enumerate(self._types(self.random.choice((4, 12))))]
        self.pointers: list[str] = []
        for _ in range(self.random.randrange(3)):
            variables.insert(self.random.randrange(len(variables) + 1), Variable(self.name("n"), "ptr<node>", 2))
        for _ in range(self.random.randrange(2)):
            pointer = self.name("fn")
            self.pointers.append(pointer)
            variables.insert(self.random.randrange(len(variables) + 1), Variable(pointer, "fn"))
        self.stack = self.name("st") if self.chance(0.4) else None
        if self.stack:
            variables.append(Variable(self.stack, "stack"))
        types = {"fn": "ptr", "stack": "uptr"}
        parameters = ", ".join(f"{v.name}: {types.get(v.type, v.type)}" for v in variables)
        self.budget = self.random.choice((6, 15, 30))
        result = f" -> {self.result}" if self.result else ""
        own = Callee(name, [types.get(v.type, v.type) for v in variables], self.result, self.convention)
        jump: Callee | None = None
        if self.chance(0.12):
            jump = Callee(self.name("out"), own.parameters, self.result, self.convention)
            self._declare(jump)
            self.callees.pop()
        usable = [v for v in variables if v.type not in ("fn", "stack")]
        scope = Scope(usable, aligned=self.convention not in GO)
        slots = [Variable(self.name("s"), self.random.choice(SCALARS)) for _ in range(self.random.choice((0, 0, 2, 9)))]
        body: list[str] = []
        if slots:
            body.append("    frame { " + "  ".join(f"{s.name}: {s.type}" for s in slots) + " }")
            if self.chance(0.3):
                # A struct whose fields are set and read as other slots are.
                body[-1] = body[-1].replace(" }", "  box: small }")
                slots += [Variable(f"box.{name}", type_) for name, type_ in STRUCT_SLOT.items()]
            lowest = self.random.choice((0, 1024, 4000, 40000)) if self.chance(0.3) else 0
            if lowest:
                body[-1] = body[-1].replace(" }", f" at {lowest} }}")
        self.unset = slots
        body += self._block(scope, "    ")
        ending = scope.inner()
        if jump is not None:
            arguments = [self._jumped(ending, v, types) for v in variables]
            body.append(f"    jump {jump.name}({', '.join(arguments)})")
        elif self.result and self.result in FLOATS and not self._floats(scope, self.result):
            body.append(f"    return call {self._source(self.result)}()")
        elif self.result:
            body.append(f"    return {self._value(scope, self.result)}")
        elif self.chance(0.5):
            body.append("    return")
        self.lines += [f"trampoline {name}({parameters}){result} using {self.convention} {{", *body, "}"]
        if self.stack:
            self.lines.append(f"check {name} {{ stack other given {{ {self.stack} = other.top }} }}")
        elif all(v.type not in ("fn", "ptr<node>") for v in variables) and self.convention == "c":
            self.callees.append(own)

    def _jumped(self, scope: Scope, parameter: Variable, types: dict[str, str]) -> str:
        if parameter.type in ("fn", "stack", "ptr<node>"):
            return parameter.name
        return self._value(scope, types.get(parameter.type, parameter.type))

    # ---------------------------------------------------------------------------------------------------- statements

    def _block(self, scope: Scope, indent: str) -> list[str]:
        lines: list[str] = []
        for _ in range(self.random.randrange(1, 7) if scope.depth else self.budget):
            if self.budget <= 0:
                break
            self.budget -= 1
            lines += [indent + line for line in self._statement(scope)]
        return lines

    def _statement(self, scope: Scope) -> list[str]:
        if self.chance(0.02):
            return self._asm(scope)
        if self.chance(0.02):
            return [f"if {self._condition(scope)} {{ trap }}"]
        if self.chance(0.04):
            return self._system_call(scope)
        choices = ["let"] * 6 + ["assign"] * 4 + ["call"] * 5 + ["store"] * 3 + ["slot"] * 2 + ["thread", "follow"]
        if scope.depth < 3:
            choices += ["if"] * 2 + ["while", "stack"]
        if scope.loops and self.chance(0.5):
            choices += ["leave"] * 2
        return getattr(self, "_" + self.random.choice(choices))(scope)  # type: ignore[no-any-return]

    def _let(self, scope: Scope) -> list[str]:
        variable = Variable(self.name("v"), self.random.choice(SCALARS))
        if variable.type in FLOATS and not self._floats(scope, variable.type):
            return []
        line = f"let {variable.name}: {variable.type} = {self._value(scope, variable.type)}"
        scope.variables.append(variable)
        return [line]

    def _assign(self, scope: Scope) -> list[str]:
        if self.chance(0.1):
            type_ = self.random.choice([t for t in GLOBALS if t not in FLOATS])
            return [f"{GLOBALS[type_]} = {self._value(scope, type_)}"]
        usable = [v for v in scope.variables if v.type in SCALARS and not v.name.startswith("i")]
        if not usable:
            return []
        variable = self.random.choice(usable)
        return [f"{variable.name} = {self._value(scope, variable.type)}"]

    def _slot(self, scope: Scope) -> list[str]:
        if not self.unset or scope.on_stack:
            return []
        slot = self.random.choice(self.unset)
        if slot.type in FLOATS and not self._floats(scope, slot.type):
            return []
        line = f"{slot.name} = {self._value(scope, slot.type)}"
        if slot not in scope.slots:
            scope.slots.append(slot)
        return [line]

    def _node(self, scope: Scope) -> Variable | None:
        nodes = [v for v in scope.variables if v.type == "ptr<node>"]
        return self.random.choice(nodes) if nodes else None

    def _path(self, node: Variable, *, elsewhere: bool = True) -> str:
        if elsewhere and self.chance(0.1):
            return self.random.choice(("lib.head", "lib.first", "lib.head.next", "lib.first.next"))
        return node.name + ".next" * self.random.randrange(node.depth + 1)

    def _store(self, scope: Scope) -> list[str]:
        node = self._node(scope)
        if node is None:
            return []
        if self.chance(0.5):
            name, type_ = self.random.choice(list(FIELDS.items()))
            if type_ in FLOATS and not self._floats(scope, type_):
                return []
            return [f"{self._path(node)}.{name} = {self._value(scope, type_)}"]
        type_ = self.random.choice(list(SIZES))
        if type_ in FLOATS and not self._floats(scope, type_):
            return []
        return [f"{self._memory(node, type_)} = {self._value(scope, type_)}"]

    def _memory(self, node: Variable, type_: str) -> str:
        offset = self.random.randrange(ROOM // SIZES[type_]) * SIZES[type_]
        # `room` starts at a multiple of four on 386, and loads there need not be aligned.
        return f"mem<{type_}>({self._path(node, elsewhere=False)} + offsetof(node, room) + {offset})"

    def _thread(self, scope: Scope) -> list[str]:
        if self.chance(0.5):
            return [f"g = {self._value(scope, 'ptr')} as ptr<g>"]
        variable = Variable(self.name("v"), "uptr")
        scope.variables.append(variable)
        return [f"let {variable.name} = {self.random.choice(('g as uptr', 'sp'))}"]

    def _system_call(self, scope: Scope) -> list[str]:
        types = [
            self.random.choice(("u8", "i16", "u32", "i32", "uptr", "ptr")) for _ in range(self.random.randrange(7))
        ]
        number = self._value(scope, "uptr") if self.chance(0.3) else str(self.random.choice((1, 200, 256, 5000)))
        # Widths are to be seen: an argument has its own type.
        call = f"syscall ({number})({', '.join(f'({self._value(scope, t)}) as {t}' for t in types)})"
        if self.chance(0.3):
            return [f"when linux {{ {call} }}"]
        variable = Variable(self.name("v"), self.random.choice(("uptr", "iptr")))
        scope.variables.append(variable)
        declared = f"let {variable.name}: {variable.type} ="
        return [f"when linux {{ {declared} {call} }} else {{ {declared} 0 }}"]

    def _asm(self, scope: Scope) -> list[str]:
        """A block for each target that moves a word from one register to another, and to a third that it clobbers."""
        variable = Variable(self.name("v"), self.random.choice(("uptr", "iptr", "u32", "i16", "u8")))
        lines = [f"let {variable.name}: {variable.type} = 0"]
        value = self._value(scope, "uptr")
        for target in default_targets():
            architecture = target.architecture
            convention = target.conventions.get(self.convention, target.conventions["c"])
            usable = [r for r in architecture.allocatable(convention) if r not in convention.reserved]
            one, two, three = self.random.sample(usable, 3)
            texts = " ".join(f'"{i.text}"' for r in (two, three) for i in architecture.move(r, one))
            operands = f"in {one.name} = {value}  out {two.name} = {variable.name}  clobbers {three.name}"
            lines.append(f"asm {target.name} {{ {operands}  {texts} }}")
        scope.variables.append(variable)
        return lines

    def _follow(self, scope: Scope) -> list[str]:
        node = self._node(scope)
        if node is None or not node.depth:
            return []
        variable = Variable(self.name("n"), "ptr<node>", node.depth - 1)
        scope.variables.append(variable)
        return [f"let {variable.name} = {node.name}.next"]

    def _if(self, scope: Scope) -> list[str]:
        lines = [f"if {self._condition(scope)} {{", *self._block(scope.inner(), "    ")]
        if self.chance(0.5):
            lines += ["} else {", *self._block(scope.inner(), "    ")]
        return [*lines, "}"]

    def _while(self, scope: Scope) -> list[str]:
        counter = self.name("i")
        inner = scope.inner()
        inner.loops += 1
        type_ = self.random.choice(INTEGERS)
        inner.variables.append(Variable(counter, type_))
        count = self.random.randrange(1, 5)
        condition = f"{counter} < {count}"
        if self.chance(0.3):
            condition += f" {self.random.choice(('and', 'or'))} {counter} == 0"
        return [
            f"let {counter}: {type_} = 0",
            f"while {condition} {{",
            f"    {counter} = {counter} + 1",
            *self._block(inner, "    "),
            "}",
        ]

    def _leave(self, scope: Scope) -> list[str]:
        return [f"if {self._condition(scope)} {{ {self.random.choice(('break', 'continue'))} }}"]

    def _stack(self, scope: Scope) -> list[str]:
        place = self.places.choice(("sp & -16", "sp", "sp - 64"))
        if self.stack and scope.on_stack == 0 and self.chance(0.7):
            place = f"{self.stack} & -16"
        inner = scope.inner()
        inner.on_stack += 1
        inner.aligned = scope.aligned or place.endswith("-16")
        inner.loops = 0
        pushing = ""
        if self.convention in GO and self.chance(0.5):
            pushing = f" pushing pc {self._value(scope, 'uptr')}"
            inner.pushed, inner.aligned = True, False
        else:
            inner.pushed = False
        return [f"on stack {place}{pushing} {{", *self._block(inner, "    "), "}"]

    def _call(self, scope: Scope) -> list[str]:
        # Each pointer is called from one place only: its callee has one signature.
        pointer = self.pointers.pop() if self.pointers and self.chance(0.3) else None
        if pointer is not None:
            types = [t for t in self._types(8) if t not in FLOATS or self._floats(scope, t)]
            callee = Callee(pointer, types, self._result(), self.random.choice(("c", "go0", "goregs", "mine")))
        else:
            callee = self.random.choice(self.callees)
        if self.convention in GO and callee.convention not in GO and not scope.aligned:
            # Its stack is aligned to a word only, and holds the return address where some callees have an area.
            inner = scope.inner()
            inner.on_stack += 1
            inner.pushed, inner.aligned = False, True
            return ["on stack sp & -16 {", *(f"    {line}" for line in self._call_of(callee, pointer, inner)), "}"]
        return self._call_of(callee, pointer, scope)

    def _call_of(self, callee: Callee, pointer: str | None, scope: Scope) -> list[str]:
        result = callee.result
        if pointer is not None:
            arguments = [self._argument(scope, t) for t in callee.parameters]
            how = f" using {callee.convention}" + (f" -> {result}" if result else "")
        else:
            if any(t in FLOATS and not self._floats(scope, t) for t in callee.parameters):
                return []
            arguments, how = [self._value(scope, t) for t in callee.parameters], ""
        call = f"call {callee.name}({', '.join(arguments)}){how}"
        if result and self.chance(0.7):
            variable = Variable(self.name("r"), result)
            same = [v for v in scope.variables if v.type == result]
            if same and self.chance(0.3):
                call = f"{self.random.choice(same).name} = {call}"
            else:
                call = f"let {variable.name} = {call}"
                scope.variables.append(variable)
        return [call]

    def _argument(self, scope: Scope, type_: str) -> str:
        """A value whose type can be seen: an argument of a call through a pointer."""
        return self._value(scope, type_) if type_ in FLOATS else f"({self._value(scope, type_)}) as {type_}"

    # --------------------------------------------------------------------------------------------------- expressions

    def _condition(self, scope: Scope, depth: int = 0) -> str:
        if depth < 2 and self.chance(0.25):
            operator = self.random.choice(("and", "or"))
            return f"({self._condition(scope, depth + 1)}) {operator} ({self._condition(scope, depth + 1)})"
        if depth < 2 and self.chance(0.1):
            return f"not ({self._condition(scope, depth + 1)})"
        type_ = self.random.choice(INTEGERS)
        operator = self.random.choice(("==", "!=", "<", "<=", ">", ">="))
        left = f"({self._value(scope, type_, 2)} as {type_})"
        return f"{left} {operator} {self._value(scope, type_, 2)}"

    def _floats(self, scope: Scope, type_: str) -> bool:
        """Whether a value of a floating point type can be had: there are no literals."""
        return any(v.type == type_ for v in scope.variables) or self._node(scope) is not None

    def _value(self, scope: Scope, type_: str, depth: int = 0) -> str:
        ways = ["global"] if type_ in GLOBALS else []
        same = [v.name for v in scope.variables if v.type == type_]
        if not scope.on_stack:
            same += [v.name for v in scope.slots if v.type == type_]
        node = self._node(scope)
        if same:
            ways += ["variable"] * 6
        if node is not None:
            ways += ["field"] * 2
            if type_ in SIZES:
                ways.append("memory")
        if type_ == "ptr<node>":
            assert node is not None
            return node.name
        if type_ in FLOATS:
            if not ways:
                raise AssertionError("no float is there")
        elif type_ == "ptr":
            ways += ["null", "symbol", "cast"]
        else:
            ways += ["literal"] * 2 + ["cast"] * 2
            if depth < 3:
                ways += ["binary"] * 5 + ["unary", "shift"]
        match self.random.choice(ways):
            case "variable":
                return self.random.choice(same)
            case "field":
                assert node is not None
                fields = [name for name, t in FIELDS.items() if t == type_]
                if fields:
                    return f"{self._path(node)}.{self.random.choice(fields)}"
                return self._value(scope, type_, depth)
            case "global":
                return GLOBALS[type_]
            case "memory":
                assert node is not None
                return self._memory(node, type_)
            case "null":
                return "null"
            case "symbol":
                return f"&{self.random.choice(self.callees).name}"
            case "literal":
                return self._literal(type_)
            case "cast":
                other = "uptr" if type_ == "ptr" else self.random.choice((*INTEGERS, "ptr"))
                return f"(({self._value(scope, other, depth + 1)} as {other}) as {type_})"
            case "unary":
                operator = self.random.choice("~-")
                return f"({operator}({self._value(scope, type_, depth + 1)} as {type_}))"
            case "shift":
                if type_ in ("u64", "i64"):
                    return self._value(scope, type_, depth + 1)
                bits = 32 if type_ in ("uptr", "iptr") else 8 * SIZES[type_]
                left = f"({self._value(scope, type_, depth + 1)} as {type_})"
                operator = self.random.choice(("<<", ">>"))
                if self.chance(0.3):
                    return f"({left} {operator} ({self._value(scope, type_, depth + 1)} & {bits - 1}))"
                return f"({left} {operator} {self.random.randrange(bits)})"
            case _:
                operators = ["+", "-", "&", "|", "^"] + ([] if type_ in ("u64", "i64") else ["*"])
                left = f"({self._value(scope, type_, depth + 1)} as {type_})"
                return f"({left} {self.random.choice(operators)} {self._value(scope, type_, depth + 1)})"

    def _literal(self, type_: str) -> str:
        bits = 32 if type_ in ("uptr", "iptr") else 8 * SIZES[type_]
        signed = type_.startswith("i")
        low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        return str(self.random.choice((0, 1, 2, 7, high, low, high // 2, self.random.randint(low, high))))


def program(seed: int) -> str:
    """The source of one random file."""
    return Program(seed).text
