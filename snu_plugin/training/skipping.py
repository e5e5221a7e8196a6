"""A deep network whose layers and input all reach the read-out, and what helps to train it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from snu_plugin.neuron import SNUConfig
from snu_plugin.training.networks import Kind, Network, layer, linear_readout


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


class Skipping(Network):
    """Layers that see the input beside the layer before, and a read-out that sees all of them.

    Called as ``Network``. Connections that skip layers: Huang et al. 2017; here only those from
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
