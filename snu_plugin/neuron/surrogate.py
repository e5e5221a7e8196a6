"""The step that fires, and the smooth slope that training sees in its place."""

from __future__ import annotations

from collections.abc import Callable

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


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(v: Tensor, surrogate: Surrogate) -> Tensor:
        return (v > 0).to(v.dtype)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        v, surrogate = inputs  # type: ignore[misc]
        ctx.save_for_backward(v)  # type: ignore[has-type]
        ctx.surrogate = surrogate  # type: ignore[attr-defined, has-type]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * ctx.surrogate(v), None  # type: ignore[attr-defined]


def step(v: Tensor, surrogate: Surrogate = tanh_derivative) -> Tensor:
    """Return 1 where ``v > 0`` and 0 elsewhere, 0 at 0; backward multiplies by ``surrogate(v)``.

    >>> step(torch.tensor([-1.0, 0.0, 0.5]))
    tensor([0., 0., 1.])
    """
    spikes: Tensor = _Step.apply(v, surrogate)
    return spikes
