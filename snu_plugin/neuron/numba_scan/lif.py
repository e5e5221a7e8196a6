"""The fused scan of hosts' leaky neurons on processors: the compiled loops as a torch function.

Of short sequences what the way back reads is kept. Of long ones only the states before each segment
of steps are. Going back a block of columns runs a segment once more and its gradients right after
it, so potentials never leave the second cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF, LIFParts, Recurrence
from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, step_address
from snu_plugin.neuron.numba_scan.jit import parallel, run, threads
from snu_plugin.neuron.numba_scan.lif_kernels import constant_rows, has_current, settled
from snu_plugin.neuron.numba_scan.recurrent_lif import RecurrentScan
from snu_plugin.neuron.operators import refuse_batched, summed, whole
from snu_plugin.neuron.segments import segment_of

BLOCK = 1024
"""Columns that run a segment once more: so few that what they keep stays in the second cache."""

_forward, _backward = kernels.forward.part, kernels.backward.part


@partial(parallel, rows=kernels.ROWS)
def _segments_forward(  # type: ignore[no-untyped-def]
    x, v, i, constants, steep, kind, size, y, vs, currents, v_marks, i_marks, v_last, i_last,
    span, steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill what ``lif_kernels.forward`` does, and the states before all segments but the first.

    These are ``v_marks`` and, of neurons with a current, ``i_marks``; ``span`` steps lie between.
    """
    row = columns * size
    for t in range(0, steps, span):
        many, now, mark = min(span, steps - t), t * row, t // span * row
        ends = t + span >= steps
        _forward(x + now, 0, v_marks + mark - row if t else v,
                 (i_marks + mark - row if t else i) if i_marks else 0, constants, steep, kind,
                 size, y + now if y else 0, 0, vs + now if vs else 0,
                 currents + now if currents else 0, v_last if ends else v_marks + mark,
                 i_last if ends else i_marks + mark if i_marks else 0, columns, many, columns,
                 scratch, lo, hi, number)  # fmt: skip


@partial(parallel, rows=kernels.ROWS)
def _segments_backward(  # type: ignore[no-untyped-def]
    gy, gvs, gcurrents, x, v_marks, i_marks, v, i, zeros, slopes, constants, steep, kind,
    kind_forward, size, gx, gv, gi, ga, gb, gtheta, resets, spare, span, steps, columns, scratch,
    lo, hi, number,
):  # fmt: skip
    """Fill what ``lif_kernels.backward`` does, from the inputs and what ``forward`` kept.

    ``gv`` and ``gi`` are what the states after the last step receive, before. If it ``resets`` the
    potentials after that are computed, too; ``zeros`` are states to start from where there are
    none. ``spare`` has three segments of a block for each thread.
    """
    row, kept = columns * size, span * BLOCK * size
    own = spare + number * 3 * kept
    for t in range((steps - 1) // span * span, -1, -span):
        many, now, mark = min(span, steps - t), t * row, (t // span - 1) * row
        v_before = v_marks + mark if t else v
        i_before = (i_marks + mark if t else i) if i_marks else 0
        for a in range(lo, hi, BLOCK):
            b = min(a + BLOCK, hi)
            us = own - a * size
            vs = us + kept if resets else us
            currents = us + 2 * kept if gb[0] else 0
            _forward(x + now, 0, v_before, i_before, constants, steep, kind_forward, size, 0, us,
                     vs if resets else 0, currents, 0, 0, BLOCK, many, columns, scratch, a, b,
                     number)  # fmt: skip
            _backward(gy + now if gy else 0, gvs + now if gvs else 0,
                      gcurrents + now if gcurrents else 0, us, vs, currents,
                      v_before if v_before else zeros, i_before if i_before else zeros,
                      slopes + now if slopes else 0, constants, steep, kind, size, gx + now, gv,
                      gi, gv, gi, ga, gb, gtheta, columns, BLOCK, many, columns, scratch, a, b,
                      number)  # fmt: skip


def lif_scan(
    x: Tensor, neuron: LIF, v: Tensor | None, i: Tensor | None, recurrence: Recurrence | None,
    potential: bool, current: bool,
) -> LIFParts:  # fmt: skip
    """Run the scan fused; see ``snu_plugin.neuron.lif_scan``. In eager torch."""
    given = x, v, i, neuron.a, neuron.b, neuron.threshold, neuron.reset_to, neuron.rest
    if recurrence is None:
        return LIFParts(*_Scan.apply(*given, neuron, potential, current))
    return LIFParts(*RecurrentScan.apply(*given, *recurrence, neuron, potential, current))


class _Scan(torch.autograd.Function):
    """Outputs, potentials and currents; the last two of the last step alone if not asked for."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor | None, reset_to: Tensor | None, rest: Tensor | None, neuron: LIF,
        potential: bool, current: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, kept, learns_b = x.shape[1:], any(ctx.needs_input_grad), ctx.needs_input_grad[4]
        ctx.shapes = [None if t is None else t.shape for t in (v, i, a, b, threshold)]
        x, v, i = x.contiguous(), *(whole(t, step) for t in (v, i))
        rows = constant_rows(neuron, x)
        fires, synaptic = threshold is not None, has_current(neuron)
        current = current and synaptic
        same = neuron.reset != "value" and neuron.late  # the potential is not changed by a spike
        at_hand = same and (potential or not fires) and (current or not learns_b)
        span = len(x) if at_hand or not kept else segment_of(x) or len(x)
        keeps = kept and span == len(x)
        reads = keeps and neuron.reset != "value"  # the way back, the potential before a step
        y, vs, us, currents = (
            paged(x.new_empty(x.shape)) if need else None
            for need in (
                fires, potential or not fires or reads, keeps and not same,
                current or (keeps and learns_b),
            )
        )  # fmt: skip
        told = settled(neuron, rows, x)
        last, sizes = [x.new_empty((1, *step)) for _ in range(2)], (len(x), step.numel())
        read: tuple[Tensor | None, ...] = vs if same else us, vs, currents
        if span == len(x):
            filled = *map(address, (y, us, vs, currents, *last)), step.numel(), *sizes
            arguments = address(x), 0, *map(address, (v, i)), *told, *filled
            run(kernels.forward, arguments, step.numel(), x.numel(), x)
        else:
            marks = [x.new_empty(((len(x) - 1) // span, *step)) if need else None
                     for need in (True, synaptic)]  # fmt: skip
            read = x, *marks
            filled = *map(address, (y, vs, currents, *marks, *last)), span, *sizes
            arguments = *map(address, (x, v, i)), *told, *filled
            run(_segments_forward, arguments, step.numel(), x.numel(), x)
        ctx.neuron, ctx.span = neuron, span
        ctx.save_for_backward(*read, v, i, *rows)
        ctx.set_materialize_grads(False)
        ctx.last = not (potential or not fires), not current
        v_found, i_found = vs if potential or not fires else last[0], None
        if synaptic:
            i_found = currents if current else last[1]
        if y is None:  # its output is its potential
            return vs, vs.view(vs.shape), i_found  # type: ignore[union-attr]
        return y, v_found, i_found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor | None, gv: Tensor | None, gi: Tensor | None) -> Any:
        refuse_batched(gy, gv, gi)
        x, *_, a, b, threshold, reset_to, rest = ctx.saved_tensors
        rows, needs, step = (a, b, threshold, reset_to, rest), ctx.needs_input_grad, x.shape[1:]
        gy, gv, gi = (None if g is None else g.contiguous() for g in (gy, gv, gi))
        carried = [x.new_zeros(step) if g is None or not last else g[0].clone()
                   for g, last in zip((gv, gi), ctx.last, strict=True)]  # fmt: skip
        received = gy, *(None if last else g for g, last in zip((gv, gi), ctx.last, strict=True))
        sums = [Sums(row if need else None, x) for row, need in zip(rows, needs[3:6], strict=False)]
        gx = paged(torch.empty_like(x))
        back = _back_again if ctx.span < len(x) else _back
        back(ctx, received, gx, carried, (*(s.place() for s in sums),))
        found_grads = *carried, *(s.total() for s in sums)
        grads = [
            summed(g, shape) if need and g is not None else None
            for g, shape, need in zip(found_grads, ctx.shapes, needs[1:6], strict=True)
        ]
        return gx, *grads, None, None, None, None, None


def _back(
    ctx: Any, received: Sequence[Tensor | None], gx: Tensor, carried: Sequence[Tensor], sums: Any
) -> None:
    """Fill gradients of inputs, of the states to start from and of constants from what was kept."""
    us, vs, currents, v, i, *rows = ctx.saved_tensors
    zeros, columns = gx.new_zeros(gx.shape[1:]), gx.shape[1:].numel()
    slopes = _slopes(ctx.neuron, us, rows[2])
    states = (zeros if state is None else state for state in (v, i))
    known = *received, us, us if vs is None else vs, currents, *states, slopes
    told = settled(ctx.neuron, rows, gx, back=True)
    ends = [address(part) for part in carried]
    sizes = columns, columns, len(gx), columns
    arguments = *map(address, known), *told, address(gx), *ends, *ends, *sums, *sizes
    run(kernels.backward, arguments, columns, gx.numel(), zeros)


def _back_again(
    ctx: Any, received: Sequence[Tensor | None], gx: Tensor, carried: Sequence[Tensor], sums: Any
) -> None:
    """Fill them from inputs and the states before each segment.

    Where slopes are given, those of one segment are there at a time.
    """
    x, *marks, v, i = ctx.saved_tensors[:5]
    rows, neuron, span, columns = ctx.saved_tensors[5:], ctx.neuron, ctx.span, x[0].numel()
    zeros, spare = gx.new_zeros(gx.shape[1:]), x.new_empty(threads(x.numel()) * 3 * span * BLOCK)
    forth, told = settled(neuron, rows, x), settled(neuron, rows, x, back=True)
    resets = not (neuron.late or neuron.reset in ("none", "value"))
    piece = span if neuron.slope == "given" else len(x)
    for first in reversed(range(0, len(x), piece)):
        count, states, slopes = min(piece, len(x) - first), [v, i], None
        if first:
            states = [None if mark is None else mark[first // span - 1] for mark in marks]
        if piece == span:
            u = torch.empty_like(x[:count])
            filled = 0, address(u), 0, 0, 0, 0, columns, count, columns
            given = step_address(x, first), 0, *map(address, states), *forth
            run(kernels.forward, (*given, *filled), columns, u.numel(), zeros)
            slopes = _slopes(neuron, u, rows[2])
        at = *(step_address(part, first) for part in (*received, x)), *map(address, marks)
        known = *map(address, (*states, zeros, slopes)), *told[:-1], *forth[2:]
        wanted = step_address(gx, first), *map(address, carried), *sums
        sizes = resets, address(spare), span, count, columns
        arguments = *at, *known, *wanted, *sizes
        run(_segments_backward, arguments, columns, count * columns, zeros)


def _slopes(neuron: LIF, u: Tensor, threshold: Tensor | None) -> Tensor | None:
    """Return the slopes of all spikes where a function of the caller's says them."""
    if neuron.slope != "given" or threshold is None:
        return None
    return neuron.surrogate(u - threshold).to(u).expand_as(u).contiguous()  # type: ignore[misc]
