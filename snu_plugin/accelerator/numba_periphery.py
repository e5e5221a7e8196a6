"""The edges of a tile, fused into one pass each by Numba; see ``periphery``, the specification.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.numba_normal_numbers import from_bits
from snu_plugin.accelerator.numba_spikes import walk
from snu_plugin.accelerator.periphery import (
    DECADE,
    END,
    LEAST,
    SERIES,
    Converted,
    Driven,
    Drop,
    last_code,
    resolution,
)
from snu_plugin.accelerator.products import EVEN
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
    "show_by_law",
    "walk",
]

ZERO, ONE = np.float32(0), np.float32(1)
NONE = np.int32(0)
ANY = np.empty((0, 0), np.int64)
"""Rows that vectors drive where none is left out: looked at once a vector, it needs no loop of its
own."""


def drive(x: Tensor, first: int, end: int, bits: int | None, bound: float) -> Driven:
    """Say what inputs drive, and convert it; see ``periphery.drive``."""
    vectors = x.shape[:-1]
    # Memory of torch's own begins where products like it, and costs nothing until it is written.
    values = torch.empty(*vectors, -(-(end - first) // EVEN) * EVEN, dtype=torch.float32)
    spikes, graded, driven, worked, clipped, rows, busy = _drive(
        _vectors(x, x.shape[-1]),
        first,
        end,
        1 if x.dim() == 3 else x.shape[2],
        np.float32(1.0 if bits is None else 2 * bound * resolution(bits)),
        None if bits is None else np.float32(last_code(bits)),
        values.view(len(x), -1, values.shape[-1]).numpy(),
    )
    return Driven(
        values if graded and bits is not None else None,
        torch.from_numpy(spikes),
        graded,
        torch.from_numpy(driven).view(vectors),
        worked,
        clipped,
        rows,
        busy.tolist(),
    )


def dac(x: Tensor, spikes: Tensor, bits: int, bound: float) -> Converted:
    """Pass inputs through the input converter; see ``periphery.dac``."""
    values = torch.empty_like(x, memory_format=torch.contiguous_format)
    step = np.float32(2 * bound * resolution(bits))
    last, size = np.float32(last_code(bits)), x.shape[-1]
    converted = _vectors(values, size)
    clipped, driven = _dac(_vectors(x, size), 0, size, spikes.numpy(), step, last, converted)
    return Converted(values, clipped, torch.from_numpy(driven).view(x.shape[:-1]))


def adc(
    y: Tensor,
    noise: Tensor | None,
    variance: Tensor | None,
    sigma: float,
    bits: int | None,
    driven: Tensor | None = None,
) -> int:
    """Add noise to the sums of columns and convert them, in place; see ``periphery.adc``."""
    size = y[0].numel() // (1 if driven is None else driven[0].numel())
    clipped: int = _adc(
        _vectors(y, size),
        None if noise is None else _vectors(noise, size),
        None if variance is None else _vectors(variance, size),
        np.float32(sigma),
        None if bits is None else np.float32(last_code(bits)),
        ANY if driven is None else driven.reshape(len(y), -1).numpy(),
    )
    return clipped


def ir_drop(y: Tensor, load: Tensor, far: Tensor) -> None:
    """Take from the sums ``y`` what IR drop costs them; see ``periphery.ir_drop``."""
    _ir_drop(_lanes(y), _lanes(load), _lanes(far))


def accumulate(out: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, *, more: bool) -> None:
    """Scale converted sums and put them into ``out``, in place; see ``periphery.accumulate``."""
    _accumulate(
        out.numpy(),
        y.contiguous().numpy(),
        scale.numpy(),
        None if bias is None else bias.numpy(),
        more,
    )


def show(
    g: Tensor,
    sigma: Tensor,
    frozen: Tensor | None,
    open_: Tensor | float,
    shares: tuple[float, ...],
    full_us: float,
    difference: Tensor,
    variance: Tensor,
) -> bool:
    """Make weights of devices and their noise in one pass; see ``periphery.show``."""
    alike = 1.0 if isinstance(open_, Tensor) else open_
    parts = [alike * (share / full_us) ** 2 for share in shares]
    found = _show(
        g.numpy(),
        sigma.numpy(),
        None if frozen is None else frozen.numpy(),
        open_.numpy() if isinstance(open_, Tensor) else None,
        np.array(shares, np.float32),
        np.array(parts, np.float32),
        difference.numpy(),
        variance.numpy(),
    )
    return bool(found)


def show_by_law(
    g_us: Tensor,
    nu: Tensor,
    q: Tensor,
    length: float,
    spread: float,
    frozen: Tensor | None,
    open_: Tensor | float,
    shares: tuple[float, ...],
    full_us: float,
    difference: Tensor,
    variance: Tensor,
) -> bool:
    """Age devices and make weights of them in one pass; see ``periphery.show_by_law``."""
    alike = 1.0 if isinstance(open_, Tensor) else open_
    parts = [alike * (share / full_us) ** 2 for share in shares]
    found = _show_by_law(
        g_us.numpy(),
        nu.numpy(),
        q.numpy(),
        np.float32(length),
        np.float32(spread),
        None if frozen is None else frozen.numpy(),
        open_.numpy() if isinstance(open_, Tensor) else None,
        np.array(shares, np.float32),
        np.array(parts, np.float32),
        difference.numpy(),
        variance.numpy(),
    )
    return bool(found)


def lay(weight: Tensor, first: int, end: int, drop: Drop | None, variance: Tensor | None) -> Tensor:
    """Lay out what the inputs of some rows meet; see ``periphery.lay``."""
    columns, n = len(weight), end - first
    kinds = 1 + 2 * (drop is not None) + (variance is not None)
    laid = torch.empty(n, columns * kinds, dtype=torch.float32)
    laid[:, :columns].copy_(weight[:, first:end].t())  # torch turns over faster than a loop
    if variance is not None:
        laid[:, -columns:].copy_(variance[:, first:end].t())
    load = None if drop is None else np.float32(drop.load)
    _lay(columns, load, None if drop is None else drop.far.numpy(), laid.numpy())
    return laid


def finish(
    sums: Sequence[Tensor],
    drops: bool,
    open_: bool,
    noise: Tensor | None,
    number: int,
    sigma: float,
    bits: int | None,
    driven: Tensor | None,
    factor: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> int:
    """Drop, add noise, convert and scale in one pass; see ``periphery.finish``."""
    lanes, vectors, columns = out.shape
    # Kinds side by side lie so many columns apart, those in tensors of their own none.
    apart = columns if len(sums) == 1 else 0
    kinds = [kind.reshape(lanes, vectors, -1).numpy() for kind in sums]
    kinds = kinds * (1 + 2 * drops + open_) if apart else kinds
    clipped: int = _finish(
        kinds[0],
        *(kinds[1:3] if drops else kinds[:1] * 2),
        kinds[-1],
        apart,
        drops,
        True if open_ else None,
        None if noise is None else noise.reshape(lanes, -1, columns).numpy(),
        number * vectors,
        np.float32(sigma),
        None if bits is None else np.float32(last_code(bits)),
        ANY if driven is None else driven.reshape(lanes, -1).numpy(),
        None if factor is None else factor.expand(lanes, vectors, 1).contiguous().numpy(),
        scale.numpy(),
        None if bias is None else bias.numpy(),
        number > 0,
        out.numpy(),
    )
    return clipped


def _lanes(x: Tensor) -> Any:
    """Return the memory of ``x`` as an array ``(lanes, values)``."""
    return x.reshape(len(x), -1).contiguous().numpy()


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
        _drop(y[lane], load[lane], far[lane])


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
def _show(
    g: Any, sigma: Any, frozen: Any, open_: Any, shares: Any, parts: Any, difference: Any,
    variance: Any,
) -> Any:  # fmt: skip
    found = NONE
    for row in range(len(difference)):
        difference[row] = ZERO
        variance[row] = ZERO
        for device in range(len(g)):
            own = None if frozen is None else frozen[device, row]
            fast = None if open_ is None else open_[device, row]
            found += _show_row(
                g[device, row], sigma[device, row], own, fast, shares[device], parts[device],
                difference[row], variance[row],
            )  # fmt: skip
    return found


@compiled
def _show_by_law(  # type: ignore[no-untyped-def]
    g_us, nu, q, length, spread, frozen, open_, shares, parts, difference, variance
):
    found = NONE
    g, sigma = np.empty(nu.shape[2], np.float32), np.empty(nu.shape[2], np.float32)
    for row in range(len(difference)):
        difference[row] = ZERO
        variance[row] = ZERO
        for device in range(len(nu)):
            _age(g_us[device, row], nu[device, row], length, g)
            _deviate(g, q[device, row], spread, sigma)
            own = None if frozen is None else frozen[device, row]
            fast = None if open_ is None else open_[device, row]
            found += _show_row(
                g, sigma, own, fast, shares[device], parts[device], difference[row], variance[row]
            )
    return found


@compiled
def _age(g_us: Any, nu: Any, length: Any, g: Any) -> None:
    per, high, low = DECADE
    for i in range(g.size):
        x = nu[i] * length
        x = END if x > END else x
        n = np.rint(x * per)
        r = (n * high - x) + n * low
        e = SERIES[0]
        for coefficient in SERIES[1:]:
            e = e * r + coefficient
        power = from_bits(np.int32((np.int32(127) - np.int32(n)) << np.int32(23)))
        g[i] = np.float32(g_us[i]) * (e * power)


@compiled
def _deviate(g: Any, q: Any, spread: Any, sigma: Any) -> None:
    for i in range(g.size):
        sigma[i] = abs(g[i]) * q[i] * spread


@compiled
def _show_row(
    g: Any, sigma: Any, frozen: Any, open_: Any, share: Any, part: Any, difference: Any,
    variance: Any,
) -> Any:  # fmt: skip
    found = NONE
    # Two loops: of more arrays a compiler gives up finding out whether they overlap.
    for i in range(g.size):
        value = g[i]
        if frozen is not None:
            value += sigma[i] * frozen[i]
            value = ZERO if value < ZERO else value  # what is NaN stays so
        difference[i] += share * value
    for i in range(g.size):
        fresh = sigma[i] * sigma[i] * part
        if open_ is not None:
            fresh *= open_[i]
        variance[i] += fresh
        found += np.int32(fresh != ZERO)
    return found


@compiled
def _lay(columns: Any, load: Any, far: Any, laid: Any) -> None:
    n = len(laid)
    sizes, sums = np.zeros(laid.shape[1]), np.zeros(laid.shape[1])
    for i in range(n):
        row = laid[i]
        if load is not None:
            own = row[:columns]
            _scale(own, load, far[i], row[columns : 2 * columns], row[2 * columns : 3 * columns])
        _gather(row, sizes, sums)
    unit, turns = np.empty(laid.shape[1], np.float32), np.empty(laid.shape[1], np.float32)
    for j in range(laid.shape[1]):
        most = (sizes[j] + abs(sums[j])) / 2 * (1 + n * 2.0**-23)
        exponent = max(math.frexp(most)[1], LEAST) - 24
        unit[j], turns[j] = math.ldexp(1.0, exponent), math.ldexp(1.0, -exponent)
    for i in range(n):
        _round(laid[i], unit, turns)


@compiled
def _scale(own: Any, load: Any, far: Any, loads: Any, fars: Any) -> None:
    for j in range(own.size):
        loads[j], fars[j] = abs(own[j]) * load, own[j] * far


@compiled
def _gather(row: Any, sizes: Any, sums: Any) -> None:
    for j in range(row.size):
        value = np.float64(row[j])
        sizes[j] += abs(value)
        sums[j] += value


@compiled
def _round(row: Any, unit: Any, turns: Any) -> None:
    for j in range(row.size):
        row[j] = np.rint(row[j] * turns[j]) * unit[j]


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
