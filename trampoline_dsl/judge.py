"""The verdict: machine code is executed in a hostile world and compared with what the source means.

The judge knows conventions, and what it observes. It plays every callee: checks what arrives, runs the check's script,
then overwrites every register and every byte that the convention gives a callee, and returns. It never looks at how
the code was made; of the artifact it takes the bytes, the frame's size (as a traceback would) and, to name
instructions, the listing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .activations import Activation
from .callees import Callees
from .emulate import Stop
from .interpret import Trouble
from .oracle import draw, enters_without_thread
from .run_state import End, away
from .world import Region


class Execute(Callees):
    """One run of one world by the machine code. `violations` has what was found, `executed` the addresses in order.

    `scramble`: memory below the stack pointer is overwritten before every instruction, as signals may. `spare`: what
    callees leave alone in this run, although it is theirs: what is "below" the stack pointer, or the "area" above it.
    It tells a symptom from its cause.
    """

    def run(self) -> None:
        """Run the world to its end."""
        machine = self.machine
        bench = self.bench
        if self.witness is not None:
            self.witness.start(self)
        machine.restore(bench.initial)
        stacks = {region.base: region for region in self.build.plan.stacks}
        permitted = self.trace.permitted
        lowest, highest = min(permitted, default=0), max(permitted, default=-1)
        for base, image in self.world.images.items():
            if base in stacks:
                machine.write(base, image)
                machine.write(base, self._litter(stacks[base]))
                continue
            machine.write(base, image)
            end = base + len(image)
            if base <= highest and lowest < end:
                self.expected |= {a: image[a - base] for a in permitted if base <= a < end}
        thread: int | None = self.world.thread
        if enters_without_thread(self.build, self.function.convention) and self.thread_register is not None:
            thread = draw(self.world.seed, "thread at entry", 8 * self.word)
        self._registers_at_entry(self.function.convention, None)
        entry = self._begin(self.function, tuple(self.world.arguments), self.world.sp, thread, None)
        self._go_through(entry)
        if self.finished:
            self._compare_everything()

    def _go_through(self, entry: int) -> None:
        """Execute from here to the end, as it may be."""
        bench, machine = self.bench, self.machine
        bench.run = self
        try:
            machine.ignore_stores(*self._own_stack())
            stop = machine.run(entry, self.budget, 0)
            while self.interrupted is not None and self.interruptions is not None:
                state = machine.save()
                self.interruptions.happen(self, self.interrupted)
                if self.violations:
                    return
                bench.run = self
                machine.restore(state)
                machine.ignore_stores(*self._own_stack())
                stop = machine.run(self.interrupted, self.budget, 0)
            if not self.finished:
                self._stopped(stop)
        except End:
            pass
        except Trouble as trouble:
            self._violate("effect", trouble.message)
        finally:
            bench.run = None

    def _litter(self, region: Region) -> bytes | memoryview:
        """Whatever lies below the callers' part of a stack differs from run to run."""
        top = self.world.sp - self.push if self.world.sp in region else None
        for name, stack in self.world.stack_tops.items():
            if stack in region and name:
                top = stack
        return b"" if top is None else self._garbage(top - region.base)

    def _stopped(self, stop: Stop) -> None:
        if self._resumes(stop.pc):
            return
        if stop.trapped and self._locate(stop.pc) is not None and self._traps(stop.pc):
            return
        if stop.reason == "budget":
            self._violate("flow", f"does not end within {self.budget} instructions", pc=stop.pc)
        elif stop.reason == "fault" and stop.address in (None, stop.pc) and self._has_returned():
            link = self.activations[-1].function.convention.return_address
            stays = link is not None and self.bench.is_code(stop.pc)  # the jump itself failed
            self._returns_astray(self.machine.get(link) if stays and link is not None else stop.pc)
        elif stop.reason == "fault":
            self._violate(
                "flow",
                self.bench.why(stop.address) or stop.detail,
                pc=self.executed[-1] if self.executed else stop.pc,
                memory=stop.address,
            )
        elif not self.violations:
            self._violate("flow", f"stops at {stop.pc:#x} without returning", pc=stop.pc)

    def _traps(self, pc: int) -> bool:
        """Whether the source wants this run to end by a trap: then that is compared."""
        if not self.trace.events or self.trace.events[-1].kind != "trap":
            return False
        event = self._take(("trap",), "traps")
        if event is None:
            return True
        activation = self.activations[-1]
        sp = self.machine.sp
        self._check_sp(f"traps with the stack pointer {away(sp - event.sp)} where the source has it", sp, event, pc)
        self._compare_memory(event)
        if activation.function.convention.thread is not None:
            self._check_thread(event)
        self.finished = True
        return True

    def _has_returned(self) -> bool:
        """Whether the code itself has just left a function by its return, and not by the judge's hand."""
        return not self.moved and bool(self.executed) and self.executed[-1] in self.bench.leaving

    def _returns_elsewhere(self, address: int) -> bool:
        """Whether what looked like a return, just now, has led to where nothing goes on."""
        return not self.moved and not self.bench.goes_on(self.executed[-1], address)

    def _returns_astray(self, address: int) -> None:
        activation = self.activations[-1]
        link = activation.function.convention.return_address
        self._violate(
            "sp",
            f"returns to {address:#x}, and not to the return address that it was given",
            register=link.name if link is not None else self.architecture.sp.name,
            memory=None if link is not None else activation.sp,
            expected=activation.return_address,
            found=address,
        )

    def astray(self, address: int) -> None:
        """Before every instruction that is in nobody's code."""
        if self.watcher is not None:
            self.watcher.settled()
        if self._resumes(address):
            self._end()
        elif self._has_returned():
            self._returns_astray(address)
        else:
            region = next(r for r in self.build.plan.regions if address in r)
            self._violate("flow", f"runs into {address:#x} ({region.name}), which is no code", memory=address)
        self._end()

    def innermost(self) -> Activation | None:
        """Whose frame the stack pointer is in; None if in nobody's."""
        return self.activations[-1] if self.activations else None

    def leaves_for_good(self) -> bool:
        """Whether the stack pointer is the one that the source resumes with."""
        resumed = self.trace.events[-1].resumed if self.trace.events else None
        return resumed is not None and resumed.sp == self.machine.sp

    def step(self, address: int) -> None:
        """Before every instruction of the code."""
        if self.interrupted is not None:
            self.interrupted = None  # it goes on
            return
        watcher, executed, activation = self.watcher, self.executed, self.activations[-1]
        if watcher is not None:
            watcher.settled()
        if self.landings is not None:
            self._land(address)
        if address in self.entries and self._called(address):
            self._enter_from_code(address)
            activation = self.activations[-1]
        elif address == activation.return_address and len(self.activations) > 1 and activation.resume is None:
            self._leave(address)
            activation = self.activations[-1]
        elif executed and executed[-1] in self.leaving and self._returns_elsewhere(address):
            self._returns_astray(address)
            self._end()
        self.moved = False
        executed.append(address)
        if self.follow is not None:
            self.last_values.append((address, self.machine.get(self.follow)))
        sp = self.machine.sp
        place = self.last_place
        if place is None or place[0] != sp or place[1] is not activation:
            place = self.last_place = (sp, activation, self._stack_at(sp, activation))
        region = place[2]
        if region is None and not self.out_of_bounds:
            self._violate(
                "bounds",
                f"the stack pointer is {sp:#x}, outside of the stack",
                register=self.architecture.sp.name,
                expected=self._nearest(sp, activation),
                found=sp,
                pc=executed[-2] if len(executed) > 1 else address,
            )
            if not any(activation.cfa in r and sp in r for r in self.stack_of):
                self._end()
            self.out_of_bounds = True  # said once: what comes of it is to be seen
        elif self.scramble and region is not None:
            self._scramble_below(region, sp - activation.function.convention.red_zone)
        if watcher is not None:
            watcher.instruction(address)
        if self.interruptions is not None and not self.in_delay_slot() and self.interruptions.due(self, address):
            self.interrupted = address
            self.machine.stop()

    def _scramble_below(self, region: Region, floor: int) -> None:
        """Overwrite a stack up to `floor`, as signals may."""
        size = floor - region.base
        if size > 0:
            offset = self._drawn_below(1 << 8)
            data = self.garbage[offset : offset + size]
            if len(data) < size:
                data = memoryview(bytes(data) * (size // len(data) + 1))[:size]
            self.machine.write(region.base, data)

    def in_delay_slot(self) -> bool:
        """Whether the instruction that is about to be executed stands behind one that takes it along."""
        place = self._locate(self.executed[-2]) if len(self.executed) > 1 else None
        return place is not None and place[0].instructions[place[1]].delay_slot

    def _called(self, address: int) -> bool:
        """Whether this entry was reached by a call or a jump out of another trampoline, not by a loop."""
        if self.entering:
            self.entering = False
            return False
        if not self.executed:
            return False
        for past in self.executed[-2:]:
            place = self._locate(past)
            if place is None:
                continue
            if place[0].name in self.bench.strides:
                return False  # the way in from a table is not a call of its own
            insn = place[0].instructions[place[1]]
            if insn.transfer == "call" or (insn.transfer == "jump" and insn.target is None):
                return True
        return False

    def _enter_from_code(self, address: int) -> None:
        name = self.bench.entries[address]
        function = self.build.program.functions[name]
        arrival = self._check_call(name, function.signature, ("call", "jump"))
        if arrival.jumped:
            self.activations.pop()
        sp = self.machine.sp
        self._activate(function, arrival.cfa, sp, arrival.return_address, None)

    def _leave(self, address: int) -> None:
        """A trampoline that another one called has returned."""
        activation = self.activations[-1]
        self._check_returned(activation)
        self.activations.pop()

    def returned(self, address: int) -> None:
        """A trampoline has returned to where the judge called it from, or gone astray into there."""
        if self.watcher is not None:
            self.watcher.settled()
        if self._resumes(address):
            self._end()
            return
        self._land(address)
        activation = self.activations[-1]
        if address != activation.return_address:
            self._violate(
                "sp",
                "returns to another address than it was given",
                expected=activation.return_address,
                found=address,
            )
            self._end()
            return
        result = self._check_returned(activation)
        if activation.resume is None:
            self.finished = True
            self._end()
            return
        self.activations.pop()
        waiting = activation.resume
        self._go_on(waiting, result)

    def _compare_everything(self) -> None:
        """All memory, byte by byte: write hooks do not see every store, and the source may have written elsewhere."""
        assert self.trace.memory is not None
        recording = self.witness is not None and not self.witness.recorded
        last = None if recording else next(self.events, None)
        if last is not None and last.kind in ("call", "jump"):
            self._violate("effect", f"ends without the call of {last.callee} that the source makes")
        if self.scenario is not None and not self.violations:
            execution = self._script(self.world.sp)
            for _ in execution.run(self.scenario.finally_):
                break
        resumed = [event.resumed.sp for event in self.trace.events[-1:] if event.resumed is not None]
        tops = (*self.world.stack_tops.values(), *self.trace.entered, *resumed)
        regions = {region.base: region for region in reversed(self.build.plan.regions)}
        for base, image in self.trace.memory.images.items():
            region = regions.get(base) or next(r for r in regions.values() if base in r)
            start = max(self._compared_from(region, tops), base)
            want = image[start - base :]
            found = self.machine.read(start, len(want))
            if want == found:
                continue
            compared = bytearray(found)
            for low, high in self._free():
                low, high = max(low - start, 0), max(high - start, 0)
                compared[low:high] = want[low:high]
            for offset in _differing(want, compared):
                address = start + offset
                if self.witness is None or not self.witness.permits(address, 1):
                    word = address // self.word * self.word
                    at = max(word - start, 0)
                    self._violate(
                        "writes",
                        f"memory at {word:#x} ({self._name(word)}) has changed, and the source does not write there",
                        memory=word,
                        expected=int.from_bytes(want[at : at + self.word], self.order),
                        found=int.from_bytes(found[at : at + self.word], self.order),
                    )
                    break

    def _free(self) -> Iterator[tuple[int, int]]:
        """Where the bytes begin and end that the outermost call was given, or that were compared when it returned."""
        if not self.activations:
            return
        outermost = self.activations[0]
        convention, cfa = outermost.function.convention, outermost.cfa
        for place in outermost.outside:
            yield place, place + self.word
        yield cfa, cfa + convention.area
        yield cfa + max(convention.first_stack_argument, 0), cfa + outermost.stack_bytes

    def _compared_from(self, region: Region, tops: Sequence[int]) -> int:
        """Below its callers' part, a stack holds frames that are gone."""
        base, end = region.base, region.end
        if base <= self.world.sp < end:
            return self.world.sp
        return max([top for top in tops if base <= top < end], default=base) if tops else base


def _differing(want: bytes | bytearray, found: bytes | bytearray) -> Iterator[int]:
    """Where two pieces of memory of one size differ. Most of it does not, and is passed over whole or in blocks."""
    if want == found:
        return
    for start in range(0, len(want), 256):
        if want[start : start + 256] != found[start : start + 256]:
            for offset in range(start, min(start + 256, len(want))):
                if want[offset] != found[offset]:
                    yield offset
