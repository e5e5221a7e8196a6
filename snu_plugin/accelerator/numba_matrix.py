"""Devices as the matrix that inputs meet, fused; see ``matrix``, the specification.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.devices.model import Law
from snu_plugin.accelerator.matrix import DECADE, END, LEAST, SERIES, Drop, Showing
from snu_plugin.accelerator.numba_normal_numbers import from_bits
from snu_plugin.neuron.numba_scan import compiled

ZERO = np.float32(0)
NONE = np.int32(0)


def show(
    g: Tensor,
    sigma: Tensor,
    how: Showing,
    difference: Tensor,
    variance: Tensor,
    law: Law | None = None,
    nu: Tensor | None = None,
) -> bool:
    """Age devices, and make weights of them and their noise, in one pass; see ``matrix.show``."""
    found = _show(
        g.numpy(),
        sigma.numpy(),
        None if nu is None else nu.numpy(),
        np.float32(0.0 if law is None else law.length),
        np.float32(0.0 if law is None else law.spread),
        None if how.frozen is None else how.frozen.numpy(),
        None if how.open is None else how.open.numpy(),
        np.array(how.shares, np.float32),
        np.array(how.parts, np.float32),
        difference.numpy(),
        variance.numpy(),
    )
    return bool(found)


def lay(weight: Tensor, first: int, end: int, drop: Drop | None, variance: Tensor | None) -> Tensor:
    """Lay out what the inputs of some rows meet; see ``matrix.lay``."""
    columns, n = len(weight), end - first
    kinds = 1 + 2 * (drop is not None) + (variance is not None)
    laid = torch.empty(n, columns * kinds, dtype=torch.float32)
    laid[:, :columns].copy_(weight[:, first:end].t())  # torch turns over faster than a loop
    if variance is not None:
        laid[:, -columns:].copy_(variance[:, first:end].t())
    load = None if drop is None else np.float32(drop.load)
    _lay(columns, load, None if drop is None else drop.far.numpy(), laid.numpy())
    return laid


@compiled
def _show(  # type: ignore[no-untyped-def]
    g, sigma, nu, length, spread, frozen, open_, shares, parts, difference, variance
):
    found = NONE
    aged, deviation = np.empty(g.shape[2], np.float32), np.empty(g.shape[2], np.float32)
    for row in range(len(difference)):
        difference[row] = ZERO
        variance[row] = ZERO
        for device in range(len(g)):
            own = None if frozen is None else frozen[device, row]
            fast = None if open_ is None else open_[device, row]
            counts = shares[device], parts[device]
            # Numba compiles only the branch that the arguments' types leave.
            if nu is None:
                found += _show_row(
                    g[device, row], sigma[device, row], own, fast, counts, difference[row],
                    variance[row],
                )  # fmt: skip
            else:
                _age(g[device, row], nu[device, row], length, aged)
                _deviate(aged, sigma[device, row], spread, deviation)
                found += _show_row(
                    aged, deviation, own, fast, counts, difference[row], variance[row]
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
    g: Any, sigma: Any, frozen: Any, open_: Any, counts: Any, difference: Any, variance: Any
) -> Any:
    found, (share, part) = NONE, counts
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
