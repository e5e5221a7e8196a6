"""The edges of a tile, fused into one pass each by Numba; see ``periphery``, the specification.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.geometry import EVEN
from snu_plugin.accelerator.numba_matrix import lay, show
from snu_plugin.accelerator.numba_spikes import walk
from snu_plugin.accelerator.periphery import Converted, Converter, Driven, Ending
from snu_plugin.neuron.numba_scan import compiled

__all__ = [
    "accumulate",
    "adc",
    "dac",
    "drive",
    "finish",
    "ir_drop",
    "lay",
    "show",
    "walk",
]

ZERO, ONE = np.float32(0), np.float32(1)
NONE = np.int32(0)
ANY = np.empty((0, 0), np.int64)
"""Rows that vectors drive where none is left out: looked at once a vector, it needs no loop of its
own."""


def drive(x: Tensor, first: int, end: int, converter: Converter | None) -> Driven:
    """Say what inputs drive, and convert it; see ``periphery.drive``."""
    vectors = x.shape[:-1]
    # Memory of torch's own begins where products like it, and costs nothing until it is written.
    values = torch.empty(*vectors, -(-(end - first) // EVEN) * EVEN, dtype=torch.float32)
    spikes, graded, driven, worked, clipped, rows, busy = _drive(
        x.reshape(len(x), -1, x.shape[-1]).contiguous().numpy(),
        first,
        end,
        1 if x.dim() == 3 else x.shape[2],
        np.float32(1.0 if converter is None else converter.step),
        None if converter is None else np.float32(converter.last),
        values.view(len(x), -1, values.shape[-1]).numpy(),
    )
    return Driven(
        values if graded and converter is not None else None,
        torch.from_numpy(spikes),
        graded,
        torch.from_numpy(driven).view(vectors),
        worked,
        clipped,
        rows,
        busy.tolist(),
    )


def dac(x: Tensor, spikes: Tensor, converter: Converter) -> Converted:
    """Pass inputs through the input converter; see ``periphery.dac``."""
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    step, last = (np.float32(number) for number in converter)
    size = x.shape[-1]
    converted = _vectors(values, size)
    clipped, driven = _dac(_vectors(x, size), 0, size, spikes.numpy(), step, last, converted)
    return Converted(values, clipped, torch.from_numpy(driven).view(x.shape[:-1]))


def adc(
    y: Tensor,
    noise: Tensor | None,
    variance: Tensor | None,
    sigma: float,
    last: int | None,
    driven: Tensor | None = None,
) -> int:
    """Add noise to the sums of columns and convert them, in place; see ``periphery.adc``."""
    size = y[0].numel() // (1 if driven is None else driven[0].numel())
    clipped: int = _adc(
        _vectors(y, size),
        None if noise is None else _vectors(noise, size),
        None if variance is None else _vectors(variance, size),
        np.float32(sigma),
        None if last is None else np.float32(last),
        ANY if driven is None else driven.reshape(len(y), -1).numpy(),
    )
    return clipped


def ir_drop(y: Tensor, load: Tensor, far: Tensor) -> None:
    """Take from the sums ``y`` what IR drop costs them; see ``periphery.ir_drop``."""
    _ir_drop(*(_vectors(x, x.shape[-1]) for x in (y, load, far)))


def accumulate(out: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, *, more: bool) -> None:
    """Scale converted sums and put them into ``out``, in place; see ``periphery.accumulate``."""
    _accumulate(
        out.numpy(),
        y.contiguous().numpy(),
        scale.numpy(),
        None if bias is None else bias.numpy(),
        more,
    )


def finish(
    sums: Sequence[Tensor],
    number: int,
    scale: Tensor,
    driven: Tensor | None,
    factor: Tensor | None,
    to: Ending,
) -> int:
    """Drop, add noise, convert and scale in one pass; see ``periphery.finish``."""
    lanes, vectors, columns = to.out.shape
    # Kinds side by side lie so many columns apart, those in tensors of their own none.
    apart = columns if len(sums) == 1 else 0
    kinds = [kind.reshape(lanes, vectors, -1).numpy() for kind in sums]
    kinds = kinds * (1 + 2 * to.drops + to.open) if apart else kinds
    clipped: int = _finish(
        kinds[0],
        *(kinds[1:3] if to.drops else kinds[:1] * 2),
        kinds[-1],
        apart,
        to.drops,
        True if to.open else None,
        None if to.noise is None else to.noise.reshape(lanes, -1, columns).numpy(),
        number * vectors,
        np.float32(to.sigma),
        None if to.last is None else np.float32(to.last),
        ANY if driven is None else driven.reshape(lanes, -1).numpy(),
        None if factor is None else factor.expand(lanes, vectors, 1).contiguous().numpy(),
        scale.numpy(),
        None if to.bias is None or number < to.rows - 1 else to.bias.numpy(),
        number > 0,
        to.out.numpy(),
    )
    return clipped


def _vectors(x: Tensor, size: int) -> Any:
    """Return the memory of ``x`` as an array ``(lanes, vectors, size)``."""
    return x.reshape(len(x), -1, size).contiguous().numpy()


@compiled
def _drive(  # type: ignore[no-untyped-def]
    x, first, end, groups, step, last, values
):
    spikes, driven = _classify(x, first, end)
    lanes, vectors = driven.shape
    worked, clipped, rows, busy = 0, 0, 0, np.zeros(groups, np.int64)
    for lane in range(lanes):
        for vector in range(vectors):
            worked += int((driven[lane, vector] > 0) & (not spikes[lane]))
    # Numba compiles only the branches that the arguments' types leave, if they ask no more.
    graded = not spikes.all()
    if last is not None:  # noqa: SIM102
        if graded:
            clipped, driven = _dac(x, first, end, spikes, step, last, values)
    for lane in range(lanes):
        for vector in range(vectors):
            rows += driven[lane, vector]
            busy[vector % groups] += int(driven[lane, vector] > 0)
    return spikes, graded, driven, worked, clipped, rows, busy


@compiled
def _classify(x: Any, first: Any, end: Any) -> Any:
    lanes, vectors, _ = x.shape
    spikes, driven = np.empty(lanes, np.bool_), np.empty((lanes, vectors), np.int64)
    for lane in range(lanes):
        graded = NONE
        for vector in range(vectors):
            active, odd = _kind(x[lane, vector, first:end])
            driven[lane, vector] = active
            graded += odd
        spikes[lane] = graded == NONE
    return spikes, driven


@compiled
def _kind(x: Any) -> Any:
    active, graded = NONE, NONE
    for i in range(x.size):
        value = x[i]
        active += np.int32(value != ZERO)
        graded += np.int32((value != ZERO) & (value != ONE))
    return active, graded


@compiled
def _dac(x: Any, first: Any, end: Any, spikes: Any, step: Any, last: Any, values: Any) -> Any:
    lanes, vectors, _ = x.shape
    clipped, driven = 0, np.empty((lanes, vectors), np.int64)
    for lane in range(lanes):
        for vector in range(vectors):
            own, row = x[lane, vector][first:end], values[lane, vector]
            row[own.size :] = ZERO
            if spikes[lane]:
                active, over = _passed(own, row)
            else:
                active, over = _coded(own, step, last, row)
            driven[lane, vector] = active
            clipped += int(over)
    return clipped, driven


@compiled
def _passed(x: Any, values: Any) -> Any:
    active = NONE
    for i in range(x.size):
        values[i] = x[i]
        active += np.int32(x[i] != ZERO)
    return active, NONE


@compiled
def _coded(x: Any, step: Any, last: Any, values: Any) -> Any:
    active, over = NONE, NONE
    for i in range(x.size):
        code = np.rint(x[i] / step)
        over += np.int32(abs(code) > last)
        code = last if code > last else code
        code = -last if code < -last else code
        active += np.int32(code != ZERO)
        values[i] = code * step
    return active, over


@compiled
def _adc(y: Any, noise: Any, variance: Any, sigma: Any, last: Any, driven: Any) -> Any:
    lanes, vectors, _ = y.shape
    clipped = 0
    for lane in range(lanes):
        for vector in range(vectors):
            if driven.size and driven[lane, vector] == 0:
                y[lane, vector] = ZERO
                continue
            # Numba compiles only the branches that the arguments' types leave.
            own = None if noise is None else noise[lane, vector]
            spread = None if variance is None else variance[lane, vector]
            clipped += _convert(y[lane, vector], own, spread, sigma, last)
    return clipped


@compiled
def _convert(y: Any, noise: Any, variance: Any, sigma: Any, last: Any) -> Any:
    over, squared = NONE, sigma * sigma
    for i in range(y.size):
        value = y[i]
        if noise is not None:
            if variance is not None:
                value += noise[i] * np.sqrt(variance[i] + squared)
            else:
                value += noise[i] * sigma
        if last is not None:
            value = np.rint(value)
            over += np.int32(abs(value) > last)
            value = last if value > last else value
            value = -last if value < -last else value
        y[i] = value
    return over


@compiled
def _ir_drop(y: Any, load: Any, far: Any) -> None:
    for lane in range(len(y)):
        for vector in range(y.shape[1]):
            _drop(y[lane, vector], load[lane, vector], far[lane, vector])


@compiled
def _drop(y: Any, load: Any, far: Any) -> None:
    bend, slope, half = np.float32(0.05), np.float32(0.2), np.float32(0.5)
    for i in range(y.size):
        a = load[i]
        y[i] -= ((bend * a - slope) * a + half) * a * far[i]


@compiled
def _accumulate(out: Any, y: Any, scale: Any, bias: Any, more: Any) -> None:
    lanes, rows, _ = y.shape
    for lane in range(lanes):
        for row in range(rows):
            _add(out[lane, row], y[lane, row], scale, bias, more)


@compiled
def _add(out: Any, y: Any, scale: Any, bias: Any, more: Any) -> None:
    for i in range(y.size):
        value = y[i] * scale[i]
        if more:
            value = out[i] + value
        if bias is not None:
            value += bias[i]
        out[i] = value


@compiled
def _finish(  # type: ignore[no-untyped-def]
    sums, loads, fars, variances, apart, drops, open_, noise, first, sigma, last, driven, factor,
    scale, bias, more, out,
):  # fmt: skip
    lanes, vectors, n = out.shape
    clipped = 0
    for lane in range(lanes):
        for vector in range(vectors):
            y = sums[lane, vector][:n]
            if drops:
                load, far = loads[lane, vector][apart:], fars[lane, vector][2 * apart :]
                _drop(y, load[:n], far[:n])
            if driven.size and driven[lane, vector] == 0:
                y[:] = ZERO
            else:
                own = None if noise is None else noise[lane, first + vector]
                # The variance is the last of the kinds.
                spread = None if open_ is None else variances[lane, vector][-n:]
                clipped += _convert(y, own, spread, sigma, last)
            if factor is not None:
                y *= factor[lane, vector, 0]
            _add(out[lane, vector], y, scale, bias, more)
    return clipped
