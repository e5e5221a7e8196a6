"""The fused scan of hosts' leaky neurons on processors: the compiled loops as a torch function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF, LIFParts, Recurrence
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic, step_address
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.lif_settings import (
    backward_settings,
    constant_rows,
    forward_settings,
    has_current,
    scratch,
    segment,
)
from snu_plugin.neuron.numba_scan.recurrent_lif import RecurrentScan
from snu_plugin.neuron.operators import refuse_batched, summed, whole
from snu_plugin.neuron.pages import paged


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
    """Outputs, potentials and currents; the last two of the last step alone if not asked for.

    What the way back reads besides is kept of short sequences. Of long ones the states before each
    segment are; the way back runs it once more from there, and what that gives is still in the
    cache when it is read.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor | None, reset_to: Tensor | None, rest: Tensor | None, neuron: LIF,
        potential: bool, current: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, kept, learns_b = x.shape[1:], any(ctx.needs_input_grad), ctx.needs_input_grad[4]
        ctx.shapes = [None if t is None else t.shape for t in (v, i, a, b, threshold)]
        x, v, i = x.contiguous(), *(whole(t, step) for t in (v, i))
        rows = constant_rows((a, b, threshold, reset_to, rest), x)
        fires, synaptic = threshold is not None, has_current(neuron)
        current = current and synaptic
        same = neuron.reset != "value" and neuron.late  # the potential is not changed by a spike
        at_hand = same and (potential or not fires) and (current or not learns_b)
        span = len(x) if at_hand or not kept else segment(x)
        keeps = kept and span == len(x)
        reads = keeps and neuron.reset != "value"  # the way back, the potential before a step
        y, vs, us, currents = (
            paged(x.new_empty(x.shape)) if need else None
            for need in (
                fires, potential or not fires or reads, keeps and not same,
                current or (keeps and learns_b),
            )
        )  # fmt: skip
        settled = tuple(map(periodic, rows)), *forward_settings(neuron, x)
        columns, room, starts = step.numel(), scratch(x[:span]), [(v, i)]
        last = [x.new_empty((1, *step)) for _ in range(2)]
        for first in range(0, len(x), span or 1):
            now, count = starts[-1], min(span, len(x) - first)
            if first + count < len(x):
                starts.append((x.new_empty(step), x.new_empty(step) if synaptic else None))
            ends = map(address, starts[-1] if first + count < len(x) else last)
            arguments = (
                step_address(x, first), 0, *map(address, now), *settled,
                *(step_address(part, first) for part in (y, us, vs, currents)), *ends,
                address(room), columns, count, columns,
            )  # fmt: skip
            run(kernels.forward, arguments, columns, count * columns)
        ctx.neuron, ctx.span = neuron, span
        states = [state for start in starts for state in start]
        read = (vs if same else us, vs, currents) if keeps else (x, None, None)
        ctx.save_for_backward(*read, *rows, *states)
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
        us, vs, currents, *rest = ctx.saved_tensors  # us: the inputs of what runs once more
        rows, states, span = rest[:5], rest[5:], ctx.span
        step, columns, needs = us.shape[1:], us.shape[1:].numel(), ctx.needs_input_grad
        gy, gv, gi = (None if g is None else g.contiguous() for g in (gy, gv, gi))
        gx, again = paged(torch.empty_like(us)), span < len(us)
        zeros = us.new_zeros(step)
        carried = [us.new_zeros(step) if g is None or not last else g[0].clone()
                   for g, last in zip((gv, gi), ctx.last, strict=True)]  # fmt: skip
        gv, gi = (None if last else g for g, last in zip((gv, gi), ctx.last, strict=True))
        sums = [
            Sums(row if need else None, us[:span])
            for row, need in zip(rows, needs[3:6], strict=False)
        ]
        constants = tuple(map(periodic, rows))
        settled = constants, *backward_settings(ctx.neuron, us)
        once_more = constants, *forward_settings(ctx.neuron, us)
        places, room = tuple(map(address, carried)), scratch(us[:span])
        late = ctx.neuron.late or ctx.neuron.reset == "none"
        reads = not late and ctx.neuron.reset != "value"  # beside the potential before it resets
        us_again, vs_again, currents_again = (
            us.new_empty((span, *step)) if again and need else None
            for need in (True, reads, needs[4])
        )
        for first in range((len(us) - 1) // (span or 1) * span, -1, -(span or 1)):
            count, start = min(span, len(us) - first), states[2 * (first // (span or 1)) :][:2]
            begin = tuple(address(zeros if state is None else state) for state in start)
            read: tuple[Any, ...] = us, us if vs is None else vs, currents
            if us_again is not None:  # outputs, which nobody reads, where gradients will be
                arguments = (
                    step_address(us, first), 0, *map(address, start), *once_more,
                    step_address(gx, first), *map(address, (us_again, vs_again, currents_again)),
                    0, 0, address(room), columns, count, columns,
                )  # fmt: skip
                run(kernels.forward, arguments, columns, count * columns)
                vs_now = us_again if vs_again is None else vs_again
                read = us_again[:count], vs_now, currents_again
            slopes = None
            if ctx.neuron.slope == "given" and rows[2] is not None:
                u = read[0]
                slopes = ctx.neuron.surrogate(u - rows[2]).to(u).expand_as(u).contiguous()
            arguments = (
                *(step_address(g, first) for g in (gy, gv, gi)), *map(address, read), *begin,
                address(slopes), *settled, step_address(gx, first), *places, *places,
                *(s.place() for s in sums), address(room), columns, count, columns,
            )  # fmt: skip
            run(kernels.backward, arguments, columns, count * columns)
        found_grads = *carried, *(s.total() for s in sums)
        grads = [
            summed(g, shape) if need and g is not None else None
            for g, shape, need in zip(found_grads, ctx.shapes, needs[1:6], strict=True)
        ]
        return gx, *grads, None, None, None, None, None
