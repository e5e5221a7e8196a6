"""The fused scan of hosts' leaky neurons on processors: the compiled loops as a torch function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF, LIFParts, Recurrence
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.lif_settings import constant_rows, scratch, settings
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
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, i: Tensor | None, a: Tensor | None, b: Tensor | None,
        threshold: Tensor | None, reset_to: Tensor | None, rest: Tensor | None, neuron: LIF,
        potential: bool, current: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        step, kept = x.shape[1:], any(ctx.needs_input_grad)
        ctx.shapes = [None if t is None else t.shape for t in (v, i, a, b, threshold)]
        x = x.contiguous()
        v, i = (whole(t, step) for t in (v, i))
        rows = constant_rows((a, b, threshold, reset_to, rest), x)
        fires = threshold is not None
        same = neuron.reset != "value" and neuron.late  # the potential is not changed by a spike
        wanted = same or potential or neuron.reset != "value"
        vs = paged(x.new_empty(x.shape)) if wanted else None
        us = vs if same else paged(x.new_empty(x.shape)) if kept else None
        y = paged(x.new_empty(x.shape)) if fires else None
        needs_currents = current or ctx.needs_input_grad[4]
        currents = paged(x.new_empty(x.shape)) if needs_currents else None
        arguments = (
            address(x), 0, address(v), address(i), tuple(map(periodic, rows)),
            *settings(neuron, x), address(y), 0 if us is vs else address(us), address(vs),
            address(currents), 0, 0,
        )  # fmt: skip
        columns, room = step.numel(), scratch(x)
        run(kernels.forward, (*arguments, address(room), len(x), columns), columns, x.numel())
        ctx.neuron = neuron
        ctx.save_for_backward(us, vs, currents, v, i, *rows)
        ctx.set_materialize_grads(False)
        if y is None:  # its output is its potential
            return vs, vs.view(vs.shape), currents if current else None  # type: ignore[union-attr]
        return y, vs, currents if current else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor | None, gv: Tensor | None, gi: Tensor | None) -> Any:
        refuse_batched(gy, gv, gi)
        us, vs, currents, v, i, *rows = ctx.saved_tensors
        vs = us if vs is None else vs  # not read where it is not kept
        step, columns = vs.shape[1:], vs.shape[1:].numel()
        gy, gv, gi = (None if g is None else g.contiguous() for g in (gy, gv, gi))
        start = vs.new_zeros(step) if v is None else v
        slopes = None
        if ctx.neuron.slope == "given" and rows[2] is not None:
            slopes = ctx.neuron.surrogate(us - rows[2]).to(us).expand_as(us).contiguous()
        needs = ctx.needs_input_grad
        gx = paged(torch.empty_like(vs))
        begins = [vs.new_empty(step) if need else None for need in needs[1:3]]
        sums = [
            Sums(row if need else None, vs) for row, need in zip(rows, needs[3:6], strict=False)
        ]
        room, i_start = scratch(vs), vs.new_zeros(step) if i is None else i
        arguments = (
            *map(address, (gy, gv, gi, us, vs, currents, start, i_start, slopes)),
            tuple(map(periodic, rows)), *settings(ctx.neuron, vs), address(gx), 0, 0,
            *map(address, begins), *(s.place() for s in sums), address(room), len(vs), columns,
        )  # fmt: skip
        run(kernels.backward, arguments, columns, vs.numel())
        found = [
            summed(g, shape) if need and g is not None else None
            for g, shape, need in zip(
                (*begins, *(s.total() for s in sums)), ctx.shapes, needs[1:6], strict=True
            )
        ]
        return gx, *found, None, None, None, None, None
