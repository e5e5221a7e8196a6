"""What is added to a value and taken away again, as straight-through estimators do.

``(hard - soft).detach() + soft`` is ``hard`` going forward, whatever ``soft`` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.graph.tracing.feedback import DIFFERENCES
from snu_plugin.graph.tracing.traced_tensor import COPIES, TracedTensor


class _Mixed(NamedTuple):
    """A value, or none, and how often values that cannot be received are added to it."""

    value: TracedTensor | None
    sign: int
    others: dict[int, int]
    """By the id of their tensor."""


@dataclass
class Mixtures:
    """Sums with values that cannot be received, by the id of their tensor."""

    known: dict[int, _Mixed] = field(default_factory=dict)

    def note(self, name: str, known: Sequence[TracedTensor], value: TracedTensor) -> None:
        """Note a value that cannot be received, which the function ``name`` made."""
        copied = self.known.get(id(known[0].tensor)) if name in COPIES else None
        self.known[id(value.tensor)] = copied or _Mixed(None, 1, {id(value.tensor): 1})

    def sum(self, name: str, known: Sequence[TracedTensor], y: Tensor) -> TracedTensor | None:
        """Return what is known of a sum or difference of two, if nothing is left of the others."""
        a, b = (self.known.get(id(v.tensor)) if v.problem else _Mixed(v, 1, {}) for v in known)
        if a is None or b is None or (a.value is not None and b.value is not None):
            return None
        sign = -1 if name in DIFFERENCES else 1
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
