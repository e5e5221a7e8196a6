"""The scan of hosts' leaky neurons that feed themselves: a product and a compiled loop each step.

Going forward the product is that of the outputs of the step before, going back that of the
gradient of the step after. Both lie where tensors of their own would, so that they are rounded as
the host's (docs/hosts.md#mkl-rounds-by-place).

Of long sequences the way back keeps the states before each segment alone, and runs it once more in
one call: all outputs are known by then, so what a segment receives is one product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF
from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, step_address
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.lif_kernels import constant_rows, has_current, settled
from snu_plugin.neuron.operators import recurrent_weight_grad, refuse_batched, summed, whole
from snu_plugin.neuron.segments import segment_of

ALIGNED = 64
"""Bytes at which torch's own tensors begin."""


class RecurrentScan(torch.autograd.Function):
    """Outputs, potentials and currents; the last two of the last step alone if not asked for."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor, reset_to: Tensor | None, rest: Tensor | None, weight: Tensor,
        bias: Tensor | None, y_before: Tensor | None, neuron: LIF, potential: bool, current: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, kept = x.shape[1:], any(ctx.needs_input_grad)
        synaptic = has_current(neuron)
        current = current and synaptic
        given = v, i, a, b, threshold, weight, bias, y_before
        ctx.shapes = [None if t is None else t.shape for t in given]
        x, v, i, y_before = x.contiguous(), *(whole(t, step) for t in (v, i, y_before))
        rows = constant_rows(neuron, x)
        same = neuron.reset != "value" and neuron.late  # the potential is not changed by a spike
        learns_b = ctx.needs_input_grad[4]
        at_hand = same and potential and (current or not learns_b)
        span = len(x) if at_hand or not kept else segment_of(x) or len(x)
        keeps = kept and span == len(x)
        y = paged(x.new_empty(x.shape))
        vs, us, currents = (
            paged(x.new_empty(x.shape)) if need else None
            for need in (
                potential or (keeps and neuron.reset != "value"), keeps and not same,
                current or (keeps and learns_b),
            )
        )  # fmt: skip
        carried = [x.new_zeros(step) if t is None else t.clone() for t in (v, i)]
        sent, received = (
            x.new_zeros(step) if y_before is None else y_before.clone(),
            x.new_empty(step),
        )
        places = [address(t) for t in carried]
        told = settled(neuron, rows, x, recurrent=True)
        columns, starts, room = step.numel(), [v, i], None
        for t in range(len(x)):
            if t and t % span == 0:
                starts += carried[0].clone(), carried[1].clone() if synaptic else None
            _receive(sent, weight, bias, received)
            arguments = (
                step_address(x, t), address(received), *places, *told, step_address(y, t),
                step_address(us, t), step_address(vs, t),
                step_address(currents, t), *places, columns, 1, columns,
            )  # fmt: skip
            room = run(kernels.forward, arguments, columns, columns, received, room=room)
            sent = y[t] if step_address(y, t) % ALIGNED == 0 else y[t].clone()
        ctx.neuron, ctx.span, ctx.last = neuron, span, (not potential, not current)
        read = (vs if same else us, vs, currents) if keeps else (x, None, None)
        ctx.save_for_backward(*read, y, y_before, weight, bias, *rows, *starts)
        ctx.set_materialize_grads(False)
        last_i = carried[1][None] if synaptic else None
        return y, vs if potential else carried[0][None], currents if current else last_i

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor | None, gv: Tensor | None, gi: Tensor | None) -> Any:
        refuse_batched(gy, gv, gi)
        us, vs, currents, y, y_before, weight, bias, *rest = ctx.saved_tensors  # us: x, if again
        rows, starts, span = rest[:5], rest[5:], ctx.span or 1
        needs, step, last = ctx.needs_input_grad, y.shape[1:], len(y) - 1
        gy, gv, gi = (None if g is None else g.contiguous() for g in (gy, gv, gi))
        gx, total, zeros = paged(torch.empty_like(y)), y.new_empty(step), y.new_zeros(step)
        carried = [y.new_zeros(step) if g is None or not last else g[0].clone()
                   for g, last in zip((gv, gi), ctx.last, strict=True)]  # fmt: skip
        gv, gi = (None if last else g for g, last in zip((gv, gi), ctx.last, strict=True))
        sums = [
            Sums(row if need else None, total[None])
            for row, need in zip(rows[:3], needs[3:6], strict=True)
        ]
        told = settled(ctx.neuron, rows, y, back=True)
        once_more = settled(ctx.neuron, rows, y, recurrent=True)
        columns, places, room = step.numel(), [address(t) for t in carried], None
        ends = *places, *(s.place() for s in sums), columns, columns, 1, columns
        late = ctx.neuron.late or ctx.neuron.reset == "none"
        reads = not late and ctx.neuron.reset != "value"  # beside the potential before it resets
        again = [
            y.new_empty((span, *step)) if span <= last and need else None
            for need in (True, reads, needs[4])
        ]
        for first in range(last // span * span, -1, -span):
            count, start = min(span, len(y) - first), starts[2 * (first // span) :][:2]
            read: Any = us, us if vs is None else vs, currents
            if again[0] is not None:  # outputs, which nobody reads, where gradients will be
                sent = _sent(y, y_before, first, count)
                received = torch.empty_like(sent)
                _receive(sent, weight, bias, received)
                arguments = (
                    step_address(us, first), address(received), *map(address, start), *once_more,
                    step_address(gx, first), *map(address, again), 0, 0, columns, count, columns,
                )  # fmt: skip
                run(kernels.forward, arguments, columns, count * columns, total)
                read = again[0][:count], again[0] if again[1] is None else again[1], again[2]
            slopes = None
            if ctx.neuron.slope == "given":
                u = read[0]
                slopes = ctx.neuron.surrogate(u - rows[2]).to(u).expand_as(u).contiguous()
            for n in range(count - 1, -1, -1):
                t = first + n
                if t < last:
                    _hand_back(gx[t + 1], weight, None if gy is None else gy[t], total)
                before = (
                    [step_address(part, n - 1) for part in read[1:]]
                    if n
                    else [address(zeros if state is None else state) for state in start]
                )
                arguments = (
                    step_address(gy, t) if t == last else address(total),
                    *(step_address(g, t) for g in (gv, gi)),
                    *(step_address(part, n) for part in read), *before, step_address(slopes, n),
                    *told, step_address(gx, t), *places, *ends,
                )  # fmt: skip
                room = run(kernels.backward, arguments, columns, columns, total, room=room)
        found = *carried, *(s.total() for s in sums), *_received_grads(gx, y, weight, y_before)
        asked = *needs[1:6], *needs[8:11]
        grads = [
            summed(g, shape) if need else None
            for g, shape, need in zip(found, ctx.shapes, asked, strict=True)
        ]
        return gx, *grads[:5], None, None, *grads[5:], None, None, None


def _receive(sent: Tensor, weight: Tensor, bias: Tensor | None, into: Tensor) -> None:
    """Put what outputs add to the next step into a tensor of a step's shape."""
    sent, into = _samples(sent), _samples(into)
    if weight.dim() < 2:
        torch.mul(sent, weight, out=into)
    elif bias is None:
        torch.mm(sent, weight.t(), out=into)
    else:
        torch.addmm(bias, sent, weight.t(), out=into)


def _sent(y: Tensor, y_before: Tensor | None, first: int, count: int) -> Tensor:
    """Return the outputs before each of some steps."""
    if first:
        return y[first - 1 : first + count - 1]
    begun = torch.zeros_like(y[:1]) if y_before is None else y_before[None]
    return torch.cat((begun, y[: count - 1]))


def _hand_back(received: Tensor, weight: Tensor, own: Tensor | None, into: Tensor) -> None:
    """Put the gradient of outputs there: their own, and that of what they added."""
    received, into = _samples(received), _samples(into)
    if weight.dim() < 2:
        torch.mul(received, weight, out=into)
    elif own is None:
        torch.mm(received, weight, out=into)
    else:
        torch.addmm(_samples(own), received, weight, out=into)
    if weight.dim() < 2 and own is not None:
        into += _samples(own)


def _received_grads(
    gx: Tensor, y: Tensor, weight: Tensor, y_before: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of weights, bias and the outputs before the first step."""
    first = gx[:1].sum(0)  # zero without a step
    if weight.dim() >= 2:
        return recurrent_weight_grad(gx, y, y_before), gx, _samples(first) @ weight
    return gx * _sent(y, y_before, 0, len(y)), gx, first * weight


def _samples(step: Tensor) -> Tensor:
    """Return ``(B, ..., features)`` as ``(rows, features)``."""
    return step.reshape(-1, step.shape[-1])
