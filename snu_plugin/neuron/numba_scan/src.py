"""The fused scan of the Spiking Recurrent Cell on processors: Numba's loops as a torch function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.numba_scan import src_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import flat, row, scalar
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.operators import refuse_batched
from snu_plugin.neuron.pages import paged
from snu_plugin.neuron.src import SRCConfig, SRCState


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
        marks = x.new_empty(((x.shape[0] - 1) // kernels.SEGMENT, 3, x[0].numel()))
        last = [torch.empty_like(y[0]).copy_(part) for part in (i, h, h_s)]
        carried = [row(part, y[0]) for part in last]
        settings = _settings(config, x)
        arguments = flat(x), row(bias, y[0]), *carried, *settings, flat(y), marks.numpy()
        run(kernels.forward, arguments, y[0].numel(), x.numel())
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
        run(kernels.backward, arguments, gb.numel(), x.numel())
        found = zip((gb, *g_first), (bias, i, h, h_s), ctx.needs_input_grad[1:5], strict=True)
        return gx, *(g.sum_to_size(like.shape) if need else None for g, like, need in found), None


def _settings(config: SRCConfig, like: Tensor) -> Sequence[Any]:
    """Return the settings as the kernels take them."""
    names = ("alpha", "rho", "z", "r", "r_s", "z_hyp", "z_dep")
    constants = tuple(scalar(getattr(config, name), like) for name in names)
    now = None if config.gate.startswith("prev") else True
    return constants, now, True if config.gate.endswith("hard") else None
