"""The fused scan's loops over time and neurons, compiled by Numba; see docs/kernels.md.

One family serves every unit: ``s = g(u + decay v)``, ``y = h(s - threshold)``,
``v = s (1 - y) + reset y``. Arrays are ``(T, M)`` or ``(M,)``, all neurons of all samples in one
contiguous row of ``columns``, and are given by their addresses: whoever calls keeps them alive. An
address of 0 says that there is none. A call works on the columns ``lo`` to ``hi``, so threads share
nothing. Constants are pairs of an address and a period, the values of so many columns after which
they repeat; sums of gradients are the places of ``arrays.Sums``.

A kernel is compiled for an equation in a precision and for nothing else: ``kind`` is ``(curved,
soft, fires, resets, known)``, each ``True`` or ``None``, which are types. If curved, g is the
larger of a and ``below max(a, floor)``, else the identity; both numbers have the precision of the
arrays. h is a sigmoid if soft, else a step; what does not fire has no threshold, and its output is
``s``. What does not reset to a potential of its own resets to zero. Steps that are computed again
take their outputs from ``y`` if soft or known, else they fire anew. Which arrays there are shows
when it runs.

Within a tile of columns a few steps run in one pass, so that what a neuron carries is read and
written once for all of them. ``marks`` holds ``v`` before each segment of so many steps, a multiple
of ``STEPS`` and ``SEGMENT`` at most; the backward pass computes from there ``v`` before each pass,
for one segment and tile at a time, and from these the states.

Forward kernels that decide spikes use no fast mathematics and the reference's order of operations,
so the spikes are the reference's; the others may contract ``a b + c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.jit import PAD, TILE, compiled, parallel
from snu_plugin.neuron.numba_scan.simd import Flag, Rows, Vector

WIDE = np.float64(0)

STEPS = 4
"""Steps of one pass; those left over run one by one. Each waits for the one before, so two vectors
of columns side by side gain more than more steps; 2 to 8 steps of 1 to 4 vectors were tried."""

SEGMENT = 4 * STEPS
"""Most steps of one segment: so few that what the backward pass reads twice is still in the second
cache, so many that what is kept until then is little. A longer one gains nothing."""

SCRATCH = 6 + SEGMENT // STEPS + STEPS - 2
"""Rows of a tile's columns that a thread needs for itself: carry, constants, sums and, last, ``v``
before each pass of a segment, of which the last steps run one by one."""


class Unit(NamedTuple):
    """g, h and the constants of some neurons while code is generated; ``None`` is absent."""

    below: Vector | None
    floor: Vector
    soft: bool
    l: Vector
    theta: Vector | None
    rho: Vector | None

    def activated(self, a: Vector) -> Vector:
        """Apply g: ``a`` above zero, ``below a`` or, below ``floor``, 0 elsewhere."""
        if self.below is None:
            return a
        return (a > 0).where(a, (self.floor > a).where(0, self.below * a))

    def back_through_g(self, gs: Vector, s: Vector) -> Vector:
        """Multiply by the slope of g, known from its value: 1 above zero, ``below`` elsewhere."""
        if self.below is None:
            return gs
        below = (self.floor > -1).where(0, self.below)
        return (s <= 0).where(below * gs, gs)

    def step(self, x: Vector, v: Vector, y: Vector | None = None) -> tuple[Vector, Vector, Vector]:
        """Return state, output and the potential after the reset; ``y`` is the output if known."""
        s = self.activated(x + self.l * v)
        if self.theta is None:
            return s, s, s
        if y is not None:
            left = 1 - y
        elif self.soft:
            y = simd.sigmoid(s - self.theta)
            left = 1 - y
        else:
            fires = s > self.theta
            y, left = fires.where(1, s.like(0)), fires.where(0, s.like(1))
        kept = s * left
        return s, y, kept if self.rho is None else kept + self.rho * y

    def shown(self, s: Vector, y: Vector) -> Vector:
        """Return an output as it is handed out: NaN where the state of a hard unit is."""
        return y if self.theta is None or self.soft else simd.above(s, self.theta)

    def step_back(
        self, gy: Vector, ga: Vector, through: Vector, s: Vector, y: Vector, slopes: Flag,
        slope: Callable[[], Vector],
    ) -> tuple[Vector, Vector]:  # fmt: skip
        """Return the gradients of this step's state and of ``s - threshold``.

        ``ga`` is that of the next step's drive; the slope of h is ``slope()`` if there are some.
        """
        gv = self.l * ga.relaxed()
        if self.theta is None:
            return gy + gv, gy.like(0)
        z = s - self.theta

        def published() -> Vector:
            return y.relaxed() * (1 - y) if self.soft else simd.sech2(z)

        from_rest = s if self.rho is None else s - self.rho
        gz = (gy - through * gv * from_rest) * slopes.either(slope, published)
        return gv * (1 - y) + gz, gz


OUTPUTS, GRADIENTS = 2, 0
"""Which row of a pass forward holds outputs, of one back their gradients."""


def _pass(emit: Callable[..., None], steps: int, apart_row: int | None = None) -> Any:
    """Return the code of one pass over some columns, for the loops below to call.

    It takes the addresses of rows at the first column, the last of which are decay, threshold and
    reset; ``below``, ``floor`` and what ``emit`` needs besides; the kind of unit, which mark, which
    step first, how far it is from row to row, and how many columns there are. Of the row
    ``apart_row`` steps lie ``apart`` columns from each other.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def run(
        context: Any, rows: Any, numbers: Any, kind: Any, mark: Any, t: Any, columns: Any,
        apart: Any, n: Any,
    ) -> Any:  # fmt: skip
        flags = (not isinstance(k, types.NoneType) for k in kind.types)
        curved, soft, fires, resets, known = flags

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, numbers, _, mark, t, columns, apart, n = arguments
            values = cgutils.unpack_tuple(builder, numbers)
            of = partial(Rows, builder, values[0].type, columns)
            *found, l, theta, rho = map(of, cgutils.unpack_tuple(builder, rows))
            if apart_row is not None:
                found[apart_row].columns = apart
            times = [builder.add(t, t.type(k)) for k in range(steps)]

            def unit(j: Any, width: int) -> tuple[Unit, Sequence[Vector]]:
                below, floor, *others = (simd.splat(builder, value, width) for value in values)
                return Unit(
                    below if curved else None,
                    floor,
                    soft,
                    l.at(j, width),
                    theta.at(j, width) if fires else None,
                    rho.at(j, width) if resets else None,
                ), others

            loop = partial(simd.columns, builder, values[0].type, n)
            emit(loop, found, unit, soft or known, mark, times)
            return context.get_dummy_value()

        return types.none(rows, numbers, kind, mark, t, columns, apart, n), generate

    return run


def _go(
    columns: Any, rows: Sequence[Rows], unit: Any, soft: bool, mark: Any, times: Sequence[Any]
) -> None:
    """Emit the steps at ``times``; ``columns(body)`` emits ``body(j, width)`` for all columns."""
    x, s, y, marks, v = rows

    def body(together: Sequence[Any], j: Any, width: int) -> None:
        cell, _ = unit(j, width)
        carried = v.at(j, width)
        if together[0] is times[0]:
            with marks.present.then():
                marks.put(carried, j, mark)
        for time in together:
            x.fetch(j, width, time)
            y.fetch(j, width, time, True)
            state, out, carried = cell.step(x.at(j, width, time), carried)
            y.put(cell.shown(state, out), j, time)
        s.put(state, j)
        v.put(carried, j)

    # Step waits for step, and for a sigmoid long: better many columns than many steps.
    for together in [[time] for time in times] if soft else [times]:
        columns(partial(body, together))


def _go_back(
    columns: Any, rows: Sequence[Rows], unit: Any, known: bool, mark: Any, times: Sequence[Any]
) -> None:
    """Emit the way back over the steps of one pass: the states again, then their gradients."""
    gy, gs, x, y, before, slopes, gx, ga, gl, gtheta = rows

    def body(j: Any, width: int) -> None:
        cell, (through,) = unit(j, width)
        v = before.at(j, width)
        taken = []
        for time in times:
            x.fetch(j, width, time)
            gy.fetch(j, width, time)
            out = y.at(j, width, time) if known else None
            s, out, after = cell.step(x.at(j, width, time), v, out)
            taken.append((time, v, s, out))
            v = after

        def and_last(g: Vector) -> Vector:
            return gs.present.either(lambda: g + gs.at(j, width), lambda: g)

        carried = ga.at(j, width)
        decays = thresholds = v.like(0)
        for time, v, s, out in reversed(taken):
            slope = slopes.present, partial(slopes.at, j, width, time)
            g, gz = cell.step_back(gy.at(j, width, time), carried, through, s, out, *slope)
            carried = cell.back_through_g(and_last(g) if time is times[-1] else g, s)
            gx.put(carried, j, time)
            decays, thresholds = decays + carried * v, thresholds - gz
        ga.put(carried, j)
        for sums, more in ((gl, decays), (gtheta, thresholds)):
            with sums.present.then():
                sums.put(sums.at(j, width) + more, j)

    columns(body)


def _go_again(
    columns: Any, rows: Sequence[Rows], unit: Any, known: bool, mark: Any, times: Sequence[Any]
) -> None:
    """Emit the steps at ``times`` once more, for the sake of the potential before them."""
    x, y, before, after = rows

    def body(j: Any, width: int) -> None:
        cell, _ = unit(j, width)
        v = before.at(j, width)
        for time in times:
            x.fetch(j, width, time)
            out = y.at(j, width, time) if known else None
            _, _, v = cell.step(x.at(j, width, time), v, out)
        after.put(v, j)

    columns(body)


_forward_steps, forward_step = (_pass(_go, steps, OUTPUTS) for steps in (STEPS, 1))
_steps_again, _step_again = (_pass(_go_again, steps) for steps in (STEPS, 1))
_backward_steps, backward_step = (_pass(_go_back, steps, GRADIENTS) for steps in (STEPS, 1))


@intrinsic  # type: ignore[untyped-decorator]
def _move(context: Any, start: Any, to: Any, size: Any) -> Any:
    """Put so many bytes from one address to another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, to, size = arguments
        source, target = (builder.inttoptr(place, cgutils.voidptr_t) for place in (start, to))
        cgutils.raw_memcpy(builder, target, source, size, 1)
        return context.get_dummy_value()

    return types.none(start, to, size), generate


@intrinsic  # type: ignore[untyped-decorator]
def _zero(context: Any, to: Any, size: Any) -> Any:
    """Put zeros into so many bytes at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, size = arguments
        cgutils.memset(builder, builder.inttoptr(to, cgutils.voidptr_t), size, 0)
        return context.get_dummy_value()

    return types.none(to, size), generate


@intrinsic  # type: ignore[untyped-decorator]
def _load(context: Any, start: Any, index: Any, like: Any) -> Any:
    """Return the number at an address; ``like`` has its precision."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, index, like = arguments
        return builder.load(builder.gep(builder.inttoptr(start, like.type.as_pointer()), [index]))

    return like(start, index, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(context: Any, start: Any, index: Any, number: Any, like: Any) -> Any:
    """Put a number at an address, in the precision of ``like``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, index, value, kind = arguments
        place = builder.gep(builder.inttoptr(start, kind.type.as_pointer()), [index])
        builder.store(context.cast(builder, value, number, like), place)
        return context.get_dummy_value()

    return types.none(start, index, number, like), generate


@compiled
def shifted(start, size):  # type: ignore[no-untyped-def]
    """Return the address so many bytes further, or 0 where there is none."""
    return start + size if start else start


@compiled
def spread(constant, a, n, size, to):  # type: ignore[no-untyped-def]
    """Put the values of ``n`` columns from ``a`` on, of ``size`` bytes each, to an address.

    One period is put together, then what is there is doubled.
    """
    start, period = constant
    if not start:
        return
    place = a % period
    head = n if n < period - place else period - place
    _move(start + place * size, to, head * size)
    done = n if n < period else period
    _move(start, to + head * size, (done - head) * size)
    while done < n:
        more = done if done < n - done else n - done
        _move(to, to + done * size, more * size)
        done += more


@compiled
def begin(start, size, to):  # type: ignore[no-untyped-def]
    """Put so many bytes to an address: a copy, or zeros where there is nothing to copy."""
    if start:
        _move(start, to, size)
    else:
        _zero(to, size)


@compiled
def clear(sums, number):  # type: ignore[no-untyped-def]
    """Begin the sums of a part at zero."""
    start, width, _, _ = sums
    if start:
        _zero(start + number * width * 8, width * 8)


@compiled
def add(sums, number, a, n, found, like):  # type: ignore[no-untyped-def]
    """Add what ``n`` columns from ``a`` on have gathered at an address to the sums of a part."""
    start, width, _, _ = sums
    if not start:
        return
    to, place, done = start + number * width * 8, a % width, 0
    while done < n:
        more = width - place if width - place < n - done else n - done
        for j in range(more):
            _store(to, place + j, _load(to, place + j, WIDE) + _load(found, done + j, like), WIDE)
        done += more
        place = 0


@compiled
def put(sums, like):  # type: ignore[no-untyped-def]
    """Put the sums of the only part to where they end, in the precision of ``like``."""
    start, width, period, end = sums
    if not start or not end:
        return
    for j in range(period):
        total = 0.0
        for k in range(j, width, period):
            total += _load(start, k, WIDE)
        _store(end, j, total, like)


@partial(parallel, rows=SCRATCH)
def forward(  # type: ignore[no-untyped-def]
    x, v, v_last, decay, threshold, reset, below, floor, kind, size, s, y_last, y, marks,
    segment, states, apart, steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill the outputs ``y``, and ``marks`` or every step's ``states`` where they are wanted.

    Steps of ``y`` lie ``apart`` columns from each other. It starts from ``v``, or zero without;
    ``s`` is left with the last state and, where they are wanted, ``v_last`` with the potential
    after it and ``y_last`` with the last outputs. Numbers have ``size`` bytes.
    """
    tile = columns if columns < TILE else TILE
    room = (tile + PAD) * size
    carried = scratch + number * SCRATCH * room
    l, theta, rho = carried + room, carried + 2 * room, carried + 3 * room
    whole = 0 if states else steps // STEPS * STEPS
    numbers = below, floor
    for a in range(lo, hi, TILE):
        n = hi - a if hi - a < tile else tile
        at = a * size
        spread(decay, a, n, size, l)
        spread(threshold, a, n, size, theta)
        spread(reset, a, n, size, rho)
        begin(shifted(v, at), n * size, carried)
        state = s + at
        for t in range(0, whole, STEPS):
            begun = shifted(marks, at) if t % segment == 0 else 0
            rows = (x + at, state, y + at, begun, carried, l, theta, rho)
            _forward_steps(rows, numbers, kind, t // segment, t, columns, apart, n)
        for t in range(whole, steps):
            state = states + t * columns * size + at if states else state
            begun = shifted(marks, at) if t % segment == 0 else 0
            rows = (x + at, state, y + at, begun, carried, l, theta, rho)
            forward_step(rows, numbers, kind, t // segment, t, columns, apart, n)
        if v_last:
            _move(carried, v_last + at, n * size)
        if y_last:
            _move(y + ((steps - 1) * apart + a) * size, y_last + at, n * size)


@partial(parallel, rows=SCRATCH)
def again(  # type: ignore[no-untyped-def]
    x, y, v, decay, threshold, reset, below, floor, kind, size, steps, columns, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill the potentials ``v`` before all steps but the first, whose are given."""
    room = ((columns if columns < TILE else TILE) + PAD) * size
    l = scratch + number * SCRATCH * room
    theta, rho = l + room, l + 2 * room
    for a in range(lo, hi, TILE):
        n = hi - a if hi - a < TILE else TILE
        at = a * size
        spread(decay, a, n, size, l)
        spread(threshold, a, n, size, theta)
        spread(reset, a, n, size, rho)
        before = v + at
        for t in range(steps - 1):
            after = before + columns * size
            rows = (x + at, y + at, before, after, l, theta, rho)
            _step_again(rows, (below, floor), kind, 0, t, columns, columns, n)
            before = after


@partial(parallel, rows=SCRATCH)
def backward(  # type: ignore[no-untyped-def]
    gy, gs_last, x, y, marks, segment, slopes, decay, threshold, reset, below, floor, kind, size,
    through, gx, ga, ga_first, gl, gtheta, apart, steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx`` from ``x``, ``marks`` and, if soft or known, ``y``.

    Steps of ``gy``, the gradients of outputs, lie ``apart`` columns from each other.
    ``ga`` is the gradient of the drive after the last step, zero without, and ``ga_first``, where
    it is wanted, is left with that of the first. ``gs_last`` is what the last state receives
    besides; ``slopes`` are those of h, without them the published ones; ``through`` is 0 where the
    reset stops gradients, else 1. ``gl`` and ``gtheta``, where they are wanted, are the gradients
    of decay and threshold, summed over time and all columns that share one; they begin at zero
    where ``ga`` does.
    """
    tile = columns if columns < TILE else TILE
    room = (tile + PAD) * size
    carried = scratch + number * SCRATCH * room
    l, theta, rho = carried + room, carried + 2 * room, carried + 3 * room
    decays = carried + 4 * room if gl[0] else 0
    thresholds = carried + 5 * room if gtheta[0] else 0
    before = carried + 6 * room
    whole = steps // STEPS * STEPS
    numbers = below, floor, through
    if not ga:
        clear(gl, number)
        clear(gtheta, number)
    for a in range(lo, hi, TILE):
        n = hi - a if hi - a < tile else tile
        at = a * size
        spread(decay, a, n, size, l)
        spread(threshold, a, n, size, theta)
        spread(reset, a, n, size, rho)
        begin(shifted(ga, at), n * size, carried)
        for sums in (decays, thresholds):
            if sums:
                _zero(sums, n * size)
        gs = shifted(gs_last, at)
        t = steps
        while t > 0:
            first = (t - 1) // segment * segment
            start = marks + (first // segment * columns + a) * size
            now, after = start, before
            again = first
            while again + (STEPS if again < whole else 1) < t:
                rows = (x + at, y + at, now, after, l, theta, rho)
                if again < whole:
                    _steps_again(rows, numbers, kind, 0, again, columns, columns, n)
                    again += STEPS
                else:
                    _step_again(rows, numbers, kind, 0, again, columns, columns, n)
                    again += 1
                now, after = after, after + room
            while t > first:
                back = (gy + at, gs, x + at, y + at, now, shifted(slopes, at), gx + at, carried,
                        decays, thresholds, l, theta, rho)  # fmt: skip
                if t > whole:
                    t -= 1
                    backward_step(back, numbers, kind, 0, t, columns, apart, n)
                else:
                    t -= STEPS
                    _backward_steps(back, numbers, kind, 0, t, columns, apart, n)
                now = start if now == before else now - room
                gs = 0
        if ga_first:
            _move(carried, ga_first + at, n * size)
        add(gl, number, a, n, decays, floor)
        add(gtheta, number, a, n, thresholds, floor)
    put(gl, floor)
    put(gtheta, floor)
