"""The calls of layers, and what each receives: the same in every step, but for feedback.

In the first step there is nothing to feed back. Models then leave it out, or put zeros in its
place. A graph has an edge in every step, which delivers nothing in the first. So a call may lack in
the first step what is late in all others, and zeros that nothing made are nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn

from snu_plugin.graph.tracing.layer_state import StepError
from snu_plugin.graph.tracing.torch_functions import is_same_layer
from snu_plugin.graph.tracing.traced_tensor import Shape, Source, TracedTensor, named, same

KEPT = "carry()"
"""How a call is called that keeps a sum for the next step."""


class Call(NamedTuple):
    """One module, a part of it, or a function as a layer, at work in the first step."""

    name: str
    """The module's; numbered if a module without a state works in several places."""
    module: nn.Module
    sources: tuple[Source, ...]
    """What it receives, summed."""
    source_shape: Shape
    """Shape that each source gives in a step."""
    shape: Shape
    """Shape that it receives in a step: ``source_shape``, or a reshape of it."""
    out: Shape
    """Shape of its output in a step."""


@dataclass(frozen=True)
class Pattern:
    """What a call receives; the same in every step, but for feedback in the first."""

    sources: tuple[str, ...]
    """Sorted, as a sum has no order."""
    late: tuple[str, ...]
    """Those of the step before."""
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...], int], ...]
    """Sources, late sources and width of each of the tensors that lie side by side."""
    source_shape: Shape
    shape: Shape
    received: tuple[Source, ...] = field(compare=False)
    """All sources, in their order: to be told."""

    def told(self) -> str:
        return f"{named(self.received)} {self.shape}"

    def lacks_feedback(self, other: Pattern) -> bool:
        """Tell whether it is ``other`` without some of what that receives of the step before."""
        mine, others = (((p.sources, p.late, 0), *p.parts) for p in (self, other))
        return (
            (self.source_shape, self.shape) == (other.source_shape, other.shape)
            and len(self.parts) == len(other.parts)
            and all(
                now == then and set(late) <= set(more) and width == wide
                for (now, late, width), (then, more, wide) in zip(mine, others, strict=True)
            )
            and self != other
        )


def pattern(value: TracedTensor, call: Call) -> Pattern:
    """Return what a call receives of ``value`` in a step."""
    parts = tuple((*_sorted(part.sources), part.tensor.shape[value.axis]) for part in value.parts)
    now, late = ((), ()) if parts else _sorted(call.sources)
    return Pattern(now, late, parts, call.source_shape, call.shape, call.sources)


def _sorted(sources: Sequence[Source]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a step itself makes, and what the step before made."""
    now, late = (
        tuple(sorted(str(source) for source in sources if source.late == which))
        for which in (False, True)
    )
    return now, late


def _is_again(before: TracedTensor, value: TracedTensor) -> bool:
    """Tell whether a value was made again in its step: of the same layers, with the same result."""
    asked = value.step, value.turn, value.sources
    return (before.step, before.turn, before.sources) == asked and torch.equal(
        before.tensor, value.tensor
    )


def _closed(name: str, sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return what a call that keeps a sum receives: itself, where the sum holds itself."""
    now = tuple(source for source in sources if not source.late)
    itself = {source._replace(late=True) for source in now} == set(sources) - set(now)
    return (*now, Source(name, late=True)) if itself else sources


@dataclass
class Wiring:
    """The calls of layers as they come, each held against what it received before."""

    modules: Collection[str]
    """The names of the layers that are modules; functions get others."""
    calls: dict[str, list[Call]] = field(default_factory=dict)
    received: dict[str, Pattern] = field(default_factory=dict)
    """What each of them receives."""
    steps_of: dict[str, tuple[int, int]] = field(default_factory=dict)
    """First and latest step of each of them."""
    begun: set[str] = field(default_factory=set)
    """Those that are not one in each step; see ``Trace.begun``."""
    biased: set[str] = field(default_factory=set)
    places: dict[str, list[tuple[str, nn.Module]]] = field(default_factory=dict)
    """By what a module or function is called: its calls, and what computes each."""
    last: dict[str, TracedTensor] = field(default_factory=dict)
    """What each received last, in this call of the model."""
    earlier: dict[str, TracedTensor] = field(default_factory=dict)
    """What each received last, in the calls of the model before."""
    ages: dict[str, int] = field(default_factory=dict)
    """How many steps late what calls give is that only wait."""
    closed: dict[str, tuple[int, Pattern]] = field(default_factory=dict)
    """By the calls taken for sums that hold themselves: when, and what each received."""
    open: set[str] = field(default_factory=set)
    """Those of them that are none."""
    turns: Counter[str] = field(default_factory=Counter)
    """How often each was asked again for what is the same in every step."""
    run: int = 0
    loops: bool = False
    keeps_first: bool = False
    """Whether the call at work keeps a sum of the first step, as a stack does again."""

    def begin(self, run: int) -> None:
        """Begin a call of the model; of one that is a single step, the step ``run``."""
        self.run = run
        self.earlier |= self.last
        self.last.clear()
        self.turns.clear()

    def take_up(
        self,
        value: TracedTensor,
        call: Call,
        *,
        stateful: bool = False,
        in_its_step: bool = False,
        divide: Callable[[Call], list[Call]] | None = None,
    ) -> str:
        """Take up what a call receives; in later steps it must be that. Returns its name.

        What is late comes in with the second step: the first may do without.

        Args:
            value: What it receives.
            call: The call, under the name of its module or function.
            stateful: Whether it has a state, so that it is the same wherever it is called.
            in_its_step: Whether it belongs to the step of ``value``, however often it is called.
            divide: Makes the calls of what is one call of several parts.
        """
        name = self._place(value, call, stateful)
        step = value.step if in_its_step else self._step(name, value, stateful)
        opened = False
        if call.name == KEPT and name not in self.open:
            closed = call._replace(sources=_closed(name, call.sources))
            if closed != call:
                opened = self._opens(name, pattern(value, call), step)
                call = call if opened else closed
        now, known = pattern(value, call), self.received.get(name)
        if (
            known is None
            or opened
            or self._begins_feedback(name, now)
            or self._keeps_a_sum(name, now)
        ):
            call = call._replace(name=name)
            self.calls[name] = [call] if divide is None else divide(call)
            self.received[name] = now
            if known is None:
                self.biased |= {str(source.name) for source in value.sources if source.late}
        elif now != known and not self._lacks_feedback(name, now):
            raise StepError(
                f"{name!r} receives {now.told()} in step {step + 1} and {known.told()} in its first"
                f"{self._other_numbers(now, known)}; NIR's graph is the same in every step: let it "
                "receive the same in each, and for feedback what the step before gave in each but "
                "the first"
            )
        first, _ = self.steps_of.get(name, (step, step))
        self.steps_of[name] = first, step
        self.last[name] = replace(value, step=step)
        return name

    def _opens(self, name: str, now: Pattern, step: int) -> bool:
        """Tell whether a call holds what two steps in a row gave, and not a sum of all.

        The second step of both is the same, the third is not.
        """
        first, known = self.closed.setdefault(name, (step, now))
        if step != first + 1 or now != known:
            return False
        self.open.add(name)
        return True

    def _other_numbers(self, now: Pattern, known: Pattern) -> str:
        """Say where two functions differ in their constants alone; else nothing."""
        differ = {*now.sources, *now.late} ^ {*known.sources, *known.late}
        for path, places in self.places.items():
            names = {str(Source(name, late=late)) for name, _ in places for late in (False, True)}
            if path.endswith("()") and len(differ) == 2 and differ <= names:
                return f" ({path} with other numbers in each)"
        return ""

    def _begins_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call receives what it did, and feedback as soon as there is any.

        That is in its second step, or later by as many steps as the feedback waits.
        """
        first, latest = self.steps_of[name]
        new = set(now.late) - set(self.received[name].late)
        waits = (n for call, n in self.ages.items() if str(Source(call, late=True)) in new)
        return latest - first == max(waits, default=0) and self.received[name].lacks_feedback(now)

    def _keeps_a_sum(self, name: str, now: Pattern) -> bool:
        """Tell whether a call receives kept what it received of the step before as a sum."""
        known, late = self.received[name], set(now.late)
        for kept, _ in self.places.get(KEPT, ()):
            source = str(Source(kept, late=True))
            if source in late:
                (call,) = self.calls[kept]
                summed = {str(s._replace(late=True)) for s in call.sources if not s.late}
                late = late - {source} | summed
        return late != set(now.late) and replace(now, late=tuple(sorted(late))) == known

    def _lacks_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call, in the first step of a sequence, lacks only feedback."""
        begins = name not in self.last and (self.loops or not self.run)
        return (begins or self.keeps_first) and now.lacks_feedback(self.received[name])

    def _place(self, value: TracedTensor, call: Call, stateful: bool) -> str:
        """Return the name of a call; without a state it is another one for each other input."""
        path, module = call.name, call.module
        self.keeps_first = path == KEPT and value.step == self.run
        places = self.places.setdefault(path, [])
        if stateful and places:
            return places[0][0]
        later, now = not places and not stateful and (value.step or self.run), pattern(value, call)
        for name, layer in chain.from_iterable(self.places.values()) if later else places:
            # A layer that comes in later may be that of an earlier step again, by its values.
            known = self.received.get(name)
            if known is not None and now == known and is_same_layer(layer, module):
                return name
        for name, layer in places:
            alike = (
                name not in self.received
                or self._begins_feedback(name, now)
                or self._lacks_feedback(name, now)
                or self._keeps_a_sum(name, now)
                or (name in self.closed and now == self.closed[name][1])  # before it was closed
            )
            if alike and is_same_layer(layer, module):
                return name
        return self.new_place(path, module)

    def new_place(self, path: str, module: nn.Module) -> str:
        places = self.places[path]
        base = path.removesuffix("()")
        name, count = base, len(places)
        taken = {name for name, _ in chain.from_iterable(self.places.values())}
        while name in taken or (name != path and name in self.modules):
            name, count = f"{base}_{count}", count + 1
        places.append((name, module))
        return name

    def _step(self, name: str, value: TracedTensor, stateful: bool) -> int:
        """Return the step that a call of a module with ``value`` belongs to."""
        before = self.last.get(name)
        if before is None:
            return self.run if stateful and value.static else value.step
        again = same(before, value) or (not stateful and _is_again(before, value))
        if again and not stateful:
            self.begun.add(name)
            self.turns[name] += value.static
            return before.step
        self.loops = self.loops or before.step >= self.run
        if any(name == kept for kept, _ in self.places.get(KEPT, ())):
            return value.step  # a sum may be kept again, by a stack of all steps
        if value.static and stateful:
            return before.step + 1
        if value.step + value.turn <= before.step + before.turn:
            advice = (
                "a neuron of NIR advances once in a step: call it once"
                if stateful
                else "NIR's graph is the same in every step"
            )
            inputs = "" if again else " with different inputs"
            raise StepError(f"{name!r} is called twice in one step{inputs}; {advice}")
        took = len(before.tensor) if (before.lead or 0) > 1 else 1
        if stateful and value.step - before.step not in (1, took):
            raise StepError(
                f"{name!r} is called in step {before.step + 1} and next in {value.step + 1}; a "
                "neuron of NIR advances in every step: call it in each"
            )
        return value.step
