"""The tensors of a run of which something is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from snu_plugin.graph.tracing.advice import advice
from snu_plugin.graph.tracing.layer_state import StepError, UnstackedError
from snu_plugin.graph.tracing.traced_tensor import (
    STEPS_OF,
    Source,
    TracedTensor,
    fresh,
    late,
    stack,
)


def is_silence(x: Tensor) -> bool:
    """Tell whether a tensor that nothing made may stand for feedback before there is any."""
    return bool(x.numel()) and not isinstance(x, nn.Parameter) and not bool(x.any())


def silence(x: Tensor) -> TracedTensor:
    """Return zeros as what is fed back before there is anything."""
    return TracedTensor(x, (), tuple(x.shape), None, 0, start=True)


class _Filling(NamedTuple):
    """A tensor into which steps are written, the steps, and its version after the last of them."""

    tensor: Tensor
    steps: tuple[TracedTensor, ...]
    version: int


def _written_place(index: Any) -> tuple[int | None, int]:
    """Return axis and number of the step that an index like ``[t]`` or ``[:, t]`` means."""
    places = index if isinstance(index, tuple) else (index,)
    for axis, place in enumerate(places):
        rest = (p is ... or (isinstance(p, slice) and p == slice(None)) for p in places[axis + 1 :])
        if isinstance(place, int) and all(rest):
            return axis, place
        if not (isinstance(place, slice) and place == slice(None)):
            break
    return None, 0


Slots = tuple[Tensor, dict[tuple[int, int], TracedTensor], int]
"""A tensor, what was written into which of its places, and its version since."""


@dataclass
class TracedValues:
    """What is known of tensors; keeps every one alive, so that none is confused."""

    known: dict[int, TracedTensor] = field(default_factory=dict)
    filled: dict[int, _Filling] = field(default_factory=dict)
    slots: dict[int, Slots] = field(default_factory=dict)
    run: int = 0
    time: int | None = None
    """Axis of the model's input along which what was received was cut into steps."""

    def begin(self, inputs: Mapping[str, Tensor], run: int) -> None:
        """Take up what a call of the model gets; of one that is a single step, the step ``run``."""
        self.run = run
        for value in list(self.known.values()):
            self.keep(replace(value, static=False))
        for name, x in inputs.items():
            source = Source(None, name if len(inputs) > 1 else "")
            self.keep(TracedTensor(x, (source,), tuple(x.shape), None, run, static=True))

    def get(self, tensor: Tensor) -> TracedTensor | None:
        """Return what is known of a tensor, as far as it was left as it is."""
        value = self.known.get(id(tensor))
        return None if value is None else fresh(value)

    def keep(self, value: TracedTensor) -> None:
        self.known[id(value.tensor)] = value

    def origin(self, tensor: Tensor) -> Tensor | None:
        """Return the tensor that ``tensor`` is an untouched copy of; itself if it is none."""
        value = self.get(tensor)
        if value is None:
            return None
        return tensor if value.origin is None else value.origin

    def known_or_silence(self, x: Tensor) -> TracedTensor | None:
        value = self.get(x)
        return silence(x) if value is None and is_silence(x) else value

    def look_up(self, name: str, x: Tensor, stateful: bool = False) -> TracedTensor:
        """Return what is known of a tensor that ``name`` receives, or say why it cannot."""
        value = self.known_or_silence(x) if stateful else self.get(x)
        if value is None:
            raise ValueError(
                f"{name} receives a tensor that no module made from the model's input; not yet "
                "supported: a constant is the bias of a layer, or added to what one gives, and "
                "feedback begins with zeros (reset what the model keeps)"
            )
        if value.problem:
            returned = name == "the model's output"
            kind = UnstackedError if returned and value.problem.startswith(STEPS_OF) else ValueError
            raise kind(f"{name} receives {value.problem}; {advice(value.problem, returned)}")
        self.time = self.time if value.time is None else value.time
        if value.late:
            raise StepError(
                f"{name} receives {value.late}; only what one step makes, and what the step before "
                "made, can meet in it: more is not yet supported"
            )
        return late(value, self.run) if value.start else value

    def _put(self, target: Tensor, axis: int | None, place: int, value: TracedTensor) -> None:
        _, slots, version = self.slots.get(id(target), (target, {}, target._version - 1))
        if axis is None or version != target._version - 1:
            slots = {}
        elif value.tensor.shape == target.select(axis, place).shape:
            slots = {**slots, (axis, place % target.shape[axis]): value}
        self.slots[id(target)] = target, slots, target._version if slots else -1

    def taken(self, target: Tensor, index: Any) -> TracedTensor | None:
        """Return what was written last into a place of a tensor, where nothing else was done."""
        _, slots, version = self.slots.get(id(target), (target, {}, -1))
        axis, place = _written_place(index)
        if axis is None or version != target._version:
            return None
        return slots.get((axis, place % target.shape[axis]))

    def written(self, target: Tensor, index: Any, value: TracedTensor) -> None:
        """Note a step that is written into a tensor made for all steps, one after the other.

        A tensor that is changed in between, or written to in another way, is no sequence of steps.
        """
        filling = self.filled.get(id(target), _Filling(target, (), target._version - 1))
        steps: tuple[TracedTensor, ...] = ()
        axis, place = _written_place(index)
        self._put(target, axis, place, value)
        next_one = filling.version == target._version - 1 and place == len(filling.steps)
        if axis is not None and next_one and not value.problem:
            whole = value.tensor.shape == target.select(axis, place).shape
            steps = (*filling.steps, value) if whole else ()
        self.filled[id(target)] = _Filling(target, steps, target._version if steps else -1)
        done = stack(steps, target, axis) if axis is not None and steps else None
        if value.problem:
            self.keep(replace(value, tensor=target, origin=None))
        elif done is not None and len(steps) == target.shape[axis or 0]:
            self.keep(done)
