"""GRAPES: errors weighed by how strongly the nodes that they reach are connected."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.training.networks import Weighted

Recurrent = nn.RNN | nn.LSTM | nn.GRU
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | Recurrent
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *RECURRENT)


class _Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(y: Tensor, factor: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        ctx.save_for_backward(inputs[1])  # type: ignore[index]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * factor, None


def importance(weight: Tensor) -> Tensor:
    """Return the sum of the absolute weights that come into each node (or channel) of a layer.

    ``weight`` is ``(out, in, ...)``, the sum ``(out,)``.
    """
    return weight.detach().abs().flatten(1).sum(1)


def modulation(weight: Tensor) -> Tensor:
    """Return the factors M of GRAPES: ``2 importance / max importance``, held in [1, 2].

    Dellaferrera et al., Nat. Commun. 13, 2022 (IBM/GRAPES d5fa3e2). A layer without any weight,
    0 / 0 there, has M = 1: the plain gradient.

    Args:
        weight: ``(out, in)`` or, of a convolution, ``(out, in, ...)``: one M a channel.

    >>> modulation(torch.tensor([[0.1, -0.2, 0.3], [-0.9, 0.5, 0.6], [0.0, 0.1, 0.0]]))
    tensor([1., 2., 1.])
    """
    return _factors(importance(weight))


def _factors(importances: Tensor) -> Tensor:
    largest = importances.max()
    m = torch.where(largest > 0, 2 * importances / largest, torch.ones_like(importances))
    return m.clamp(1, 2)


class Grapes(NamedTuple):
    """What is attached to a network, until ``remove()``; also a context manager."""

    hooks: tuple[Any, ...]
    factors: dict[str, Tensor]
    """M by name of the layer, as of the last forward pass; the output layer has none."""

    def remove(self) -> None:
        """Give the network its plain gradient back."""
        for hook in self.hooks:
            hook.remove()

    def __enter__(self) -> Grapes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.remove()


def attach_grapes(network: nn.Module, *, recurrent: bool = False) -> Grapes:
    """Weigh the errors that travel back through a network; its outputs stay as they are.

    The gradient that arrives at a hidden layer is multiplied by its M, and the layers before
    receive the product (BPgrapes). At a layer of units (``Weighted``) M acts on the output of the
    units: it meets the error of their output at every step, not what returns through their own
    recurrence. M is taken from the weights at the start of each forward pass, so it holds for a
    mini-batch; dropout does not enter it. Any optimiser may follow.

    Args:
        network: The module that is called in training. Its Linear, Conv, RNN, LSTM and GRU layers
            count in the order in which they were registered, which must be the order in which they
            run, each once a forward pass; the last is the output layer and never modulated.
        recurrent: Whether the weights from the units of a layer to themselves count among those
            that come in; Woźniak et al. do not say.

    Raises:
        ValueError: Fewer than two layers, or one that is several.
    """
    layers: dict[str, Layer] = {n: m for n, m in network.named_modules() if isinstance(m, LAYERS)}
    if len(layers) < 2:
        raise ValueError(
            f"the network has {len(layers)} Linear, Conv or recurrent layers; 2 are needed"
        )
    for name, layer in layers.items():
        if isinstance(layer, RECURRENT) and (
            layer.num_layers > 1 or layer.bidirectional or layer.proj_size
        ):
            raise ValueError(
                f"layer {name!r} is several in one (num_layers, bidirectional or proj_size); "
                "give one module for each"
            )
    hidden = dict(list(layers.items())[:-1])
    factors: dict[str, Tensor] = {}

    def refresh(*_: object) -> None:
        for name, each in hidden.items():
            factors[name] = _factors(_incoming(network, name, each, recurrent=recurrent))

    def weigh(name: str) -> Any:
        unit = network.get_submodule(name.rpartition(".")[0])
        place = unit if isinstance(unit, Weighted) else hidden[name]
        axes = (-1,) + (1,) * (_weight(hidden[name]).dim() - 2)  # of channels

        def scale(_: nn.Module, __: object, y: Any) -> Any:
            m = factors[name].view(axes)
            return (_Scale.apply(y[0], m), *y[1:]) if isinstance(y, tuple) else _Scale.apply(y, m)

        return place.register_forward_hook(scale)

    refresh()
    hooks = [network.register_forward_pre_hook(refresh), *(weigh(name) for name in hidden)]
    return Grapes(tuple(hooks), factors)


def _weight(layer: Layer) -> Tensor:
    """Return the weights between a layer's input and itself, ``(out, in, ...)``.

    Those of a recurrent layer of torch's have a row for each gate of each unit.
    """
    return layer.get_parameter("weight_ih_l0" if isinstance(layer, RECURRENT) else "weight")


def _incoming(network: nn.Module, name: str, layer: Layer, *, recurrent: bool) -> Tensor:
    """Return the sum of the absolute weights into each node, those of all its gates together."""
    weights = [_weight(layer)]
    if recurrent and isinstance(layer, RECURRENT):
        weights.append(layer.get_parameter("weight_hh_l0"))
    elif recurrent and isinstance(of := network.get_submodule(name.rpartition(".")[0]), Weighted):
        own = getattr(of.unit, "recurrent", None)
        weights += [] if own is None else [own]
    total = torch.stack([importance(weight) for weight in weights]).sum(0)
    return total.view(-1, layer.hidden_size).sum(0) if isinstance(layer, RECURRENT) else total
