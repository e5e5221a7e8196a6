"""What happens at the edges of a tile, element by element: the specification, in plain torch.

Values are ``(lanes, ...)``: a lane is one step of a sequence, or one chip of a batch. Counts are
per lane. ``numba_periphery`` has the same functions, fused, and gives the same numbers.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.polar import polar
from snu_plugin.accelerator.wires import share

__all__ = [
    "Seen",
    "digitise",
    "drive",
    "fastest",
    "lack",
    "last_code",
    "look",
    "polar",
    "resolution",
]


def resolution(bits: int) -> float:
    """Return one step as a share of the full range: ``1 / (2^bits - 2)``, sign included.

    Source: aihwkit 1.2.0, ``IOParameters``.
    """
    return 1.0 / ((1 << bits) - 2)


def last_code(bits: int) -> int:
    """Return the largest code of a converter, ``2^(bits - 1) - 1``; the smallest is its negative.

    >>> last_code(8)
    127
    """
    return (1 << (bits - 1)) - 1


@cache
def fastest() -> ModuleType:
    """Return the fused functions if Numba is installed, else these; the numbers are the same."""
    try:
        from snu_plugin.accelerator import numba_periphery
    except ImportError:
        return sys.modules[__name__]
    return numba_periphery


class Seen(NamedTuple):
    """What drives the rows, by lane."""

    spikes: Tensor
    """Whether all inputs are 0 or 1, which a row driver passes without a converter; bool."""
    driven: Tensor
    """Inputs other than 0, int64."""


def look(x: Tensor) -> Seen:
    """Look at inputs ``(lanes, ...)``.

    >>> look(torch.tensor([[0.0, 1.0], [0.0, 0.5]]))
    Seen(spikes=tensor([ True, False]), driven=tensor([1, 1]))
    """
    flat = x.flatten(1)
    driven = flat != 0
    return Seen((flat == driven).all(1), driven.sum(1))


def drive(x: Tensor, spikes: Tensor, bits: int, bound: float) -> tuple[Tensor, Tensor]:
    """Pass inputs through the input converter, lanes of spikes as they are.

    Args:
        x: Inputs ``(lanes, ...)``, float32.
        spikes: Which lanes pass, bool.
        bits: Bits of the converter, with sign.
        bound: End of its range, in the units of ``x``.

    Returns:
        What drives the rows, and how many inputs of each lane were beyond the range.

    >>> drive(torch.tensor([[0.3, -4.0]]), torch.tensor([False]), 2, 1.0)
    (tensor([[ 0., -1.]]), tensor([1]))
    """
    step = 2 * bound * resolution(bits)
    codes = (x / step).round_()
    passed = spikes.view(-1, *[1] * (x.dim() - 1))
    clipped = _clip(codes, bits).masked_fill_(spikes, 0)
    return torch.where(passed, x, codes.mul_(step)), clipped


def digitise(
    y: Tensor, noise: Tensor | None, variance: Tensor | None, sigma: float, bits: int | None
) -> Tensor:
    """Add noise to the sums of columns and convert them, in place.

    ``y += sqrt(variance + sigma²) noise``, then half to even and clipped to the last codes.

    Args:
        y: Sums in steps of the converter ``(lanes, ...)``, float32, contiguous.
        noise: As many normal numbers ``(lanes, ...)``; ``None`` adds nothing.
        variance: Of the noise of each sum, squared steps; ``None`` is 0.
        sigma: Standard deviation of the noise that all sums have, steps.
        bits: Bits of the converter, with sign; ``None`` converts nothing.

    Returns:
        How many sums of each lane were beyond the range.

    >>> y = torch.tensor([[0.5, 1.5, -9.0]])
    >>> digitise(y, None, None, 0.0, 3), y
    (tensor([1]), tensor([[ 0.,  2., -3.]]))
    """
    if noise is not None:
        level = sigma if variance is None else _root(variance + _squared(sigma))
        y += noise.reshape(y.shape) * level
    if bits is None:
        return torch.zeros(len(y), dtype=torch.int64)
    return _clip(y.round_(), bits)


def lack(y: Tensor, load: Tensor, far: Tensor) -> None:
    """Take from the sums ``y`` what IR drop costs them, in place: ``share(load) far``."""
    y -= share(load).mul_(far)


def collect(out: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, *, more: bool) -> None:
    """Scale converted sums and put them into ``out``, in place: ``out = [out +] y scale [+ bias]``.

    Args:
        out: Digital outputs ``(lanes, n, out)``, contiguous.
        y: Sums of one row of tiles, of the same shape.
        scale: What a step stands for, ``(1, out)`` or ``(lanes, out)``.
        bias: Added last, of the shape of ``scale``.
        more: Whether ``out`` holds the sums of other rows of tiles already.
    """
    scaled = y * scale[:, None]
    if more:
        out += scaled
    else:
        out.copy_(scaled)
    if bias is not None:
        out += bias[:, None]


def _squared(sigma: float) -> float:
    """Return ``sigma²`` as float32 arithmetic gives it."""
    single = torch.tensor(sigma, dtype=torch.float32)
    return float(single * single)


def _root(x: Tensor) -> Tensor:
    """Return the square root, rounded correctly, as torch's is not."""
    return torch.from_numpy(np.sqrt(x.numpy()))


def _clip(codes: Tensor, bits: int) -> Tensor:
    """Clip rounded values to the last codes, in place; returns how many were, by lane."""
    last = last_code(bits)
    low, high = codes.aminmax() if codes.numel() else (0, 0)
    if low >= -last and high <= last:
        return torch.zeros(len(codes), dtype=torch.int64)
    over = codes.abs() > last
    codes.clamp_(-last, last)
    return over.flatten(1).sum(1)
