"""The fused scan's loops over time and neurons, compiled by Numba.

One family serves every unit: ``s = g(u + decay v)``, ``y = h(s - threshold)``,
``v = s (1 - y) + reset y``. Arrays are ``(T, M)`` or ``(M,)``, all neurons of all samples in one
contiguous row, and a call works on the columns ``lo`` to ``hi``, so threads share nothing.
``below`` is the slope of g below zero: 1 is the identity, 0 the ReLU.

Forward kernels that decide spikes use no fast mathematics and the reference's order of operations,
so the spikes are the reference's; the others may contract ``a b + c``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

Array = NDArray[Any]

# Whole numbers in the lower precision: they leave a product in the precision of the rest.
ZERO, ONE, FOUR = np.float32(0), np.float32(1), np.float32(4)

_LN_2 = Fraction(Decimal(2).ln())

TILE = 2048
"""Columns carried through all of time at once: carry and constants stay in a near cache."""

SEGMENT = 64
"""Steps whose states the backward pass computes again at once, from ``v`` before the first."""


def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, run without the interpreter's lock, keep the result on disk."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        fast: Callable[..., Any] = njit(kernel, cache=True, **options)
    except RuntimeError:  # no folder can be written to: compile anew in every process
        fast = njit(kernel, **options)
    return fast


def _decaying_exp(z: Any) -> Any:
    """Return ``exp(-|z|)``, at least the smallest normal number.

    ``exp(r) 2^n`` with ``n`` the nearest integer to ``-|z| / ln 2`` and a Taylor polynomial for
    ``|r| <= ln(2) / 2``, in steps that compilers turn into vector instructions; within 2 ulp.
    """
    return np.exp(-np.abs(z))


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(context: Any, shifted: Any) -> Any:
    """Return ``2^n`` from the float ``n + 1.5 2^m``, ``m`` its bits of mantissa.

    The sum holds ``n`` in its lowest bits; moved to the exponent they are the power.
    """
    bits, bias, mantissa = (32, 127, 23) if shifted == types.float32 else (64, 1023, 52)
    word = types.Integer.from_bitwidth(bits)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = context.get_value_type(word)
        number = builder.bitcast(arguments[0], whole)
        exponent = builder.shl(builder.add(number, whole(bias)), whole(mantissa))
        return builder.bitcast(exponent, context.get_value_type(shifted))

    return shifted(shifted), generate


def _exp_constants(kind: type[Any]) -> tuple[Any, ...]:
    """Return the constants of ``_decaying_exp`` in one precision."""
    single = kind is np.float32
    grid = 2 ** (16 if single else 42)  # so coarse that n times this part of ln 2 is exact
    coarse = Fraction(round(_LN_2 * grid), grid)
    return (
        kind(-1 / _LN_2),
        kind(1.5 * 2 ** (23 if single else 52)),
        kind(coarse),
        kind(_LN_2 - coarse),
        kind(87 if single else 708),
        tuple(kind(1 / math.factorial(k)) for k in range(7 if single else 13, -1, -1)),
    )


_SINGLE = _exp_constants(np.float32)
_DOUBLE = _exp_constants(np.float64)


@overload(_decaying_exp, jit_options={"fastmath": {"contract"}})  # type: ignore[untyped-decorator]
def _decaying_exp_compiled(z: Any) -> Any:
    constants = _SINGLE if z == types.float32 else _DOUBLE
    log2e, shift, coarse, fine, most, terms = constants
    first, rest = terms[0], terms[1:]

    def exp(z: Any) -> Any:
        a = abs(z)
        a = most if a > most else a
        shifted = a * log2e + shift
        n = shifted - shift
        r = -a - n * coarse - n * fine
        p = first
        for term in rest:
            p = p * r + term
        return p * _power_of_two(shifted)

    return exp


@_compiled
def _activated(a, below, floor):  # type: ignore[no-untyped-def]
    """Apply g as the larger of ``a`` and ``below max(a, floor)``; not a number stays that."""
    bounded = below * (floor if floor > a else a)
    return a if a > bounded else bounded


@_compiled
def _back_through_g(gs, s, below, floor):  # type: ignore[no-untyped-def]
    """Multiply by the slope of g, known from its value: 1 above zero, ``below`` elsewhere."""
    slope_below = ZERO if floor == ZERO else below
    return slope_below * gs if s <= ZERO else gs


@_compiled
def _fired(z, soft):  # type: ignore[no-untyped-def]
    """Apply h: a step, or a sigmoid where ``soft`` is not ``None``."""
    if soft is None:
        return ONE if z > ZERO else ZERO
    e = _decaying_exp(z)
    return (e if z < ZERO else ONE) / (ONE + e)


@_compiled
def _slope(z, y, soft):  # type: ignore[no-untyped-def]
    """Return the slope of h: that of a sigmoid, or ``1 - tanh(z)^2`` in place of a step's."""
    if soft is not None:
        return y * (ONE - y)
    e = _decaying_exp(z + z)
    return FOUR * e / ((ONE + e) * (ONE + e))


@_compiled
def forward(  # type: ignore[no-untyped-def]
    x, v, decay, threshold, reset, soft, below, floor, s, y, marks, lo, hi
):
    """Fill the outputs ``y`` and, with ``v`` before each segment but the first, ``marks``.

    ``v`` is carried in place, ``s`` is left with the last state.
    """
    for start in range(lo, hi, TILE):
        stop = min(start + TILE, hi)
        v_, l, s_ = v[start:stop], decay[start:stop], s[start:stop]
        theta, rho = _tile(threshold, start, stop), _tile(reset, start, stop)
        for t in range(len(x)):
            if t > 0 and t % SEGMENT == 0:
                marks[t // SEGMENT - 1, start:stop] = v_
            x_, y_ = x[t, start:stop], y[t, start:stop]
            _forward_step(x_, v_, l, theta, rho, soft, below, floor, s_, y_)


@_compiled
def _tile(row, start, stop):  # type: ignore[no-untyped-def]
    return None if row is None else row[start:stop]


@_compiled
def _forward_step(x, v, l, theta, rho, soft, below, floor, s, y):  # type: ignore[no-untyped-def]
    for j in range(len(x)):
        a = _activated(x[j] + l[j] * v[j], below, floor)
        s[j] = a
        if theta is None:
            y[j] = v[j] = a
        else:
            out = _fired(a - theta[j], soft)
            y[j] = out
            v[j] = a * (ONE - out) if rho is None else a * (ONE - out) + rho[j] * out


@_compiled
def backward(  # type: ignore[no-untyped-def]
    gy, gs_last, gy_last, x, y, v, marks, decay, threshold, reset, soft, below, floor, through,
    gx, gv, gl, gtheta, lo, hi,
):  # fmt: skip
    """Fill the gradients ``gx`` and ``gv``; nothing but ``x``, ``y`` and ``marks`` was kept.

    The states of a segment are computed again, into the second-level cache. ``gs_last`` and
    ``gy_last`` are what the last state and output receive besides; ``through`` is 0 where the
    reset stops gradients, else 1. Gradients of decay and threshold are added, over time, to ``gl``
    and ``gtheta``; where ``gl`` is ``None`` it is not asked for.
    """
    width = min(TILE, hi - lo)
    states, carried = np.empty((min(SEGMENT, len(x)), width), x.dtype), np.empty(width, x.dtype)
    for start in range(lo, hi, TILE):
        stop = min(start + TILE, hi)
        ga = carried[: stop - start]
        l, gl_, gtheta_ = decay[start:stop], _tile(gl, start, stop), gtheta[start:stop]
        theta, rho = _tile(threshold, start, stop), _tile(reset, start, stop)
        gv_ = gv[start:stop]
        for first in range((len(x) - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            end = min(first + SEGMENT, len(x))
            if end == len(x):
                ga[:] = 0
            gv_[:] = marks[first // SEGMENT - 1, start:stop] if first > 0 else v[start:stop]
            for t in range(first, end):
                x_, y_, s_ = x[t, start:stop], y[t, start:stop], states[t - first]
                _states_step(x_, y_, gv_, l, theta, rho, soft, below, floor, s_)
            for t in range(end - 1, first - 1, -1):
                gy_, gx_ = gy[t, start:stop], gx[t, start:stop]
                y_, s_ = y[t, start:stop], states[t - first]
                _backward_step(
                    gy_, s_, y_, l, theta, rho, soft, below, floor, through, ga, gx_, gl_, gtheta_
                )
                if t == len(x) - 1:
                    gs_, gy_ = gs_last[start:stop], gy_last[start:stop]
                    _last_step(gs_, gy_, s_, y_, theta, soft, below, floor, ga, gx_, gtheta_)
        _first_step(v[start:stop], l, ga, gv_, gl_)


@_compiled
def _first_step(v, l, ga, gv, gl):  # type: ignore[no-untyped-def]
    for j in range(len(v)):
        gv[j] = l[j] * ga[j]
        if gl is not None:
            gl[j] += ga[j] * v[j]


@_compiled
def _states_step(x, y, v, l, theta, rho, soft, below, floor, s):  # type: ignore[no-untyped-def]
    """Compute one step's states again, bit by bit those of ``_forward_step``."""
    for j in range(len(x)):
        a = _activated(x[j] + l[j] * v[j], below, floor)
        s[j] = a
        if theta is None:
            v[j] = a
        else:
            out = y[j] if soft is not None else _fired(a - theta[j], soft)
            v[j] = a * (ONE - out) if rho is None else a * (ONE - out) + rho[j] * out


@_compiled
def _backward_step(gy, s, y, l, theta, rho, soft, below, floor, through, ga, gx, gl, gtheta):  # type: ignore[no-untyped-def]
    for j in range(len(gy)):
        a = v = s[j]
        gv = l[j] * ga[j]
        if theta is None:
            gs = gy[j] + gv
        else:
            z = a - theta[j]
            out = y[j] if soft is not None else _fired(z, soft)
            from_rest = a if rho is None else a - rho[j]
            v = a - from_rest * out
            gz = (gy[j] - through * gv * from_rest) * _slope(z, out, soft)
            gtheta[j] -= gz
            gs = gv * (ONE - out) + gz
        if gl is not None:
            gl[j] += ga[j] * v
        ga[j] = gx[j] = _back_through_g(gs, a, below, floor)


@_compiled
def _last_step(gs_last, gy_last, s, y, theta, soft, below, floor, ga, gx, gtheta):  # type: ignore[no-untyped-def]
    """Add what the last state and output receive besides ``gy``."""
    for j in range(len(gx)):
        gz = gy_last[j]
        if theta is not None:
            gz *= _slope(s[j] - theta[j], y[j], soft)
            gtheta[j] -= gz
        gs = gs_last[j] + gz
        ga[j] = gx[j] = ga[j] + _back_through_g(gs, s[j], below, floor)
