"""A graph that is one chain of layers, for hosts that build networks layer by layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import nir
import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.discretisation import Discrete
from snu_plugin.graph.flat import Edge
from snu_plugin.neuron import Euler

Array = NDArray[Any]


class Layer(NamedTuple):
    """One node of a chain, with the loop around it if it has one."""

    name: str
    node: nir.NIRNode
    """Input and Output nodes make no layer."""
    neuron: Euler | None
    """Constants of the update, float64, of full shape; None for a node without a membrane."""
    recurrent: Array | None
    """Weights from the layer's last outputs to its inputs, float64, ``(features, features)``,
    row = receiving unit."""


def is_snu(neuron: Euler) -> bool:
    """Tell whether a neuron has a threshold and a decay and nothing else."""
    absent = ("gain", "offset", "reset", "start", "synapse_decay", "synapse_gain")
    return neuron.threshold is not None and all(getattr(neuron, term) is None for term in absent)


def layers(discrete: Discrete) -> list[Layer]:
    """Return the nodes of a chain in the order in which they run.

    A neuron and a bias-free Linear (or Affine with zero bias) that leads from it back to it, or an
    edge from it to itself, are one layer.

    Raises:
        ValueError: If the graph is not such a chain; says which node makes it none.
    """
    if len(discrete.inputs) != 1 or len(discrete.outputs) != 1:
        raise ValueError(
            f"the graph has {len(discrete.inputs)} Inputs and {len(discrete.outputs)} Outputs; "
            "a chain has one of each"
        )
    loops = _loops(discrete)
    inside = {name for loop in loops.values() for name in loop.names}
    edges = [
        e for e in discrete.edges if e[0] not in inside and e[1] not in inside and e[0] != e[1]
    ]
    order = _walk(discrete.inputs[0], edges)
    missing = discrete.nodes.keys() - set(order) - inside
    if missing or order[-1] != discrete.outputs[0]:
        raise ValueError(
            f"node {min(missing or {order[-1]})!r} does not lie on the way from Input "
            f"{discrete.inputs[0]!r} to Output {discrete.outputs[0]!r}; the graph is not a chain"
        )
    return [
        Layer(
            name,
            discrete.nodes[name],
            discrete.neurons.get(name),
            loops[name].weight if name in loops else None,
        )
        for name in order
        if name not in (*discrete.inputs, *discrete.outputs)
    ]


class _Loop(NamedTuple):
    names: tuple[str, ...]
    """Nodes of the loop other than the neuron."""
    weight: Array


def _loops(discrete: Discrete) -> dict[str, _Loop]:
    """Return, for each neuron with a loop of its own, the way back and its weights."""
    found: dict[str, _Loop] = {}
    for name in discrete.neurons:
        targets = [b for a, b in discrete.edges if a == name]
        backs = [b for b in targets if b == name or _is_way_back(b, name, discrete)]
        if len(backs) > 1:
            raise ValueError(f"node {name!r} has {len(backs)} ways back to itself; a layer has one")
        if not backs:
            continue
        shape = discrete.shapes[name]
        if len(shape) != 1:
            raise ValueError(
                f"node {name!r} has the shape {shape} and feeds itself; a recurrent layer of a "
                "chain has one dimension"
            )
        if backs[0] == name:
            found[name] = _Loop((), np.eye(shape[0]))
            continue
        node = discrete.nodes[backs[0]]
        if np.any(getattr(node, "bias", 0)):
            raise ValueError(
                f"node {backs[0]!r} feeds {name!r} back with a bias, which does not act at the "
                "first step; a layer cannot say that: move the bias into the node before "
                f"{name!r}, if the network was trained so"
            )
        found[name] = _Loop((backs[0],), np.array(node.weight, dtype=np.float64))
    return found


def _is_way_back(name: str, neuron: str, discrete: Discrete) -> bool:
    node = discrete.nodes[name]
    around = [e for e in discrete.edges if name in e]
    only = sorted(around) == sorted([(neuron, name), (name, neuron)])
    return only and isinstance(node, (nir.Linear, nir.Affine)) and node.weight.ndim == 2


def _walk(start: str, edges: list[Edge]) -> list[str]:
    order = [start]
    while targets := [b for a, b in edges if a == order[-1]]:
        if len(targets) > 1:
            raise ValueError(
                f"node {order[-1]!r} feeds {', '.join(map(repr, targets))}; "
                "in a chain every node feeds one"
            )
        sources = [a for a, b in edges if b == targets[0]]
        if len(sources) > 1:
            raise ValueError(
                f"node {targets[0]!r} is fed by {', '.join(map(repr, sources))}; "
                "in a chain every node is fed by one"
            )
        if targets[0] in order:
            raise ValueError(f"node {targets[0]!r} lies on a cycle; a chain has none")
        order.append(targets[0])
    return order
