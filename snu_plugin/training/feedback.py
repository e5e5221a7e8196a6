"""Fixed random feedback in place of the transposed weights of back-propagation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_INPUT = {3: conv1d_input, 4: conv2d_input, 5: conv3d_input}

Send = Callable[[Tensor, Tensor], Tensor]
"""From the gradient at a layer's output and its input: the gradient to send to that input."""


class _Feedback(torch.autograd.Function):
    """Pass the output of a layer on; send to its input what ``send`` makes of the gradient."""

    @staticmethod
    def forward(y: Tensor, x: Tensor, send: Send) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        _y, x, send = inputs  # type: ignore[misc]
        ctx.save_for_backward(x)  # type: ignore[has-type]
        ctx.send = send  # type: ignore[attr-defined, has-type]

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad, ctx.send(grad, x), None  # type: ignore[attr-defined]


def redirect(layer: nn.Module, send: Send) -> list[Any]:
    """Replace the gradient that a layer sends to its input; returns the hooks that do it.

    The layer's output and the gradients of its own weights stay as they are.
    """
    inputs: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs[:] = args[:1]
        return (args[0].detach(), *args[1:])

    def after(_: nn.Module, __: object, y: Tensor) -> Tensor:
        out: Tensor = _Feedback.apply(y, inputs.pop(), send)
        return out

    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]


def align(layers: Mapping[str, Layer], drawn: dict[str, Tensor], generator: Generator) -> list[Any]:
    """Attach feedback alignment (Lillicrap et al. 2016) to all layers but the first.

    ``drawn`` receives the fixed matrices, of the shape of the weights they stand for.
    """
    hooks: list[Any] = []
    for name, layer in list(layers.items())[1:]:
        _numeric_padding(name, layer)
        drawn[name] = b = draw(layer.weight, generator)

        def send(grad: Tensor, x: Tensor, layer: Layer = layer, b: Tensor = b) -> Tensor:
            return back(layer, grad, x, b)

        hooks += redirect(layer, send)
    return hooks


def direct(
    layers: Mapping[str, Layer],
    drawn: dict[str, Tensor],
    generator: Generator,
    weigh: Callable[[str, Tensor], Tensor],
) -> list[Any]:
    """Attach direct feedback alignment (Nøkland 2016): the error of the last layer goes to all.

    Args:
        layers: In the order in which they run.
        drawn: Receives the fixed matrices, ``(input of the layer, outputs of the network)``.
        generator: Source of the matrices.
        weigh: What else is done to what the layer of that name sends to its input.
    """
    names = list(layers)
    error: list[Tensor] = []
    hooks: list[Any] = []
    for name in names[1:]:

        def send(grad: Tensor, x: Tensor, name: str = name) -> Tensor:
            if name == names[-1]:  # autograd comes here first
                error[:] = [grad]
            (e,) = error
            lead = e.dim() - 1
            if x.shape[:lead] != e.shape[:-1]:
                raise ValueError(
                    f"layer {name!r} has inputs of shape {tuple(x.shape)}, the error at the output "
                    f"{tuple(e.shape)}; their leading axes must agree for direct feedback"
                )
            shape = x.shape[lead:]
            if name not in drawn:
                drawn[name] = draw(e.new_empty(shape.numel(), e.shape[-1]), generator)
            return weigh(name, (e @ drawn[name].t()).view(x.shape))

        hooks += redirect(layers[name], send)
    return hooks


def back(layer: Layer, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient at the input ``x`` of a layer, were ``weight`` its weights."""
    if isinstance(layer, nn.Linear):
        return grad @ weight
    sent: Tensor = _CONV_INPUT[weight.dim()](  # type: ignore[no-untyped-call]
        x.shape, weight, grad, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    return sent


def draw(like: Tensor, generator: Generator) -> Tensor:
    """Return a tensor uniform in ± sqrt(6 / fan-in), of the shape of ``like``."""
    bound = math.sqrt(6 / like[0].numel())
    made = torch.empty_like(like, device="cpu", requires_grad=False)
    return made.uniform_(-bound, bound, generator=generator).to(like.device)


def _numeric_padding(name: str, layer: Layer) -> None:
    if not isinstance(layer, nn.Linear) and (
        isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise ValueError(
            f"layer {name!r} pads by {layer.padding!r} with {layer.padding_mode!r}; feedback "
            "alignment takes numbers and 'zeros'"
        )
