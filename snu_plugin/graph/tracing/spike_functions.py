"""Functions that make spikes, or do something to values where there are some, as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.elementwise import Elementwise, Found

NEAR = 8
"""Numbers beside a difference among which the first that fires is looked for."""


class Above(nn.Module):
    """1 where the input is above a constant threshold, else 0."""

    threshold: Tensor

    def __init__(self, threshold: Any, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.as_tensor(threshold).detach().clone())
        self.kind = kind
        """Type of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)

    def before_shift(self, shift: Tensor) -> Above | None:
        """Return what does the same before ``shift`` is added; ``None`` if no threshold does."""
        if type(self) is Above and not self.threshold.any():
            return Above(-shift, self.kind)  # a sum is 0 only of opposite numbers
        shift, threshold = shift.to(self.kind), self.threshold.to(self.kind)
        lowest = (threshold - shift).clone()
        for _ in range(NEAR):
            below = _beside(lowest, -torch.inf)
            lowest = torch.where(self(below + shift) > 0, below, lowest)
            lowest = torch.where(self(lowest + shift) > 0, lowest, _beside(lowest, torch.inf))
        below = _beside(lowest, -torch.inf)
        found = bool(((self(lowest + shift) > 0) & (self(below + shift) == 0)).all())
        return Above(below, self.kind) if found and bool(lowest.all()) else None


class Below(Above):
    """1 where the input is below a constant threshold, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x < self.threshold).to(x.dtype)


class Together(Above):
    """1 where several spikes, or as many as must be, are there or not: their signed sum tells."""

    def __init__(self, level: float, what: str) -> None:
        super().__init__(level)
        self.what = what
        """What it is of the spikes, in a word."""


class Either(Above):
    """1 where at least one of several spikes is 1, which their sum tells."""

    def __init__(self) -> None:
        super().__init__(0.5)


class Fired(Either):
    """1 where there is a spike."""


class Sign(nn.Module):
    """1 where the input is above 0, -1 where it is below, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


class Excess(Above):
    """The input where it is above a constant threshold, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.threshold, x, 0)


class Held(nn.Module):
    """What a potential is that is 0 in the step after it was above a threshold."""

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)


class Reset(nn.Module):
    """The input, and another value where it is above a threshold: what a spike leaves of it."""

    threshold: Tensor
    value: Tensor

    def __init__(self, threshold: Tensor, value: Any) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)
        self.register_buffer("value", torch.as_tensor(value).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.threshold, self.value.to(x.dtype), x)


def _at_least(x: Tensor, threshold: Any) -> Found:
    return x, Above(_next(x, threshold, -torch.inf), x.dtype)


def _at_most(x: Tensor, threshold: Any) -> Found:
    return x, Below(_next(x, threshold, torch.inf))


def _next(x: Tensor, threshold: Any, towards: float) -> Tensor:
    """Return the number of ``x``'s type beside a threshold: ``x`` lies beyond it, or on it."""
    if not x.is_floating_point():
        raise ValueError
    return _beside(torch.as_tensor(threshold, dtype=x.dtype, device=x.device).detach(), towards)


def _beside(level: Tensor, towards: float) -> Tensor:
    return torch.nextafter(level, torch.full_like(level, towards))


def _heaviside(x: Tensor, values: Tensor) -> Found:
    if bool((values == 1).all()):
        return _at_least(x, 0.0)
    if bool(values.any()):
        raise ValueError
    return x, Above(0.0, x.dtype)


def _fired(x: Tensor, value: Any) -> Found:
    """Where spikes are 1."""
    if isinstance(value, Tensor) or value != 1:
        raise ValueError
    return x, Fired()


def _not_silent(x: Tensor, value: Any = 0) -> Found:
    """Where spikes are not 0."""
    if isinstance(value, Tensor) or value != 0:
        raise ValueError
    return x, Fired()


def _not(x: Tensor) -> Found:
    if x.dtype != torch.bool:
        raise ValueError
    return x, Elementwise(torch.tensor(-1.0), torch.tensor(1.0))


def _clamped(input: Tensor, min: Any = None, max: Any = None) -> Found:
    """A sum of spikes that is at most 1: whether there is any."""
    if min not in (None, 0) or max != 1:
        raise ValueError
    return input, Either()


def _chosen(spikes: Tensor, a: Any, b: Any) -> Found:
    """``where`` of two constants."""
    if spikes.dtype != torch.bool:
        raise ValueError
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    return spikes, Elementwise(a - b, b)


SPIKE_FUNCTIONS: dict[str, Callable[..., Found]] = {
    **dict.fromkeys(("gt", "greater"), lambda x, threshold: (x, Above(threshold, x.dtype))),
    **dict.fromkeys(("ge", "greater_equal"), _at_least),
    **dict.fromkeys(("lt", "less"), lambda x, threshold: (x, Below(threshold))),
    **dict.fromkeys(("le", "less_equal"), _at_most),
    "eq": _fired,
    **dict.fromkeys(("ne", "not_equal", "bool"), _not_silent),
    "heaviside": _heaviside,
    **dict.fromkeys(("sign", "sgn"), lambda x: (x, Sign())),
    **dict.fromkeys(("invert", "logical_not"), _not),
    "where": _chosen,
    **dict.fromkeys(("clamp", "clip"), _clamped),
}
"""By the name that torch knows each by, without underscores; see ``torch_functions``."""

MIRRORED = {"gt": "lt", "ge": "le", "greater": "less", "greater_equal": "less_equal"}
MIRRORED |= {other: name for name, other in MIRRORED.items()}
"""What a comparison is with its sides changed."""
