"""What a path that feeds back delivers at the first step: nothing, or what it makes of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import networkx as nx
import nir
import numpy as np

from snu_plugin.graph.flat import Edge
from snu_plugin.graph.nodes import STATEFUL
from snu_plugin.schedule import Block, Wiring, wire

Feedback = Literal["silent", "biased"]
"""silent: the edge that closes a cycle delivers nothing at the first step, as NIR's executors have
it. biased: neurons have not fired yet, and what lies on the way back makes of that what it does:
its biases act at once, as in snnTorch's recurrent layers."""

SAID: dict[str, Feedback] = {"last step": "silent", "silent": "silent", "biased": "biased"}
"""What a graph can declare, and what it means."""


def declared(said: Mapping[str, Any]) -> Feedback:
    """Return the feedback that the metadata of a graph declares; "silent" if none.

    Raises:
        ValueError: If it declares another.
    """
    value = said.get("feedback", "last step")
    if not isinstance(value, str) or value not in SAID:
        raise ValueError(
            f"the graph declares the feedback {value!r:.60}; it must be {' or '.join(SAID)}"
        )
    return SAID[value]


def schedule(nodes: Mapping[str, nir.NIRNode], edges: Sequence[Edge], feedback: Feedback) -> Wiring:
    """Return the schedule of flat nodes; ties are broken by their names.

    With "biased" the delay of each way back with a bias lies where it leaves a neuron; from the
    second step on that changes nothing.

    Raises:
        ValueError: If, with "biased", a node with a bias on a way back has other inputs or readers,
            so that its bias cannot act at once for the cycle alone.
    """
    names = sorted(nodes)
    inputs = [name for name in names if isinstance(nodes[name], nir.Input)]
    wiring = wire(names, edges, inputs)
    if feedback == "silent":
        return wiring
    blocks = tuple(_moved(block, wiring, edges, nodes) for block in wiring.blocks)
    return Wiring(blocks, wiring.sources)


def _moved(
    block: Block, wiring: Wiring, edges: Sequence[Edge], nodes: Mapping[str, nir.NIRNode]
) -> Block:
    delayed = {late for edge in block.delayed for late in _start(edge, wiring, edges, nodes)}
    if delayed == block.delayed:
        return block
    inside = nx.DiGraph()
    inside.add_nodes_from(block.names)
    inside.add_edges_from(
        (a, b) for b in block.names for a in wiring.sources[b] if a in block.names
    )
    inside.remove_edges_from(delayed)
    order = nx.lexicographical_topological_sort(inside, key=block.names.index)
    return Block(tuple(order), frozenset(delayed))


def _start(
    edge: Edge, wiring: Wiring, edges: Sequence[Edge], nodes: Mapping[str, nir.NIRNode]
) -> set[Edge]:
    """Return where the way back that ends in ``edge`` leaves a neuron; ``edge`` without a bias."""
    way, has_bias = edge, False
    while type(nodes[way[0]]).__name__ not in STATEFUL:
        has_bias = has_bias or bool(np.any(getattr(nodes[way[0]], "bias", 0)))
        sources = wiring.sources[way[0]]
        readers = [b for a, b in edges if a == way[0]]
        if len(sources) != 1 or len(readers) != 1:
            if has_bias:
                raise ValueError(
                    f"node {way[0]!r} lies on a way back with a bias and has {len(sources)} inputs "
                    f"and {len(readers)} readers; feedback='biased' takes ways of one each: move "
                    "the bias to a node in front of the cycle"
                )
            return {edge}
        way = (sources[0], way[0])
    return {way} if has_bias else {edge}
