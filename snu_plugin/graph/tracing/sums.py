"""What meets in a sum, brought into one shape by calls of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.function_layers import Elementwise
from snu_plugin.graph.tracing.receiver import Applied, Receiver
from snu_plugin.graph.tracing.torch_functions import spread
from snu_plugin.graph.tracing.traced_tensor import (
    COPIES,
    DIFFERENCES,
    Shape,
    Source,
    TracedTensor,
    fresh,
    in_one_step,
    matching,
)
from snu_plugin.graph.tracing.wiring import KEPT, Call


def as_one_tensor(receiver: Receiver, value: TracedTensor, lead: int | None) -> TracedTensor:
    """Return tensors side by side as one, if it is known along what; a sum takes no others."""
    if not value.parts or lead is None or value.problem or value.late:
        return value
    try:
        return receiver.shapes.placed("a sum", value, value.whole[lead:])
    except ValueError:
        return value


def kept_sums(
    receiver: Receiver, known: Sequence[TracedTensor], every: bool = False
) -> list[TracedTensor]:
    """Return what meets; a sum of the step before as what a call gave that keeps it.

    With ``every`` those of all steps are, if one of them has feedback in it.
    """
    now = max((value.step for value in known if not value.start), default=0)
    back = [any(source.late for source in value.sources) for value in known]
    alone = len(known) == 1 == len(known[0].sources)
    first = receiver.wiring.run if every and any(back) else None
    every = every and (alone or any(back))
    found = []
    for value, has_feedback in zip(known, back, strict=True):
        old = value.summed and (every or (has_feedback and value.step == now - 1))
        old |= value.step == first
        kept = None
        if old and not (value.start or value.static):
            kept = receiver.applied(KEPT, Elementwise(None, None), value, value.tensor.clone())
        found.append(kept or value)
    return found


def apart(receiver: Receiver, known: list[TracedTensor]) -> list[TracedTensor]:
    """Return the two that meet in a sum; what both hold comes to the second by a way of its own."""
    if len(known) != 2 or not set.intersection(*(set(v.sources) for v in in_one_step(known))):
        return known
    first, second = known
    call = receiver.function(Applied(torch.mul, "mul", (second.tensor, 1.0), {}, [second]))
    return [first, receiver.keep_output(call, second.tensor.clone())] if call else known


def in_one_shape(receiver: Receiver, known: list[TracedTensor]) -> list[TracedTensor]:
    """Return what meets in a sum in one shape: what was reshaped, cut or is spread by calls."""
    axes = {v.tensor.dim() - v.lead for v in known if v.lead is not None and not v.problem}
    if len(axes) == 1 and len({value.tensor.dim() for value in known}) == 1:
        shape = tuple(map(max, *(value.tensor.shape for value in known[:1] * 2 + known[1:])))
        known = [_as_wide(receiver, value, shape, len(shape) - min(axes)) for value in known]
    wholes = {value.whole for value in known}
    if len(wholes) < 2 or any(v.problem or v.late or v.start or v.parts for v in known):
        return known
    leads = (
        matching(tuple(v.tensor.shape), prod(v.whole[: v.lead]), v.whole[v.lead :], v.lead)
        for v in known
        if v.lead is not None
    )
    lead = next((n for n in leads if n is not None), None)
    try:
        return known if lead is None else [_flattened(receiver, value, lead) for value in known]
    except ValueError:
        return known


def _as_wide(receiver: Receiver, value: TracedTensor, shape: Shape, lead: int) -> TracedTensor:
    """Return a part of features as such, and one feature as often as a sum has features."""
    x = value.tensor
    if value.cut is not None:
        receiver.take_features(x, lead)
        value = fresh(receiver.values.known[id(x)])
    if value.problem or value.late or value.start or value.parts or len(shape) - lead != 1:
        return value
    if x.shape[-1] == shape[-1] or x.shape[-1] != 1:
        return value
    name = receiver.receive("spread()", spread(shape[-1]), x, False)
    return receiver.keep_output(name, x.expand(*x.shape[:-1], shape[-1]))


def _flattened(receiver: Receiver, value: TracedTensor, lead: int) -> TracedTensor:
    shape = tuple(value.tensor.shape)
    lead, given = receiver.shapes.split("a sum", value, value.tensor, lead)
    if given == shape[lead:]:
        return replace(value, whole=shape, lead=lead, least=0)
    layer = nn.Flatten()
    call = Call("flatten()", layer, value.sources, given, shape[lead:], shape[lead:])
    sources = (Source(receiver.wiring.take_up(value, call, in_its_step=True)),)
    return replace(value, sources=sources, whole=shape, lead=lead, least=0, origin=None)


class _Mixed(NamedTuple):
    """A value, or none, and how often values that cannot be received are added to it."""

    value: TracedTensor | None
    sign: int
    others: dict[int, int]
    """By the id of their tensor."""


@dataclass
class Mixtures:
    """Sums with values that cannot be received, by the id of their tensor.

    Straight-through estimators add a value and take it away: ``(hard - soft).detach() + soft``
    is ``hard`` going forward, whatever ``soft`` is.
    """

    known: dict[int, _Mixed] = field(default_factory=dict)

    def note(self, f: Applied, value: TracedTensor) -> None:
        """Note a value that cannot be received, which a function made."""
        copied = self.known.get(id(f.known[0].tensor)) if f.name in COPIES else None
        self.known[id(value.tensor)] = copied or _Mixed(None, 1, {id(value.tensor): 1})

    def sum(self, f: Applied, y: Tensor) -> TracedTensor | None:
        """Return what is known of a sum or difference of two, if nothing is left of the others."""
        a, b = (self.known.get(id(v.tensor)) if v.problem else _Mixed(v, 1, {}) for v in f.known)
        if a is None or b is None or (a.value is not None and b.value is not None):
            return None
        sign = -1 if f.name in DIFFERENCES else 1
        keys = {*a.others, *b.others}
        others = {key: a.others.get(key, 0) + sign * b.others.get(key, 0) for key in keys}
        others = {key: times for key, times in others.items() if times}
        value = b.value if a.value is None else a.value
        mixed = _Mixed(value, sign * b.sign if a.value is None else a.sign, others)
        self.known[id(y)] = mixed
        if value is None or others or mixed.sign < 0:
            return None
        if torch.equal(y, value.tensor.to(y.dtype)):
            return replace(value, tensor=y, origin=None)
        problem = "spikes that a sum with something else rounds, so that they are not 0 and 1"
        return replace(value, tensor=y, origin=None, problem=problem)
