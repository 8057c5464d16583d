"""Calls, system calls and jumps to others, resolved."""

from __future__ import annotations

from collections.abc import Sequence

from . import ir
from . import syntax as s
from .diagnostics import listed, suggestion
from .expressions import ExpressionResolver
from .target import MOST_SYSTEM_ARGUMENTS, Convention


class CallResolver(ExpressionResolver):
    """Resolves what goes elsewhere."""

    def _callee(
        self, call: s.CallExpression
    ) -> tuple[str | ir.Expression, ir.Signature | None, Convention | None] | None:
        name = str(call.callee)
        signatures = self.environment.signatures
        if name in self.environment.variadic:
            message = f"`{name}` takes any number of words, and is called from elsewhere only"
            notes = [f"`&{name}` is its address"]
            self.report.error("R084", message, call.callee.span, notes=notes)
            return None
        if name in self.environment.entered and not self.scope.check:
            self._not_through_the_table(name, call.callee.span)
            return None
        if name in signatures:
            if call.convention is not None:
                message = f"`{name}` has been declared: using {signatures[name].convention.name}"
                self.report.error("R058", message, call.convention.span)
            return name, signatures[name], signatures[name].convention
        known = call.callee.parts[0] in self.scope.variables or call.callee.parts[0] == "g"
        if known or self._extern_variable(call.callee) is not None:
            address = self._path(s.Path(call.callee, call.callee.span), None)
            if address is None:
                return None
            if address.type.bits != 8 * self.environment.word or address.type.kind == "float":
                message = f"`{name}` is {address.type}, and what is called is an address"
                self.report.error("R046", message, call.callee.span)
                return None
            if call.convention is None:
                message = f"`{name}` is called through a pointer: say by which convention"
                self.report.error("R058", message, call.callee.span, notes=[f"`call {name}(...) using c`"])
                return None
            convention = self.environment.convention(call.convention)
            return None if convention is None else (address, None, convention)
        if name in self.environment.misdeclared:
            return None
        notes = suggestion(name, [*signatures, *self.scope.variables])
        message = f"there is no extern, trampoline or variable `{name}` to call"
        self.report.error("R022", message, call.callee.span, notes=notes)
        return None

    def _arguments(self, call: s.CallExpression, signature: ir.Signature | None) -> tuple[ir.Expression, ...] | None:
        if signature is None:
            values = [self.expression(argument) for argument in call.arguments]
        else:
            if len(call.arguments) != len(signature.parameters):
                count = len(signature.parameters)
                plural = "s" * (count != 1)
                message = f"`{signature.name}` takes {count} argument{plural}, and here are {len(call.arguments)}"
                related = [(self.environment.where(signature.name, s.Extern, s.Trampoline), "declared here")]
                self.report.error("R059", message, call.span, related=related)
                for argument in call.arguments:
                    self.expression(argument)
                return None
            values = [
                self.value(argument, type_, f"parameter `{name}`")
                for argument, (name, type_) in zip(call.arguments, signature.parameters, strict=True)
            ]
        made = tuple(value for value in values if value is not None)
        return made if len(made) == len(values) else None

    def _call(self, call: s.CallExpression, expected: ir.Type | None, *, wanted: bool = False) -> ir.Call | None:
        if call.number is not None:
            return self._system_call(call, call.number, expected, wanted=wanted)
        if call.at is not None and not self.scope.check:
            self.report.error("R050", "`at` belongs in a check", call.at.span, notes=["use `on stack`"])
        found = self._callee(call)
        if found is None:
            for argument in call.arguments:
                self.expression(argument)
            return None
        callee, signature, convention = found
        assert convention is not None
        arguments = self._arguments(call, signature)
        result = signature.result if signature else None
        if call.result is not None:
            if signature is not None:
                self.report.error("R058", f"the result of `{signature.name}` has been declared", call.result.span)
            result = self.environment.layouts.type(call.result)
        if wanted and result is None:
            if signature is None and call.result is None:
                notes = [f"`call {call.callee}(...) using {convention.name} -> uptr`"]
                self.report.error("R057", "this call's result has no type", call.span, notes=notes)
            elif signature is not None:
                related = [(self.environment.where(signature.name, s.Extern, s.Trampoline), "declared here")]
                self.report.error("R057", f"`{signature.name}` returns nothing", call.span, related=related)
            return None
        if wanted and expected is not None and result is not None:
            alike = result.bits == expected.bits and (result.kind == "float") == (expected.kind == "float")
            if not alike or (result.struct and expected.struct and result.struct != expected.struct):
                message = f"{expected} is wanted, and the call returns {result}"
                notes = [f"`let x = call {call.callee}(...)`, then `x as {expected}`"]
                floating = "float" in (result.kind, expected.kind)
                self.report.error("R049", message, call.span, notes=[] if floating else notes)
                return None
        at = self.value(call.at, self.word_type, "a stack pointer") if call.at is not None else None
        if self.scope.check and call.at is None:
            notes = [f"`call {call.callee}(...) at sp`"]
            self.report.error("R058", "a check says on which stack it calls", call.span, notes=notes)
        if arguments is None:
            return None
        if signature is None and not self.environment.places(
            convention, [a.type for a in arguments], result, call.span
        ):
            return None
        if not self.scope.check and signature is not None and not self._aligned(convention, call):
            return None
        clobbers = signature.clobbers if signature else None
        return ir.Call(callee, arguments, convention, result, None, clobbers, call.span, at)

    def _system_call(
        self, call: s.CallExpression, number_node: s.Expression, expected: ir.Type | None, *, wanted: bool
    ) -> ir.Call | None:
        target = self.environment.target
        kernel = target.architecture.system_calls
        number = self.value(number_node, self.word_type, "the number of a system call")
        values = [self.expression(argument) for argument in call.arguments]
        before = len(self.report.diagnostics)
        if self.scope.check:
            notes = ["`on syscall(number, ...) { }` answers it"]
            self.report.error("R050", "`syscall` belongs in a trampoline", call.span, notes=notes)
        if kernel is None:
            notes = ["call a function of the system's libraries", "`when linux { }` keeps it to where it works"]
            self.report.error("R072", f"{target.name} has no system calls that stay the same", call.span, notes=notes)
        if len(call.arguments) > MOST_SYSTEM_ARGUMENTS:
            message = (
                f"a system call takes {MOST_SYSTEM_ARGUMENTS} arguments at most, and here are {len(call.arguments)}"
            )
            self.report.error("R073", message, call.span)
        for argument, value in zip(call.arguments, values, strict=True):
            if value is not None and (value.type.kind == "float" or value.type.bits > 8 * self.environment.word):
                message = f"a system call takes words, and this is {value.type}"
                notes = [] if value.type.kind == "float" else ["pass its halves, in the order that the kernel wants"]
                self.report.error("R073", message, argument.span, notes=notes)
        if (
            wanted
            and expected is not None
            and (expected.bits != self.word_type.bits or expected.kind == "float" or expected.struct)
        ):
            message = f"{expected} is wanted, and a system call returns {self.word_type}"
            notes = ["`let x = syscall ...`, then `x as ...`"]
            self.report.error("R049", message, call.span, notes=[] if expected.kind == "float" else notes)
        arguments = tuple(value for value in (number, *values) if value is not None)
        if kernel is None or len(arguments) <= len(values) or len(self.report.diagnostics) > before:
            return None
        return ir.Call(ir.SYSTEM_CALL, arguments, kernel.convention, self.word_type, None, None, call.span)

    def _aligned(self, callee: Convention, call: s.CallExpression) -> bool:
        """Inside `on stack` the block's stack pointer is the programmer's; elsewhere the entry's alignment must do."""
        own = self.signature.convention if self.signature else None
        if own is None or self.scope.stack or callee.alignment <= own.alignment:
            return True
        message = (
            f"{callee.name} wants the stack aligned to {callee.alignment}, and a {own.name} function on"
            f" {self.environment.target.name} is entered with {own.alignment}"
        )
        notes = [f"align it around the call: `on stack sp & -{callee.alignment} {{ ... }}`"]
        self.report.error("R060", message, call.span, notes=notes)
        return False

    def _jump(self, node: s.Jump) -> Sequence[ir.Statement]:
        if self.scope.check or self.scope.stack:
            message = "`jump` belongs in a trampoline, outside `on stack`"
            self.report.error("R050", message, node.span)
            return []
        found = self._callee(node.call)
        if found is None:
            return []
        callee, signature, convention = found
        arguments = self._arguments(node.call, signature)
        if arguments is None or convention is None or self.signature is None:
            return []
        own = self.signature.convention
        if own.return_address is not convention.return_address or own.callee_pops != convention.callee_pops:
            message = f"{convention.name} does not return the way {own.name} does, so this must be a call"
            self.report.error("R061", message, node.span)
            return []
        toc = self.environment.target.architecture.toc
        if toc is not None and convention.keeps(toc) and not isinstance(callee, str):
            message = f"what a pointer leads to may be of another module, and leave its table of contents in {toc.name}"
            self.report.error("R061", message, node.span, notes=["call and return instead"])
            return []
        own_types = [v.type.value_type for v in self.signature_parameters()]
        available = own.place(own_types, None).stack_bytes
        needed = convention.place([a.type.value_type for a in arguments], None).stack_bytes
        if needed > max(available, convention.first_stack_argument):
            message = f"a jump has the caller's {available} bytes of arguments in memory, and this needs {needed}"
            self.report.error("R061", message, node.span, notes=["call and return instead"])
            return []
        lost = [
            r.name
            for r, mask in own.kept.items()
            if mask & ~convention.keeps(r) and r is not self.environment.target.architecture.sp
        ]
        if lost and convention is not own:
            message = f"{own.name} keeps registers that {convention.name} does not, and nobody is left to restore them"
            notes = ["lost: " + listed(lost), "call and return instead"]
            self.report.error("R061", message, node.span, notes=notes)
            return []
        return [ir.TailCall(callee, arguments, convention, node.span)]

    def signature_parameters(self) -> Sequence[ir.Variable]:
        return [v for v in self.scope.variables.values() if v.kind == "parameter"]
