"""The fused scan's loops over time and neurons, compiled by Numba.

One family serves every unit: ``s = g(u + decay v)``, ``y = h(s - threshold)``,
``v = s (1 - y) + reset y``. Arrays are ``(T, M)`` or ``(M,)``, all neurons of all samples in one
contiguous row of ``columns``, and are given by their addresses: whoever calls keeps them alive. A
call works on the columns ``lo`` to ``hi``, so threads share nothing. Constants are pairs of an
address and a period, the values of so many columns after which they repeat; sums of gradients say
besides whether they are float64. ``zero`` is 0 in the precision of the arrays, ``below`` the slope
of g below zero, 0 for the ReLU; ``None`` says that g is the identity.

Within a tile of columns a few steps run in one pass, so that what a neuron carries is read and
written once for all of them; ``marks`` holds ``v`` before each pass, from where the backward pass
computes the states again.

Forward kernels that decide spikes use no fast mathematics and the reference's order of operations,
so the spikes are the reference's; the others may contract ``a b + c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from numba import types
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.cell import cell
from snu_plugin.neuron.numba_scan.jit import Kernel, compiled, sharing
from snu_plugin.neuron.numba_scan.simd import Rows
from snu_plugin.neuron.numba_scan.tile import add, begin, copy, end, put, spread, sums, totals

TILE = 8192
"""Columns carried through all of time at once: few enough that carry and constants stay in the
second cache, many enough that processors fetch a row ahead."""

STEPS = 4
"""Steps of one pass; those left over run one by one. Each waits for the one before, so two vectors
of columns side by side gain more than more steps; 2 to 8 steps of 1 to 4 vectors were tried."""


def _pass_forward(steps: int) -> Any:
    """Return the kernel that runs some steps of ``n`` columns from ``a`` on, from step ``t`` on."""

    @intrinsic  # type: ignore[untyped-decorator]
    def forward(
        context: Any, x: Any, v: Any, l: Any, theta: Any, rho: Any, soft: Any, below: Any,
        floor: Any, s: Any, y: Any, marks: Any, states: Any, mark: Any, t: Any, columns: Any,
        a: Any, n: Any,
    ) -> Any:  # fmt: skip
        kinds = x, v, l, theta, rho, soft, below, floor, s, y, marks, states

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *values, mark, t, columns, a, n = arguments
            of = partial(Rows, context, builder, floor, columns, a)
            rows = [of(*pair) for pair in zip(kinds, values, strict=True)]
            x, v, *constants, s, y, marks, states = rows
            times = [builder.add(t, t.type(k)) for k in range(steps)]

            def body(j: Any, width: int, times: Sequence[Any]) -> None:
                unit = cell(j, width, *constants)
                carried = v.at(j, width)
                if times[0] is first:
                    marks.put(carried, j, mark)
                for time in times:
                    x.fetch(j, width, time)
                    y.fetch(j, width, time, True)
                    drive = x.at(j, width, time)
                    state, out, carried = unit.step(drive, carried)
                    y.put(out, j, time)
                    states.put(state, j, time)
                s.put(state, j)
                v.put(carried, j)

            # Step waits for step, and for a sigmoid long: better many columns than many steps.
            first, soft = times[0], not isinstance(kinds[5], types.NoneType)
            for together in [[time] for time in times] if soft else [times]:
                simd.columns(builder, floor, n, partial(body, times=together))
            return context.get_dummy_value()

        return types.none(*kinds, mark, t, columns, a, n), generate

    return forward


def _pass_backward(steps: int) -> Any:
    """Return the kernel that goes back over the steps of one pass of ``_pass_forward``."""

    @intrinsic  # type: ignore[untyped-decorator]
    def backward(
        context: Any, gy: Any, gs: Any, x: Any, y: Any, marks: Any, slopes: Any, l: Any, theta: Any,
        rho: Any, soft: Any, below: Any, floor: Any, through: Any, gx: Any, ga: Any, gl: Any,
        gtheta: Any, mark: Any, t: Any, columns: Any, a: Any, n: Any,
    ) -> Any:  # fmt: skip
        kinds = (
            gy, gs, x, y, marks, slopes, l, theta, rho, soft, below, floor, through, gx, ga, gl,
            gtheta,
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *values, mark, t, columns, a, n = arguments
            of = partial(Rows, context, builder, floor, columns, a)
            rows = [of(*pair) for pair in zip(kinds, values, strict=True)]
            gy, gs, x, y, marks, slopes, *constants, through, gx, ga, gl, gtheta = rows
            times = [builder.add(t, t.type(k)) for k in range(steps)]

            def body(j: Any, width: int) -> None:
                unit = cell(j, width, *constants)
                v = marks.at(j, width, mark)
                taken = []
                for time in times:
                    x.fetch(j, width, time)
                    gy.fetch(j, width, time)
                    drive = x.at(j, width, time)
                    s, out, after = unit.step(drive, v, y.at(j, width, time))
                    taken.append((time, v, s, out))
                    v = after
                carried = ga.at(j, width)
                last, stop, zero = gs.at(j, width), through.at(j, width), v.like(0)
                decays = thresholds = zero
                for time, v, s, out in reversed(taken):
                    given = gy.at(j, width, time), last, carried, stop, slopes.at(j, width, time)
                    carried, gz = unit.step_back(*given, s, out)
                    gx.put(carried, j, time)
                    last, decays, thresholds = None, decays + carried * v, thresholds - gz
                ga.put(carried, j)
                for total, more in ((gl, decays), (gtheta, thresholds)):
                    if not total.absent:
                        total.put(total.at(j, width) + more, j)

            simd.columns(builder, floor, n, body)
            return context.get_dummy_value()

        return types.none(*kinds, mark, t, columns, a, n), generate

    return backward


_forward_steps, forward_step = map(_pass_forward, (STEPS, 1))
_backward_steps, backward_step = map(_pass_backward, (STEPS, 1))


def passes(steps: int) -> int:
    """Return how many passes run so many steps."""
    return steps // STEPS + steps % STEPS


@compiled
def _forward(  # type: ignore[no-untyped-def]
    x, v, v_last, decay, threshold, reset, soft, below, floor, zero, s, y_last, y, marks, states,
    steps, columns, lo, hi, number,
):  # fmt: skip
    """Fill the outputs ``y``, ``marks`` and every step's ``states``, unless they are ``None``.

    It starts from ``v``, or zero for ``None``; ``s`` is left with the last state and, unless
    ``None``, ``v_last`` with the potential after it and ``y_last`` with the last outputs.
    """
    whole = steps // STEPS * STEPS
    for a in range(lo, hi, TILE):
        n = min(hi - a, TILE)
        l, theta = spread(decay, a, n, zero), spread(threshold, a, n, zero)
        rho, carried = spread(reset, a, n, zero), begin(v, a, n, zero)
        mark = 0
        for t in range(0, whole, STEPS):
            _forward_steps(x, carried, l, theta, rho, soft, below, floor, s, y, marks, states,
                           mark, t, columns, a, n)  # fmt: skip
            mark += 1
        for t in range(whole, steps):
            forward_step(x, carried, l, theta, rho, soft, below, floor, s, y, marks, states,
                         mark, t, columns, a, n)  # fmt: skip
            mark += 1
        end(v_last, a, carried)
        copy(y, (steps - 1) * columns + a, y_last, a, n, zero)


@compiled
def _backward(  # type: ignore[no-untyped-def]
    gy, gs_last, x, y, marks, slopes, decay, threshold, reset, soft, below, floor, zero, through,
    gx, ga, ga_first, gl, gtheta, steps, columns, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx``; nothing but ``x``, ``marks`` and, if soft, ``y`` was kept.

    ``ga`` is the gradient of the drive after the last step, ``None`` for zero, and ``ga_first`` is
    left with that of the first, unless ``None``. ``gs_last`` is what the last state receives
    besides, or ``None``; ``slopes`` are those of h, or ``None`` for the published ones; ``through``
    is 0 where the reset stops gradients, else 1. ``gl`` and ``gtheta`` are left with the gradients
    of decay and threshold, summed over time and all columns that share one; where they are ``None``
    they are not asked for. Parts of the columns have places of their own.
    """
    whole = steps // STEPS * STEPS
    all_l, all_theta = totals(gl), totals(gtheta)
    for a in range(lo, hi, TILE):
        n = min(hi - a, TILE)
        l, theta = spread(decay, a, n, zero), spread(threshold, a, n, zero)
        rho, carried = spread(reset, a, n, zero), begin(ga, a, n, zero)
        decays, thresholds = sums(gl, n, zero), sums(gtheta, n, zero)
        mark = whole // STEPS + steps - whole - 1
        for t in range(steps - 1, whole - 1, -1):
            if gs_last is not None and t + 1 == steps:
                backward_step(gy, gs_last, x, y, marks, slopes, l, theta, rho, soft, below, floor,
                              through, gx, carried, decays, thresholds, mark, t, columns, a,
                              n)  # fmt: skip
            else:
                backward_step(gy, None, x, y, marks, slopes, l, theta, rho, soft, below, floor,
                              through, gx, carried, decays, thresholds, mark, t, columns, a,
                              n)  # fmt: skip
            mark -= 1
        for t in range(whole - STEPS, -STEPS, -STEPS):
            if gs_last is not None and t + STEPS == steps:
                _backward_steps(gy, gs_last, x, y, marks, slopes, l, theta, rho, soft, below, floor,
                                through, gx, carried, decays, thresholds, mark, t, columns, a,
                                n)  # fmt: skip
            else:
                _backward_steps(gy, None, x, y, marks, slopes, l, theta, rho, soft, below, floor,
                                through, gx, carried, decays, thresholds, mark, t, columns, a,
                                n)  # fmt: skip
            mark -= 1
        end(ga_first, a, carried)
        add(all_l, decays, a)
        add(all_theta, thresholds, a)
    put(gl, all_l, number, zero)
    put(gtheta, all_theta, number, zero)


_share_forward, _share_backward = sharing(_forward), sharing(_backward)


@compiled
def _forward_together(fork, rank, count, team, columns, *arguments):  # type: ignore[no-untyped-def]
    return _share_forward(fork, rank, count, team, columns, arguments)


@compiled
def _backward_together(fork, rank, count, team, columns, *arguments):  # type: ignore[no-untyped-def]
    return _share_backward(fork, rank, count, team, columns, arguments)


forward = Kernel(_forward, _forward_together)
backward = Kernel(_backward, _backward_together)
