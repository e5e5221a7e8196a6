"""The scan of units that inhibit each other on processors: Numba's loops as a torch function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_scan import inhibition_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, flat, new, periodic, row
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.loops import numbers
from snu_plugin.neuron.operators import (
    ending,
    followed,
    once,
    own_surrogate,
    plain,
    refuse_batched,
    repeated,
    settings,
    summed,
)


def refusal(x: Tensor, recurrent: Tensor | None, *others: Tensor | None) -> str:
    """Return why units that inhibit each other cannot run fused, ``""`` where they can."""
    if recurrent is not None:
        return "lateral inhibition beside recurrent weights is not fused"
    if not plain(x, *others):
        return "lateral inhibition is fused in eager torch only"
    return ""


def update(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    config: SNUConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``fused.Update`` with the largest output of a group in the reset, which is to zero."""
    keep = followed(x, v, decay, threshold)
    return _Scan.apply(x, v, decay, threshold, config, keep)  # type: ignore[no-any-return]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        decay: Tensor,
        threshold: Tensor,
        config: SNUConfig,
        keep: bool,
    ) -> tuple[Tensor, ...]:
        y = new(torch.empty_like(x, memory_format=torch.contiguous_format))
        states = new(torch.empty_like(y)) if keep else None
        s = torch.empty_like(y[0])
        rows = [repeated(constant, s.shape) for constant in (decay, threshold)]
        unit = numbers(*settings(config), x.dtype)[:-1]
        wanted = row(s, s), flat(y), flat(y[:0] if states is None else states)
        arguments = flat(x), _given(v, s).copy(), *map(periodic, rows), *unit, *wanted
        size, groups = _groups(x, config)
        run(kernels.forward, (*arguments, size), groups, x.numel())
        ctx.config = config
        ctx.save_for_backward(x, v, decay, threshold, y, states)
        ctx.set_materialize_grads(False)
        return y, s, y[-1].clone()

    @staticmethod
    def backward(
        ctx: Any, gy: Tensor | None, gs_last: Tensor | None, gy_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        refuse_batched(gy, gs_last, gy_last)
        x, v, decay, threshold, y, states = ctx.saved_tensors
        config, needs = ctx.config, ctx.needs_input_grad
        gx = new(torch.empty_like(y))
        constants = [repeated(constant, y.shape[1:]) for constant in (decay, threshold)]
        gl, gtheta = (
            Sums(of if need else None, x) for of, need in zip(constants, needs[2:4], strict=True)
        )
        surrogate = own_surrogate(config)
        slopes = flat(y[:0])
        if surrogate is not None:
            slopes = flat(surrogate(states - threshold).to(y.dtype).expand_as(y))
        given = flat(ending(gy, gy_last, y)), _given(gs_last, y[0]), flat(x), _given(v, y[0])
        kept = flat(y), flat(states), slopes, *map(periodic, constants)
        wanted = flat(gx), gl.place(), gtheta.place()
        size, groups = _groups(x, config)
        arguments = *given, *kept, *numbers(*settings(config), x.dtype), *wanted, size
        run(kernels.backward, arguments, groups, x.numel())
        gv: Any = decay * gx[0] if needs[1] else None
        found, inputs = (gv, gl.total(), gtheta.total()), (v, decay, threshold)
        asked = zip(found, inputs, needs[1:4], strict=True)
        rows = [summed(g, like.shape) if need else None for g, like, need in asked]
        return *once((gy, gs_last, gy_last, x, *inputs), gx, *rows), None, None


def _given(tensor: Tensor | None, step: Tensor) -> Any:
    """Return what broadcasts to one step, zeros for ``None``, as an array ``(neurons,)``."""
    return row(torch.zeros_like(step) if tensor is None else tensor, step)


def _groups(x: Tensor, config: SNUConfig) -> tuple[int, int]:
    """Return how many units inhibit each other, and how many such groups there are."""
    units = x[0].numel()
    size = max(x.shape[-1] if config.lateral_inhibition == "sample" else units, 1)
    return size, units // size
