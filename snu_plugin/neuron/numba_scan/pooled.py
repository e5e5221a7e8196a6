"""Units whose outputs are pooled at once, as a torch function around the compiled loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_scan import pooled_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic
from snu_plugin.neuron.numba_scan.jit import PAD, run, threads
from snu_plugin.neuron.numba_scan.kernels import SEGMENT
from snu_plugin.neuron.numba_scan.loops import marks_of, numbers
from snu_plugin.neuron.numba_scan.pool_kernels import PLACES
from snu_plugin.neuron.operators import refuse_batched, repeated, summed, whole
from snu_plugin.neuron.pages import paged
from snu_plugin.neuron.reference import State, remaining
from snu_plugin.neuron.surrogate import tanh_derivative


def refusal(config: SNUConfig, size: tuple[int, int]) -> str:
    """Return why units are not pooled at once, ``""`` where they are."""
    if config.soft or config.lateral_inhibition or config.surrogate is not tanh_derivative:
        return "only hard units with the published surrogate, each by itself, are pooled at once"
    if size[0] * size[1] > PLACES:
        return f"a window has {size[0]} x {size[1]} numbers, {PLACES} at most"
    return ""


def snu_pooled(
    x: Tensor,
    config: SNUConfig,
    size: tuple[int, int],
    decay: Tensor,
    threshold: Tensor,
    state: State | None,
) -> tuple[Tensor, State]:
    """Return the pools of all outputs, and the last state.

    Args:
        x: Inputs ``(T, B, rows, columns, channels)``, contiguous.
        config: Settings of the units.
        size: Rows and columns of a window.
        decay: Decays, which broadcast to a step.
        threshold: Thresholds, likewise.
        state: What it starts from.

    Returns:
        ``(T, B, rows // size[0], columns // size[1], channels)``, contiguous, and the state.
    """
    v = None if state is None else remaining(state, config)
    y, *last = _Pooled.apply(x, v, decay, threshold, config, size)
    return y, State(*last)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: Tensor, threshold: Tensor, config: SNUConfig,
        size: tuple[int, int],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        step, keep = x.shape[1:], any(ctx.needs_input_grad)
        below = config.slope if config.g == "leaky_relu" else 1.0
        unit = numbers(below, config.g == "relu", False, config.detach_reset, x.dtype)
        rows = [repeated(constant, step) for constant in (decay, threshold)]
        shape = *x.shape[:2], step[1] // size[0], step[2] // size[1], step[3]
        pooled = paged(x.new_empty(shape))
        places = torch.empty(pooled.numel(), dtype=torch.uint8)
        marks = paged(marks_of(x, keep))
        start, (s, last, carried) = whole(v, step), (x.new_empty(step) for _ in range(3))
        spare, sizes, parts = parts_of(x, size)
        given = address(x), address(start), address(carried), *map(periodic, rows), *unit[:-1]
        kept = address(marks) if keep else 0
        wanted = address(s), address(last), kept, address(pooled), address(places)
        arguments = *given, *wanted, address(spare), *sizes
        run(kernels.forward, arguments, parts, x.numel(), step.numel())
        if keep:
            ctx.unit, ctx.size = unit, size
            ctx.shapes = None if v is None else v.shape, decay.shape, threshold.shape
            ctx.save_for_backward(x, marks, places, decay, *rows)
        ctx.set_materialize_grads(False)
        return pooled, s, last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g: Tensor | None, gs_last: Tensor | None, gy_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        refuse_batched(g, gs_last, gy_last)
        x, marks, places, decay, *rows = ctx.saved_tensors
        step, (_, needs_v, *needs) = x.shape[1:], ctx.needs_input_grad[:4]
        if g is None:
            g = x.new_zeros(*x.shape[:2], places.numel() // (x.shape[0] * x.shape[1]))
        g, gs, gy = g.contiguous(), whole(gs_last, step), whole(gy_last, step)
        gx, carried = paged(torch.empty_like(x)), x.new_zeros(step)
        sums = [
            Sums(row if need else None, x, once=False)
            for row, need in zip(rows, needs, strict=True)
        ]
        spare, sizes, parts = parts_of(x, ctx.size)
        given = *map(address, (g, places, gs, gy, x, marks)), *map(periodic, rows), *ctx.unit
        wanted = address(gx), address(carried), *(s.place() for s in sums)
        arguments = *given, *wanted, address(spare), *sizes
        run(kernels.backward, arguments, parts, x.numel(), step.numel())
        of_v, *of_constants = ctx.shapes
        gv = summed(decay * gx[0], of_v) if needs_v else None
        found = (
            summed(s.total(), shape) if need else None
            for s, need, shape in zip(sums, needs, of_constants, strict=True)
        )
        return gx, gv, *found, None, None


def parts_of(
    x: Tensor, size: tuple[int, int], sequences: int = 1
) -> tuple[Tensor, tuple[int, ...], int]:
    """Return room for outputs, sizes as loops take them, and how many parts all images have.

    Args:
        x: Images ``(T, B, rows, columns, channels)``.
        size: Rows and columns of a window.
        sequences: How many numbers are there at once of each output.
    """
    steps, images, rows, line, channels = x.shape
    windows = rows // size[0]
    parts = max(min(-(-rows * line * channels // kernels.WIDEST), windows), 1)
    most = -(-windows // parts) * size[0] + rows % size[0]
    apart = most * line * channels + PAD
    spare = x.new_empty(threads(x.numel()) * sequences * SEGMENT * apart)
    sizes = rows, line, channels, *size, apart, parts, steps, images * rows * line * channels
    return spare, sizes, images * parts
