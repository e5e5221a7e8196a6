"""One layer of a NIR graph as a module of torch or of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import nir
import numpy as np
import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    SRC,
    DiscreteGraph,
    Layer,
    array,
    fold,
    is_snu,
    node_module,
    node_to_keep,
    to_node,
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


def module_of(layer: Layer, discrete: DiscreteGraph) -> nn.Module:
    """Return the module for one layer: torch's or snnTorch's own where one computes the same."""
    neuron = layer.neuron
    if neuron is not None and is_snu(neuron):
        config = neuron.config
        settings = {"g": config.g, "slope": config.slope}
        return unit(neuron.decay, neuron.threshold, config.soft, layer.recurrent, **settings)
    if neuron is not None and layer.recurrent is None and _is_synaptic(neuron):
        return snntorch.Synaptic(  # type: ignore[no-any-return]
            alpha=_tensor(neuron.synapse_decay),
            beta=_tensor(neuron.decay),
            threshold=_tensor(neuron.threshold),
            reset_mechanism="zero",
            reset_delay=False,
            init_hidden=True,
            spike_grad=spike,
        )
    if isinstance(layer.node, SRC):
        return cells(layer.node)
    native = None if neuron is not None else _module(layer.node)
    if native is not None:
        return native
    over_time = node_module(layer.name, discrete, torch.get_default_dtype())
    node = node_to_keep(layer.node, neuron, discrete.dt)
    recurrent = None if layer.recurrent is None else _tensor(layer.recurrent)
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
    settings |= {"beta": _tensor(decay), "threshold": _tensor(threshold), "init_hidden": True}
    if recurrent is None:
        return (sSNU if soft else SNU)(**settings)
    looped = (RsSNU if soft else RSNU)(linear_features=len(recurrent), **settings)
    return _filled(looped, {"recurrent.weight": recurrent})


@singledispatch
def _module(node: nir.NIRNode) -> nn.Module | None:
    return None


@_module.register(nir.Linear)
@_module.register(nir.Affine)
def _linear(node: nir.Linear | nir.Affine) -> nn.Module | None:
    if node.weight.ndim != 2:
        return None
    bias = getattr(node, "bias", None)
    layer = nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=bias is not None)
    return _filled(layer, {"weight": node.weight, "bias": bias})


@_module.register(nir.Conv1d)
@_module.register(nir.Conv2d)
def _conv(node: nir.Conv1d | nir.Conv2d) -> nn.Module:
    out, each, *kernel = node.weight.shape
    kind: type[nn.Module] = nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d
    layer = kind(
        in_channels=each * int(node.groups),
        out_channels=out,
        kernel_size=tuple(kernel),
        stride=_sizes(node.stride),
        padding=node.padding if isinstance(node.padding, str) else _sizes(node.padding),
        dilation=_sizes(node.dilation),
        groups=int(node.groups),
    )
    return _filled(layer, {"weight": node.weight, "bias": node.bias})


@_module.register(nir.AvgPool2d)
@_module.register(nir.SumPool2d)
def _pool(node: nir.AvgPool2d | nir.SumPool2d) -> nn.Module:
    """Return the pool; an average over 1 is a sum."""
    kind: type[nn.Module] = nn.AvgPool2d
    return kind(
        kernel_size=_sizes(node.kernel_size),
        stride=_sizes(node.stride),
        padding=_sizes(node.padding),
        divisor_override=1 if isinstance(node, nir.SumPool2d) else None,
    )


@_module.register
def _flatten(node: nir.Flatten) -> nn.Module:
    rank = len(node.input_type["input"])
    start, end = (int(d) % rank + 1 for d in (node.start_dim, node.end_dim))
    return nn.Flatten(start, end)


@_module.register
def _scale(node: nir.Scale) -> nn.Module:
    return Scale(_tensor(node.scale))


@to_node.register
def _(module: Scale, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    return nir.Scale(np.array(np.broadcast_to(array(module.scale), shape)))


def _filled(layer: nn.Module, values: dict[str, Any]) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                layer.get_parameter(name).copy_(_tensor(value))
    return layer


def _tensor(value: Any) -> Tensor:
    values = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    return values.to(torch.get_default_dtype())


def _sizes(value: Any) -> tuple[int, ...]:
    """Return ``(height, width)``, or ``(length,)``, whatever spelling the node has."""
    sizes = np.atleast_1d(np.asarray(value))
    return tuple(int(n) for n in sizes)
