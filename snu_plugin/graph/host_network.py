"""A network of a host made from a graph: its modules wired as the graph's nodes, its time step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph.chain import Layer
from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.reference_network import Signal, Subtracting, by_input, node_module
from snu_plugin.graph.rules.torch_rules import batch_axes
from snu_plugin.neuron import Euler
from snu_plugin.schedule import Node, WiringState, run


def host_modules(
    discrete: DiscreteGraph, make: Callable[[Layer, DiscreteGraph], nn.Module]
) -> dict[str, nn.Module]:
    """Return a module for each node of a graph: ``make``'s, and for its ports the identity."""
    return {
        name: nn.Identity()
        if isinstance(node, (nir.Input, nir.Output))
        else make(Layer(name, node, discrete.neurons.get(name), None), discrete)
        for name, node in discrete.nodes.items()
    }


def layer_module(layer: Layer, discrete: DiscreteGraph) -> nn.Module:
    """Return ``y, state = run(x, state)`` for a layer, in torch's default type."""
    dtype = torch.get_default_dtype()
    if isinstance(layer.node, nir.NIRGraph) and layer.neuron is not None:
        return Subtracting(layer.neuron, dtype)
    return node_module(layer.name, discrete, dtype)


class HostNetwork(nn.Module):
    """A network in any wiring, one module for each node of a graph; it can leave as one again.

    Of each cycle one edge carries the value of the last step, nothing at first. Hosts derive their
    network from it: their ``forward`` says how a cell is called, see ``advance``.

    Args:
        cells: A module for each node of the graph, for Input and Output too.
        discrete: The graph that the nodes are from.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: DiscreteGraph) -> None:
        super().__init__()
        self.names = tuple(cells)
        self.cells = nn.ModuleList(cells.values())
        self.wiring, self.edges, self.dt = discrete.wiring, discrete.edges, discrete.dt
        self.shapes, self.input_shapes = discrete.shapes, discrete.input_shapes
        self.inputs, self.outputs = discrete.inputs, discrete.outputs
        self.feedback = discrete.feedback

    def advance(
        self, nodes: Mapping[str, Node], x: Signal, state: WiringState | None
    ) -> tuple[Signal, WiringState]:
        """Run one step, ``(B, *shape)`` in and out; dicts by name for several Inputs or Outputs.

        Raises:
            ValueError: If ``x`` is not given for each Input.
        """
        now = {name: value[None] for name, value in by_input(x, self.inputs).items()}
        y, state = run(self.wiring, nodes, now, self.shapes, state, keep=self.outputs)
        step = {name: value[0] for name, value in y.items()}
        return step[self.outputs[0]] if len(self.outputs) == 1 else step, state


@batch_axes.register
def _(module: HostNetwork, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.input_shapes[module.inputs[0]]))


USUAL = 2.0**-10
"""Seconds per step where nothing says another; a power of two keeps decays exact."""


def own_step(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> float:
    """Return the ``dt`` that modules of some ``kinds`` in a network have; ``USUAL`` if none has.

    Raises:
        ValueError: If they have several.
    """
    steps = (getattr(m, "dt", None) for m in net.modules() if isinstance(m, kinds))
    found = sorted({float(dt) for dt in steps if dt is not None})
    if len(found) > 1:
        raise ValueError(
            f"the network's neurons have the time steps {', '.join(map(str, found))}; a NIR graph "
            "has one: give dt, a step of each then leaves as a step of that"
        )
    return found[0] if found else USUAL


def rescale_dt(node: nir.NIRNode, old: float | None, new: float) -> nir.NIRNode:
    """Return a copy of a node that does in a step of ``new`` seconds what it did in ``old``.

    What an Euler step sees is ``dt/tau``, and ``r dt`` of IF and I.
    """
    node = copy.deepcopy(node)
    if old is None or old == new:
        return node
    if isinstance(node, nir.NIRGraph):
        node.nodes = {name: rescale_dt(part, old, new) for name, part in node.nodes.items()}
        return node
    for field in ("tau", "tau_mem", "tau_syn", "delay"):
        if hasattr(node, field):
            setattr(node, field, getattr(node, field) * (new / old))
    if isinstance(node, (nir.I, nir.IF)):
        node.r = node.r * (old / new)
    return node


def node_to_keep(node: nir.NIRNode, neuron: Euler | None, dt: float | None) -> nir.NIRNode:
    """Return a copy of a node for a module to keep; I and IF in the reading ``v += dt r x``."""
    node = copy.deepcopy(node)
    if isinstance(node, nir.NIRGraph):
        node.nodes = {name: node_to_keep(part, neuron, dt) for name, part in node.nodes.items()}
    if isinstance(node, (nir.I, nir.IF)) and neuron is not None and dt is not None:
        gain = np.ones(node.r.shape) if neuron.gain is None else neuron.gain.numpy()
        node.r = gain / dt
    return node
