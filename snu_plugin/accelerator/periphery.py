"""The converters at the edge of a tile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def resolution(bits: int) -> float:
    """Return one step as a share of the full range: ``1 / (2^bits - 2)``, sign included.

    Source: aihwkit 1.2.0, ``IOParameters``.
    """
    return 1.0 / ((1 << bits) - 2)


class Converted(NamedTuple):
    """Converted values and how many of them hit the end of the range."""

    values: Tensor
    saturated: int


def convert(y: Tensor, bits: int | None, bound: Tensor | float) -> Converted:
    """Round to the converter's grid, half to even, then clip to ``±bound``.

    Args:
        y: Analog values, any shape.
        bits: Bits with sign; ``None`` neither rounds nor clips.
        bound: End of the range, in the units of ``y``; a tensor broadcasts against ``y``.

    >>> convert(torch.tensor([0.3, -4.0]), 2, 1.0)
    Converted(values=tensor([ 0., -1.]), saturated=1)
    """
    if bits is None:
        return Converted(y, 0)
    limit = torch.as_tensor(bound, dtype=y.dtype)
    step = 2 * limit * resolution(bits)
    codes, over = quantise(y / step, bits)
    held = torch.minimum(torch.maximum(codes * step, -limit), limit)
    return Converted(held, 0 if over is None else int(over.sum()))


def quantise(steps: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
    """Round values in steps of a converter, half to even, and clip them to its last codes.

    Returns the codes, in the memory of ``steps``, and which were clipped; ``None`` if none was.
    """
    last = (1 << (bits - 1)) - 1
    low, high = steps.round_().aminmax() if steps.numel() else (0, 0)
    if low >= -last and high <= last:
        return steps, None
    held = steps.clamp(-last, last)
    return held, steps != held


def are_spikes(x: Tensor) -> bool:
    """Return whether every value is 0 or 1, which a row driver passes without a converter."""
    return bool(((x == 0) | (x == 1)).all())
