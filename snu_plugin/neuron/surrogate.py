"""The step that fires, and the smooth slope that training sees in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Surrogate = Callable[[Tensor], Tensor]
"""A function of the distance to the threshold, ``s - threshold``, of any shape: the slope."""


def tanh_derivative(v: Tensor) -> Tensor:
    """Return ``1 - tanh²(v)``, the slope used by the published SNU.

    Source: IBM/neuroaikit 953a408, ``step_function``.

    >>> tanh_derivative(torch.tensor([0.0, 0.5]))
    tensor([1.0000, 0.7864])
    """
    return 1 - torch.tanh(v).square()


def _fired(v: Tensor) -> Tensor:
    # What a comparison gives, but NaN for NaN, and sooner; ``abs_`` makes -0 a 0.
    return v.clamp(0, 1).ceil_().abs_()


class _Step(torch.autograd.Function):
    # The older style with ctx in forward: setup_context costs twice as much for each step.
    @staticmethod
    def forward(ctx: Any, v: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(v)
        ctx.surrogate = surrogate
        return _fired(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grad * ctx.surrogate(v), None


class _TransformedStep(torch.autograd.Function):
    """The same in the style that the transforms of ``torch.func`` ask for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, surrogate: Surrogate) -> Tensor:
        return _fired(v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:
        v, ctx.surrogate = inputs
        ctx.save_for_backward(v)

    backward = _Step.backward


def step(v: Tensor, surrogate: Surrogate = tanh_derivative) -> Tensor:
    """Return 1 where ``v > 0``, else 0, but NaN for NaN; backward multiplies by ``surrogate(v)``.

    >>> step(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([0., 0., 1.])
    """
    transformed = torch._C._are_functorch_transforms_active()  # inside one no tensor knows
    if not (torch.is_grad_enabled() and (v.requires_grad or transformed)):
        return _fired(v)
    spikes: Tensor = (_TransformedStep if transformed else _Step).apply(v, surrogate)
    return spikes
