"""Networks of the units that the published tasks compare, all called in one way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn

from snu_plugin.accepted import one_of, shown
from snu_plugin.neuron import SNU, SRC, EventLinear, SNUConfig, SRCConfig, sSNU

Kind = Literal["snu", "ssnu", "src", "rnn", "lstm", "gru"]
_TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Weighted(nn.Module):
    """A layer of units behind its weights: ``y, state = layer(x, state)``.

    x is ``(T, B, channels, height, width)`` where the weights are a convolution; otherwise
    ``(T, B, inputs)``, or ``(T, B, ...)`` with as many inputs in all.
    """

    def __init__(self, weights: nn.Linear | nn.Conv2d, unit: nn.Module) -> None:
        super().__init__()
        self.weights = weights
        self.unit = unit

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run a sequence from ``state`` (``None``: zero)."""
        if isinstance(self.weights, nn.Linear):
            drive = self.weights(x.flatten(2))
        else:
            drive = self.weights(x.flatten(0, 1))  # torch's convolutions take one leading axis
            drive = drive.view(*x.shape[:2], *drive.shape[1:])
        y, last = self.unit(drive, state)
        return y, last


class ConvLayer(NamedTuple):
    """A layer of units behind a square kernel without padding."""

    channels: int
    kernel: int
    stride: int = 1

    def over(self, side: int) -> int:
        """Return the side of what comes of a square of ``side``."""
        return (side - self.kernel) // self.stride + 1


def layer(
    kind: Kind,
    inputs: int,
    features: int,
    config: SNUConfig | SRCConfig | None = None,
    *,
    recurrent: bool = False,
    generator: Generator,
) -> nn.Module:
    """Return one layer of units with its input weights.

    It is called as all of them, ``y, state = layer(x, state=None)``, x ``(T, B, inputs)``.

    Weights are Glorot-uniform without bias (SNU and SRC have their own); recurrent weights of
    ``rnn``, ``lstm`` and ``gru`` orthogonal and their biases zero (the defaults of Keras, in
    which the published networks were written, but for its forget bias of 1).

    Args:
        kind: Unit.
        inputs: Length of the input.
        features: Units.
        config: Settings of SNU, sSNU or SRC.
        recurrent: SNU and sSNU: whether units see the last outputs of their layer.
        generator: Source of the weights.

    Raises:
        ValueError: For an unknown ``kind``, or settings that it does not take.
    """
    one_of(*get_args(Kind)).check("unit", kind)
    if recurrent and kind not in ("snu", "ssnu"):
        raise ValueError(f"recurrent=True is for snu and ssnu; {kind} is what it is")
    if config is not None and isinstance(config, SRCConfig) != (kind == "src"):
        raise ValueError(f"{kind} does not take a {type(config).__name__}")
    if kind in _TORCH:
        return _torch_layer(kind, inputs, features, config, generator)
    unit: nn.Module
    if isinstance(config, SRCConfig) or kind == "src":
        unit = SRC(features, config if isinstance(config, SRCConfig) else None)
    else:
        unit = (sSNU if kind == "ssnu" else SNU)(features, config, recurrent=recurrent)
        if unit.recurrent is not None:
            nn.init.xavier_uniform_(unit.recurrent, generator=generator)
    weights = EventLinear(inputs, features, bias=False)
    nn.init.xavier_uniform_(weights.weight, generator=generator)
    return Weighted(weights, unit)


def _torch_layer(
    kind: str, inputs: int, features: int, config: object, generator: Generator
) -> nn.Module:
    if config is not None:
        raise ValueError(f"{kind} does not take a {type(config).__name__}")
    made: nn.Module = _TORCH[kind](inputs, features)
    for name, value in made.named_parameters():
        if name.startswith("bias"):
            nn.init.zeros_(value)
            continue
        for gate in torch.split(value.detach(), features):
            if name.startswith("weight_hh"):
                nn.init.orthogonal_(gate, generator=generator)
            else:
                nn.init.xavier_uniform_(gate, generator=generator)
    return made


class UnitNetwork(nn.Module):
    """Layers of units one after another, then, where given, a linear read-out.

    ``y, state = network(x, state=None)`` with ``x`` ``(T, B, inputs)``; the state is a tuple of
    the layers' states, which segments of a sequence hand on.
    """

    def __init__(self, layers: Sequence[nn.Module], readout: nn.Linear | None = None) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a network needs at least one layer")
        self.layers = nn.ModuleList(layers)
        self.readout = readout

    def forward(
        self, x: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run a sequence from ``state`` (``None``: zero)."""
        outputs, last = self.through(x, state)
        y = outputs[-1]
        return (y if self.readout is None else self.readout(y)), last

    def through(
        self, x: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[list[Tensor], tuple[Any, ...]]:
        """Return the outputs of each layer of units, and their last states."""
        states = (None,) * len(self.layers) if state is None else state
        outputs, last = [], []
        for each, before in zip(self.layers, states, strict=True):
            x, after = each(x, before)
            outputs.append(x)
            last.append(after)
        return outputs, tuple(last)


def network(
    kind: Kind,
    sizes: Sequence[int],
    config: SNUConfig | SRCConfig | None = None,
    *,
    readout: bool = False,
    recurrent: bool = False,
    generator: Generator,
) -> UnitNetwork:
    """Return a network of the given sizes, input first; with ``readout`` the last is linear.

    The read-out has Glorot-uniform weights and a bias of zero.

    >>> draw = Generator()
    >>> net = network("snu", (88, 150, 88), readout=True, generator=draw)
    >>> sum(p.numel() for p in net.parameters())  # as published
    26638
    """
    if len(sizes) < 2 + readout or min(sizes) < 1:
        raise ValueError(f"sizes are {tuple(sizes)}; give inputs and layers, all positive")
    *hidden, last = sizes if readout else (*sizes, 0)
    pairs = itertools.pairwise(hidden)
    layers = [layer(kind, a, b, config, recurrent=recurrent, generator=generator) for a, b in pairs]
    if not readout:
        return UnitNetwork(layers)
    return UnitNetwork(layers, linear_readout(hidden[-1], last, generator))


def linear_readout(inputs: int, outputs: int, generator: Generator) -> nn.Linear:
    """Return a read-out with Glorot-uniform weights and a bias of zero."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def convolutional(
    kind: Kind,
    shape: tuple[int, int],
    convolutions: Sequence[ConvLayer],
    sizes: Sequence[int],
    config: SNUConfig | None = None,
    *,
    generator: Generator,
) -> UnitNetwork:
    """Return convolutional layers of SNU or sSNU, then dense ones; all weights Glorot-uniform.

    Every unit of a feature map has a threshold of its own.

    Args:
        kind: ``snu`` or ``ssnu``.
        shape: Channels, and side of the square images: x is ``(T, B, channels, side, side)``.
        convolutions: The convolutional layers.
        sizes: Units of the dense layers.
        config: Settings of the units.
        generator: Source of the weights.

    Raises:
        ValueError: For another ``kind``, or layers that leave nothing of the image.

    >>> net = convolutional("snu", (1, 28), [ConvLayer(5, 5, 2)], [10], generator=Generator())
    >>> net(torch.zeros(3, 2, 1, 28, 28))[0].shape
    torch.Size([3, 2, 10])
    """
    if kind not in ("snu", "ssnu"):
        raise ValueError(f"unit is {shown(kind)}; convolutions are for snu and ssnu")
    if not sizes:
        raise ValueError("sizes are empty; give at least the outputs")
    channels, side = shape
    layers: list[nn.Module] = []
    for each in convolutions:
        if min(each) < 1 or each.over(side) < 1:
            raise ValueError(f"{each} leaves nothing of a square of {side}; take a smaller kernel")
        weights = nn.Conv2d(channels, each.channels, each.kernel, each.stride, bias=False)
        nn.init.xavier_uniform_(weights.weight, generator=generator)
        channels, side = each.channels, each.over(side)
        unit = (sSNU if kind == "ssnu" else SNU)((channels, side, side), config)
        layers.append(Weighted(weights, unit))
    dense = network(kind, (channels * side**2, *sizes), config, generator=generator)
    return UnitNetwork([*layers, *dense.layers])


def src_classifier(
    sizes: Sequence[int],
    config: SRCConfig | None = None,
    *,
    learn_readout: bool = False,
    generator: Generator,
) -> UnitNetwork:
    """Return layers of SRC, any number, and the read-out of the released model.

    Weights are Kaiming-uniform with slope sqrt(5), as in a port of the published code. A class is
    the largest ``leaky_sum`` of the outputs.

    Args:
        sizes: Inputs, layers of cells, classes.
        config: Settings of the cells.
        learn_readout: Whether the read-out is trained on; that of the released model is fixed.
        generator: Source of the weights.

    >>> net = src_classifier((784, 100, 100, 10), generator=Generator())
    >>> net(torch.zeros(3, 2, 784))[0].shape
    torch.Size([3, 2, 10])
    """
    *hidden, classes = sizes
    net = network("src", hidden, config, generator=generator)
    for name, weights in net.named_parameters():
        if name.endswith("weights.weight"):
            nn.init.kaiming_uniform_(weights, a=5**0.5, generator=generator)
    readout = class_readout(classes, hidden[-1]).requires_grad_(learn_readout)
    return UnitNetwork(list(net.layers), readout)


def class_readout(classes: int, units: int) -> nn.Linear:
    """Return the fixed read-out of the released SRC model (Harmel-lab/SRC---SNN---01).

    1 where ``unit mod classes`` is the class, -0.1 elsewhere.
    """
    fixed = nn.Linear(units, classes, bias=False)
    own = torch.arange(units) % classes == torch.arange(classes)[:, None]
    with torch.no_grad():
        fixed.weight.copy_(torch.where(own, 1.0, -0.1))
    return fixed.requires_grad_(False)


def leaky_sum(y: Tensor, decay: float) -> Tensor:
    """Return the last R of ``R[t] = decay R[t-1] + y[t]`` over the first axis of ``y``."""
    if not (0 <= decay <= 1 and math.isfinite(decay)):
        raise ValueError(f"decay is {decay}; it must lie in [0, 1]")
    weights = decay ** torch.arange(len(y) - 1, -1, -1, dtype=y.dtype, device=y.device)
    return (weights @ y.flatten(1)).view(y.shape[1:])


class Dropout(nn.Module):
    """Inverted dropout that draws from a generator of its own (Srivastava et al. 2014)."""

    def __init__(self, share: float, generator: Generator) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout is {share}; it must lie in [0, 1)")
        self.share, self.generator = share, generator

    def forward(self, x: Tensor) -> Tensor:
        """Drop values in training, and keep the mean."""
        if not (self.training and self.share):
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.share, generator=self.generator)
        return x * kept / (1 - self.share)


class Skipping(UnitNetwork):
    """Layers that see the input beside the layer before, and a read-out that sees all of them.

    Called as ``UnitNetwork``. Connections that skip layers: Huang et al. 2017; here only those from
    the input and to the read-out.
    """

    def __init__(self, layers: Sequence[nn.Module], readout: nn.Linear, dropout: Dropout) -> None:
        super().__init__(layers)
        self.gathered = readout
        self.dropout = dropout

    def forward(
        self, x: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run a sequence from ``state`` (``None``: zero)."""
        outputs, last = self.through(x, state)
        return self.gathered(torch.cat([*outputs, x], -1)), last

    def through(
        self, x: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[list[Tensor], tuple[Any, ...]]:
        """Return the outputs of each layer, less what is dropped in training, and their states."""
        states = (None,) * len(self.layers) if state is None else state
        outputs: list[Tensor] = []
        last = []
        for each, before in zip(self.layers, states, strict=True):
            y, after = each(torch.cat([outputs[-1], x], -1) if outputs else x, before)
            outputs.append(self.dropout(y))
            last.append(after)
        return outputs, tuple(last)


def skipping(
    kind: Kind,
    sizes: Sequence[int],
    config: SNUConfig | None = None,
    *,
    dropout: float = 0.0,
    generator: Generator,
) -> Skipping:
    """Return a ``Skipping`` of the given sizes: input, layers, outputs.

    Args:
        kind: Unit of all layers.
        sizes: Length of the input, units of each layer, length of the output.
        config: Settings of SNU or sSNU.
        dropout: Share of the layers' outputs that is dropped in training, [0, 1).
        generator: Source of weights and of what is dropped.

    Raises:
        ValueError: For fewer than three sizes, or values out of range.
    """
    if len(sizes) < 3 or min(sizes) < 1:
        raise ValueError(f"sizes are {tuple(sizes)}; give input, layers, outputs, all positive")
    inputs, *hidden, outputs = sizes
    layers = [layer(kind, inputs, hidden[0], config, generator=generator)]
    for before, units in itertools.pairwise(hidden):
        layers.append(layer(kind, before + inputs, units, config, generator=generator))
    readout = linear_readout(inputs + sum(hidden), outputs, generator)
    return Skipping(layers, readout, Dropout(dropout, generator))


def spread_decays(network: nn.Module, shortest: float, longest: float) -> None:
    """Give the units of every layer decays from short to long memory.

    Time constants τ from ``shortest`` to ``longest``, in steps, evenly on a logarithmic scale; the
    decay of a unit is ``1 - 1/τ``, forward Euler as in NIR.

    Raises:
        ValueError: Unless ``1 <= shortest <= longest`` and both are finite.
    """
    if not (1 <= shortest <= longest and math.isfinite(longest)):
        raise ValueError(
            f"time constants go from {shortest} to {longest}; they must be finite, at least 1 "
            "and in this order"
        )
    for unit in network.modules():
        decay = getattr(unit, "decay", None)
        if isinstance(decay, Tensor):
            ends = math.log(shortest), math.log(longest)
            tau = torch.linspace(*ends, decay.numel(), dtype=decay.dtype).exp()
            with torch.no_grad():
                decay.copy_((1 - 1 / tau).view_as(decay))
