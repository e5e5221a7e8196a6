"""The fused scan of hosts' leaky neurons on processors: the compiled loops as a torch function."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.lif import LIF, LIFParts
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, new, periodic
from snu_plugin.neuron.numba_scan.jit import run, threads
from snu_plugin.neuron.operators import refuse_batched, repeated, summed, whole


def lif_scan(
    x: Tensor, neuron: LIF, v: Tensor | None, i: Tensor | None, potential: bool, current: bool
) -> LIFParts:
    """Run the scan fused; see ``snu_plugin.neuron.lif_scan``. In eager torch."""
    constants = neuron.a, neuron.b, neuron.threshold, neuron.reset_to, neuron.rest
    return LIFParts(*_Scan.apply(x, v, i, *constants, neuron, potential, current))


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
        rows = [
            None if c is None else repeated(c.to(x), step)
            for c in (a, b, threshold, reset_to, rest)
        ]
        fires = threshold is not None
        same = neuron.reset != "value" and neuron.late  # the potential is not changed by a spike
        wanted = same or potential or neuron.reset != "value"
        vs = new(x.new_empty(x.shape)) if wanted else None
        us = vs if same else new(x.new_empty(x.shape)) if kept else None
        y = new(x.new_empty(x.shape)) if fires else None
        needs_currents = current or ctx.needs_input_grad[4]
        currents = new(x.new_empty(x.shape)) if needs_currents else None
        arguments = (
            address(x), address(v), address(i), tuple(map(periodic, rows)), *_settings(neuron, x),
            address(y), 0 if us is vs else address(us), address(vs), address(currents),
        )  # fmt: skip
        columns, room = step.numel(), _scratch(x)
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
        gx = new(torch.empty_like(vs))
        begins = [vs.new_empty(step) if need else None for need in needs[1:3]]
        sums = [
            Sums(row if need else None, vs) for row, need in zip(rows, needs[3:6], strict=False)
        ]
        room, i_start = _scratch(vs), vs.new_zeros(step) if i is None else i
        arguments = (
            *map(address, (gy, gv, gi, us, vs, currents, start, i_start, slopes)),
            tuple(map(periodic, rows)), *_settings(ctx.neuron, vs), address(gx),
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


def _scratch(x: Tensor) -> Tensor:
    total = x.numel()
    tile = min(total // max(len(x), 1), kernels.TILE) + kernels.PAD
    return x.new_empty(threads(total) * kernels.ROWS * tile)


def _settings(neuron: LIF, like: Tensor) -> tuple[Any, ...]:
    return _kind(
        neuron.leak, neuron.b is not None, neuron.reset, neuron.late, neuron.threshold is not None,
        neuron.slope, neuron.steep, neuron.detached, like.dtype,
    )  # fmt: skip


@functools.cache
def _kind(
    leak: str | None, synapse: bool, reset: str, late: bool, fires: bool, slope: str, steep: float,
    detached: bool, dtype: torch.dtype,
) -> tuple[Any, ...]:  # fmt: skip
    """Return settings as the kernels take them: how steep, ``kind``, bytes of a number."""
    number = np.float32 if dtype == torch.float32 else np.float64
    has = {
        "synapse": leak is None and synapse, "current": leak == "current", "box": leak == "box",
        "integrates": leak == "none", reset: True, "detached": detached,
        "late": late or reset == "none", "fires": fires,
    }  # fmt: skip
    has[slope] = slope != "none"
    kind = tuple(True if has.get(name) else None for name in kernels.KIND)
    return number(steep), kind, dtype.itemsize
