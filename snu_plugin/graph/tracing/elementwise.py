"""Arithmetic with constants as a layer."""

from __future__ import annotations

from torch import Tensor, nn

Found = tuple[Tensor, nn.Module]
"""The signal that a function takes, and the layer that does to it what the function does."""


class Elementwise(nn.Module):
    """``scale * x + shift`` with constants, which may be spread over ``x``; ``None`` is absent."""

    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift
