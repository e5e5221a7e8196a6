"""The fused scan's loops over time and neurons, compiled by Numba.

One family serves every unit: ``s = g(u + decay v)``, ``y = h(s - threshold)``,
``v = s (1 - y) + reset y``. Arrays are ``(T, M)`` or ``(M,)``, all neurons of all samples in one
contiguous row, and a call works on the columns ``lo`` to ``hi``, so threads share nothing.
``below`` is the slope of g below zero, 0 for the ReLU; ``None`` says that g is the identity.

Within a tile of columns a few steps run in one pass, so that what a neuron carries is read and
written once for all of them; ``marks`` holds ``v`` before each pass, from where the backward pass
computes the states again.

Forward kernels that decide spikes use no fast mathematics and the reference's order of operations,
so the spikes are the reference's; the others may contract ``a b + c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from snu_plugin.neuron import lanes
from snu_plugin.neuron.lanes import Lanes, Rows

Array = NDArray[Any]

# Whole numbers in the lower precision: they leave a product in the precision of the rest.
ZERO, ONE = np.float32(0), np.float32(1)

TILE = 8192
"""Columns carried through all of time at once: few enough that carry and constants stay in the
second cache, many enough that processors fetch a row ahead."""

STEPS = 4
"""Steps of one pass; those left over run one by one."""


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, run without the interpreter's lock, keep the result on disk.

    The result is compiled anew when the kernel's own file changes, not when ``lanes`` does.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        fast: Callable[..., Any] = njit(kernel, cache=True, **options)
    except RuntimeError:  # no folder can be written to: compile anew in every process
        fast = njit(kernel, **options)
    return fast


@intrinsic  # type: ignore[untyped-decorator]
def _decaying_exp(context: Any, z: Any) -> Any:
    """Return ``exp(-|z|)``, at least the smallest normal number, within 2 ulp."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return lanes.decaying_exp(Lanes(builder, arguments[0])).value

    return z(z), generate


class Cell(NamedTuple):
    """The constants of some neurons while code is generated; ``None`` is absent."""

    l: Lanes
    theta: Lanes | None
    rho: Lanes | None
    below: Lanes | None
    floor: Lanes
    soft: bool

    def activated(self, a: Lanes) -> Lanes:
        """Apply g as the larger of ``a`` and ``below max(a, floor)``; not a number stays that."""
        if self.below is None:
            return a
        bounded = self.below * (self.floor > a).where(self.floor, a)
        return (a > bounded).where(a, bounded)

    def back_through_g(self, gs: Lanes, s: Lanes) -> Lanes:
        """Multiply by the slope of g, known from its value: 1 above zero, ``below`` elsewhere."""
        if self.below is None:
            return gs
        below = (self.floor > -1).where(0, self.below)
        return (s <= 0).where(below * gs, gs)

    def step(self, x: Lanes, v: Lanes, y: Lanes | None = None) -> tuple[Lanes, Lanes, Lanes]:
        """Return state, output and the potential after the reset; ``y`` is the output if known."""
        s = self.activated(x + self.l * v)
        if self.theta is None:
            return s, s, s
        if y is None:
            z = s - self.theta
            y = lanes.sigmoid(z) if self.soft else (z > 0).where(1, z.like(0))
        kept = s * (1 - y)
        return s, y, kept if self.rho is None else kept + self.rho * y

    def step_back(
        self,
        gy: Lanes,
        gs: Lanes | None,
        ga: Lanes,
        through: Lanes,
        slope: Lanes | None,
        s: Lanes,
        y: Lanes,
    ) -> tuple[Lanes, Lanes]:
        """Return the gradients of this step's drive and of ``s - threshold``.

        ``ga`` is that of the next step's drive, ``gs`` what the state receives besides, ``slope``
        that of h if it is not the published one.
        """
        gv = self.l * ga.relaxed()
        if self.theta is None:
            gz, total = gy.like(0), gy + gv
        else:
            from_rest = s if self.rho is None else s - self.rho
            if slope is None:
                slope = y.relaxed() * (1 - y) if self.soft else lanes.sech2(s - self.theta)
            gz = (gy - through * gv * from_rest) * slope
            total = gv * (1 - y) + gz
        return self.back_through_g(total if gs is None else total + gs, s), gz


def _cell(j: Any, width: int, l: Rows, theta: Rows, rho: Rows, soft: Rows, *g: Rows) -> Cell:
    below, floor = (rows.at(j, width) for rows in g)
    constants = l.at(j, width), theta.at(j, width), rho.at(j, width)
    return Cell(*constants, below, floor, not soft.absent)


def _pass_forward(steps: int) -> Any:
    """Return the kernel that runs some steps of the columns ``a`` to ``b``, from step ``t`` on."""

    @intrinsic  # type: ignore[untyped-decorator]
    def forward(
        context: Any, x: Any, v: Any, l: Any, theta: Any, rho: Any, soft: Any, below: Any,
        floor: Any, s: Any, y: Any, marks: Any, states: Any, mark: Any, t: Any, a: Any, b: Any,
    ) -> Any:  # fmt: skip
        kinds = x, v, l, theta, rho, soft, below, floor, s, y, marks, states, mark, t, a, b

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *values, mark, t, a, b = arguments
            rows = [Rows(context, builder, *of) for of in zip(kinds[:-4], values, strict=True)]
            x, v, *constants, s, y, marks, states = rows
            times = [builder.add(t, t.type(k)) for k in range(steps)]

            def body(j: Any, width: int, times: Sequence[Any]) -> None:
                cell = _cell(j, width, *constants)
                carried = v.at(j, width)
                if times[0] is first:
                    marks.put(carried, j, mark)
                for time in times:
                    drive = x.at(j, width, time)
                    state, out, carried = cell.step(drive, carried)
                    y.put(out, j, time)
                    states.put(state, j, time)
                s.put(state, j)
                v.put(carried, j)

            # Step waits for step, and for a sigmoid long: better many columns than many steps.
            first, soft = times[0], not isinstance(kinds[5], types.NoneType)
            for together in [[time] for time in times] if soft else [times]:
                lanes.columns(builder, x.kind.dtype, a, b, partial(body, times=together))
            return context.get_dummy_value()

        return types.none(*kinds), generate

    return forward


def _pass_backward(steps: int) -> Any:
    """Return the kernel that goes back over the steps of one pass of ``_pass_forward``."""

    @intrinsic  # type: ignore[untyped-decorator]
    def backward(
        context: Any, gy: Any, gs: Any, x: Any, y: Any, marks: Any, slopes: Any, l: Any, theta: Any,
        rho: Any, soft: Any, below: Any, floor: Any, through: Any, gx: Any, ga: Any, gl: Any,
        gtheta: Any, mark: Any, t: Any, a: Any, b: Any,
    ) -> Any:  # fmt: skip
        kinds = (
            gy, gs, x, y, marks, slopes, l, theta, rho, soft, below, floor, through, gx, ga, gl,
            gtheta, mark, t, a, b,
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *values, mark, t, a, b = arguments
            rows = [Rows(context, builder, *of) for of in zip(kinds[:-4], values, strict=True)]
            gy, gs, x, y, marks, slopes, *constants, through, gx, ga, gl, gtheta = rows
            times = [builder.add(t, t.type(k)) for k in range(steps)]

            def body(j: Any, width: int) -> None:
                cell = _cell(j, width, *constants)
                v = marks.at(j, width, mark)
                taken = []
                for time in times:
                    drive = x.at(j, width, time)
                    s, out, after = cell.step(drive, v, y.at(j, width, time))
                    taken.append((time, v, s, out))
                    v = after
                carried = ga.at(j, width)
                last, stop, zero = gs.at(j, width), through.at(j, width), v.like(0)
                decays = thresholds = zero
                for time, v, s, out in reversed(taken):
                    given = gy.at(j, width, time), last, carried, stop, slopes.at(j, width, time)
                    carried, gz = cell.step_back(*given, s, out)
                    gx.put(carried, j, time)
                    last, decays, thresholds = None, decays + carried * v, thresholds - gz
                ga.put(carried, j)
                for sums, more in ((gl, decays), (gtheta, thresholds)):
                    if not sums.absent:
                        sums.put(sums.at(j, width) + more, j)

            lanes.columns(builder, gx.kind.dtype, a, b, body)
            return context.get_dummy_value()

        return types.none(*kinds), generate

    return backward


_forward_steps, _forward_step = _pass_forward(STEPS), _pass_forward(1)
_backward_steps, _backward_step = _pass_backward(STEPS), _pass_backward(1)


@_compiled
def forward(  # type: ignore[no-untyped-def]
    x, v, decay, threshold, reset, soft, below, floor, s, y, marks, states, lo, hi
):
    """Fill the outputs ``y``, ``marks`` and every step's ``states``, unless they are ``None``.

    ``v`` is carried in place, ``s`` is left with the last state.
    """
    passes = len(x) // STEPS
    for a in range(lo, hi, TILE):
        b = min(a + TILE, hi)
        for i in range(passes):
            _forward_steps(x, v, decay, threshold, reset, soft, below, floor, s, y, marks, states,
                           i, i * STEPS, a, b)  # fmt: skip
        for t in range(passes * STEPS, len(x)):
            _forward_step(x, v, decay, threshold, reset, soft, below, floor, s, y, marks, states,
                          passes + t - passes * STEPS, t, a, b)  # fmt: skip


@_compiled
def backward(  # type: ignore[no-untyped-def]
    gy, gs_last, x, y, marks, slopes, decay, threshold, reset, soft, below, floor, through,
    gx, ga, gl, gtheta, lo, hi,
):  # fmt: skip
    """Fill the gradients ``gx``; nothing but ``x``, ``marks`` and, if soft, ``y`` was kept.

    ``ga`` carries the gradient of the next step's drive, from zero on, and is left with that of the
    first. ``gs_last`` is what the last state receives besides, or ``None``; ``slopes`` are those of
    h, or ``None`` for the published ones; ``through`` is 0 where the reset stops gradients, else 1.
    To ``gl`` and ``gtheta`` the gradients of decay and threshold are added, over time; where ``gl``
    is ``None`` it is not asked for.
    """
    passes = len(x) // STEPS
    for a in range(lo, hi, TILE):
        b = min(a + TILE, hi)
        for t in range(len(x) - 1, passes * STEPS - 1, -1):
            row = passes + t - passes * STEPS
            if gs_last is not None and t == len(x) - 1:
                _backward_step(gy, gs_last, x, y, marks, slopes, decay, threshold, reset, soft,
                               below, floor, through, gx, ga, gl, gtheta, row, t, a, b)  # fmt: skip
            else:
                _backward_step(gy, None, x, y, marks, slopes, decay, threshold, reset, soft,
                               below, floor, through, gx, ga, gl, gtheta, row, t, a, b)  # fmt: skip
        for i in range(passes - 1, -1, -1):
            t = i * STEPS
            if gs_last is not None and t + STEPS == len(x):
                _backward_steps(gy, gs_last, x, y, marks, slopes, decay, threshold, reset, soft,
                                below, floor, through, gx, ga, gl, gtheta, i, t, a, b)  # fmt: skip
            else:
                _backward_steps(gy, None, x, y, marks, slopes, decay, threshold, reset, soft,
                                below, floor, through, gx, ga, gl, gtheta, i, t, a, b)  # fmt: skip
