"""A simulator with one neuron, and its adapter, as somebody outside this project would write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin import graph
from snu_plugin.graph import layers
from snu_plugin.neuron import SNUConfig
from snu_plugin.schedule import WiringState, aligned


class Fire(nn.Module):
    """The simulator's neuron: one step, ``y, state = fire(x, state)``; it resets to zero."""

    def __init__(self, decay: Any, threshold: Any) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.as_tensor(decay, dtype=torch.float32))
        self.threshold = nn.Parameter(torch.as_tensor(threshold, dtype=torch.float32))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = x if state is None else x + self.decay * state
        y = (v > self.threshold).to(x)
        return y, v * (1 - y)


@layers.to_node.register
def _fire(module: Fire, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    decay, threshold = (
        np.broadcast_to(layers.array(value), shape) for value in (module.decay, module.threshold)
    )
    return layers.encode_snu(SNUConfig(), decay, threshold, dt=dt)


class Foreign(nn.Module):
    """One step of a node that the simulator has no module for."""

    def __init__(self, node: nir.NIRNode, dt: float | None, over_time: nn.Module) -> None:
        super().__init__()
        self.node, self.dt, self.over_time = node, dt, over_time

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.over_time(x[None], state)
        return y[0], state


@layers.to_node.register
def _foreign(module: Foreign, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    node = layers.rescale_dt(module.node, module.dt, dt)
    return layers.with_parameters(node, module.over_time.named_parameters(), None)


class Net(layers.HostNetwork):
    """One step of a network: ``y, state = net(x, state)``."""

    def forward(
        self, x: layers.Signal, state: WiringState | None = None
    ) -> tuple[layers.Signal, WiringState]:
        cells = zip(self.names, self.cells, strict=True)
        return self.advance({name: partial(_step, cell) for name, cell in cells}, x, state)


layers.to_node.register(Net, layers.host_network_node)


def _step(cell: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    if isinstance(cell, (Fire, Foreign)):
        y, state = cell(x[0], state)
        return y[None], state
    return cell(x[0])[None], None


def to_nir(
    net: nn.Module, sample: Tensor | None = None, *, dt: float | None = None, strict: bool = False
) -> nir.NIRGraph:
    seconds = layers.own_step(net, (Net, Foreign)) if dt is None else dt
    return graph.to_nir(net, sample, dt=seconds, strict=strict)


def from_nir(
    graph_or_path: nir.NIRGraph | str | os.PathLike[str], dt: float | None = None
) -> nn.Module:
    by_path = isinstance(graph_or_path, (str, os.PathLike))
    g = graph.read(graph_or_path) if by_path else graph_or_path
    discrete = layers.discretise(g, dt)
    return Net(layers.host_modules(discrete, _module), discrete)


def _module(layer: layers.Layer, discrete: layers.DiscreteGraph) -> nn.Module:
    neuron = layer.neuron
    if neuron is not None and layers.is_snu(neuron) and neuron.config == SNUConfig():
        return Fire(neuron.decay, neuron.threshold)
    over_time = layers.node_module(layer.name, discrete, torch.float32)
    return Foreign(layers.node_to_keep(layer.node, neuron, discrete.dt), discrete.dt, over_time)


def simulate(g: nir.NIRGraph, x: np.ndarray[Any, Any], dt: float | None = None) -> Any:
    net, state, outputs = from_nir(g, dt), None, []
    with torch.no_grad():
        for x_t in map(aligned, torch.from_numpy(x)):
            y, state = net(x_t, state)
            outputs.append(y)
    return torch.stack(outputs).numpy()


def simulate_stock(g: nir.NIRGraph, x: np.ndarray[Any, Any], dt: float | None = None) -> Any:
    raise ValueError("toyspike reads no NIR of its own; use its adapter")


def register() -> None:
    """Nothing inside the simulator has to know of us."""


unregister = register


@contextmanager
def registered() -> Iterator[None]:
    yield
