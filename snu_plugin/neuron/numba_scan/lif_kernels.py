"""The loops of leaky neurons with the arithmetic of snnTorch and Norse; see ``neuron.lif``.

Arrays, addresses, tiles and sums are those of ``kernels``. ``kind`` says what a neuron does, each
``True`` or ``None``, in the order of ``KIND``. Forward code rounds as the hosts do, operation by
operation, so spikes are theirs; backward code may contract ``a b + c``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from snu_plugin.neuron.lif import LIF
from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.arrays import periodic
from snu_plugin.neuron.numba_scan.jit import PAD, TILE, parallel
from snu_plugin.neuron.numba_scan.kernels import (
    _move,
    _zero,
    add,
    begin,
    put,
    shifted,
    spread,
)
from snu_plugin.neuron.numba_scan.simd import Held, Rows, Step, Vector
from snu_plugin.neuron.operators import repeated

KIND = (
    "synapse", "current", "box", "integrates", "subtract", "before", "after", "value", "detached",
    "late", "fires", "recurrent", "given", "straight", "fast", "atan", "sigmoid", "triangular",
    "ramp",
)  # fmt: skip

BACKWARD_ONLY = frozenset(("detached", *KIND[KIND.index("given") :]))
"""What the loop forward does not look at, and is not compiled anew for."""

STEPS = 4
"""Steps of one pass, through which a few columns at a time carry their states in registers."""

ROWS = 10
"""Rows of a tile that a thread needs for itself: states, constants and sums."""


def constant_rows(neuron: LIF, x: Tensor) -> list[Tensor | None]:
    """Return a, b, threshold, the reset potential and the resting one, as loops take them.

    That is in the precision of ``x``, values that repeat over a step's columns.
    """
    constants = neuron.a, neuron.b, neuron.threshold, neuron.reset_to, neuron.rest
    return [None if c is None else repeated(c.to(x), x.shape[1:]) for c in constants]


def has_current(neuron: LIF) -> bool:
    """Tell whether a neuron carries a current."""
    return neuron.leak == "current" or (neuron.leak is None and neuron.b is not None)


def settled(
    neuron: LIF, rows: Sequence[Tensor | None], like: Tensor, *, back: bool = False,
    recurrent: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Return what a loop is told of a neuron: ``constants``, ``steep``, ``kind`` and ``size``."""
    synapse, fires = neuron.b is not None, neuron.threshold is not None
    return tuple(map(periodic, rows)), *_told(
        neuron.leak, synapse, neuron.reset, neuron.late, fires, neuron.slope, neuron.steep,
        neuron.detached, recurrent, back, like.dtype,
    )  # fmt: skip


@functools.cache
def _told(
    leak: str | None, synapse: bool, reset: str, late: bool, fires: bool, slope: str, steep: float,
    detached: bool, recurrent: bool, back: bool, dtype: torch.dtype,
) -> tuple[Any, ...]:  # fmt: skip
    number = np.float32 if dtype == torch.float32 else np.float64
    has = {
        "synapse": leak is None and synapse, "current": leak == "current", "box": leak == "box",
        "integrates": leak == "none", reset: True,
        "late": late or reset in ("none", "value"), "fires": fires, "recurrent": recurrent,
    }  # fmt: skip
    has[slope] = slope != "none"
    has["detached"] = detached and reset == "value"
    read = {name for name in KIND if has.get(name) and (back or name not in BACKWARD_ONLY)}
    return number(steep), tuple(True if name in read else None for name in KIND), dtype.itemsize


def slope_of(
    z: Vector, steep: Vector, has: dict[str, bool], given: Step, at: tuple[Any, int]
) -> Vector:
    """Return the slope of a spike at the distance ``z`` to the threshold."""
    if has["given"]:
        return given.at(*at)
    z = z.relaxed()
    if has["straight"]:
        return z.like(1)
    if has["fast"]:
        d = steep * abs(z) + 1
        return 1 / (d * d)
    if has["atan"]:
        d = steep * z * 1.5707963267948966
        return steep * 0.5 / (1 + d * d)
    if has["sigmoid"]:
        e = simd.decaying_exp(steep * z)
        return steep * e / ((1 + e) * (1 + e))
    if has["triangular"]:
        return (z.like(0) > z).where(steep, steep * -1)
    if has["ramp"]:
        d = 1 - abs(z)
        return (d > 0).where(steep * d, 0)
    return z.like(0)


def _emitted(emit: Any, sequences: int, carried: int, sums: int = 0, back: bool = False) -> Any:
    """Return the code of some steps for some columns, for the loops below to call.

    Of its rows the first are ``sequences``, whose steps lie ``apart`` columns from each other; then
    come those that are ``carried`` from step to step, ``sums``, which may be absent, and constants.
    Step ``t`` is the first.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def run(
        context: Any, rows: Any, apart: Any, steep: Any, kind: Any, t: Any, steps: Any, n: Any
    ) -> Any:
        flags = [not isinstance(k, types.NoneType) for k in kind.types]
        has = dict(zip(KIND, flags, strict=True))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, apart, steep, _, t, steps, n = arguments
            number, addresses = steep.type, cgutils.unpack_tuple(builder, rows)
            far = [*cgutils.unpack_tuple(builder, apart), *[n] * (len(addresses) - sequences)]
            found = [Rows(builder, number, *pair) for pair in zip(far, addresses, strict=True)]

            def body(j: Any, width: int) -> None:
                like = simd.splat(builder, steep, width)
                held = [
                    Held(one, j, width, like if carried <= k < carried + sums else None)
                    for k, one in enumerate(found[sequences:])
                ]
                with cgutils.for_range(builder, steps, intp=n.type) as loop:
                    now = (builder.sub if back else builder.add)(t, loop.index)
                    several = [Step(one, now) for one in found[:sequences]]
                    emit((*several, *held), like, has, j, width)
                for one in held[: carried + sums]:
                    one.leave()

            simd.columns(builder, number, n, body)
            return context.get_dummy_value()

        return types.none(rows, apart, steep, kind, t, steps, n), generate

    return run


def _charged(
    x: Vector, received: Vector, v: Vector, i: Vector, a: Vector, b: Vector, rest: Vector,
    has: dict[str, bool],
) -> tuple[Vector, Vector]:  # fmt: skip
    """Return the potential before any reset after it, and the current that is carried on."""

    def driven(start: Vector) -> Vector:
        return start + x + received if has["recurrent"] else start + x

    if has["current"]:
        now = driven(i)
        return v + a * ((rest - v) + now), now + b * now
    if has["box"]:
        return v + a * ((x + rest) - v), i
    if has["integrates"]:
        return v + x, i
    if has["synapse"]:
        i = driven(b * i)
        return a * v + i, i
    return driven(a * v), i


def _forward_step(
    rows: Sequence[Any], steep: Vector, has: dict[str, bool], j: Any, width: int
) -> None:
    x, received, y, u_all, v_all, i_all, v, i, a, b, theta, rho, rest = rows
    x.fetch(j, width, None)
    for row in (y, v_all):  # to fetch where there is nothing does no harm
        row.fetch(j, width, None, True)

    def at(row: Step | Held) -> Vector:
        return row.at(j, width)

    before, threshold = at(v), at(theta)  # what is not used becomes no code
    fired = before > threshold
    start = fired.where(0, before) if has["before"] else before
    u, current = _charged(at(x), at(received), start, at(i), at(a), at(b), at(rest), has)
    if has["subtract"]:
        u = fired.where(u - threshold, u)
    if has["after"]:
        u = fired.where(0, u)
    after = u
    if has["fires"]:
        fires = u > threshold
        spikes = fires.where(1, u.like(0))
        with y.present.then():
            y.put(simd.above(u, threshold), j)
        if has["value"]:
            after = fires.where(at(rho), u)
        elif not has["late"]:
            d = spikes - fired.where(1, u.like(0))
            after = u - d * threshold if has["subtract"] else u - d * u
    with u_all.present.then():
        u_all.put(u, j)
    with v_all.present.then():
        v_all.put(after, j)
    v.put(after, j)
    if has["current"] or has["synapse"]:
        i.put(current, j)
        with i_all.present.then():
            i_all.put(current, j)


def _backward_step(
    rows: Sequence[Any], steep: Vector, has: dict[str, bool], j: Any, width: int
) -> None:
    (gy, gv_all, gi_all, u_all, v_before, i_before, slopes, gx, gv, gi, ga, gb, gtheta,
     a, b, theta, rho) = rows  # fmt: skip

    def at(row: Step | Held) -> Vector:
        return row.at(j, width)

    def given(row: Step) -> Vector:
        return row.present.either(lambda: at(row).relaxed(), lambda: at(gv).like(0).relaxed())

    for row in (u_all, gy):
        row.fetch(j, width, None)
    gx.fetch(j, width, None, True)
    g = at(gv).relaxed() + given(gv_all)
    u, before = at(u_all), at(v_before)
    threshold, thresholds = at(theta), u.like(0)
    fired = before > threshold
    if has["fires"]:
        fires = u > threshold
        gz = given(gy)
        if has["value"]:
            if not has["detached"]:
                gz = gz + g * (at(rho) - u)
            g = fires.where(0, g)
        elif not has["late"]:
            d = fires.where(1, u.like(0)) - fired.where(1, u.like(0))
            if has["subtract"]:
                gz, thresholds = gz - g * threshold, thresholds - g * d
            else:
                gz, g = gz - g * u, g * (1 - d)
        through = gz * slope_of(u - threshold, steep, has, slopes, (j, width))
        g, thresholds = g + through, thresholds - through
    else:
        g = g + given(gy)
    if has["subtract"]:
        thresholds = thresholds - fired.where(g, 0)
    if has["after"]:
        g = fired.where(0, g)
    if has["current"]:
        driven = at(a) * g + at(gi).relaxed() * (1 + at(b))
        back = g * (1 - at(a))
    elif has["box"]:
        driven, back = at(a) * g, g * (1 - at(a))
    elif has["integrates"]:
        driven = back = g
    else:
        driven, back = g, at(a) * g
        start = before
        if has["before"]:
            back, start = fired.where(0, back), fired.where(0, before)
        with ga.present.then():
            ga.put(at(ga) + g * start, j)
    if has["synapse"]:
        driven = driven + at(gi).relaxed() + given(gi_all)
        with gb.present.then():
            gb.put(at(gb) + driven * at(i_before), j)
        gi.put(at(b) * driven, j)
    if has["current"]:
        driven = driven + given(gi_all) * (1 + at(b))
        gi.put(driven, j)
    with gtheta.present.then():
        gtheta.put(at(gtheta) + thresholds, j)
    gx.put(driven, j)
    gv.put(back, j)


_steps = _emitted(_forward_step, sequences=6, carried=2)
_steps_back = _emitted(_backward_step, sequences=8, carried=2, sums=3, back=True)


@partial(parallel, rows=ROWS)
def forward(  # type: ignore[no-untyped-def]
    x, received, v, i, constants, steep, kind, size, y, us, vs, currents, v_last, i_last, apart,
    steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill outputs ``y`` and, where they are wanted, ``us``, ``vs`` and ``currents``.

    ``received`` is what the outputs before add to a recurrent one. ``v`` and ``i`` are what it
    starts from, zero without; ``v_last`` and ``i_last``, which may be the same, are left with what
    it ends with. ``constants`` are a, b, threshold, the reset potential and the resting one. Steps
    of what is filled are ``apart`` numbers from each other.
    """
    tile = columns if columns < TILE else TILE
    room = (tile + PAD) * size
    own = scratch + number * ROWS * room
    for a in range(lo, hi, TILE):
        n = hi - a if hi - a < tile else tile
        begin(shifted(v, a * size), n * size, own)
        begin(shifted(i, a * size), n * size, own + room)
        spread(constants[0], a, n, size, own + 2 * room)
        spread(constants[1], a, n, size, own + 3 * room)
        spread(constants[2], a, n, size, own + 4 * room)
        spread(constants[3], a, n, size, own + 5 * room)
        spread(constants[4], a, n, size, own + 6 * room)
        rows = (
            shifted(x, a * size), shifted(received, a * size), shifted(y, a * size),
            shifted(us, a * size), shifted(vs, a * size), shifted(currents, a * size), own,
            own + room, own + 2 * room, own + 3 * room, own + 4 * room, own + 5 * room,
            own + 6 * room,
        )  # fmt: skip
        for t in range(0, steps, STEPS):
            far = columns, columns, apart, apart, apart, apart
            _steps(rows, far, steep, kind, t, min(STEPS, steps - t), n)
        if v_last:
            _move(own, v_last + a * size, n * size)
        if i_last:
            _move(own + room, i_last + a * size, n * size)


@partial(parallel, rows=ROWS)
def backward(  # type: ignore[no-untyped-def]
    gy, gvs, gcurrents, us, vs, currents, v, i, slopes, constants, steep, kind, size,
    gx, gv_last, gi_last, gv, gi, ga, gb, gtheta, apart, kept, steps, columns, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill the gradients of inputs, ``gx``, of what it started from, ``gv`` and ``gi``, and sums.

    ``us``, ``vs`` and ``currents`` are those of all steps, ``v`` and ``i`` what it started from.
    ``gv_last`` and ``gi_last``, which may be ``gv`` and ``gi``, are what the states after the last
    step receive, zero without; sums go on from what they hold. Steps of ``gy`` are ``apart``
    numbers from each other, those of ``us``, ``vs`` and ``currents`` ``kept``.
    """
    tile = columns if columns < TILE else TILE
    room = (tile + PAD) * size
    own = scratch + number * ROWS * room
    for a in range(lo, hi, TILE):
        n = hi - a if hi - a < tile else tile
        spread(constants[0], a, n, size, own + 2 * room)
        spread(constants[1], a, n, size, own + 3 * room)
        spread(constants[2], a, n, size, own + 4 * room)
        spread(constants[3], a, n, size, own + 5 * room)
        decays = own + 7 * room if ga[0] else 0
        synapses = own + 8 * room if gb[0] else 0
        thresholds = own + 9 * room if gtheta[0] else 0
        begin(shifted(gv_last, a * size), n * size, own)
        begin(shifted(gi_last, a * size), n * size, own + room)
        for place in (decays, synapses, thresholds):
            if place:
                _zero(place, n * size)
        t = steps - 1
        while t >= 0:
            many = max(min(STEPS, t), 1)  # the first by itself, which begins elsewhere
            rows = (
                shifted(gy, a * size), shifted(gvs, a * size), shifted(gcurrents, a * size),
                us + a * size, vs + (a - kept) * size if t else v + a * size,
                shifted(currents, (a - kept) * size) if t else shifted(i, a * size),
                shifted(slopes, a * size), gx + a * size,
                own, own + room, decays, synapses, thresholds, own + 2 * room, own + 3 * room,
                own + 4 * room, own + 5 * room,
            )  # fmt: skip
            far = apart, columns, columns, kept, kept, kept, columns, columns
            _steps_back(rows, far, steep, kind, t, many, n)
            t -= many
        if gv:
            _move(own, gv + a * size, n * size)
        if gi:
            _move(own + room, gi + a * size, n * size)
        add(ga, number, a, n, decays, steep)
        add(gb, number, a, n, synapses, steep)
        add(gtheta, number, a, n, thresholds, steep)
    put(ga, steep)
    put(gb, steep)
    put(gtheta, steep)
