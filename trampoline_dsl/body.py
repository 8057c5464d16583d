"""Statements of one body, resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from . import ir
from . import syntax as s
from .calls import CallResolver
from .diagnostics import Span, listed, suggestion
from .layout import pointer_to
from .scope import Scope
from .target import (
    Bank,
    Register,
    allocatable,
    float_allocatable,
)

if TYPE_CHECKING:
    from .resolve import Environment


class BodyResolver(CallResolver):
    """Resolves the statements of one trampoline or one check."""

    def __init__(self, environment: Environment, scope: Scope, signature: ir.Signature | None) -> None:
        super().__init__(environment, scope, signature)
        self.slots: list[ir.Variable] = []
        self.save = True
        self.suspends = self.switches = False  # whether it suspends its caller, and resumes another
        self.switched: s.SwitchStack | None = None
        self.handler_result: ir.Type | None = None
        self.result_is_known = True  # there is none, or it has a type
        self.depth_of: dict[ir.Variable, int] = {}

    def block(self, node: s.Block) -> tuple[ir.Statement, ...]:
        """The statements of a block in a scope of their own."""
        outer = self.scope
        self.scope = outer.inner()
        statements = tuple(self._statements(node.statements))
        inner = self.scope
        self.scope = outer
        self.last_set = inner.set_slots
        return statements

    def _statements(self, nodes: Sequence[s.Statement]) -> Sequence[ir.Statement]:
        made: list[ir.Statement] = []
        for node in nodes:
            made += _STATEMENTS[node.__class__](self, node)
        return made

    def _call_statement(self, node: s.Call) -> Sequence[ir.Statement]:
        made = self._call(node.call, None)
        return [made] if made is not None else []

    def _save_statement(self, node: s.Save) -> Sequence[ir.Statement]:
        if node.place is not None:
            return self._save_frame(node)
        self._save(node)
        return []

    def _resume(self, node: s.Resume) -> Sequence[ir.Statement]:
        stack = self.value(node.sp, self.word_type, "the stack pointer")
        address = self.value(node.pc, self.word_type, "the program counter")
        if self.scope.check:
            self.report.error("R050", "`resume` belongs in a trampoline", node.span)
        return [ir.Resume(stack, address, node.span)] if stack is not None and address is not None else []

    def _trap(self, node: s.Trap) -> Sequence[ir.Statement]:
        if self.scope.check:
            notes = ["a check fails by `expect`"]
            self.report.error("R050", "`trap` belongs in a trampoline", node.span, notes=notes)
        return [ir.Trap(node.span)]

    def _when(self, node: s.When) -> Sequence[ir.Statement]:
        """A `when` is no scope of its own: what it declares is there for the statements behind it."""
        chosen = node.then if self.environment.holds(node.targets) else node.otherwise
        return self._statements(chosen.statements) if chosen is not None else []

    def _expect(self, node: s.Expect) -> Sequence[ir.Statement]:
        if not self.scope.check:
            self.report.error("R050", "`expect` belongs in a check", node.span, notes=["`check NAME { ... }`"])
        condition = self.condition(node.condition)
        return [ir.Expect(condition, node.span)] if condition is not None else []

    # --------------------------------------------------------------------------------------------- saves and the frame

    def _save(self, node: s.Save) -> None:
        what = str(node.what)
        if what == "callee_saves":
            self.save = True
        elif what == "none":
            self.save = False
        else:
            notes = [*suggestion(what, ["callee_saves", "none"]), "`save callee_saves` or `save none`"]
            self.report.error("R051", f"`{what}` is no set of registers", node.what.span, notes=notes)
        if self.scope.check:
            self.report.error("R050", "`save` belongs in a trampoline", node.span)

    def _save_frame(self, node: s.Save | s.Restore) -> Sequence[ir.Statement]:
        """`save callee_saves in a.b`, `restore callee_saves from a.b`: the field has to have room for them."""
        if str(node.what) != "callee_saves":
            self.report.error("R051", f"`{node.what}` is nothing that can be kept elsewhere", node.what.span)
            return []
        restores = isinstance(node, s.Restore)
        what = "`restore callee_saves`" if restores else "`save callee_saves in`"
        place = node.place
        assert place is not None
        variable = self.scope.variables.get(place.parts[0])
        if self.scope.check or self.scope.stack:
            self.report.error("R099", f"{what} belongs in the body of a trampoline", node.span)
        elif restores and self.switched is None:
            notes = ["behind `switch stack`, which goes to where they belong"]
            self.report.error(
                "R099", f"{what} would overwrite the frame that its own caller needs", node.span, notes=notes
            )
        elif not restores and not self.suspends:
            notes = ["behind the signature: `suspends PARAMETER`"]
            self.report.error("R099", f"{what}: nothing says that this call is suspended", node.span, notes=notes)
        elif variable is None or len(place.parts) < 2:
            notes = [
                "`restore callee_saves from POINTER.FIELD`" if restores else "`save callee_saves in POINTER.FIELD`"
            ]
            self.report.error("R099", f"`{place}` is no field of a struct", place.span, notes=notes)
        else:
            found = self._reach(self._base_of(variable, place.span), place.parts, place.spans)
            if found is not None:
                address, field_, offset = found
                return [ir.SaveFrame(address, offset, field_.size, restores, node.span)]
        return []

    def _frame(self, node: s.FrameBlock) -> Sequence[ir.Statement]:
        if self.scope.check or self.scope.stack:
            self.report.error("R050", "`frame` belongs at the top of a trampoline", node.span)
            return []
        for slot in node.slots:
            layout = self._struct_named(slot.type)
            type_: ir.Type | None
            if layout is not None:
                type_ = pointer_to(layout.name, 8 * self.environment.word)
            else:
                type_ = self.environment.layouts.type(slot.type, place="slot")
            pin: int | None = None
            if slot.place is not None and not isinstance(slot.place, str):
                pin = self.constant(slot.place)
                if pin is not None and not 0 <= pin < 1 << 16:
                    self.report.error("R052", f"a slot is at 0 to 65535 bytes above sp, not at {pin}", slot.place.span)
            place = "bottom" if slot.place == "bottom" else pin
            known = type_ or self.word_type
            kind: Literal["slot", "struct"] = "slot" if layout is None else "struct"
            size, alignment = (layout.size, layout.alignment) if layout is not None else (0, 0)
            variable = ir.Variable(slot.name, known, kind, slot.span, place, size, alignment)  # type: ignore[arg-type]  # "bottom" or int
            self._declare(variable)
            if type_ is None:
                self.untyped.add(variable)
            self.slots.append(variable)
        return []

    def _struct_named(self, type_: s.TypeName) -> ir.StructLayout | None:
        """The struct that a slot's type is, with a size and no mistake; None where it is another type."""
        layouts = self.environment.layouts
        if type_.pointee is not None or type_.count is not None or type_.name not in layouts.declarations:
            return None
        layout = layouts.struct(type_.name, type_.span)
        return layout if layout is not None and layout.size else None

    def _declare(self, variable: ir.Variable) -> None:
        known = self.scope.variables.get(variable.name)
        if known is not None:
            message = f"`{variable.name}` is declared twice"
            self.report.error("R002", message, variable.span, related=[(known.span, "first here")])
        elif variable.name == "g" and variable.kind != "parameter":
            self.report.error("R002", "`g` is the runtime's thread", variable.span, notes=["take another name"])
        self.scope.variables[variable.name] = variable
        self.depth_of[variable] = self.scope.stack

    # ----------------------------------------------------------------------------------------------------- assignments

    def _let(self, node: s.Let) -> Sequence[ir.Statement]:
        type_ = self.environment.layouts.type(node.type) if node.type else None
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, type_, wanted=True)
            if made is None or made.result is None:
                self._declare_untyped(node, type_)
                return []
            variable = ir.Variable(node.name, type_ or made.result, "local", node.name_span)
            self._declare(variable)
            return [_with_variable(made, variable)]
        value = self.value(node.value, type_, f"`{node.name}`") if type_ else self.expression(node.value)
        if value is None or (node.type is not None and type_ is None):
            self._declare_untyped(node, type_)
            return []
        variable = ir.Variable(node.name, type_ or value.type, "local", node.name_span)
        self._declare(variable)
        return [ir.Assign(variable, value, node.span)]

    def _declare_untyped(self, node: s.Let, type_: ir.Type | None) -> None:
        """Declared in spite of its mistake, so that its uses are not reported as well."""
        variable = ir.Variable(node.name, type_ or self.word_type, "local", node.name_span)
        self._declare(variable)
        if type_ is None:
            self.untyped.add(variable)

    def _assign(self, node: s.Assign) -> Sequence[ir.Statement]:
        if isinstance(node.place, s.Memory):
            type_ = self.environment.layouts.type(node.place.type)
            where = self._address(node.place.address)
            value = self._right_side(node.value, type_, "this memory") if type_ else None
            if type_ is not None and where is not None and value is not None:
                return [ir.Store(where[0], where[1], value, type_, node.span)]
            return []
        if isinstance(node.place, s.Special):
            value = self._right_side(node.value, self.word_type, "`g place`")
            if self._has_place(node.place.span) and value is not None:
                return [ir.SetThreadPlace(value, node.span)]
            return []
        parts, spans = node.place.name.parts, node.place.name.spans
        first = parts[0]
        variable = self.scope.variables.get(first)
        base: ir.Expression | None
        if variable is not None and variable.kind == "stack":
            self.report.error("R039", f"{first} is a stack and cannot be set", node.span)
            return []
        if variable is not None and variable in self.untyped:
            self.scope.set_slots.add(variable)
            if not isinstance(node.value, s.CallExpression):
                self.expression(node.value)
            return []
        if variable is not None:
            if len(parts) == 1:
                return self._assign_variable(variable, node)
            if not self._may_use(variable, spans[0]):
                return []
            base = self._base_of(variable, spans[0])
        elif (name := self._extern_variable(node.place.name)) is not None:
            place = self._variable_place(name)
            if place is not None:
                return self._store(node, *place)
            return []
        elif first == "g":
            if len(parts) == 1:
                thread = self._thread(spans[0])
                value = self._right_side(node.value, self.thread_type(), "`g`")
                if thread is not None and value is not None:
                    if self._indirect():
                        local = ir.ThreadPlace(self.word_type, spans[0])
                        return [ir.Store(local, 0, value, self.thread_type(), node.span)]
                    return [ir.SetThread(value, node.span)]
                return []
            base = self._thread_base(spans[0])
        elif first == "sp" and len(parts) == 1:
            notes = ["`on stack` switches for a while, `resume` for good"]
            self.report.error("R053", "`sp` is not set directly", node.span, notes=notes)
            return []
        else:
            self._unknown_name(node.place.name)
            return []
        if base is None:
            return []
        reached = self._reach(base, parts, spans)
        if reached is None:
            return []
        address, field_, offset = reached
        return self._store(node, address, offset, field_.type, field_.count is not None)

    def _store(
        self, node: s.Assign, address: ir.Expression, offset: int, type_: ir.Type | str, array: bool
    ) -> Sequence[ir.Statement]:
        assert isinstance(node.place, s.Path)
        if isinstance(type_, str) or array:
            self.report.error("R040", f"`{node.place.name}` is not a value that can be set", node.place.span)
            return []
        value = self._right_side(node.value, type_, f"`{node.place.name}`")
        if value is not None:
            return [ir.Store(address, offset, value, type_, node.span)]
        return []

    def _right_side(self, node: s.Expression, type_: ir.Type, what: str) -> ir.Expression | None:
        if isinstance(node, s.CallExpression):
            notes = ["`let x = call f()`, then use x"]
            self.report.error("R035", "a call's result is first given a name", node.span, notes=notes)
            return None
        return self.value(node, type_, what)

    def _assign_variable(self, variable: ir.Variable, node: s.Assign) -> Sequence[ir.Statement]:
        if not self._may_use(variable, node.place.span, write=True):
            return []
        if variable.kind in ("object", "struct"):
            what = "an object" if variable.kind == "object" else "a struct"
            self.report.error("R053", f"`{variable.name}` is {what}; set its fields", node.span)
            return []
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, variable.type, wanted=True)
            if made is not None:
                self.scope.set_slots.add(variable)
                return [_with_variable(made, variable)]
            return []
        value = self.value(node.value, variable.type, f"`{variable.name}`")
        if value is not None:
            self.scope.set_slots.add(variable)
            return [ir.Assign(variable, value, node.span)]
        return []

    # ------------------------------------------------------------------------------------ branches, loops, stacks, ends

    def _if(self, node: s.If) -> Sequence[ir.Statement]:
        condition = self.condition(node.condition)
        then = self.block(node.then)
        after_then = self.last_set if not ends(then) else None
        otherwise: tuple[ir.Statement, ...] = ()
        after_else: set[ir.Variable] | None = set(self.scope.set_slots)
        if node.otherwise is not None:
            otherwise = self.block(node.otherwise)
            after_else = self.last_set if not ends(otherwise) else None
        ways = [way for way in (after_then, after_else) if way is not None]
        if ways:
            self.scope.set_slots = set.intersection(*ways)
        if condition is not None:
            return [ir.If(condition, then, otherwise, node.span)]
        return []

    def _while(self, node: s.While) -> Sequence[ir.Statement]:
        condition = self.condition(node.condition)
        saved = self.scope.in_loop, self.scope.loop
        self.scope.in_loop, self.scope.loop = True, self.scope.stack
        body = self.block(node.body)
        self.scope.in_loop, self.scope.loop = saved
        if condition is not None:
            return [ir.While(condition, body, node.span)]
        return []

    def _leave_loop(self, node: s.Break | s.Continue) -> Sequence[ir.Statement]:
        span = node.span
        word = "break" if isinstance(node, s.Break) else "continue"
        if not self.scope.in_loop:
            self.report.error("R054", f"`{word}` outside a loop", span)
        elif self.scope.loop != self.scope.stack:
            self.report.error("R054", f"`{word}` would jump out of `on stack`", span, notes=["let the block end first"])
        else:
            return [ir.Break(span) if word == "break" else ir.Continue(span)]
        return []

    def _on_stack(self, node: s.OnStack) -> Sequence[ir.Statement]:
        if self.scope.check:
            self.report.error("R050", "`on stack` belongs in a trampoline", node.span, notes=["use `call f() at sp`"])
        stack = self.value(node.stack, self.word_type, "a stack pointer")
        pc = self.value(node.pc, self.word_type, "a program counter") if node.pc is not None else None
        convention = self.signature.convention if self.signature else None
        if node.pc is not None and convention is not None and convention.return_slot == "none":
            message = f"{convention.name} fixes no place in a frame for a return address, so none can be pushed"
            notes = [f"a {convention.name} trampoline can switch stacks without `pushing pc`"]
            self.report.error("R055", message, node.pc.span, notes=notes)
            pc = None
        outer = self.scope
        self.scope = outer.inner()
        self.scope.stack += 1
        self.scope.pushed = node.pc is not None
        body = tuple(self._statements(node.body.statements))
        self.scope = outer
        if stack is not None and (node.pc is None or pc is not None):
            return [ir.OnStack(stack, pc, body, node.span)]
        return []

    def _switch_stack(self, node: s.SwitchStack) -> Sequence[ir.Statement]:
        stack = self.value(node.stack, self.word_type, "the stack pointer")
        if self.scope.check:
            self.report.error("R099", "`switch stack` belongs in a trampoline", node.span)
        elif self.scope.stack:
            message = "`switch stack` inside `on stack`: no other frame has got so far"
            self.report.error("R099", message, node.span, notes=["end the block before"])
        elif self.slots:
            message = "behind `switch stack` the slots of `frame` are those of another call"
            notes = ["keep what both sides need in what the context points to"]
            self.report.error("R099", message, node.span, notes=notes, related=[(self.slots[0].span, "the first slot")])
        elif self.switches is False:
            message = "`switch stack` goes on in another call, and nothing says in which"
            notes = ["behind the signature: `suspends PARAMETER resumes PARAMETER`"]
            self.report.error("R099", message, node.span, notes=notes)
        self.switched = node
        if stack is not None:
            return [ir.SwitchStack(stack, node.span)]
        return []

    def _return(self, node: s.Return) -> Sequence[ir.Statement]:
        wanted = self.handler_result if self.scope.check else (self.signature.result if self.signature else None)
        if self.scope.stack:
            message = "`return` inside `on stack`: the block ends first, and restores the stack"
            self.report.error("R056", message, node.span)
            return []
        popping = self._popping(node)
        if node.value is None:
            if wanted is not None and not self.scope.check and self.result_is_known:
                self.report.error("R057", f"this trampoline returns {wanted}, and here nothing", node.span)
                return []
            return [ir.Return(None, node.span, popping)]
        if wanted is None:
            notes = ["give it a result: `trampoline f() -> uptr using ...`"]
            self.report.error("R057", "there is no result to return a value as", node.span, notes=notes)
            return []
        if isinstance(node.value, s.CallExpression):
            made = self._call(node.value, wanted, wanted=True)
            if made is not None:
                variable = ir.Variable("result", wanted, "local", node.span)
                back = ir.Return(ir.Read(variable, node.span), node.span, popping)
                return [_with_variable(made, variable), back]
            return []
        if not self.result_is_known:
            self.expression(node.value)  # for what is wrong in itself
            return []
        value = self.value(node.value, wanted, "the result")
        if value is not None:
            return [ir.Return(value, node.span, popping)]
        return []

    def _popping(self, node: s.Return) -> ir.Expression | None:
        """The bytes of arguments that a return takes off the stack, where it says so itself."""
        popping = node.popping
        variadic = self.signature is not None and self.trampoline in self.environment.variadic
        architecture = self.environment.target.architecture
        if popping is None:
            if variadic and self.signature is not None and self.signature.convention.callee_pops:
                self._does_not_pop(node.span)
            return None
        if self.scope.check:
            self.report.error("R050", "`popping` belongs in a trampoline", popping.span)
            return None
        bytes_ = self.value(popping, self.word_type, "a number of bytes")
        if architecture.pop_register is None:
            message = f"on {self.environment.target.name} nobody pops the caller's arguments"
            notes = ["`when 386 { return x popping n } else { return x }`"]
            self.report.error("R085", message, popping.span, notes=notes)
        elif not variadic:
            notes = ["how many bytes a call passes is known here, and a convention with `pops callee` takes them off"]
            self.report.error("R085", "`popping` is for a trampoline of any words", popping.span, notes=notes)
        return bytes_

    def _does_not_pop(self, span: Span) -> None:
        convention = self.signature.convention.name if self.signature is not None else ""
        message = f"{convention} pops the arguments, and nothing says how many bytes there are"
        self.report.error("R085", message, span, notes=["`return x popping BYTES`"])

    # ----------------------------------------------------------------------------------------------------------- asm

    def _asm(self, node: s.Asm) -> Sequence[ir.Statement]:
        if self.scope.check:
            self.report.error("R050", "`asm` belongs in a trampoline", node.span)
            return []
        if not self.environment.holds(node.targets):
            return []
        before = len(self.report.diagnostics)
        inputs = []
        for operand in node.inputs:
            assert not isinstance(operand.value, str)
            register = self._asm_register(operand.register, operand.register_span)
            value = self.expression(operand.value, self.word_type)
            if register is not None and value is not None and self._asm_holds(register, value.type, operand.span):
                inputs.append((register, value))
        outputs = []
        for operand in node.outputs:
            register = self._asm_register(operand.register, operand.register_span)
            variable = self._asm_variable(str(operand.value), register, operand.span)
            if register is None or variable is None:
                continue
            if self._asm_holds(register, variable.type, operand.span):
                outputs.append((register, variable))
        named = (self._asm_register(str(c), c.span, clobber=True) for c in node.clobbers)
        clobbers = {register for register in named if register is not None}
        for what, registers in (("in", [r for r, _ in inputs]), ("out", [r for r, _ in outputs])):
            if len(set(registers)) != len(registers):
                self.report.error("R062", f"a register is named twice in `{what}`", node.span)
        if not node.lines:
            self.report.error("R062", "this `asm` has no instruction", node.span, notes=['write it as a text: "nop"'])
        if len(self.report.diagnostics) == before:
            lines = tuple((line.text, line.span) for line in node.lines)
            return [ir.Asm(tuple(inputs), tuple(outputs), frozenset(clobbers), lines, node.span)]
        return []

    def _asm_register(self, name: str, span: Span, *, clobber: bool = False) -> Register | None:
        architecture = self.environment.target.architecture
        register = self.environment.register(s.Name((name,), (span,), span))
        if register is None:
            return None
        if register is architecture.sp:
            message = f"{register.name} is the stack pointer, which `asm` may not change"
            self.report.error("R063", message, span)
            return None
        convention = self.signature.convention if self.signature else None
        if convention is not None and register in convention.reserved:
            message = f"{register.name} is reserved: {convention.reserved[register]}"
            self.report.error("R063", message, span)
            return None
        if not clobber and convention is not None:
            usable = (*allocatable(architecture, convention), *float_allocatable(architecture, convention))
            if register not in usable:
                message = f"{register.name} cannot hold a value in {convention.name} code"
                notes = ["usable here: " + listed((r.name for r in usable), 40)]
                self.report.error("R063", message, span, notes=notes)
                return None
        return register

    def _asm_holds(self, register: Register, type_: ir.Type, span: Span) -> bool:
        """Whether a value of the type fits the register: reported if not."""
        floating = register.bank is not Bank.INTEGER
        if (type_.kind == "float") == floating and (floating or type_.bits <= 8 * self.environment.word):
            return True
        what = "a floating point value" if floating else f"an integer of {8 * self.environment.word} bits or less"
        self.report.error("R065", f"{register.name} holds {what}, and this is {type_}", span)
        return False

    def _asm_variable(self, name: str, register: Register | None, span: Span) -> ir.Variable | None:
        known = self.scope.variables.get(name)
        if known is not None:
            if known.kind in ("slot", "struct"):
                self.report.error("R064", f"`{name}` is in memory; take the output in a variable first", span)
                return None
            return known
        floating = register is not None and register.bank is not Bank.INTEGER
        variable = ir.Variable(name, self._scalar("f64") if floating else self.word_type, "local", span)
        self._declare(variable)
        return variable


_STATEMENTS: Mapping[type, Callable[[BodyResolver, Any], Sequence[ir.Statement]]] = {
    s.Let: BodyResolver._let,
    s.Assign: BodyResolver._assign,
    s.Call: BodyResolver._call_statement,
    s.Save: BodyResolver._save_statement,
    s.Restore: BodyResolver._save_frame,
    s.FrameBlock: BodyResolver._frame,
    s.Jump: BodyResolver._jump,
    s.Return: BodyResolver._return,
    s.Resume: BodyResolver._resume,
    s.Trap: BodyResolver._trap,
    s.If: BodyResolver._if,
    s.While: BodyResolver._while,
    s.Break: BodyResolver._leave_loop,
    s.Continue: BodyResolver._leave_loop,
    s.OnStack: BodyResolver._on_stack,
    s.SwitchStack: BodyResolver._switch_stack,
    s.When: BodyResolver._when,
    s.Asm: BodyResolver._asm,
    s.Expect: BodyResolver._expect,
}


def _with_variable(call: ir.Call, variable: ir.Variable) -> ir.Call:
    return ir.Call(
        call.callee, call.arguments, call.convention, call.result, variable, call.clobbers, call.span, call.at
    )


def ends(body: Sequence[ir.Statement]) -> bool:
    """Whether the end of a list of statements is never reached."""
    for statement in body:
        if statement.__class__ in _ENDING:
            return True
        if isinstance(statement, ir.If):
            if statement.otherwise and ends(statement.then) and ends(statement.otherwise):
                return True
        elif isinstance(statement, ir.OnStack) and ends(statement.body):
            return True
    return False


_ENDING = frozenset({ir.Return, ir.TailCall, ir.Resume, ir.Trap, ir.Break, ir.Continue})
