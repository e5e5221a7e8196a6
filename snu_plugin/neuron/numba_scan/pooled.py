"""Units, and neurons of hosts, whose outputs are pooled at once, so that these never reach memory.

Images are channels last. A part of one, a few rows of windows of all channels, goes through a
segment of steps; its outputs lie in the second cache and are pooled there. Going back, gradients of
the pools are spread there before the units take them. Both go through the loops of ``kernels``,
with columns of their own; neurons of a host through those of ``lif_kernels``, and their potentials
do not reach memory either: each part runs a segment once more, from the states before it. Nothing
here adds up otherwise than these and ``pool_kernels`` do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.lif import LIF, LIFParts
from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.numba_scan import kernels, lif_kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic, scalar
from snu_plugin.neuron.numba_scan.jit import PAD, compiled, parallel, run, threads
from snu_plugin.neuron.numba_scan.kernels import SCRATCH, SEGMENT, _load, _move, _store
from snu_plugin.neuron.numba_scan.lif_kernels import constant_rows, has_current, settled
from snu_plugin.neuron.numba_scan.loops import marks_of, numbers
from snu_plugin.neuron.numba_scan.pool_kernels import PLACES, pool_rows, unpool_rows
from snu_plugin.neuron.operators import refuse_batched, repeated, summed, whole
from snu_plugin.neuron.reference import State, remaining
from snu_plugin.neuron.surrogate import tanh_derivative

WIDEST = 4096
"""Columns of a part, where a row of windows is not wider: 256 kB of outputs of a segment."""

_snu, _snu_back = kernels.forward.part, kernels.backward.part
_lif, _lif_back = lif_kernels.forward.part, lif_kernels.backward.part
NONE = 0, 1


@compiled
def part_of(n, parts, rows, height, wide):  # type: ignore[no-untyped-def]
    """Return which image part ``n`` is of, and from and to which of its windows and columns.

    Images have ``rows`` of ``wide`` columns; rows that no window takes belong to the last part.
    """
    image, part = n // parts, n % parts
    windows = rows // height
    first, last = part * windows // parts, (part + 1) * windows // parts
    end = rows if last == windows else last * height
    return image, first, last, (image * rows + first * height) * wide, (image * rows + end) * wide


@partial(parallel, rows=SCRATCH)
def snu_forward(  # type: ignore[no-untyped-def]
    x, v, carried, decay, threshold, below, floor, kind, size, s, y_last, marks, pooled, places,
    spare, rows, line, channels, height, width, apart, parts, steps, columns, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill pools of outputs, ``pooled`` and ``places``, and what ``kernels.forward`` does.

    Images have ``rows`` of ``line`` places; ``lo`` to ``hi`` are parts of these, so many an image.
    ``spare`` has ``SEGMENT`` rows for each thread, ``apart`` numbers from each other.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    outputs = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        for t in range(0, steps, SEGMENT):
            many = min(SEGMENT, steps - t)
            begins = carried if t else v
            ends = y_last if t + many == steps else 0
            mark = marks + t // SEGMENT * columns * size if marks else 0
            given = x + t * columns * size
            _snu(given, begins, carried, decay, threshold, NONE, below, floor, kind, size, s,
                 ends, outputs - a * size, mark, SEGMENT, 0, apart, many, columns, scratch, a,
                 b, number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                pool_rows(outputs + k * apart * size, pooled + at * size, places + at,
                          last - first, line, channels, height, width, size, floor)  # fmt: skip


@partial(parallel, rows=SCRATCH)
def snu_backward(  # type: ignore[no-untyped-def]
    g_pooled, places, gs_last, gy_last, x, marks, decay, threshold, below, floor, kind, size,
    through, gx, carried, gl, gtheta, spare, rows, line, channels, height, width, apart, parts,
    steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx``; see ``snu_forward`` and ``kernels.backward``.

    ``carried`` are zeros before. Sums go on from what they hold.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    grads = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        left = (b - a) // (line * channels) - (last - first) * height
        for t in range((steps - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            many = min(SEGMENT, steps - t)
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                unpool_rows(g_pooled + at * size, places + at, grads + k * apart * size,
                            last - first, left, line, channels, height, width, size,
                            floor)  # fmt: skip
            at_end = t + many == steps
            if gy_last and at_end:
                to = grads + (many - 1) * apart * size
                for j in range(b - a):
                    more = _load(gy_last, a + j, floor)
                    _store(to, j, _load(to, j, floor) + more, floor)
            now = t * columns * size
            mark = marks + t // SEGMENT * columns * size
            _snu_back(grads - a * size, gs_last if at_end else 0, x + now, 0, mark, SEGMENT, 0,
                      decay, threshold, NONE, below, floor, kind, size, through, gx + now, carried,
                      carried, gl, gtheta, apart, many, columns, scratch, a, b, number)  # fmt: skip


@partial(parallel, rows=lif_kernels.ROWS)
def lif_forward(  # type: ignore[no-untyped-def]
    x, v, i, constants, steep, kind, size, v_last, i_last, v_marks, i_marks, pooled, places, spare,
    rows, line, channels, height, width, apart, parts, steps, columns, like, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill pools of outputs and the states after the last step, as ``lif_kernels.forward`` does.

    ``v_marks`` and ``i_marks`` become the states before all segments but the first. Sizes are as in
    ``snu_forward``.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    outputs = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        for t in range(0, steps, SEGMENT):
            many = min(SEGMENT, steps - t)
            if t:
                mark = ((t // SEGMENT - 1) * columns + a) * size
                if v_marks:
                    _move(v_last + a * size, v_marks + mark, (b - a) * size)
                if i_marks:
                    _move(i_last + a * size, i_marks + mark, (b - a) * size)
            _lif(x + t * columns * size, 0, v_last if t else v, i_last if t else i, constants,
                 steep, kind, size, outputs - a * size, 0, 0, 0, v_last, i_last, apart, many,
                 columns, scratch, a, b, number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                pool_rows(outputs + k * apart * size, pooled + at * size, places + at,
                          last - first, line, channels, height, width, size, like)  # fmt: skip


@partial(parallel, rows=lif_kernels.ROWS)
def lif_backward(  # type: ignore[no-untyped-def]
    g_pooled, places, x, v, i, v_marks, i_marks, constants, steep, kind, kind_forward, size, gx,
    gv, gi, ga, gtheta, zeros, spare, rows, line, channels, height, width, apart, parts, steps,
    columns, like, scratch, lo, hi, number,
):  # fmt: skip
    """Fill gradients of inputs, ``gx``, and of what it started from, as ``lif_kernels.backward``.

    ``gv`` and ``gi`` are what the states after the last step receive, before. ``spare`` has twice
    the rows; ``zeros`` are potentials to start from where there are none.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    grads = spare + number * 2 * SEGMENT * apart * size
    potentials = grads + SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        left = (b - a) // (line * channels) - (last - first) * height
        for t in range((steps - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            many, now = min(SEGMENT, steps - t), t * columns * size
            mark = (t // SEGMENT - 1) * columns * size
            v_before = v_marks + mark if t else v
            i_before = i_marks + mark if t and i_marks else 0 if t else i
            _lif(x + now, 0, v_before, i_before, constants, steep, kind_forward, size,
                 0, potentials - a * size, 0, 0, 0, 0, apart, many, columns, scratch, a, b,
                 number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                unpool_rows(g_pooled + at * size, places + at, grads + k * apart * size,
                            last - first, left, line, channels, height, width, size,
                            like)  # fmt: skip
            _lif_back(grads - a * size, 0, 0, potentials - a * size, potentials - a * size, 0,
                      v_before if v_before else zeros, 0, 0, constants, steep, kind, size,
                      gx + now, gv, gi, gv, gi, ga, (0, 1, 1, 0), gtheta, apart, apart, many,
                      columns, scratch, a, b, number)  # fmt: skip


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
    parts = max(min(-(-rows * line * channels // WIDEST), windows), 1)
    most = -(-windows // parts) * size[0] + rows % size[0]
    apart = most * line * channels + PAD
    spare = x.new_empty(threads(x.numel()) * sequences * SEGMENT * apart)
    sizes = rows, line, channels, *size, apart, parts, steps, images * rows * line * channels
    return spare, sizes, images * parts


def pooled_refusal(config: SNUConfig, size: tuple[int, int]) -> str:
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
    y, *last = _Units.apply(x, v, decay, threshold, config, size)
    return y, State(*last)


class _Units(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: Tensor, threshold: Tensor, config: SNUConfig,
        size: tuple[int, int],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        step, keep = x.shape[1:], any(ctx.needs_input_grad)
        below = config.slope if config.g == "leaky_relu" else 1.0
        unit = numbers((below, config.g == "relu", False, config.detach_reset), x.dtype)
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
        run(snu_forward, arguments, parts, x.numel(), x, tiled=step.numel())
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
        run(snu_backward, arguments, parts, x.numel(), x, tiled=step.numel())
        of_v, *of_constants = ctx.shapes
        gv = summed(decay * gx[0], of_v) if needs_v else None
        found = (
            summed(s.total(), shape) if need else None
            for s, need, shape in zip(sums, needs, of_constants, strict=True)
        )
        return gx, gv, *found, None, None


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
    return LIFParts(*_Neurons.apply(x, v, i, *constants, neuron, size))


class _Neurons(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor, reset_to: Tensor | None, rest: Tensor | None, neuron: LIF,
        size: tuple[int, int],
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, keep, synaptic = x.shape[1:], any(ctx.needs_input_grad), has_current(neuron)
        ctx.shapes = [None if t is None else t.shape for t in (v, i, a, b, threshold)]
        v, i = (whole(t, step) for t in (v, i))
        rows = constant_rows(neuron, x)
        shape = *x.shape[:2], step[1] // size[0], step[2] // size[1], step[3]
        pooled, places = paged(x.new_empty(shape)), torch.empty(shape, dtype=torch.uint8)
        last = [x.new_empty((1, *step)) for _ in range(2)]
        more = (len(x) - 1) // SEGMENT
        marks = [x.new_empty((more, *step)) if keep and need else None for need in (True, synaptic)]
        spare, sizes, parts = parts_of(x, size)
        told = settled(neuron, rows, x)
        places_of = *map(address, last), *map(address, marks), address(pooled), address(places)
        given = *map(address, (x, v, i)), *told, *places_of, address(spare)
        arguments = *given, *sizes, scalar(0, x)
        run(lif_forward, arguments, parts, x.numel(), x, tiled=step.numel())
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
        constants, steep, kind, number = settled(ctx.neuron, rows, x, back=True)
        kind_forward = settled(ctx.neuron, rows, x)[2]
        given = *map(address, (g, places, x, v, i, v_marks, i_marks)), constants, steep, kind
        wanted = address(gx), *map(address, carried), ga.place(), gtheta.place(), address(zeros)
        arguments = *given, kind_forward, number, *wanted, address(spare)
        arguments = *arguments, *sizes, scalar(0, x)
        run(lif_backward, arguments, parts, x.numel(), x, tiled=step.numel())
        found = *carried, ga.total(), None, gtheta.total()
        grads = [
            summed(one, shape) if need and one is not None else None
            for one, shape, need in zip(found, ctx.shapes, needs[1:6], strict=True)
        ]
        return gx, *grads, None, None, None, None
