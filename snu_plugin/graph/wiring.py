"""What each call of a layer receives: the same in every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from itertools import chain

from torch import nn

from snu_plugin.graph.feedback import Pattern, pattern
from snu_plugin.graph.layer_state import StepError
from snu_plugin.graph.torch_functions import is_same_layer
from snu_plugin.graph.traced_calls import Call
from snu_plugin.graph.traced_tensor import TracedTensor, same


def _pattern(value: TracedTensor, call: Call) -> Pattern:
    return pattern(value, call.sources, call.source_shape, call.shape)


def as_one(call: Call) -> list[Call]:
    """Return what a call is made of that is of one part."""
    return [call]


class Wiring:
    """The calls of layers as they come, each held against what it received before.

    Args:
        modules: The names of the layers that are modules; functions get others.
    """

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = modules
        self.calls: dict[str, list[Call]] = {}
        self.received: dict[str, Pattern] = {}
        """What each of them receives."""
        self.steps_of: dict[str, tuple[int, int]] = {}
        """First and latest step of each of them."""
        self.begun: set[str] = set()
        """Those that are not one in each step; see ``Trace.begun``."""
        self.biased: set[str] = set()
        self.places: dict[str, list[tuple[str, nn.Module]]] = {}
        """By what a module or function is called: its calls, and what computes each."""
        self.last: dict[str, TracedTensor] = {}
        """What each received last, in this call of the model."""
        self.turns: Counter[str] = Counter()
        """How often each was asked again for what is the same in every step."""
        self.run, self.loops = 0, False

    def begin(self, run: int) -> None:
        """Begin a call of the model; of one that is a single step, the step ``run``."""
        self.run = run
        self.last.clear()
        self.turns.clear()

    def agree(
        self,
        name: str,
        value: TracedTensor,
        call: Call,
        step: int,
        divide: Callable[[Call], list[Call]] = as_one,
    ) -> None:
        """Take up what a call receives; in later steps it must be that.

        What is late comes in with the second step: the first may do without. ``divide`` makes the
        calls of what is one call of several parts.
        """
        now, known = _pattern(value, call), self.received.get(name)
        if known is None or self.begins_feedback(name, now):
            call = call._replace(name=name)
            self.calls[name] = divide(call)
            self.received[name] = now
            if known is None:
                self.biased |= {str(source.name) for source in value.sources if source.late}
        elif not now.same(known) and not self._lacks_feedback(name, now):
            raise StepError(
                f"{name!r} receives {now.told} in step {step + 1} and {known.told} in its first; "
                "NIR's graph is the same in every step: let it receive the same in each, and for "
                "feedback what the step before gave in each but the first"
            )
        first, _ = self.steps_of.get(name, (step, step))
        self.steps_of[name] = first, step

    def begins_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call, in its second step, receives what it did, and feedback beside it."""
        known, (first, latest) = self.received[name], self.steps_of[name]
        alike = now.feeds_back() and not known.feeds_back() and now.at_first().same(known)
        return alike and first == latest

    def _lacks_feedback(self, name: str, now: Pattern) -> bool:
        """Tell whether a call, in the first step of a sequence, lacks only feedback."""
        begins = name not in self.last and (self.loops or not self.run)
        return begins and now.same(self.received[name].at_first())

    def place(
        self, path: str, module: nn.Module, value: TracedTensor, call: Call, stateful: bool
    ) -> str:
        """Return the name of a call; without a state it is another one for each other input."""
        places = self.places.setdefault(path, [])
        if stateful and places:
            return places[0][0]
        later, now = not places and not stateful and (value.step or self.run), _pattern(value, call)
        for name, layer in chain.from_iterable(self.places.values()) if later else places:
            # A layer that comes in later may be that of an earlier step again, by its values.
            known = self.received.get(name)
            if known is not None and now.same(known) and is_same_layer(layer, module):
                return name
        for name, layer in places:
            new = name not in self.received
            alike = new or self.begins_feedback(name, now) or self._lacks_feedback(name, now)
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

    def step(self, name: str, value: TracedTensor, stateful: bool) -> int:
        """Return the step that a call of a module with ``value`` belongs to."""
        before = self.last.get(name)
        if before is None:
            return self.run if stateful and value.static else value.step
        again = same(before, value)
        if again and not stateful:
            self.begun.add(name)
            self.turns[name] += value.static
            return before.step
        self.loops = True
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
