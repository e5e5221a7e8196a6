"""Layers that functions of torch stand for: arithmetic with constants, and what makes spikes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NEAR = 8
"""Numbers beside a difference among which the first that fires is looked for."""


class Elementwise(nn.Module):
    """``scale * x + shift`` with constants, which may be spread over ``x``; ``None`` is absent."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def is_(self, scale: float | None, shift: float | None) -> bool:
        """Tell whether these are its constants, everywhere."""
        return all(
            own is None and asked is None
            if own is None or asked is None
            else bool((own == asked).all())
            for own, asked in ((self.scale, scale), (self.shift, shift))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


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
            below = beside(lowest, -torch.inf)
            lowest = torch.where(self(below + shift) > 0, below, lowest)
            lowest = torch.where(self(lowest + shift) > 0, lowest, beside(lowest, torch.inf))
        below = beside(lowest, -torch.inf)
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


def beside(level: Tensor, towards: float) -> Tensor:
    """Return the next number of a level's type in a direction."""
    return torch.nextafter(level, torch.full_like(level, towards))
