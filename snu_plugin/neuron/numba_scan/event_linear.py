"""Products of weights with mostly zero inputs, compiled by Numba: only what is not zero counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.numba_scan.jit import parallel, run
from snu_plugin.neuron.operators import refuse_batched

BLOCK = 16
"""Inputs that are looked at together: mostly all of them are zero."""

_BITS = {1: torch.uint8, 4: torch.int32, 8: torch.int64}


def linear(x: Tensor, weight: Tensor, most: int) -> Tensor | None:
    """Return ``x @ weight.T``, or ``None`` if more than ``most`` inputs a row are not zero.

    Args:
        x: Inputs, ``(..., n)``, of type bool or that of ``weight``, on a processor.
        weight: ``(m, n)``, float32 or float64.
        most: Inputs a row, on average, that are kept; at least 1.
    """
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    places = torch.empty(len(rows) * most, dtype=torch.int32)
    values = torch.empty(len(rows) * most, dtype=weight.dtype)
    starts, ends = torch.empty((2, len(rows)), dtype=torch.int64)
    bits = rows.view(_BITS[rows.element_size()])
    events = places, values, starts, ends
    arrays = *(t.numpy() for t in (bits, rows, *events)), most
    run(_find, arrays, len(rows), rows.numel())
    if len(ends) and int(ends.min()) < 0:
        return None
    y: Tensor = _Linear.apply(x, weight, *events)
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *events: Tensor) -> Tensor:
        ctx.save_for_backward(weight, *events)
        y = weight.new_empty((len(events[-1]), len(weight)))
        columns = weight.detach().t().contiguous()
        arrays = tuple(t.numpy() for t in (*events, columns, y))
        run(_multiply, arrays, len(y), y.numel())
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        weight, *events = ctx.saved_tensors
        gx = gy @ weight if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return gx, *(None,) * 5
        refuse_batched(gy, instead="nn.Linear")
        g = gy.reshape(-1, len(weight)).contiguous()
        gw = torch.zeros_like(weight.t(), memory_format=torch.contiguous_format)
        arrays = tuple(t.numpy() for t in (*events, g, gw))
        run(_collect, arrays, g.shape[1], g.numel())
        return gx, gw.t(), *(None,) * 4


@parallel
def _find(bits, x, places, values, starts, ends, most, lo, hi, number):  # type: ignore[no-untyped-def]
    """List what is not zero in rows ``lo`` to ``hi``; an end of -1: there is no room for it."""
    n, at, room = x.shape[1], lo * most, hi * most - BLOCK
    whole = n // BLOCK * BLOCK
    for row in range(lo, hi):
        bits_, x_ = bits[row], x[row]
        starts[row] = at
        for start in range(0, whole, BLOCK):
            part = bits_[start : start + BLOCK]
            some = part[0]
            for k in range(BLOCK):
                some |= part[k]
            if some:
                if at > room:
                    ends[row] = -1
                    return
                for k in range(BLOCK):
                    places[at], values[at] = start + k, x_[start + k]
                    at += part[k] != 0
        if at > room:
            ends[row] = -1
            return
        for k in range(whole, n):
            places[at], values[at] = k, x_[k]
            at += bits_[k] != 0
        ends[row] = at


@parallel
def _multiply(places, values, starts, ends, columns, y, lo, hi, number):  # type: ignore[no-untyped-def]
    """Add up, for rows ``lo`` to ``hi``, the weights of their inputs."""
    for row in range(lo, hi):
        y_ = y[row]
        y_[:] = 0
        for at in range(starts[row], ends[row]):
            value, w = values[at], columns[places[at]]
            for j in range(len(y_)):
                y_[j] += value * w[j]


@parallel
def _collect(places, values, starts, ends, g, gw, lo, hi, number):  # type: ignore[no-untyped-def]
    """Add up, for outputs ``lo`` to ``hi``, the gradients of the weights ``(n, m)``."""
    for row in range(len(starts)):
        g_ = g[row, lo:hi]
        for at in range(starts[row], ends[row]):
            value, into = values[at], gw[places[at], lo:hi]
            for j in range(len(g_)):
                into[j] += value * g_[j]
