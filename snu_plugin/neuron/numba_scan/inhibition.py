"""The scan of units that inhibit each other on processors: loops over time, compiled by Numba.

In eager torch alone, without recurrent weights. As in ``kernels``, but ``v = s (1 - m)`` with m the
largest output of a group: ``size`` columns side by side, the units of a sample or those of all.
Arrays are ``(T, M)`` or ``(M,)``; a call works on the groups ``lo`` to ``hi``, so threads share
nothing. Constants are pairs of an address and a period; sums of gradients say besides whether they
are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.config import Inhibition
from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.numba_scan.arrays import Sums, flat, periodic, row
from snu_plugin.neuron.numba_scan.jit import TILE, compiled, parallel, run
from snu_plugin.neuron.numba_scan.kernels import (
    SEGMENT,
    add,
    backward_step,
    clear,
    forward_step,
    put,
    spread,
)
from snu_plugin.neuron.numba_scan.loops import SPAN, marks_of, numbers
from snu_plugin.neuron.operators import ScanOperator, Settings, repeated

# Small numbers in the lower precision: they leave a product in the precision of the rest.
ZERO, ONE = np.float32(0), np.float32(1)


@parallel
def forward(  # type: ignore[no-untyped-def]
    x, v, decay, threshold, below, floor, kind, bytes_, s, y, marks, states, size, lo, hi, number
):
    """Fill the outputs ``y`` and, unless these have no rows, ``marks`` and every step's ``states``.

    ``v`` is carried in place; ``s`` is left with the last state, ``marks`` with the potentials
    before each segment of ``SEGMENT`` steps.
    """
    columns, spare = x.shape[1], np.empty(size, x.dtype)
    tile = max(TILE // size, 1) * size
    constants, most = np.empty((2, tile), x.dtype), np.empty(tile // size, x.dtype)
    for a in range(lo * size, hi * size, tile):
        n = min(hi * size - a, tile)
        # Here and not before the loop: Numba frees an array after its last use, and sees no address
        # being used.
        l, theta = _at(constants[0]), _at(constants[1])
        spread(decay, a, n, bytes_, l)
        spread(threshold, a, n, bytes_, theta)
        carried = v[a : a + n]
        for t in range(len(x)):
            if len(marks) and t % SEGMENT == 0:
                marks[t // SEGMENT, a : a + n] = carried
            state = states[t, a : a + n] if len(states) else s[a : a + n]
            rows = (_at(x[:, a:]), _at(state), _at(y[:, a:]), 0, _at(carried), l, theta, 0)
            forward_step(rows, (below, floor), kind, 0, t, columns, columns, n)
            _inhibit(state, y[t, a : a + n], carried, most, spare)
        s[a : a + n] = state


@compiled
def _at(array):  # type: ignore[no-untyped-def]
    """Return where an array begins, signed: with an unsigned number 0 would become a float."""
    return np.intp(array.ctypes.data)


@compiled
def _inhibit(s, y, v, most, spare):  # type: ignore[no-untyped-def]
    """Put each group's largest output into ``most``, the potentials after the reset into ``v``.

    ``spare`` has room for one group.
    """
    size = len(spare)
    for k in range(0, len(v), size):
        largest = _largest(y[k : k + size], spare)
        most[k // size] = largest
        _scale(s[k : k + size], ONE - largest, v[k : k + size])


@compiled
def _scale(numbers, factor, product):  # type: ignore[no-untyped-def]
    for j in range(len(product)):
        product[j] = numbers[j] * factor


@compiled
def _largest(y, spare):  # type: ignore[no-untyped-def]
    """Return the largest number by comparing halves, which vectors do; one that is none wins."""
    spare[:] = y
    n = len(y)
    while n > 1:
        half = (n + 1) // 2
        low, high = spare[:half], spare[half:n]
        for j in range(len(high)):
            this, other = low[j], high[j]
            low[j] = other if (other > this) | (other != other) else this
        n = half
    return spare[0]


@compiled
def _sum(spare):  # type: ignore[no-untyped-def]
    """Return the sum, added by halves, in place."""
    n = len(spare)
    while n > 1:
        half = (n + 1) // 2
        low, high = spare[:half], spare[half:n]
        for j in range(len(high)):
            low[j] += high[j]
        n = half
    return spare[0]


@parallel
def backward(  # type: ignore[no-untyped-def]
    gy, gs_last, x, y, marks, slopes, decay, threshold, below, floor, kind, bytes_, through,
    gx, g_drive, gl, gtheta, begins, size, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx`` and those of decay and threshold; see ``kernels``.

    ``g_drive`` is that of the drive after the last step, and is left with that of the first. Sums
    go on unless this call ``begins``. ``slopes`` has no rows for the published ones.
    """
    columns, spare = x.shape[1], np.empty(size, x.dtype)
    tile = max(TILE // size, 1) * size
    tiles = np.empty((7, tile), x.dtype)
    before, states = np.empty((SEGMENT + 1, tile), x.dtype), np.empty((SEGMENT, tile), x.dtype)
    most = np.empty((SEGMENT, tile // size), x.dtype)
    if begins:
        clear(gl, number)
        clear(gtheta, number)
    for a in range(lo * size, hi * size, tile):
        n = min(hi * size - a, tile)
        b = a + n
        l, theta, gs, ga, out = (
            tiles[0, :n],
            tiles[1, :n],
            tiles[2, :n],
            tiles[3, :n],
            tiles[6, :n],
        )
        decays = _at(tiles[4]) if gl[0] else 0
        thresholds = _at(tiles[5]) if gtheta[0] else 0
        spread(decay, a, n, bytes_, _at(l))
        spread(threshold, a, n, bytes_, _at(theta))
        tiles[3:] = ZERO
        gs[:], ga[:] = gs_last[a:b], g_drive[a:b]
        slope = _at(slopes[:, a:]) if len(slopes) else 0
        given, found = _at(x[:, a:]), _at(gx[:, a:])
        for first in range((len(x) - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            last = min(first + SEGMENT, len(x)) - 1
            before[0, :n] = marks[first // SEGMENT, a:b]
            for t in range(first, last + 1):
                k = t - first
                state, carried = states[k, :n], before[k + 1, :n]
                carried[:] = before[k, :n]
                now = given + t * columns * bytes_
                rows = (now, _at(state), _at(out), 0, _at(carried), _at(l), _at(theta), 0)
                forward_step(rows, (below, floor), kind, 0, 0, columns, columns, n)
                _inhibit(state, out, carried, most[k], spare)
            for t in range(last, first - 1, -1):
                k = t - first
                _back_through_reset(gy[t, a:b], states[k, :n], y[t, a:b], l, through, most[k],
                                    ga, gs, gx[t, a:b], spare)  # fmt: skip
                back = (found, _at(gs), given, _at(y[:, a:]), _at(before[k]), slope, found, _at(ga),
                        decays, thresholds, _at(l), _at(theta), 0)  # fmt: skip
                backward_step(back, (below, floor, through), kind, 0, t, columns, columns, n)
                gs[:] = ZERO
        g_drive[a:b] = ga
        add(gl, number, a, n, decays, floor)
        add(gtheta, number, a, n, thresholds, floor)
    put(gl, floor)
    put(gtheta, floor)


@compiled
def _back_through_reset(given, s, y, l, through, most, ga, gs, gy, spare):  # type: ignore[no-untyped-def]
    """Take the next step's drive's gradient ``ga``, left zero, to states and outputs.

    The states' is added to ``gs``, that of the outputs goes, with ``given``, to ``gy``. Units that
    share the largest output share its gradient, as with ``torch.amax``.
    """
    size = len(spare)
    for k in range(0, len(s), size):
        m = k + size
        _back_through_group(given[k:m], s[k:m], y[k:m], l[k:m], through, most[k // size], ga[k:m],
                            gs[k:m], gy[k:m], spare)  # fmt: skip


@compiled
def _back_through_group(given, s, y, l, through, most, ga, gs, gy, spare):  # type: ignore[no-untyped-def]
    for j in range(len(y)):
        spare[j] = ONE if y[j] == most else ZERO
    largest = _sum(spare)
    left = ONE - most
    for j in range(len(ga)):  # few arrays a loop: then the compiler can tell them apart
        ga[j] *= l[j]
    for j in range(len(ga)):
        gs[j] += ga[j] * left
    for j in range(len(ga)):
        spare[j] = ga[j] * s[j]
    share = spare.dtype.type(through * _sum(spare) / largest)
    for j in range(len(y)):
        gy[j] = given[j] - (share if y[j] == most else ZERO)
    ga[:] = ZERO


def inhibited_scan(
    inhibition: Inhibition,
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    reset: None,
    settings: Settings,
    keep: bool,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` what a backward pass starts from.

    The largest output of a group is in the reset, which is to zero. ``states`` of all steps are
    filled where they are wanted.
    """
    marks = paged(marks_of(x, keep))
    y = paged(torch.empty_like(x, memory_format=torch.contiguous_format))
    s = torch.empty_like(y[0])
    rows = [repeated(constant, s.shape) for constant in (decay, threshold)]
    wanted = row(s, s), flat(y), flat(marks), flat(y[:0] if states is None else states)
    unit = numbers(settings, x.dtype)[:-1]
    given = flat(x), _given(v, s).copy(), *map(periodic, rows), *unit
    size, groups = _groups(x, inhibition)
    run(forward, (*given, *wanted, size), groups, x.numel())
    return y, s, y[-1].clone(), marks


def inhibited_scan_backward(
    inhibition: Inhibition,
    gy: Tensor,
    gs_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    marks: Tensor,
    decay: Tensor,
    threshold: Tensor,
    reset: None,
    settings: Settings,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``."""
    gx = paged(torch.empty_like(y))
    constants = [repeated(constant, y.shape[1:]) for constant in (decay, threshold)]
    gl = Sums(constants[0] if learn_decay else None, x)
    gtheta = Sums(constants[1] if learn_threshold else None, x)
    rows, sums = [*map(periodic, constants)], (gl.place(), gtheta.place())
    unit = numbers(settings, x.dtype)
    gs, after = _given(gs_last, y[0]), flat(y.new_zeros((1, *y.shape[1:])))
    size, groups = _groups(x, inhibition)
    span = len(x) if slopes is None else SPAN
    for first in range((len(x) - 1) // span * span, -1, -span):
        part, slope = slice(first, first + span), y[:0]
        kept = marks[first // SEGMENT :]
        if slopes is not None:
            s = paged(torch.empty_like(y[part]))
            start = kept[0], decay, threshold, None
            inhibited_scan(inhibition, x[part], *start, settings, False, states=s)
            slope = slopes(s).to(y.dtype).expand_as(s)
        given = flat(gy[part]), gs, *(flat(t) for t in (x[part], y[part], kept, slope))
        wanted = flat(gx[part]), after[0], *sums
        begins = first + span >= len(x)
        run(backward, (*given, *rows, *unit, *wanted, begins, size), groups, x.numel())
        gs = _given(None, y[0])
    return gx, gl.total(), gtheta.total()


def _given(tensor: Tensor | None, step: Tensor) -> Any:
    """Return what broadcasts to one step, zeros for ``None``, as an array ``(neurons,)``."""
    return row(torch.zeros_like(step) if tensor is None else tensor, step)


def _groups(x: Tensor, inhibition: Inhibition) -> tuple[int, int]:
    """Return how many units inhibit each other, and how many such groups there are."""
    units = x[0].numel()
    size = max(x.shape[-1] if inhibition == "sample" else units, 1)
    return size, units // size


def _operator(inhibition: Inhibition) -> ScanOperator:
    return ScanOperator(
        name=f"inhibited_scan_{inhibition}",
        device=None,
        forward=partial(inhibited_scan, inhibition),
        backward=partial(inhibited_scan_backward, inhibition),
        kept={"marks": marks_of},
        saved=("x", "y", "marks"),
    )


INHIBITED: dict[Inhibition, ScanOperator] = {
    "sample": _operator("sample"),
    "batch": _operator("batch"),
}
