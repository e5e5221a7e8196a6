"""The edges of a tile, fused into one pass each by Numba; see ``periphery``, the specification.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.numba_polar import polar
from snu_plugin.accelerator.periphery import Seen, last_code, resolution
from snu_plugin.neuron.numba_scan import compiled

__all__ = ["collect", "digitise", "drive", "lack", "look", "polar"]

ZERO, ONE = np.float32(0), np.float32(1)
NONE = np.int32(0)


def look(x: Tensor) -> Seen:
    """Look at inputs ``(lanes, ...)``; see ``periphery.look``."""
    spikes, driven = _look(_lanes(x))
    return Seen(torch.from_numpy(spikes), torch.from_numpy(driven))


def drive(x: Tensor, spikes: Tensor, bits: int, bound: float) -> tuple[Tensor, Tensor]:
    """Pass inputs through the input converter; see ``periphery.drive``."""
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    step = np.float32(2 * bound * resolution(bits))
    clipped = _drive(_lanes(x), spikes.numpy(), step, _last(bits), _lanes(values))
    return values, torch.from_numpy(clipped)


def digitise(
    y: Tensor, noise: Tensor | None, variance: Tensor | None, sigma: float, bits: int | None
) -> Tensor:
    """Add noise to the sums of columns and convert them, in place; see ``periphery.digitise``."""
    clipped = _digitise(
        _lanes(y),
        None if noise is None else _lanes(noise),
        None if variance is None else _lanes(variance),
        np.float32(sigma),
        None if bits is None else _last(bits),
    )
    return torch.from_numpy(clipped)


def lack(y: Tensor, load: Tensor, far: Tensor) -> None:
    """Take from the sums ``y`` what IR drop costs them; see ``periphery.lack``."""
    _lack(_lanes(y), _lanes(load), _lanes(far))


def collect(out: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, *, more: bool) -> None:
    """Scale converted sums and put them into ``out``, in place; see ``periphery.collect``."""
    _collect(
        out.numpy(),
        y.contiguous().numpy(),
        scale.numpy(),
        None if bias is None else bias.numpy(),
        more,
    )


def _lanes(x: Tensor) -> Any:
    """Return the memory of ``x`` as an array ``(lanes, values)``."""
    return x.reshape(len(x), -1).contiguous().numpy()


def _last(bits: int) -> np.float32:
    return np.float32(last_code(bits))


@compiled
def _look(x: Any) -> Any:
    lanes, size = x.shape
    spikes, driven = np.empty(lanes, np.bool_), np.empty(lanes, np.int64)
    for lane in range(lanes):
        active, graded = NONE, NONE
        for i in range(size):
            value = x[lane, i]
            active += np.int32(value != ZERO)
            graded += np.int32((value != ZERO) & (value != ONE))
        spikes[lane], driven[lane] = graded == NONE, active
    return spikes, driven


@compiled
def _drive(x: Any, spikes: Any, step: Any, last: Any, values: Any) -> Any:
    lanes, size = x.shape
    clipped = np.empty(lanes, np.int64)
    for lane in range(lanes):
        over = NONE
        if spikes[lane]:
            for i in range(size):
                values[lane, i] = x[lane, i]
        else:
            for i in range(size):
                code = np.rint(x[lane, i] / step)
                over += np.int32(abs(code) > last)
                code = last if code > last else code
                code = -last if code < -last else code
                values[lane, i] = code * step
        clipped[lane] = over
    return clipped


@compiled
def _digitise(y: Any, noise: Any, variance: Any, sigma: Any, last: Any) -> Any:
    lanes, size = y.shape
    clipped = np.empty(lanes, np.int64)
    squared = sigma * sigma
    for lane in range(lanes):
        over = NONE
        for i in range(size):
            value = y[lane, i]
            # Numba compiles only the branch that the arguments' types leave.
            if noise is not None:
                if variance is not None:
                    value += noise[lane, i] * np.sqrt(variance[lane, i] + squared)
                else:
                    value += noise[lane, i] * sigma
            if last is not None:
                value = np.rint(value)
                over += np.int32(abs(value) > last)
                value = last if value > last else value
                value = -last if value < -last else value
            y[lane, i] = value
        clipped[lane] = over
    return clipped


@compiled
def _lack(y: Any, load: Any, far: Any) -> None:
    bend, slope, half = np.float32(0.05), np.float32(0.2), np.float32(0.5)
    lanes, size = y.shape
    for lane in range(lanes):
        for i in range(size):
            a = load[lane, i]
            y[lane, i] -= ((bend * a - slope) * a + half) * a * far[lane, i]


@compiled
def _collect(out: Any, y: Any, scale: Any, bias: Any, more: Any) -> None:
    lanes, rows, columns = y.shape
    for lane in range(lanes):
        own = lane if len(scale) > 1 else 0
        for row in range(rows):
            for i in range(columns):
                value = y[lane, row, i] * scale[own, i]
                if more:
                    value = out[lane, row, i] + value
                if bias is not None:
                    value += bias[own, i]
                out[lane, row, i] = value
