"""Units whose outputs a linear layer takes, and nobody else, as one torch function.

What the outputs receive on the way back is multiplied by the surrogate's slope. Where that is 0,
as far from the threshold with surrogates of bounded support, it need not be known (Perez-Nieves and
Goodman 2021): the product with the weights is taken at the other places alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import unpacked
from snu_plugin.neuron.numba_scan import spike_product
from snu_plugin.neuron.numba_scan.loops import scan, scan_backward
from snu_plugin.neuron.operators import refuse_batched, summed
from snu_plugin.neuron.reference import State, remaining

Pack = Callable[[Tensor], Tensor | None]


def snu_linear(
    x: Tensor,
    config: SNUConfig,
    decay: Tensor,
    threshold: Tensor,
    state: State | None,
    weight: Tensor,
    bias: Tensor | None,
    pack: Pack,
) -> tuple[Tensor, State]:
    """Return ``y @ weight.T + bias`` of the outputs of units, and their last state.

    Args:
        x: Inputs of the units, ``(T, B, ..., features)``.
        config: Their settings.
        decay: Decays, which broadcast to a step.
        threshold: Thresholds, likewise.
        state: What they start from.
        weight: ``(outputs, features)``.
        bias: ``(outputs,)``.
        pack: Returns the bits of rows of outputs, ``None`` where these are multiplied densely.
    """
    v = None if state is None else remaining(state, config)
    y, *last = _Fed.apply(x, v, decay, threshold, weight, bias, config, pack)
    return y, State(*last)


class _Fed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor | None, decay: Tensor, threshold: Tensor, weight: Tensor,
        bias: Tensor | None, config: SNUConfig, pack: Pack,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        keep = any(ctx.needs_input_grad)
        below = config.slope if config.g == "leaky_relu" else 1.0
        settings = below, config.g == "relu", False, config.detach_reset
        y, s, last, marks = scan(x, v, decay, threshold, None, settings, keep)
        rows = y.flatten(0, -2)
        words = pack(rows)
        z = None if words is None else spike_product.product(words, weight, bias)
        if z is None:
            words, z = None, F.linear(rows, weight, bias)
        if keep:
            ctx.config, ctx.settings, ctx.words = config, settings, words
            ctx.v_shape = None if v is None else v.shape
            kept = None if words is not None or not ctx.needs_input_grad[4] else rows
            ctx.save_for_backward(x, marks, decay, threshold, weight, kept)
        ctx.set_materialize_grads(False)
        return z.view(*y.shape[:-1], len(weight)), s, last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gz: Tensor | None, gs_last: Tensor | None, gy_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        refuse_batched(gz, gs_last, gy_last)
        x, marks, decay, threshold, weight, rows = ctx.saved_tensors
        _, needs_v, *learn, needs_weight, needs_bias = ctx.needs_input_grad[:6]
        if gz is None:
            gz = x.new_zeros(*x.shape[:-1], len(weight))
        g = gz.flatten(0, -2).contiguous()
        gw = gb = walked = None
        if needs_weight and ctx.words is not None:
            walked = spike_product.weight_grad(ctx.words, g, weight.shape[1], None, needs_bias)
        if walked is not None:
            gw, gb = (walked[:, :-1], walked[:, -1]) if needs_bias else (walked, None)
        elif needs_weight:
            if rows is None:
                rows = unpacked(ctx.words, weight.shape[1]).to(g.dtype)
            gw = g.t() @ rows
        if needs_bias and gb is None:
            gb = g.sum(0)
        # 0 times what is not finite, which is not walked, is NaN in the dense product.
        finite = bool(weight.sum().isfinite())
        finite = finite and (walked is not None or bool(g.sum().isfinite()))
        most = spike_product.most(*weight.t().shape) / 2 if finite else 0.0
        received = _Received(gz, gy_last, weight, most)
        learn_decay, learn_threshold = learn
        gx, *sums = scan_backward(
            received, gs_last, x, None, marks, decay, threshold, None, ctx.settings,
            learn_decay, learn_threshold, lambda states: ctx.config.surrogate(states - threshold),
        )  # fmt: skip
        gv = summed(decay * gx[0], ctx.v_shape) if needs_v else None
        of_constants = (
            summed(g, constant.shape) if need else None
            for g, constant, need in zip(sums, (decay, threshold), learn, strict=True)
        )
        return gx, gv, *of_constants, gw, gb, None, None


class _Received:
    """What outputs of some steps receive, right where their slopes are not 0."""

    def __init__(self, gz: Tensor, last: Tensor | None, weight: Tensor, most: float) -> None:
        """Take the gradient of the product and what the last outputs receive besides.

        Up to the share ``most`` of slopes that are not 0 no other places are multiplied.
        """
        self.gz, self.last, self.weight, self.most = gz, last, weight, most

    def __call__(self, part: slice, slopes: Tensor) -> Tensor:
        g, words = self.gz[part].flatten(0, -2), None
        if self.most:
            words = spike_product.pack(slopes.flatten(0, -2), self.most, False)
        if words is None:
            found = g @ self.weight
        else:
            found = spike_product.product_at(words, g, self.weight)
        found = found.view(slopes.shape)
        if self.last is not None and part.stop >= len(self.gz):
            found[-1] += self.last
        return found
