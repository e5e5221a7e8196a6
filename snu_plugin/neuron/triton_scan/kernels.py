"""The fused scan's kernels for GPUs, compiled by Triton.

The update and the backward pass are those of ``numba_scan.kernels``, which says them in words. One
program carries ``BLOCK`` neurons through all of time with their state in registers; arrays are
``(T, M)`` or ``(M,)``, all neurons of all samples in one contiguous row. A constant holds one
period of its values: neuron ``j`` reads ``j % period``. ``None`` stands for what is absent.
Places are 64-bit numbers, as an array may have more than 2^31 values.

Launched without fused multiply-add, so that the spikes are the reference's. Only built-in words of
the language are used: its library is compiled at import, which the interpreter cannot run.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def forward(  # type: ignore[no-untyped-def]
    x, v, decay, threshold, reset, y, s, s_last, y_last, v_last,
    steps, columns, decays, thresholds, resets,
    BELOW: tl.constexpr, CUT: tl.constexpr, SOFT: tl.constexpr,
    BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Fill the outputs ``y``, the states ``s`` and the last of both and of the potential ``v``.

    ``s`` and ``v_last`` may be ``None``: not kept. ``v_last`` may be ``v``.
    """
    column = _columns(BLOCK)
    inside = column < columns
    kind = s_last.dtype.element_ty
    l = _constant(decay, column, decays, inside, kind)
    theta = _constant(threshold, column, thresholds, inside, kind)
    rho = _constant(reset, column, resets, inside, kind)
    carried = _start(v, column, inside, kind, BLOCK)
    a = carried
    out = carried
    x += column
    y += column
    if s is not None:
        s += column
    for _ in tl.range(steps, num_stages=AHEAD):
        a = tl.load(x, inside, 0.0).to(kind) + l * carried
        a = _through_g(a, a, BELOW, CUT)
        out = _fired(a, theta, SOFT)
        carried = _reset(a, out, theta, rho)
        tl.store(y, out, inside)
        x += columns
        y += columns
        if s is not None:
            tl.store(s, a, inside)
            s += columns
    tl.store(s_last + column, a, inside)
    tl.store(y_last + column, out, inside)
    if v_last is not None:
        tl.store(v_last + column, carried, inside)


@triton.jit  # type: ignore[untyped-decorator]
def backward(  # type: ignore[no-untyped-def]
    gy, gs_last, gy_last, s, slopes, v, decay, threshold, reset, gx, ga, gl, gtheta,
    steps, columns, decays, thresholds, resets,
    BELOW: tl.constexpr, CUT: tl.constexpr, SOFT: tl.constexpr, DETACHED: tl.constexpr,
    ON: tl.constexpr, BLOCK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Fill the gradients ``gx`` and, for every neuron, ``ga``, ``gl`` and ``gtheta``.

    ``ga`` is that of the first step's drive, which has lost nothing to the type of ``gx``; ``gl``
    and ``gtheta`` may be ``None``: not asked for. Where ``ON``, these three already hold the
    gradients of the steps that follow, which began without ``v``.

    ``gy``, ``s``, ``slopes`` and ``gx`` point to the last step. ``gs_last`` and ``gy_last`` are
    what the last state and output receive besides. ``slopes`` are those of h, ``None`` for the
    published ones.
    """
    column = _columns(BLOCK)
    inside = column < columns
    kind = ga.dtype.element_ty
    l = _constant(decay, column, decays, inside, kind)
    theta = _constant(threshold, column, thresholds, inside, kind)
    rho = _constant(reset, column, resets, inside, kind)
    gs_more = _start(gs_last, column, inside, kind, BLOCK)
    gy_more = _start(gy_last, column, inside, kind, BLOCK)
    nothing = tl.full((BLOCK,), 0, kind)
    ga_ = _start(ga if ON else None, column, inside, kind, BLOCK)
    gl_ = _start(gl if ON else None, column, inside, kind, BLOCK)
    gtheta_ = _start(gtheta if ON else None, column, inside, kind, BLOCK)
    gy += column
    s += column
    gx += column
    if slopes is not None:
        slopes += column
    for _ in tl.range(steps, num_stages=AHEAD):
        a = tl.load(s, inside, 0.0)
        g = tl.load(gy, inside, 0.0).to(kind) + gy_more
        out = _fired(a, theta, SOFT)
        gl_ += ga_ * _reset(a, out, theta, rho)
        after = l * ga_
        if theta is None:
            gs = g + after
        else:
            from_rest = a if rho is None else a - rho
            g = g if DETACHED else g - after * from_rest
            if slopes is None:
                gz = g * _slope(a - theta, out, SOFT)
            else:
                gz = g * tl.load(slopes, inside, 0.0).to(kind)
            gtheta_ -= gz
            gs = after * (1 - out) + gz
        ga_ = _through_g(gs + gs_more, a, BELOW, CUT)
        tl.store(gx, ga_, inside)
        gs_more, gy_more = nothing, nothing
        gy -= columns
        s -= columns
        gx -= columns
        if slopes is not None:
            slopes -= columns
    tl.store(ga + column, ga_, inside)
    if gl is not None:
        if v is not None:
            gl_ += ga_ * tl.load(v + column, inside, 0.0).to(kind)
        tl.store(gl + column, gl_, inside)
    if gtheta is not None:
        tl.store(gtheta + column, gtheta_, inside)


@triton.jit  # type: ignore[untyped-decorator]
def _columns(BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _constant(row, column, period, inside, kind):  # type: ignore[no-untyped-def]
    value = None if row is None else tl.load(row + column % period, inside, 0.0).to(kind)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _start(row, column, inside, kind, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    if row is None:
        value = tl.full((BLOCK,), 0, kind)
    else:
        value = tl.load(row + column, inside, 0.0).to(kind)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _through_g(value, a, BELOW: tl.constexpr, CUT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Multiply by the slope of g at ``a`` or at ``g(a)``: g itself is that slope times ``a``.

    What is not a number stays that.
    """
    if CUT:
        value = tl.where(a <= 0, 0.0, value)
    elif BELOW != 1:
        value = tl.where(a <= 0, BELOW * value, value)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _fired(a, theta, SOFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Apply h: a step or a sigmoid; without a threshold the output is the state."""
    if theta is None:
        out = a
    elif SOFT:
        e = tl.exp(-tl.abs(a - theta))
        out = tl.where(a < theta, e, 1.0) / (1 + e)
    else:
        z = a - theta
        out = tl.where(z == z, (z > 0).to(a.dtype), z)  # what is not a number stays that
    return out


@triton.jit
def _reset(a, out, theta, rho):  # type: ignore[no-untyped-def]
    if theta is None:
        v = a
    elif rho is None:
        v = a * (1 - out)
    else:
        v = a * (1 - out) + rho * out
    return v


@triton.jit  # type: ignore[untyped-decorator]
def _slope(z, out, SOFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the slope of h: that of a sigmoid, or ``1 - tanh(z)^2`` in place of a step's."""
    if SOFT:
        slope = out * (1 - out)
    else:
        e = tl.exp(-2 * tl.abs(z))
        slope = 4 * e / ((1 + e) * (1 + e))
    return slope
