"""NIR graphs as Norse networks, and the same graphs run by these and by Norse's own importer."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import nir
import torch
from norse.torch import SequentialState
from norse.torch.utils.import_nir import from_nir as stock_from_nir
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_norse.neurons import SNUCell, SNUFeedbackCell, sSNUCell
from snu_norse.parameters import SNUParameters, other_settings
from snu_norse.src import src_cell
from snu_plugin.accepted import shown, with_known_names
from snu_plugin.graph import read
from snu_plugin.graph.layers import (
    CONTAINERS,
    SNU,
    SRC,
    DiscreteGraph,
    Feedback,
    HostNetwork,
    Layer,
    NodeModule,
    Reading,
    Signal,
    Takes,
    chain_layers,
    check_chain,
    default_tensor,
    discretise,
    host_modules,
    is_snu,
    layer_module,
    node_to_keep,
    torch_layer,
)
from snu_plugin.neuron import Euler
from snu_plugin.schedule import WiringState
from snu_plugin.simulators import as_tensors, only_input, run_steps

Array = NDArray[Any]

EXTENSIONS = SNU, SRC
"""Nodes that Norse's own importer does not know."""


@with_known_names
def from_nir(
    graph_or_path: nir.NIRGraph | str | os.PathLike[str],
    dt: float | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> SequentialState:
    """Return a NIR graph as a Norse network that computes what the strict reference computes.

    ``y, state = net(x, state=None)`` advances one step, ``x`` is ``(B, *shape)``;
    ``norse.torch.Lift(net)`` runs sequences. Linear, Conv, pooling and Flatten nodes become
    torch's own modules, a LIF or IF that is a SNU a ``SNUCell``, one that feeds itself a
    ``SNUFeedbackCell``, all other nodes a ``NodeCell``. A graph that is no chain of layers becomes
    one ``GraphCell`` of the same cells.

    Args:
        graph_or_path: A graph, not changed, or the path of a NIR file.
        dt: Seconds per step; ``None`` takes what the graph declares or what its parameters say.
        reading: How I and IF read ``r``; see ``snu_plugin.graph.discretise``.
        feedback: What a path that feeds back delivers at the first step; see there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a graph without one meaning; names the node and the field.
    """
    by_path = isinstance(graph_or_path, (str, os.PathLike))
    graph = read(graph_or_path) if by_path else graph_or_path
    discrete = discretise(graph, dt, reading=reading, feedback=feedback)
    try:
        chain = chain_layers(discrete, as_one=True)
    except ValueError:
        return SequentialState(GraphCell(host_modules(discrete, _module), discrete))
    net = Imported(*(_module(layer, discrete) for layer in chain))
    if len(net):
        net.takes = Takes(net[0], discrete.shapes[discrete.inputs[0]])
    return net


class Imported(SequentialState):
    """The cells of a graph, which say in words what they take."""

    takes: Takes | None = None

    def forward(self, input_tensor: Tensor, state: list[Any] | None = None) -> tuple[Tensor, Any]:
        """Advance one step, ``(B, ...)`` in and out; returns the output and the new states."""
        check_chain(self, self.takes, input_tensor)
        if state is not None and not (isinstance(state, list) and len(state) == len(self)):
            raise TypeError(
                f"state is {shown(state)}; it must be the list that an earlier call returned, "
                "or None"
            )
        output: tuple[Tensor, Any] = super().forward(input_tensor, state)
        return output


CONTAINERS.add(Imported)


def _module(layer: Layer, discrete: DiscreteGraph) -> nn.Module:
    _, node, neuron, recurrent = layer
    h = None if recurrent is None else default_tensor(recurrent)
    if neuron is not None and is_snu(neuron):
        return _snu(neuron, h, discrete.dt)
    if isinstance(node, SRC):
        return src_cell(node, discrete.dt)
    native = torch_layer(node)
    if native is not None:
        return native
    run = layer_module(layer, discrete)
    return NodeCell(node_to_keep(node, neuron, discrete.dt), discrete.dt, run, h)


def _snu(neuron: Euler, h: Tensor | None, dt: float | None) -> nn.Module:
    values = (default_tensor(value) for value in (neuron.decay, neuron.threshold))
    p = SNUParameters(*values, **other_settings(neuron.config))
    seconds = {} if dt is None else {"dt": dt}
    if h is not None:
        return SNUFeedbackCell(p, h, **seconds)
    return (sSNUCell if p.config.soft else SNUCell)(p, **seconds)


class NodeState(NamedTuple):
    """State of a ``NodeCell``: what its node carries, and its last output ``(B, *shape)``."""

    node: Any
    y: Tensor


class NodeCell(NodeModule):
    """One step of a NIR node that neither torch nor Norse has an exact module for.

    ``y, state = cell(x, state=None)``; arguments as for ``snu_plugin.graph.NodeModule``. Norse's
    own LIF, LI and IAF modules start elsewhere, round in another order or leave out parameters
    (docs/hosts.md, Norse), so they are not used.
    """

    def forward(
        self, input_tensor: Tensor, state: NodeState | None = None
    ) -> tuple[Tensor, NodeState]:
        node_state, y = (None, None) if state is None else state
        y, node_state = self.advance(input_tensor, y, node_state)
        return y, NodeState(node_state, y)


class GraphCell(HostNetwork):
    """One step of a NIR graph that is no chain: ``y, state = net(x, state=None)``.

    ``x`` and ``y`` are ``(B, *shape)``, or dicts of these by node name for a graph with several
    Inputs or Outputs. Norse's ``SequentialState`` and ``RecurrentSequential`` cannot say such a
    wiring.
    """

    def forward(
        self, input_tensor: Signal, state: WiringState | None = None
    ) -> tuple[Signal, WiringState]:
        cells = zip(self.names, self.cells, strict=True)
        nodes = {name: partial(_step, cell) for name, cell in cells}
        return self.advance(nodes, input_tensor, state)


def _step(cell: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Call a cell, with its state if it has one, as the wiring calls its nodes."""
    if "state" in inspect.signature(cell.forward).parameters:
        y, state = cell(x[0], state)
        return y[None], state
    return cell(x[0])[None], None


def simulate(graph: nir.NIRGraph, x: Array | Mapping[str, Array], dt: float | None = None) -> Array:
    """Run ``graph`` as ``from_nir`` imports it, step by step.

    Args:
        graph: The graph, not changed.
        x: Inputs, ``(T, B, *shape)``, of several Inputs a dict by their names; run in torch's
            default type.
        dt: Seconds per step; ``None``: see ``from_nir``.

    Returns:
        Outputs, ``(T, B, *shape)``; of several Outputs all, flat and side by side by name.

    Raises:
        ValueError: As ``from_nir``, and where ``x`` is not given for each Input.
    """
    return run_steps(from_nir(graph, dt), as_tensors(x, torch.get_default_dtype()))


def simulate_stock(
    graph: nir.NIRGraph, x: Array | Mapping[str, Array], dt: float | None = None
) -> Array:
    """Run ``graph`` as ``norse.torch.from_nir`` imports it, right or wrong.

    Nothing is repaired: what Norse drops, ignores or miscounts (docs/hosts.md, Norse) shows in the
    outputs or as its own error.

    Args:
        graph: The graph, not changed; Norse is given a copy.
        x: Inputs, ``(T, B, *shape)``.
        dt: Seconds per step; ``None`` is Norse's default.

    Returns:
        Outputs, ``(T, B, *shape)``.

    Raises:
        ValueError: For a graph with extension nodes: no file of it reaches Norse's importer.
        Exception: Whatever Norse raises.
    """
    alone = only_input(x, "Norse's own importer")
    name = extension(graph)
    if name is not None:
        raise ValueError(
            f"node {name!r} is an extension node, which nir.read refuses; Norse's own importer "
            "gets no such file"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nirtorch.load, which Norse calls
        net = stock_from_nir(copy.deepcopy(graph), **({} if dt is None else {"dt": dt}))
        return run_steps(net, torch.tensor(alone, dtype=torch.float32))


def extension(graph: nir.NIRGraph, inside: str = "") -> str | None:
    """Return the name of a node of our own type, in sub-graphs too."""
    for key, node in graph.nodes.items():
        name = f"{inside}{key}"
        if isinstance(node, EXTENSIONS):
            return name
        found = extension(node, f"{name}.") if isinstance(node, nir.NIRGraph) else None
        if found is not None:
            return found
    return None
