"""Hosts' leaky neurons whose outputs are pooled at once, as a torch function around the loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF, LIFParts
from snu_plugin.neuron.numba_scan import lif_pooled_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic, scalar
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.kernels import SEGMENT
from snu_plugin.neuron.numba_scan.lif_settings import (
    backward_settings,
    constant_rows,
    forward_settings,
    has_current,
)
from snu_plugin.neuron.numba_scan.pool_kernels import PLACES
from snu_plugin.neuron.numba_scan.pooled import parts_of
from snu_plugin.neuron.operators import refuse_batched, summed, whole
from snu_plugin.neuron.pages import paged


def lif_pooled(
    x: Tensor, neuron: LIF, v: Tensor | None, i: Tensor | None, size: tuple[int, int]
) -> LIFParts | None:
    """Return pools of outputs, and the states after the last step; ``None`` where it cannot.

    Args:
        x: Inputs ``(T, B, rows, columns, channels)``, contiguous.
        neuron: What it computes.
        v: Potentials to start from.
        i: Currents likewise.
        size: Rows and columns of a window.
    """
    learns_b = neuron.b is not None and neuron.b.requires_grad
    if neuron.threshold is None or neuron.slope == "given" or learns_b:
        return None
    if size[0] * size[1] > PLACES or not (neuron.late or neuron.reset in ("none", "value")):
        return None
    constants = neuron.a, neuron.b, neuron.threshold, neuron.reset_to, neuron.rest
    return LIFParts(*_Pooled.apply(x, v, i, *constants, neuron, size))


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor, reset_to: Tensor | None, rest: Tensor | None, neuron: LIF,
        size: tuple[int, int],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, keep, synaptic = x.shape[1:], any(ctx.needs_input_grad), has_current(neuron)
        ctx.shapes = [None if t is None else t.shape for t in (v, i, a, b, threshold)]
        v, i = (whole(t, step) for t in (v, i))
        rows = constant_rows((a, b, threshold, reset_to, rest), x)
        shape = *x.shape[:2], step[1] // size[0], step[2] // size[1], step[3]
        pooled, places = paged(x.new_empty(shape)), torch.empty(shape, dtype=torch.uint8)
        last = [x.new_empty((1, *step)) for _ in range(2)]
        more = (len(x) - 1) // SEGMENT
        marks = [x.new_empty((more, *step)) if keep and need else None for need in (True, synaptic)]
        spare, sizes, parts = parts_of(x, size)
        at = (tuple(map(periodic, rows)), *forward_settings(neuron, x))
        places_of = *map(address, last), *map(address, marks), address(pooled), address(places)
        given = *map(address, (x, v, i)), *at, *places_of, address(spare)
        run(kernels.forward, (*given, *sizes, scalar(0, x)), parts, x.numel(), step.numel())
        ctx.neuron, ctx.size = neuron, size
        ctx.save_for_backward(x, v, i, *rows, *marks, places)
        ctx.set_materialize_grads(False)
        return pooled, last[0], last[1] if synaptic else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None, gv: Tensor | None, gi: Tensor | None) -> Any:
        refuse_batched(g, gv, gi)
        x, v, i, *rest = ctx.saved_tensors
        rows, (v_marks, i_marks, places) = rest[:5], rest[5:]
        needs, step = ctx.needs_input_grad, x.shape[1:]
        g = x.new_zeros(places.shape) if g is None else g.contiguous()
        gx, zeros = paged(torch.empty_like(x)), x.new_zeros(step)
        carried = [zeros.clone() if t is None else t[0].contiguous().clone() for t in (gv, gi)]
        ga, gtheta = (Sums(rows[n] if needs[3 + n] else None, x, once=False) for n in (0, 2))
        spare, sizes, parts = parts_of(x, ctx.size, 2)
        constants = tuple(map(periodic, rows))
        steep, kind, number = backward_settings(ctx.neuron, x)
        _, kind_forward, _ = forward_settings(ctx.neuron, x)
        given = *map(address, (g, places, x, v, i, v_marks, i_marks)), constants, steep, kind
        wanted = address(gx), *map(address, carried), ga.place(), gtheta.place(), address(zeros)
        arguments = *given, kind_forward, number, *wanted, address(spare)
        run(kernels.backward, (*arguments, *sizes, scalar(0, x)), parts, x.numel(), step.numel())
        found = *carried, ga.total(), None, gtheta.total()
        grads = [
            summed(one, shape) if need and one is not None else None
            for one, shape, need in zip(found, ctx.shapes, needs[1:6], strict=True)
        ]
        return gx, *grads, None, None, None, None
