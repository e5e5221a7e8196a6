"""The loops over time of units that inhibit each other, compiled by Numba.

As in ``numba_scan.kernels``, but ``v = s (1 - m)`` with m the largest output of a group: ``size``
columns side by side, the units of a sample or those of all. Arrays are ``(T, M)`` or ``(M,)``; a
call works on the groups ``lo`` to ``hi``, so threads share nothing. Constants are pairs of an
address and a period; sums of gradients say besides whether they are float64.
"""

from __future__ import annotations

import numpy as np

from snu_plugin.neuron.numba_scan.jit import Kernel, compiled, sharing
from snu_plugin.neuron.numba_scan.kernels import TILE, backward_step, forward_step
from snu_plugin.neuron.numba_scan.tile import add, put, spread, sums, totals

# Small numbers in the lower precision: they leave a product in the precision of the rest.
ZERO, ONE = np.float32(0), np.float32(1)


@compiled
def _forward(  # type: ignore[no-untyped-def]
    x, v, decay, threshold, soft, below, floor, zero, s, y, states, size, lo, hi, number
):
    """Fill the outputs ``y`` and, unless it is ``None``, every step's ``states``.

    ``v`` is carried in place; ``s`` is left with the last state.
    """
    columns, spare = x.shape[1], np.empty(size, x.dtype)
    tile = max(TILE // size, 1) * size
    for a in range(lo * size, hi * size, tile):
        n = min(hi * size - a, tile)
        l, theta = spread(decay, a, n, zero), spread(threshold, a, n, zero)
        carried, state = v[a : a + n], s[a : a + n]
        for t in range(len(x)):
            if states is None:
                forward_step(x[:, a:], carried, l, theta, None, soft, below, floor, state, y[:, a:],
                             None, None, 0, t, columns, 0, n)  # fmt: skip
            else:
                forward_step(x[:, a:], carried, l, theta, None, soft, below, floor, state, y[:, a:],
                             None, states[:, a:], 0, t, columns, 0, n)  # fmt: skip
            _inhibit(state, y[t, a : a + n], carried, spare)


@compiled
def _inhibit(s, y, v, spare):  # type: ignore[no-untyped-def]
    """Put the potentials after the reset into ``v``; ``spare`` has room for one group."""
    size = len(spare)
    for k in range(0, len(v), size):
        left = ONE - _largest(y[k : k + size], spare)
        _scale(s[k : k + size], left, v[k : k + size])


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


@compiled
def _backward(  # type: ignore[no-untyped-def]
    gy, gs_last, x, v, y, states, slopes, decay, threshold, soft, below, floor, zero, through, gx,
    gl, gtheta, size, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx`` and those of decay and threshold; see ``numba_scan.kernels``.

    ``v`` are the potentials before the first step.
    """
    columns, spare = x.shape[1], np.empty(size, x.dtype)
    tile = max(TILE // size, 1) * size
    all_l, all_theta = totals(gl), totals(gtheta)
    for a in range(lo * size, hi * size, tile):
        n = min(hi * size - a, tile)
        b = a + n
        l, theta = spread(decay, a, n, zero), spread(threshold, a, n, zero)
        decays, thresholds = sums(gl, n, zero), sums(gtheta, n, zero)
        gs, ga, before = gs_last[a:b].copy(), np.full(n, zero), np.empty(n, x.dtype)
        for t in range(len(x) - 1, -1, -1):
            _back_through_reset(gy[t, a:b], states[t, a:b], y[t, a:b], l, through, ga, gs,
                                gx[t, a:b], spare)  # fmt: skip
            if t > 0:
                _inhibit(states[t - 1, a:b], y[t - 1, a:b], before, spare)
            else:
                before[:] = v[a:b]
            if slopes is None:
                backward_step(gx[:, a:], gs, x[:, a:], y[:, a:], before, None, l, theta, None, soft,
                              below, floor, through, gx[:, a:], ga, decays, thresholds, 0, t,
                              columns, 0, n)  # fmt: skip
            else:
                backward_step(gx[:, a:], gs, x[:, a:], y[:, a:], before, slopes[:, a:], l, theta,
                              None, soft, below, floor, through, gx[:, a:], ga, decays, thresholds,
                              0, t, columns, 0, n)  # fmt: skip
            gs[:] = ZERO
        add(all_l, decays, a)
        add(all_theta, thresholds, a)
    put(gl, all_l, number, zero)
    put(gtheta, all_theta, number, zero)


@compiled
def _back_through_reset(given, s, y, l, through, ga, gs, gy, spare):  # type: ignore[no-untyped-def]
    """Take the next step's drive's gradient ``ga``, left zero, to states and outputs.

    The states' is added to ``gs``, that of the outputs goes, with ``given``, to ``gy``. Units that
    share the largest output share its gradient, as with ``torch.amax``.
    """
    size = len(spare)
    for k in range(0, len(s), size):
        m = k + size
        _back_through_group(given[k:m], s[k:m], y[k:m], l[k:m], through, ga[k:m], gs[k:m], gy[k:m],
                            spare)  # fmt: skip


@compiled
def _back_through_group(given, s, y, l, through, ga, gs, gy, spare):  # type: ignore[no-untyped-def]
    most = _largest(y, spare)
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


_share_forward, _share_backward = sharing(_forward), sharing(_backward)


@compiled
def _forward_together(fork, rank, count, team, columns, *arguments):  # type: ignore[no-untyped-def]
    return _share_forward(fork, rank, count, team, columns, arguments)


@compiled
def _backward_together(fork, rank, count, team, columns, *arguments):  # type: ignore[no-untyped-def]
    return _share_backward(fork, rank, count, team, columns, arguments)


forward = Kernel(_forward, _forward_together)
backward = Kernel(_backward, _backward_together)
