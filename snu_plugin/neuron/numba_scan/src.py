"""The fused scan of the Spiking Recurrent Cell on processors: loops over time, compiled by Numba.

Equations: see ``snu_plugin.neuron.src.src_step``. Arrays are ``(T, M)`` or ``(M,)``, all cells of
all samples in one contiguous row, and a call works on the columns ``lo`` to ``hi``, so threads
share nothing. ``constants`` are alpha, rho, z, r, r_s, z_hyp, z_dep; ``now`` and ``hard`` are
``True`` or ``None``: whether the gate reads the potential of this step, and whether it is a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.numba_scan.arrays import flat, row, scalar
from snu_plugin.neuron.numba_scan.jit import compiled, parallel, run
from snu_plugin.neuron.numba_scan.simd import decaying_exp_of
from snu_plugin.neuron.operators import refuse_batched
from snu_plugin.neuron.src import SRCConfig, SRCState

# Small numbers in the lower precision: they leave a product in the precision of the rest.
ZERO, ONE = np.float32(0), np.float32(1)
HALF, TEN = np.float32(0.5), np.float32(10)

TILE = 512
"""Columns carried through all of time at once."""

SEGMENT = 40
"""Steps whose states the backward pass computes again at once: six tiles of it fit the second
cache."""


@compiled
def _tanh(a):  # type: ignore[no-untyped-def]
    e = decaying_exp_of(a + a)
    t = (ONE - e) / (ONE + e)
    return -t if a < ZERO else t


@compiled
def _opened(u, hard):  # type: ignore[no-untyped-def]
    """Return how far the gate is open: ``sigmoid(10 (u - 0.5))``, or a step."""
    if hard is not None:
        return ONE if u > HALF else ZERO
    v = TEN * (u - HALF)
    e = decaying_exp_of(v)
    return (e if v < ZERO else ONE) / (ONE + e)


@parallel
def _forward(x, bias, i, h, h_s, constants, now, hard, y, marks, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill the outputs ``y`` and, with the states before each segment but the first, ``marks``.

    ``i``, ``h`` and ``h_s`` are carried in place; ``marks`` is ``(segments, 3, M)``.
    """
    for start in range(lo, hi, TILE):
        stop = min(start + TILE, hi)
        b, i_, h_, s_ = bias[start:stop], i[start:stop], h[start:stop], h_s[start:stop]
        for t in range(len(x)):
            if t > 0 and t % SEGMENT == 0:
                m = marks[t // SEGMENT - 1]
                m[0, start:stop], m[1, start:stop], m[2, start:stop] = i_, h_, s_
            _forward_step(x[t, start:stop], b, i_, h_, s_, constants, now, hard, y[t, start:stop])


@compiled
def _forward_step(x, b, i, h, h_s, constants, now, hard, y):  # type: ignore[no-untyped-def]
    alpha, rho, z, r, r_s, hyp, dep = constants
    for j in range(len(x)):
        i[j] = alpha * i[j] + x[j]
        drive = rho * _tanh(i[j] / rho)
        last, slow = h[j], h_s[j]
        new = z * last + (ONE - z) * _tanh(drive + r * last + r_s * slow + b[j])
        z_s = hyp - (hyp - dep) * _opened(last if now is None else new, hard)
        h_s[j] = z_s * slow + (ONE - z_s) * last
        h[j] = new
        y[j] = ZERO if new <= ZERO else new  # what is not a number stays that


@parallel
def _backward(  # type: ignore[no-untyped-def]
    gy, gi, gh, gs, x, bias, i, h, h_s, marks, constants, now, hard, stopped, gx, gb, lo, hi, number
):
    """Fill the gradients ``gx``; nothing but ``x`` and ``marks`` was kept.

    ``gi``, ``gh`` and ``gs`` hold what the last states receive and are left with the gradients of
    the first ones, ``i``, ``h`` and ``h_s``; the bias's are added, over time, to ``gb``. Where
    ``stopped`` is not ``None`` no gradient passes through the potentials of the last step.
    """
    width = min(TILE, hi - lo)
    held = min(SEGMENT, len(x))
    cache, carried = np.empty((held, 5, width), x.dtype), np.empty((3, width), x.dtype)
    for start in range(lo, hi, TILE):
        stop = min(start + TILE, hi)
        n = stop - start
        b, gb_ = bias[start:stop], gb[start:stop]
        gi_, gh_, gs_ = gi[start:stop], gh[start:stop], gs[start:stop]
        i_, h_, s_ = carried[0, :n], carried[1, :n], carried[2, :n]
        for first in range((len(x) - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            end = min(first + SEGMENT, len(x))
            if first > 0:
                m = marks[first // SEGMENT - 1]
                i_[:], h_[:], s_[:] = m[0, start:stop], m[1, start:stop], m[2, start:stop]
            else:
                i_[:], h_[:], s_[:] = i[start:stop], h[start:stop], h_s[start:stop]
            for t in range(first, end):
                kept = cache[t - first]
                _states_step(x[t, start:stop], b, i_, h_, s_, constants, now, hard, kept)
            for t in range(end - 1, first - 1, -1):
                kept = cache[t - first]
                g, gx_ = gy[t, start:stop], gx[t, start:stop]
                _backward_step(g, kept, constants, now, hard, stopped, gi_, gh_, gs_, gx_, gb_)


@compiled
def _states_step(x, b, i, h, h_s, constants, now, hard, kept):  # type: ignore[no-untyped-def]
    """Compute one step again; keep both tanh, the gate and the last step's potentials."""
    alpha, rho, z, r, r_s, hyp, dep = constants
    m = len(x)
    bounded, inner, gate = kept[0, :m], kept[1, :m], kept[2, :m]
    before, slower = kept[3, :m], kept[4, :m]
    for j in range(m):
        i[j] = alpha * i[j] + x[j]
        e = _tanh(i[j] / rho)
        last, slow = h[j], h_s[j]
        n = _tanh(rho * e + r * last + r_s * slow + b[j])
        new = z * last + (ONE - z) * n
        f = _opened(last if now is None else new, hard)
        z_s = hyp - (hyp - dep) * f
        bounded[j], inner[j], gate[j], before[j], slower[j] = e, n, f, last, slow
        h_s[j] = z_s * slow + (ONE - z_s) * last
        h[j] = new


@compiled
def _backward_step(g, kept, constants, now, hard, stopped, gi, gh, gs, gx, gb):  # type: ignore[no-untyped-def]
    """Go one step back; where it is ``stopped`` through the input current alone."""
    alpha, _, z, r, r_s, hyp, dep = constants
    m = len(g)
    bounded, inner, gate = kept[0, :m], kept[1, :m], kept[2, :m]
    before, slower = kept[3, :m], kept[4, :m]
    for j in range(m):
        f, slow = gate[j], gs[j]
        through = ZERO
        if hard is None:
            through = -slow * (slower[j] - before[j]) * (hyp - dep) * TEN * f * (ONE - f)
        new = gh[j] + g[j] if now is None else gh[j] + g[j] + through
        a = (ONE - z) * new * (ONE - inner[j] * inner[j])
        current = gi[j] + a * (ONE - bounded[j] * bounded[j])
        gb[j] += a
        gx[j] = current
        gi[j] = alpha * current
        if stopped is None:
            z_s = hyp - (hyp - dep) * f
            last = slow * (ONE - z_s) + z * new + r * a
            gh[j] = last + through if now is None else last
            gs[j] = slow * z_s + r_s * a
        else:
            gh[j] = gs[j] = ZERO


def src_scan(
    x: Tensor, config: SRCConfig, bias: Tensor, state: SRCState
) -> tuple[Tensor, SRCState]:
    """Run the scan fused; see ``snu_plugin.neuron.src_scan``. In eager torch."""
    y, *last = _Scan.apply(x, bias, *state, config)
    return y, SRCState(*last)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, i: Tensor, h: Tensor, h_s: Tensor, config: SRCConfig
    ) -> tuple[Tensor, ...]:
        y = paged(torch.empty_like(x, memory_format=torch.contiguous_format))
        marks = x.new_empty(((x.shape[0] - 1) // SEGMENT, 3, x[0].numel()))
        last = [torch.empty_like(y[0]).copy_(part) for part in (i, h, h_s)]
        carried = [row(part, y[0]) for part in last]
        settings = _settings(config, x)
        arguments = flat(x), row(bias, y[0]), *carried, *settings, flat(y), marks.numpy()
        run(_forward, arguments, y[0].numel(), x.numel())
        ctx.config = config
        ctx.save_for_backward(x, bias, i, h, h_s, marks)
        ctx.set_materialize_grads(False)
        return y, *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor | None, *g_last: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_batched(gy, *g_last)
        x, bias, i, h, h_s, marks = ctx.saved_tensors
        gx = paged(torch.empty_like(x, memory_format=torch.contiguous_format))
        gb = torch.zeros_like(gx[0])
        g_first = [gb.clone() if g is None else torch.empty_like(gb).copy_(g) for g in g_last]
        given = flat(torch.zeros_like(gx) if gy is None else gy), *(row(g, gb) for g in g_first)
        rows = [row(part, gb) for part in (bias, i, h, h_s)]
        settings = *_settings(ctx.config, x), True if ctx.config.detach else None
        wanted = flat(gx), row(gb, gb)
        arguments = *given, flat(x), *rows, marks.numpy(), *settings, *wanted
        run(_backward, arguments, gb.numel(), x.numel())
        found = zip((gb, *g_first), (bias, i, h, h_s), ctx.needs_input_grad[1:5], strict=True)
        return gx, *(g.sum_to_size(like.shape) if need else None for g, like, need in found), None


def _settings(config: SRCConfig, like: Tensor) -> Sequence[Any]:
    """Return the settings as the kernels take them."""
    names = ("alpha", "rho", "z", "r", "r_s", "z_hyp", "z_dep")
    constants = tuple(scalar(getattr(config, name), like) for name in names)
    now = None if config.gate.startswith("prev") else True
    return constants, now, True if config.gate.endswith("hard") else None
