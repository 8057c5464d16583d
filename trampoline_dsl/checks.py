"""Checks, resolved: the worlds that a trampoline is to be tried in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from . import ir
from . import syntax as s
from .body import BodyResolver
from .diagnostics import suggestion
from .layout import pointer_to
from .target import MOST_SYSTEM_ARGUMENTS


class CheckResolver(BodyResolver):
    """Resolves one check."""

    def scenario(self, item: s.Check, function: ir.Function, functions: Mapping[str, ir.Function]) -> ir.Scenario:
        """A check. Its objects, stacks and variables come first, whatever their order among the other items."""
        self.scope.check = True
        self.signature = None
        self.trampoline = function.name
        items = list(self._check_items(item.items))
        arguments = tuple(ir.Variable(v.name, v.type, "parameter", v.span) for v in function.parameters)
        for variable in arguments:
            self._declare(variable)
        if function.name in self.environment.misdeclared:
            self.untyped.update(arguments)
        objects, stacks = self._check_world(items)
        variables: list[tuple[ir.Variable, ir.Expression | None]] = []
        for node in items:
            if isinstance(node, s.CheckVariable):
                type_ = self.environment.layouts.type(node.type) if node.type else self.word_type
                value = self.value(node.value, type_, f"`{node.name}`") if node.value and type_ else None
                variable = ir.Variable(str(node.name), type_ or self.word_type, "local", node.name.span)
                self._declare(variable)
                variables.append((variable, value))
        given: list[ir.Statement] = []
        finally_: list[ir.Statement] = []
        handlers: dict[str, ir.Handler] = {}
        signals: list[ir.Signals] = []
        for node in items:
            match node:
                case s.CheckGiven(body=body):
                    given += self._statements(body.statements)
                case s.CheckFinally(body=body):
                    finally_ += self.block(body)
                case s.CheckOn():
                    handler = self._handler(node)
                    if handler is not None and handler.callee in handlers:
                        self.report.error("R002", f"`on {node.callee}` stands here twice", node.callee.span)
                    elif handler is not None:
                        handlers[handler.callee] = handler
                case s.CheckSignals() if function.suspension is not None:
                    message = "signals are not delivered while contexts are suspended and resumed"
                    self.report.error("R098", message, node.span)
                case s.CheckSignals():
                    found = self._signals(node, functions, stacks)
                    if found is not None and found in signals:
                        self.report.error("R002", "these signals stand here twice", node.span)
                    elif found is not None:
                        signals.append(found)
        return ir.Scenario(
            function.name,
            item.title,
            arguments,
            tuple(objects),
            tuple(stacks),
            tuple(variables),
            tuple(given),
            handlers,
            tuple(finally_),
            item.trampoline.span,
            tuple(signals),
        )

    def _signals(
        self, node: s.CheckSignals, functions: Mapping[str, ir.Function], stacks: Sequence[ir.Variable]
    ) -> ir.Signals | None:
        """`signals f return through g at s`, if the target's system does that."""
        target = self.environment.target
        kernel = target.architecture.signals
        handler = self._entered_by_system(node.handler, functions)
        restorer = None if node.restorer is None else self._entered_by_system(node.restorer, functions)
        if handler is None or (restorer is None and node.restorer is not None):
            return None
        if target.os == "windows":
            return self._exceptions(node, handler)
        if kernel is None:
            self.report.error("R092", f"how {target.name} delivers signals is not known here", node.span)
            return None
        if not self._takes_signals(handler, node.handler):
            return None
        if restorer is not None and (restorer.parameters or restorer.result is not None):
            message = f"`{restorer.name}` is returned to, not called: it has no parameters and no result"
            self.report.error("R091", message, node.handler.span, related=[(restorer.span, "declared here")])
            return None
        if kernel.restorer == "none":
            restorer = None  # this kernel does not look at it
        if node.restorer is None and kernel.restorer == "needed":
            message = f"{target.name} has no code of its own to return from a handler"
            notes = [f"name what makes the system call: `signals {handler.name} return through ...`"]
            self.report.error("R092", message, node.handler.span, notes=notes)
            return None
        stack = next((v for v in stacks if v.name == str(node.stack)), None)
        if stack is None and node.stack is not None:
            notes = suggestion(str(node.stack), [v.name for v in stacks]) or [f"declare it: `stack {node.stack}`"]
            self.report.error("R093", f"this check has no stack `{node.stack}`", node.stack.span, notes=notes)
            return None
        return ir.Signals(handler.name, restorer.name if restorer is not None else None, stack, node.span)

    def _entered_by_system(self, name: s.Name, functions: Mapping[str, ir.Function]) -> ir.Function | None:
        text = str(name)
        if text in functions:
            return functions[text]
        if text in self.environment.signatures:
            message = f"`{text}` is an extern, and what the system enters here is a trampoline"
            self.report.error("R090", message, name.span, notes=["import the file that has it"])
        elif text not in self.environment.misdeclared:
            notes = suggestion(text, functions)
            self.report.error("R090", f"there is no trampoline `{text}`", name.span, notes=notes)
        return None

    def _exceptions(self, node: s.CheckSignals, handler: ir.Function) -> ir.Signals | None:
        """Windows: a vectored handler, `LONG CALLBACK f(EXCEPTION_POINTERS *)`."""
        for name in (node.restorer, node.stack):
            if name is not None:
                message = (
                    "Windows handles exceptions on the interrupted stack, and takes the handler's word for the rest"
                )
                notes = [f"write `signals {handler.name}`"]
                self.report.error("R092", message, name.span, notes=notes)
                return None
        types = [v.type for v in handler.parameters]
        result = handler.result
        shape = [(t.bits, t.kind == "float") for t in (*types, *((result,) if result is not None else ()))]
        if shape == [(self.environment.word * 8, False), (32, False)] and len(types) == 1 and result is not None:
            system, own = self.environment.target.conventions["stdcall"], handler.convention
            values = [t.value_type for t in types]
            placed = own.place(values, result.value_type) == system.place(values, result.value_type)
            if placed and own.callee_pops == system.callee_pops:
                return ir.Signals(handler.name, None, None, node.span)
        message = f"a handler of exceptions takes (pointers: ptr) -> i32 using stdcall; `{handler.name}` does not"
        self.report.error("R091", message, node.handler.span, related=[(handler.span, "declared here")])
        return None

    def _takes_signals(self, handler: ir.Function, name: s.Name) -> bool:
        """Whether a handler finds its arguments where Linux puts them: sigaction(2), SA_SIGINFO."""
        types = [v.type for v in handler.parameters]
        word = self.environment.word * 8
        right = [t.bits for t in types] == [32, word, word] and all(t.kind != "float" for t in types)
        system = self.environment.target.conventions["c"]
        values = [t.value_type for t in types]
        if right and handler.result is None and handler.convention.place(values, None) == system.place(values, None):
            return True
        message = (
            f"a handler of signals takes (signal: u32, info: ptr, context: ptr) using c; `{handler.name}` does not"
        )
        self.report.error("R091", message, name.span, related=[(handler.span, "declared here")])
        return False

    def _check_items(self, items: Sequence[s.CheckItem]) -> Iterator[s.CheckItem]:
        for item in items:
            if not isinstance(item, s.CheckWhen):
                yield item
            elif self.environment.holds(item.targets):
                yield from self._check_items(item.items)

    def _check_world(self, items: Sequence[s.CheckItem]) -> tuple[list[ir.Variable], list[ir.Variable]]:
        objects: list[ir.Variable] = []
        stacks: list[ir.Variable] = []
        layouts = self.environment.layouts
        word = 8 * self.environment.word
        for item in items:
            if isinstance(item, s.CheckNew):
                for node in item.objects:
                    if node.type.name not in layouts.declarations or node.type.count or node.type.pointee:
                        notes = suggestion(node.type.name, layouts.declarations)
                        self.report.error("R010", f"`{node.type.name}` is no struct", node.type.span, notes=notes)
                        unknown = ir.Variable(node.name, self.word_type, "object", node.span)
                        self._declare(unknown)
                        self.untyped.add(unknown)
                        continue
                    type_ = pointer_to(node.type.name, word)
                    variable = ir.Variable(node.name, type_, "object", node.span)
                    self._declare(variable)
                    objects.append(variable)
            elif isinstance(item, s.CheckStack):
                variable = ir.Variable(str(item.name), self.word_type, "stack", item.name.span)
                self._declare(variable)
                stacks.append(variable)
        return objects, stacks

    def _handler(self, node: s.CheckOn) -> ir.Handler | None:
        name = str(node.callee)
        signature = self.environment.signatures.get(name)
        if signature is None and name in self.environment.misdeclared:
            return None
        if signature is None and name == "syscall":
            return self._kernel_handler(node)
        if signature is None:
            notes = suggestion(name, self.environment.signatures)
            self.report.error("R022", f"there is no extern or trampoline `{name}`", node.callee.span, notes=notes)
            return None
        if len(node.parameters) != len(signature.parameters):
            count = len(signature.parameters)
            message = f"`{name}` takes {count} argument{'s' * (count != 1)}, and here are {len(node.parameters)}"
            related = [(self.environment.where(name, s.Extern, s.Trampoline), "declared here")]
            self.report.error("R059", message, node.callee.span, related=related)
            return None
        types = [type_ for _, type_ in signature.parameters]
        return self._handler_of(name, node, types, signature.result)

    def _kernel_handler(self, node: s.CheckOn) -> ir.Handler | None:
        if not 1 <= len(node.parameters) <= 1 + MOST_SYSTEM_ARGUMENTS:
            message = f"a system call has a number and up to {MOST_SYSTEM_ARGUMENTS} arguments"
            self.report.error("R073", message, node.callee.span, notes=["`on syscall(number, a, b) { }`"])
            return None
        return self._handler_of(ir.SYSTEM_CALL, node, [self.word_type] * len(node.parameters), self.word_type)

    def _handler_of(
        self, name: str, node: s.CheckOn, types: Sequence[ir.Type], result: ir.Type | None
    ) -> ir.Handler | None:
        outer = self.scope
        self.scope = outer.inner()
        self.scope.handler = True
        self.handler_result = result
        parameters = []
        for parameter, type_ in zip(node.parameters, types, strict=True):
            variable = ir.Variable(str(parameter), type_, "local", parameter.span)
            shadowed = self.scope.variables.get(variable.name)
            if shadowed is not None and shadowed.kind == "parameter":
                # The callee's parameters come before those of the trampoline that is checked.
                del self.scope.variables[variable.name]
            self._declare(variable)
            parameters.append(variable)
        body = tuple(self._statements(node.body.statements))
        self.scope = outer
        self.handler_result = None
        return ir.Handler(name, tuple(parameters), body, node.callee.span)
