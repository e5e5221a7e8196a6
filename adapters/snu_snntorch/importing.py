"""One layer of a NIR graph as a module of torch or of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.graph import (
    SRC,
    Discrete,
    Layer,
    default_tensor,
    export,
    fold,
    is_snu,
    kept,
    module,
    torch_layer,
)
from snu_plugin.neuron import Euler
from snu_snntorch.neurons import RSNU, SNU, RsSNU, sSNU
from snu_snntorch.nodes import Node
from snu_snntorch.src import cells
from snu_snntorch.unit import spike


class Scale(nn.Module):
    """Inputs multiplied element by element, as NIR's node of that name does."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, input_: Tensor) -> Tensor:
        """Return ``scale * input_``; ``input_`` is ``(B, ...)``."""
        return self.scale * input_


def module_of(layer: Layer, discrete: Discrete) -> nn.Module:
    """Return the module for one layer: torch's or snnTorch's own where one computes the same."""
    neuron = layer.neuron
    if neuron is not None and is_snu(neuron):
        config = neuron.config
        settings = {"g": config.g, "slope": config.slope}
        return unit(neuron.decay, neuron.threshold, config.soft, layer.recurrent, **settings)
    if neuron is not None and layer.recurrent is None and _is_synaptic(neuron):
        return snntorch.Synaptic(  # type: ignore[no-any-return]
            alpha=default_tensor(neuron.synapse_decay),
            beta=default_tensor(neuron.decay),
            threshold=default_tensor(neuron.threshold),
            reset_mechanism="zero",
            reset_delay=False,
            init_hidden=True,
            spike_grad=spike,
        )
    if isinstance(layer.node, SRC):
        return cells(layer.node)
    if isinstance(layer.node, nir.Scale):
        return Scale(default_tensor(layer.node.scale))
    native = torch_layer(layer.node)
    if native is not None:
        return native
    over_time = module(layer.name, discrete, torch.get_default_dtype())
    node = kept(layer.node, neuron, discrete.dt)
    recurrent = None if layer.recurrent is None else default_tensor(layer.recurrent)
    return Node(node, discrete.dt, over_time, recurrent)


def folded(chain: Sequence[Layer]) -> list[Layer]:
    """Return a chain in which every neuron is an SNU that can be one without a rounding.

    An input gain moves into the weights before it if it is a power of two (see ``graph.fold``),
    and else becomes a Scale of its own: scaled weights are rounded, and with weights on a grid
    that decides whether a state on its threshold fires. A ``Node`` computes what is left.
    """
    out: list[Layer] = []
    for layer in chain:
        gain = None if layer.neuron is None else layer.neuron.gain
        if gain is None or layer.neuron is None or not is_snu(replace(layer.neuron, gain=None)):
            out.append(layer)
        elif (gain.frexp().mantissa.abs() == 0.5).all():
            before = [n for n in out[-1:] if n.neuron is None]
            out = [*out[: len(out) - len(before)], *fold([*before, layer])]
        elif layer.recurrent is None:
            neuron = replace(layer.neuron, gain=None)
            scale = Layer(f"{layer.name}.gain", nir.Scale(scale=gain.numpy()), None, None)
            out += [scale, layer._replace(neuron=neuron)]
        else:
            out.append(layer)
    return out


def _is_synaptic(neuron: Euler) -> bool:
    """Tell whether a neuron is what ``Synaptic`` computes with a reset to zero at once."""
    absent = ("gain", "offset", "reset", "start", "synapse_gain")
    plain = all(getattr(neuron, term) is None for term in absent)
    fires = neuron.threshold is not None and bool((neuron.threshold >= 0).all())
    return plain and fires and neuron.synapse_decay is not None


def unit(
    decay: Any, threshold: Any, soft: bool, recurrent: Any = None, **settings: Any
) -> nn.Module:
    """Return the neuron with these constants and, given weights, with a loop to itself."""
    settings |= {
        "beta": default_tensor(decay),
        "threshold": default_tensor(threshold),
        "init_hidden": True,
    }
    if recurrent is None:
        return (sSNU if soft else SNU)(**settings)
    looped = (RsSNU if soft else RSNU)(linear_features=len(recurrent), **settings)
    with torch.no_grad():
        looped.recurrent.weight.copy_(default_tensor(recurrent))
    return looped


@export.to_node.register
def _(module: Scale, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    return nir.Scale(np.array(np.broadcast_to(export.array(module.scale), shape)))
