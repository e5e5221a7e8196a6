"""GRAPES: errors weighed by how strongly the nodes that they reach are connected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn

from snu_plugin.training.feedback import LAYERS, RECURRENT, Layer, align, direct, weight_of
from snu_plugin.training.networks import Weighted

Feedback = Literal["weights", "alignment", "direct"]


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


def importance(weight: Tensor, dim: int = 0) -> Tensor:
    """Return the sum of the absolute weights of each node along ``dim``.

    ``dim=0`` sums what comes into the nodes (or channels) of a layer, ``dim=1`` what leaves those
    of the layer before. ``weight`` is ``(out, in, ...)``.
    """
    return weight.detach().abs().sum([axis for axis in range(weight.dim()) if axis != dim])


def modulation(weight: Tensor, *, clip: bool = True, dim: int = 0) -> Tensor:
    """Return the factors M of GRAPES: ``2 importance / max importance``, held in [1, 2].

    Dellaferrera et al., Nat. Commun. 13, 2022 (IBM/GRAPES d5fa3e2). Unclipped, as with feedback
    alignment, they lie in [0, 2]. A layer without any weight, 0 / 0 there, has M = 1: the plain
    gradient.

    Args:
        weight: ``(out, in)`` or, of a convolution, ``(out, in, ...)``: one M a channel.
        clip: Whether to raise factors below 1 to 1.
        dim: See ``importance``.

    >>> modulation(torch.tensor([[0.1, -0.2, 0.3], [-0.9, 0.5, 0.6], [0.0, 0.1, 0.0]]))
    tensor([1., 2., 1.])
    """
    return _factors(importance(weight, dim), clip=clip)


def _factors(importances: Tensor, *, clip: bool) -> Tensor:
    largest = importances.max()
    m = torch.where(largest > 0, 2 * importances / largest, torch.ones_like(importances))
    return m.clamp(1, 2) if clip else m


class Grapes(NamedTuple):
    """What is attached to a network, until ``remove()``; also a context manager."""

    hooks: tuple[Any, ...]
    factors: dict[str, Tensor]
    """M by name of the layer, as of the last forward pass; the output layer has none."""
    matrices: dict[str, Tensor]
    """Fixed feedback matrices by name of the layer whose input receives what they send."""

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


def attach(
    network: nn.Module,
    *,
    feedback: Feedback = "weights",
    modulate: bool = True,
    recurrent: bool = False,
    outputs: Mapping[str, str] | None = None,
    generator: Generator | None = None,
) -> Grapes:
    """Change how errors travel back through a network; its outputs stay as they are.

    The Linear, Conv, RNN, LSTM and GRU layers of ``network`` count in the order in which they were
    registered, which must be the order in which they run, each once a forward pass; the last is the
    output layer and never modulated. Any optimiser may follow. Errors that travel through time
    inside a recurrent layer do so by its own weights, whatever ``feedback`` is.

    - ``weights``: back-propagation. Modulated (BPgrapes): the gradient that arrives at a hidden
      layer is multiplied by M; the layers before receive the modulated one.
    - ``alignment``: fixed random matrices in place of the transposed weights (Lillicrap 2016).
      Modulated (FAgrapes): as above, M not clipped.
    - ``direct``: fixed random matrices from the error of the network's output to each hidden layer
      (Nøkland 2016); leading axes (time, batch) of all layers must agree. Modulated (DFAgrapes):
      factors of the *outgoing* weights on errors and, per synapse, on the gradients of weights;
      the first layer is left unmodulated, as in IBM/GRAPES.

    M is taken from the weights at the start of each forward pass, so it holds for a mini-batch.
    Dropout does not enter it: the public code takes the mask of one sample for a whole batch, so
    that nodes dropped there do not learn under feedback alignment.

    Args:
        network: The module that is called in training.
        feedback: How errors travel.
        modulate: Whether GRAPES weighs them.
        recurrent: Whether the weights from the units of a layer to themselves count among those
            that come in, in ``weights`` and ``alignment``; Woźniak et al. do not say.
        outputs: Where M acts, by name of the layer; by default at its own output, and for a layer
            of units (``Weighted``) at that of the units: it meets the error of their output at
            every step, not what returns through their own recurrence.
        generator: Source of the fixed matrices; needed unless ``feedback`` is ``weights``. They are
            uniform in ± sqrt(6 / fan-in) of the matrix (``he_uniform``).

    Raises:
        ValueError: Fewer than two layers, or a setting that contradicts another.
        LookupError: ``outputs`` names what the network does not have.
    """
    if feedback not in get_args(Feedback):
        known = ", ".join(get_args(Feedback))
        raise ValueError(f"feedback is {feedback!r}; it must be one of {known}")
    layers: dict[str, Layer] = {n: m for n, m in network.named_modules() if isinstance(m, LAYERS)}
    if len(layers) < 2:
        raise ValueError(
            f"the network has {len(layers)} Linear, Conv or recurrent layers; 2 are needed"
        )
    for name, layer in layers.items():
        _one_layer(name, layer)
    factors: dict[str, Tensor] = {}
    matrices: dict[str, Tensor] = {}
    hooks: list[Any] = []
    if modulate and feedback != "direct":
        incoming = partial(_incoming, network, recurrent=recurrent)
        clip = feedback == "weights"
        hooks += _modulate(network, layers, factors, outputs or {}, incoming, clip=clip)
    elif modulate:
        hooks += _modulate_synapses(network, layers, factors)
    if feedback != "weights" and generator is None:
        raise ValueError(f"feedback={feedback!r} draws its matrices from generator; give one")
    if feedback == "alignment" and generator is not None:
        hooks += align(layers, matrices, generator)
    if feedback == "direct" and generator is not None:
        spared = list(layers)[1]  # what it sends is the error of the first layer

        def weigh(name: str, error: Tensor) -> Tensor:
            if name == spared or name not in factors:
                return error
            return error * _per_channel(factors[name], layers[name])

        hooks += direct(layers, matrices, generator, weigh)
    return Grapes(tuple(hooks), factors, matrices)


def _modulate(
    network: nn.Module,
    layers: Mapping[str, Layer],
    factors: dict[str, Tensor],
    outputs: Mapping[str, str],
    incoming: Callable[[str, Layer], Tensor],
    *,
    clip: bool,
) -> list[Any]:
    """Multiply the gradient that arrives at each hidden layer by its M."""
    hidden = dict(list(layers.items())[:-1])
    modules = dict(network.named_modules())
    places = {name: outputs.get(name, _output(modules, name)) for name in hidden}
    unknown = [name for name in outputs if name not in hidden]
    unknown += [place for place in places.values() if place not in modules]
    if unknown:
        raise LookupError(
            f"outputs names {unknown[0]!r}; hidden layers are {', '.join(hidden)}, to be placed at "
            "modules of the network"
        )

    def refresh(*_: object) -> None:
        factors.update(
            {name: _factors(incoming(name, each), clip=clip) for name, each in hidden.items()}
        )

    def at(name: str) -> Any:
        def scale(_: nn.Module, __: object, y: Any) -> Any:
            m = _per_channel(factors[name], hidden[name])
            if isinstance(y, tuple):
                return (_Scale.apply(y[0], m), *y[1:])
            return _Scale.apply(y, m)

        return modules[places[name]].register_forward_hook(scale)

    refresh()
    return [network.register_forward_pre_hook(refresh), *(at(name) for name in hidden)]


def _modulate_synapses(
    network: nn.Module, layers: Mapping[str, Layer], factors: dict[str, Tensor]
) -> list[Any]:
    """Weigh the gradient of each inner weight by the node that it leaves (DFAgrapes)."""
    inner = {name: layers[name] for name in list(layers)[1:-1]}

    def refresh(*_: object) -> None:
        factors.update(
            {n: modulation(weight_of(layer), clip=False, dim=1) for n, layer in inner.items()}
        )

    def on(name: str) -> Any:
        def scale(grad: Tensor) -> Tensor:
            return grad * _per_channel(factors[name], inner[name])

        return weight_of(inner[name]).register_hook(scale)  # type: ignore[no-untyped-call]

    refresh()
    return [network.register_forward_pre_hook(refresh), *(on(name) for name in inner)]


def _per_channel(m: Tensor, layer: Layer) -> Tensor:
    """Return ``m`` so that it multiplies the axis of channels."""
    return m.view(-1, *(1,) * (weight_of(layer).dim() - 2))


def _incoming(network: nn.Module, name: str, layer: Layer, *, recurrent: bool) -> Tensor:
    """Return the sum of the absolute weights into each node, those of all its gates together."""
    weights = [weight_of(layer)]
    if recurrent and isinstance(layer, RECURRENT):
        weights.append(layer.get_parameter("weight_hh_l0"))
    unit = network.get_submodule(_parent(name))
    if (
        recurrent
        and isinstance(unit, Weighted)
        and (h := getattr(unit.unit, "recurrent", None)) is not None
    ):
        weights.append(h)
    total = torch.stack([importance(weight) for weight in weights]).sum(0)
    return total.view(-1, layer.hidden_size).sum(0) if isinstance(layer, RECURRENT) else total


def _one_layer(name: str, layer: Layer) -> None:
    if isinstance(layer, RECURRENT) and (
        layer.num_layers > 1 or layer.bidirectional or layer.proj_size
    ):
        raise ValueError(
            f"layer {name!r} is several in one (num_layers, bidirectional or proj_size); "
            "give one module for each"
        )


def _output(modules: Mapping[str, nn.Module], name: str) -> str:
    parent = _parent(name)
    return parent if isinstance(modules[parent], Weighted) else name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
