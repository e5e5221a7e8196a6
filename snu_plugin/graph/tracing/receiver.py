"""Layers and functions at work in a run: what they receive, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.function_layers import Elementwise
from snu_plugin.graph.tracing.step_shapes import StepShapes
from snu_plugin.graph.tracing.torch_functions import as_layer, chosen, is_same_layer
from snu_plugin.graph.tracing.traced_tensor import (
    Source,
    TracedTensor,
    late,
    propagate,
    stack,
    tensors,
)
from snu_plugin.graph.tracing.traced_values import TracedValues
from snu_plugin.graph.tracing.wiring import Call, Wiring

DELAY = "delay()"
"""How a call is called that gives what the step before gave."""


class Applied(NamedTuple):
    """A function of torch, and what it is applied to."""

    func: Callable[..., Any]
    name: str
    """As torch calls it; see ``plain``."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    known: Sequence[TracedTensor]
    """What is known of the tensors among them."""

    @property
    def plain(self) -> str:
        """The name without underscores, which in-place forms and operators share."""
        return self.name.strip("_")

    def __call__(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def first_is(self, value: TracedTensor) -> bool:
        return bool(self.args) and self.args[0] is value.tensor

    def other(self) -> Any:
        """Return the argument beside the only one that is known, of two."""
        return self.args[1] if self.first_is(self.known[0]) else self.args[0]

    def axis(self, default: Any = 0) -> Any:
        """Return the axis, or the axes, that it works along."""
        return self.kwargs.get("dim", self.args[1] if len(self.args) > 1 else default)

    def gives(self, y: Tensor, several: bool = False) -> TracedTensor:
        """Return what is known of ``y``, which it gave; ``several``: of other tensors, too."""
        return propagate(self.name, list(self.known), several, y, self.args, self.kwargs)


def added(terms: Sequence[TracedTensor], y: Tensor) -> TracedTensor:
    """Return what is known of ``y``, the sum of two terms; of one, it itself."""
    if not terms[1:]:
        return terms[0]
    return propagate("add", list(terms), False, y, (0, 0), {})


@dataclass
class Receiver:
    """Takes up what is received, and keeps what comes of it."""

    values: TracedValues
    wiring: Wiring
    shapes: StepShapes
    beginning: bool = False
    """Whether the call at work receives what stands for feedback before there is any."""
    waited: dict[int, TracedTensor] = field(default_factory=dict)
    """By the id of a tensor that is known: what it is a step later."""
    silent_until: dict[str, int] = field(default_factory=dict)
    """The step up to which layers received what stands for feedback, by their names."""
    held: dict[str, Tensor] = field(default_factory=dict)
    """The threshold of calls that a spike holds at 0 in the next step."""
    at_first: dict[str, Tensor] = field(default_factory=dict)
    """What calls make of zeros that stand for feedback."""

    def receive(self, path: str, module: nn.Module, x: Tensor, stateful: bool) -> str:
        """Take up what a module or function at ``path`` receives; returns the name of the call."""
        axes = self.shapes.rules.batch_axes(module, x)
        self.take_features(x, axes)
        before = self.values.known.get(id(x))
        value = self.values.look_up(repr(path), x, stateful)
        value = self._in_turn(path, value, before is not None and before.start)
        lead, given = self.shapes.split(
            repr(path), value, x, self.shapes.rules.batch_axes(module, x)
        )
        shape = tuple(x.shape[lead:])
        parts = self.shapes.parts(module, value, given, shape)
        if value.parts and not parts:
            value = self.shapes.placed(repr(path), value, given)
        whole = Call(path, module, value.sources, given, shape, ())
        divide = partial(self.shapes.divided, value=value, modules=parts) if parts else None
        name = self.wiring.take_up(value, whole, stateful=stateful, divide=divide)
        self.wiring.last[name] = replace(self.wiring.last[name], tensor=x, lead=lead)
        return name

    def _receive_as_it_is(self, path: str, layer: nn.Module, value: TracedTensor) -> str:
        """Take up what an element-wise function receives, before its axes are known."""
        self.values.time = self.values.time if value.time is None else value.time
        before = set(self.wiring.received)
        name = self.wiring.take_up(value, Call(path, layer, value.sources, (), (), ()))
        self.shapes.unsettled |= {name} - before
        return name

    def function(self, f: Applied) -> str:
        """Return the name of the call that a function of one signal is, if it is a layer."""
        (signal,) = f.known
        if signal.problem or signal.late:
            return ""
        layer, path = as_layer(f.name, f.args, f.kwargs, signal.tensor), f"{f.plain}()"
        if layer is None:
            return ""
        if signal.start:
            return self.begin_feedback(path, layer)
        return self.layer(path, layer, signal)

    def applied(
        self, path: str, layer: nn.Module, signal: TracedTensor, y: Tensor
    ) -> TracedTensor | None:
        """Keep ``y`` as what a layer, that stands for a function, gives; ``None`` if it cannot."""
        call = self.layer(path, layer, signal)
        return self.keep_output(call, y) if call else None

    def layer(self, path: str, layer: nn.Module, signal: TracedTensor) -> str:
        """Return the name of the call of a layer that stands for a function; empty if it cannot."""
        last = signal.tensor.dim() - 1
        if signal.cut is not None and signal.lead is None and signal.cut[1] == last > 0:
            self.take_features(signal.tensor, last)
            signal = self.values.get(signal.tensor) or signal
        try:
            if signal.lead is None and self.shapes.rules.batch_axes(layer, signal.tensor) is None:
                return "" if signal.parts else self._receive_as_it_is(path, layer, signal)
            return self.receive(path, layer, signal.tensor, False)
        except ValueError:
            return ""  # What receives it says what is wrong, if anything does.

    def aged(self, value: TracedTensor, now: int) -> TracedTensor:
        """Return a value as the step ``now`` receives it: what is older than a step was delayed."""
        if not value.sources:  # nothing yet
            return replace(value, step=now)
        while value.step < now - 1 and not (value.static or value.start or value.problem):
            if id(value.tensor) not in self.waited:
                later = self._waited(value)
                if later is None:
                    break
                self.waited[id(value.tensor)] = later
            value = self.waited[id(value.tensor)]
        return late(value, now)

    def _waited(self, value: TracedTensor) -> TracedTensor | None:
        """Return a value as a call gives it that waits a step; ``None`` where it cannot."""
        before = replace(late(value, value.step + 1), tensor=value.tensor.clone())
        self.values.keep(before)
        name = self.layer(DELAY, Elementwise(None, None), before)
        if not name or before.step == value.step:
            return None
        ages = self.wiring.ages
        ages.setdefault(name, 1 + max(ages.get(str(s.name), 0) for s in value.sources))
        return self.keep_output(name, value.tensor.clone())

    def late_stack(
        self, known: Sequence[TracedTensor], silent: int, out: Tensor, axis: int
    ) -> TracedTensor | None:
        """Return steps put one behind the other, behind some that are silent, else ``None``."""
        if known[0].step != self.wiring.run or known[0].static:
            return None
        late_ones = [self.aged(value, value.step + silent) for value in known]
        done = stack(late_ones, out, axis)
        if done is None:
            return None
        whole = (*done.whole[:axis], silent + len(known), *done.whole[axis + 1 :])
        return replace(done, whole=whole, step=known[0].step)

    def negative(self, value: TracedTensor) -> TracedTensor:
        """Return what is known of a tensor times -1; it counts as a function that was called."""
        y = -(value.tensor.float() if value.tensor.dtype == torch.bool else value.tensor)
        negation = Applied(torch.neg, "neg", (value.tensor,), {}, [value])
        call = self.function(negation)
        return self.keep_result(call, y) if call else negation.gives(y)

    def begin_feedback(self, path: str, module: nn.Module) -> str:
        """Return the name of a call that receives what stands for feedback before there is any."""
        places = self.wiring.places.setdefault(path, [])
        found = (name for name, layer in places if is_same_layer(layer, module))
        name = next(found, None) or self.wiring.new_place(path, module)
        self.wiring.begun.add(name)
        self.silent_until[path] = max(self.silent_until.get(path, 0), self.wiring.run) + 1
        self.beginning = True
        return name

    def keep_result(self, name: str, y: Tensor) -> TracedTensor:
        """Keep what a call gives; of zeros that stand for feedback, if it makes something."""
        if not self.beginning:
            return self.keep_output(name, y)
        self.beginning = False
        value = TracedTensor(y, (Source(name),), tuple(y.shape), None, self.wiring.run, start=True)
        if bool(y.any()):
            self.at_first[name] = y
            self.values.keep(value)
        return value

    def keep_output(self, name: str, result: Any, stateful: bool = False) -> TracedTensor:
        """Keep what a call gives first; it is all that a function gives."""
        first, last = next(tensors(result)), self.wiring.last[name]
        if name not in self.shapes.unsettled:
            out = tuple(first.shape[last.lead :])
            self.wiring.calls[name] = [call._replace(out=out) for call in self.wiring.calls[name]]
        value = TracedTensor(
            first,
            tuple(Source(call.name) for call in self.wiring.calls[name]),
            tuple(first.shape),
            last.lead,
            last.step,
            least=last.least if last.lead is None else 0,
            static=last.static and not stateful,
            repeated=last.repeated,
            turn=last.turn + self.wiring.turns[name] if last.static and not stateful else 0,
            origin=first,
        )
        self.values.keep(value)
        return value

    def take_features(self, x: Tensor, lead: int | None) -> None:
        """Know a part of the features as what a layer takes of them, where it is one.

        Whether what was cut is batch, time or features tells who receives it.
        """
        value = self.values.known.get(id(x))
        if value is None or value.cut is None or value.version != x._version:
            return
        whole, axis, start = value.cut
        lead = lead if whole.lead is None else whole.lead
        shape, part = tuple(whole.tensor.shape), tuple(x.shape)
        if (
            not lead
            or axis != lead
            or part[:axis] + part[axis + 1 :] != shape[:axis] + shape[axis + 1 :]
            or len(shape) - axis > 3
            or whole.problem
            or whole.whole != shape
        ):
            return
        places = torch.arange(start, start + x.shape[axis])
        layer = chosen(places, shape[axis], len(shape) - 1 - axis)
        if whole.lead is None:
            self.values.keep(replace(whole, lead=lead))
        name = self.receive("take()", layer, whole.tensor, False)
        self.keep_output(name, x)

    def _in_turn(self, path: str, value: TracedTensor, began: bool) -> TracedTensor:
        """Return a value as the next call of a layer receives it.

        Alone, or beside a current that is the same in every step, only that tells that it is late.
        """
        if path == DELAY:
            return value
        name = next((name for name, _ in self.wiring.places.get(path, ())), None)
        before, known = self.wiring.last.get(name or ""), self.wiring.received.get(name or "")
        if before is None and known is None and name in self.at_first and not value.static:
            return self.aged(value, max(value.step, self.silent_until.get(path, 0) - 1))
        if before is None or known is None or value.step > before.step:
            return value
        alone = known.late and not known.sources
        if began and alone:
            return replace(value, step=before.step + 1)
        if not (value.constant or alone) and (known.sources or known.late or known.parts):
            return value
        return self.aged(value, max(before.step, value.step) + 1)
