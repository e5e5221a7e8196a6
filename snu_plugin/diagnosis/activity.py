"""What the neurons of a graph do on inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import networkx as nx
import nir
import torch
from torch import Tensor

from snu_plugin.diagnosis.findings import Cause, Finding, Layer
from snu_plugin.graph import DiscreteGraph, Network, summed_input
from snu_plugin.neuron import Euler, euler_scan

SILENT, ALWAYS = 0.02, 0.98
"""A neuron whose outputs never exceed the one, or whose mean exceeds the other, tells nothing: the
first also for neurons with soft outputs. Ours, as all numbers here."""

Signal = Tensor | dict[str, Tensor]
"""Inputs ``(T, B, ...)``, of several Inputs by their names."""


@dataclass(frozen=True)
class Activity:
    """One layer of neurons that fire, on inputs ``(T, B, ...)``."""

    name: str
    y: Tensor
    """Outputs, ``(T, B, ...)``."""
    drive: Tensor
    """What its membrane receives, ``(T, B, ...)``."""
    potential: Tensor
    """What its potential would be if it never reset, ``(T, B, ...)``."""
    threshold: Tensor
    """Of the layer's shape."""
    membrane: Euler | None
    """Constants of the membrane; ``None`` for a Threshold that has none."""
    is_set_back: bool
    """Whether a spike sets its potential to a value, whatever it was."""
    is_anew: bool = False
    """Whether its model makes its state anew at every step."""

    @property
    def silent(self) -> Tensor:
        """Which neurons never fire."""
        return self.y.flatten(0, 1).amax(0) <= SILENT

    @property
    def always(self) -> Tensor:
        """Which neurons fire at nearly every step."""
        return self.y.flatten(0, 1).mean(0) >= ALWAYS

    @property
    def peak(self) -> Tensor:
        """The largest potential of each neuron, of the layer's shape."""
        return self.potential.flatten(0, 1).amax(0)

    @property
    def gain(self) -> Tensor | float:
        """How far a lasting input of 1 moves a potential at each step."""
        one, gain = self.membrane, torch.ones(())
        if one is None:
            return 1.0
        if one.synapse_decay is not None:
            gain = (1.0 if one.synapse_gain is None else one.synapse_gain) / leak(one.synapse_decay)
        return gain if one.gain is None else gain * one.gain

    @property
    def push(self) -> float:
        """The drive of a step in thresholds, root mean square; the median over neurons."""
        each = (self.drive * self.gain).square().flatten(0, 1).mean(0).sqrt()
        return float((each / self.threshold.abs().clamp(min=1e-9)).median())

    @property
    def rest(self) -> Tensor:
        """Where its potential stays without input, of the layer's shape."""
        return self.settled(torch.zeros_like(self.threshold))

    def settled(self, drive: Tensor) -> Tensor:
        """Return where its potential ends under a lasting drive, of the layer's shape."""
        if self.membrane is None:
            return drive
        offset = 0.0 if self.membrane.offset is None else self.membrane.offset
        return (drive * self.gain + offset) / leak(self.membrane.decay)

    def finding(self, cause: Cause, found: str, remedy: str) -> Finding:
        """Return that something is wrong with it."""
        return Finding(cause, self.name, found, remedy)

    @property
    def layer(self) -> Layer:
        """The same in a few numbers."""
        shares = (float(which.double().mean()) for which in (self.silent, self.always))
        return Layer(self.name, self.threshold.numel(), float(self.y.mean()), *shares)


@dataclass(frozen=True)
class Looked:
    """How to see what the layers of a network do."""

    at: Callable[[Signal], list[Activity]]
    """What they do on inputs, in their order."""
    before: Callable[[str], set[str]]
    """What stands before a layer, by name."""


def through_graph(net: Network) -> Looked:
    """Look at the layers of a graph."""
    reaches = nx.DiGraph(list(net.discrete.edges))
    return Looked(
        lambda x: activities(net, x), lambda name: set(nx.ancestors(reaches, name)) - {name}
    )


@torch.no_grad()
def activities(net: Network, x: Signal) -> list[Activity]:
    """Run a graph and return what each layer of neurons with a threshold did, in their order."""
    values, _ = net.run(x)
    return [
        _activity(net.discrete, name, values)
        for name in net.discrete.wiring.names
        if _fires(net.discrete, name)
    ]


def _fires(discrete: DiscreteGraph, name: str) -> bool:
    neuron = discrete.neurons.get(name)
    if neuron is None:
        return isinstance(discrete.nodes[name], nir.Threshold)
    return neuron.threshold is not None


def _activity(discrete: DiscreteGraph, name: str, values: dict[str, Tensor]) -> Activity:
    inside = {one.spike: one.mem for one in discrete.subtracting}
    membrane = discrete.neurons.get(inside.get(name, name))
    drive = summed_input(discrete, inside.get(name, name), values)
    membrane = None if membrane is None else membrane.to(drive)
    if membrane is None or name in inside:
        threshold = torch.tensor(discrete.nodes[name].threshold).to(drive)
    else:
        assert membrane.threshold is not None
        threshold = membrane.threshold
    potential = drive
    if membrane is not None:
        free = replace(membrane, threshold=None, reset=None, level=None, drop=None)
        potential, _ = euler_scan(drive, free)
    is_set_back = membrane is not None and name not in inside and membrane.drop is None
    threshold = threshold.expand_as(potential[0, 0])
    return Activity(name, values[name], drive, potential, threshold, membrane, is_set_back)


def leak(decay: Tensor) -> Tensor:
    """Return what is lost from step to step, of what loses nothing next to nothing."""
    return (1 - decay).clamp(min=1e-9)
