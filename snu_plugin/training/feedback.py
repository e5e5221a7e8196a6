"""Fixed random feedback in place of the transposed weights of back-propagation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

Recurrent = nn.RNN | nn.LSTM | nn.GRU
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Recurrent
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *RECURRENT)
_CONV_INPUT = {3: conv1d_input, 4: conv2d_input, 5: conv3d_input}

Send = Callable[[Tensor, Tensor], Tensor]
"""From the gradient at a layer's output and its input: the gradient to send to that input."""


def weight_of(layer: Layer) -> Tensor:
    """Return the weights between a layer's input and itself, ``(out, in, ...)``.

    Those of a recurrent layer of torch's have a row for each gate of each unit.
    """
    return layer.get_parameter("weight_ih_l0" if isinstance(layer, RECURRENT) else "weight")


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

    def after(_: nn.Module, __: object, y: Any) -> Any:
        if isinstance(y, tuple):
            return (_Feedback.apply(y[0], inputs.pop(), send), *y[1:])
        return _Feedback.apply(y, inputs.pop(), send)

    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]


def align(layers: Mapping[str, Layer], drawn: dict[str, Tensor], generator: Generator) -> list[Any]:
    """Attach feedback alignment (Lillicrap et al. 2016) to all layers but the first.

    ``drawn`` receives the fixed matrices, of the shape of the weights they stand for.
    """
    hooks: list[Any] = []
    for name, layer in list(layers.items())[1:]:
        _numeric_padding(name, layer)
        drawn[name] = b = draw(weight_of(layer), generator)
        if isinstance(layer, RECURRENT):
            hooks += _aligned(layer, b)
            continue

        def send(grad: Tensor, x: Tensor, layer: Layer = layer, b: Tensor = b) -> Tensor:
            return back(layer, grad, x, b)

        hooks += redirect(layer, send)
    return hooks


class _Probe(torch.autograd.Function):
    """Zeros to be added to the drive of units; what comes back goes to their input by ``b``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        return x.new_zeros((*x.shape[:-1], len(b)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (b,) = ctx.saved_tensors
        return grad @ b, None


def _aligned(layer: Recurrent, b: Tensor) -> list[Any]:
    """Send the error at every gate of a recurrent layer to its input by ``b``, ``(gates, in)``.

    The gates are out of reach inside torch's layer. So each gets one more input, of weight 1 and
    value 0, whose gradient is the error at the gate.
    """
    own: list[nn.Parameter] = []

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x, weight = args[0], layer.get_parameter("weight_ih_l0")
        own[:] = [weight]
        one = torch.eye(len(b), dtype=b.dtype, device=b.device)
        layer._parameters["weight_ih_l0"] = torch.cat((weight, one), 1)  # type: ignore[assignment]
        layer.input_size += len(b)
        return (torch.cat((x.detach(), _Probe.apply(x, b)), -1), *args[1:])

    def after(*_: object) -> None:
        layer._parameters["weight_ih_l0"] = own.pop()
        layer.input_size -= len(b)

    return [
        layer.register_forward_pre_hook(before),
        layer.register_forward_hook(after, always_call=True),
    ]


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
    if isinstance(layer, (nn.Linear, *RECURRENT)):
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
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and (
        isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise ValueError(
            f"layer {name!r} pads by {layer.padding!r} with {layer.padding_mode!r}; feedback "
            "alignment takes numbers and 'zeros'"
        )
