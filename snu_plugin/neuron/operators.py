"""What the operators of all fused scans share: who has to see a call, what autograd receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.surrogate import Surrogate, tanh_derivative

SCAN = (
    "(Tensor x, Tensor? v, Tensor decay, Tensor? threshold, Tensor? reset, float below, bool cut, "
    "bool soft, bool detach_reset, bool keep) -> (Tensor, Tensor, Tensor, Tensor)"
)
"""What an operator of ``fused.Update`` takes and gives: its tensors, ``settings``, whether to keep
what a backward pass starts from; outputs, the last ``s`` and ``y``, and what is kept."""


def plain(*tensors: Tensor | None) -> bool:
    """Tell whether nothing but eager torch sees a call, which then needs no operator.

    Compilers, tracers, transforms, modes and subclasses of tensors have to see the operator; to go
    through it forward and backward takes 0.05 ms more.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or transformed()
        or torch._C._len_torch_dispatch_stack()
    ) and all(t is None or type(t) in (Tensor, nn.Parameter) for t in tensors)


def transformed() -> bool:
    """Tell whether a call is inside a transform of ``torch.func``."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def batched(*grads: Tensor | None) -> bool:
    """Tell whether gradients are many at once (``is_grads_batched``), as only operators take them.

    Where torch maps a backward pass so, nothing else of it shows.
    """
    return any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in grads)


def refuse_batched(*grads: Tensor | None, instead: str = "impl='reference'") -> None:
    """Raise a ``RuntimeError`` where gradients for a backward pass of one are many at once."""
    if batched(*grads):
        raise RuntimeError(f"this backward pass takes no batched gradients; {instead} takes them")


def direct(
    tensors: Sequence[Tensor | None], grads: Sequence[Tensor | None], surrogate: Surrogate | None
) -> bool:
    """Tell whether a backward pass of these tensors and gradients needs no operator.

    Raises:
        RuntimeError: It needs one, for batched gradients, and none takes a surrogate of its own.
    """
    if surrogate is not None:
        refuse_batched(*grads)
    return plain(*tensors) and not batched(*grads)


def followed(*tensors: Tensor | None) -> bool:
    """Tell whether a backward pass may follow a call; inside a transform no tensor knows."""
    return torch.is_grad_enabled() and (
        any(t is not None and t.requires_grad for t in tensors)
        or torch._C._are_functorch_transforms_active()
    )


def surrogate_refusal(config: SNUConfig, *tensors: Tensor | None) -> str:
    """Return why the surrogate of a call with these tensors is not fused, ``""`` where it is."""
    if own_surrogate(config) is not None and not plain(*tensors):
        return "a surrogate other than tanh_derivative is fused in eager torch only"
    return ""


def own_surrogate(config: SNUConfig) -> Surrogate | None:
    """Return the surrogate of a hard unit, unless it is the one that the kernels know."""
    return None if config.soft or config.surrogate is tanh_derivative else config.surrogate


def settings(config: SNUConfig) -> tuple[float, bool, bool, bool]:
    """Return g's slope below zero, whether g cuts there, ``soft`` and ``detach_reset``."""
    below = config.slope if config.g == "leaky_relu" else 1.0
    return below, config.g == "relu", config.soft, config.detach_reset


def repeated(constant: Tensor | None, step: torch.Size) -> Tensor | None:
    """Return what broadcasts to a step as values that repeat over its columns, contiguous."""
    if constant is None:
        return None
    shape = constant.shape
    if constant.numel() == 1 or shape == step[len(step) - len(shape) :]:
        return constant.contiguous()
    return constant.expand(step).contiguous()


def imagined(constant: Tensor, x: Tensor, need: bool) -> Tensor:
    """Return a tensor like the gradient of a constant in the form of ``repeated``.

    It has the type of ``x``, ``(T, B, ..., features)``, and is empty where not asked for.
    """
    found = repeated(constant, x.shape[1:]) if need else None
    return x.new_empty(0 if found is None else found.shape)


def whole(tensor: Tensor | None, step: torch.Size) -> Tensor | None:
    """Return what broadcasts to a step as a contiguous tensor of its shape, or ``None``."""
    if tensor is None:
        return None
    return (tensor if tensor.shape == step else tensor.expand(step)).contiguous()


def summed(grad: Tensor, shape: torch.Size) -> Tensor:
    """Return a gradient summed to ``shape``; to ask whether it has it already takes no time."""
    return grad if grad.shape == shape else grad.sum_to_size(shape)


def ending(gy: Tensor | None, gy_last: Tensor | None, like: Tensor) -> Tensor:
    """Return the gradient of all outputs from those of all and of the last."""
    gy = torch.zeros_like(like) if gy is None else gy
    if gy_last is None:
        return gy
    return torch.cat((gy[:-1], (gy[-1] + gy_last)[None].to(gy.dtype)))


def once(causes: Sequence[Tensor | None], *grads: Tensor | None) -> Sequence[Tensor | None]:
    """Return gradients that refuse to be differentiated, where a graph of them is made.

    ``causes`` are the tensors through which a second derivative would go on.
    """
    if not torch.is_grad_enabled():
        return grads
    return [None if grad is None else _Once.apply(grad, *causes) for grad in grads]


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, *causes: Tensor | None) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: object, output: object) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("the fused scan has no second derivative; impl='reference' has one")
