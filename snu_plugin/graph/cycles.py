"""Cycles of a flat graph: which edge carries the last step, and what it delivers at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import networkx as nx
import nir
import numpy as np

from snu_plugin.graph.metadata import check_agreement
from snu_plugin.graph.shapes import Edge
from snu_plugin.graph.validate import STATEFUL
from snu_plugin.schedule import Block, Wiring, wire

Feedback = Literal["silent", "biased"]
"""silent: the edge that closes a cycle delivers nothing at the first step, as NIR's executors have
it. biased: neurons have not fired yet, and what lies on the way back makes of that what it does:
its biases act at once, as in snnTorch's recurrent layers."""

UNSAID = "last step"
"""What a graph declares that says nothing of biases on a way back."""


def declared_feedback(entries: Mapping[str, Any]) -> Feedback | None:
    """Return the feedback that the metadata of a graph declares; None if it says nothing.

    Raises:
        ValueError: If it declares another, or its parts declare different ones.
    """
    check_agreement(entries, "feedback", "give feedback='silent' or 'biased'")
    known: dict[str, Feedback | None] = {UNSAID: None, "silent": "silent", "biased": "biased"}
    value = entries.get("feedback", UNSAID)
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"the graph declares the feedback {value!r:.60}; it must be {' or '.join(known)}"
        )
    return known[value]


def schedule(nodes: Mapping[str, nir.NIRNode], edges: Sequence[Edge], feedback: Feedback) -> Wiring:
    """Return the schedule of flat nodes; ties are broken by their names.

    With "biased" the delay of each way back with a bias lies in front of the bias; from the second
    step on that changes nothing.

    Raises:
        ValueError: If, with "biased", a node between a bias on a way back and the end of the way
            has other inputs or readers, so that the bias cannot act at once for the cycle alone.
    """
    names = sorted(nodes)
    inputs = [name for name in names if isinstance(nodes[name], nir.Input)]
    wiring = wire(names, edges, inputs)
    if feedback == "silent":
        return wiring
    ways = biased_ways_back(wiring, nodes)
    readers = Counter(a for a, _ in edges)
    blocks = tuple(_moved(block, ways, wiring, readers) for block in wiring.blocks)
    return Wiring(blocks, wiring.sources)


def is_biased(node: nir.NIRNode) -> bool:
    """Tell whether a node without a state gives something where it receives nothing."""
    return type(node).__name__ not in STATEFUL and bool(np.any(getattr(node, "bias", 0)))


def biased_ways_back(
    wiring: Wiring, nodes: Mapping[str, nir.NIRNode]
) -> dict[Edge, tuple[str, ...]]:
    """Return the nodes with a bias on the way from a neuron to each delayed edge, if there are any.

    What they deliver at the first step is what ``Feedback`` decides.
    """
    found = {}
    for block in wiring.blocks:
        for edge in sorted(block.delayed):
            way = _way_back(edge, block, wiring, nodes)
            if biased := tuple(name for name in way if is_biased(nodes[name])):
                found[edge] = biased
    return found


def _way_back(
    edge: Edge, block: Block, wiring: Wiring, nodes: Mapping[str, nir.NIRNode]
) -> list[str]:
    """Return the nodes without a state through which the value of a delayed edge has come."""
    way: list[str] = []
    open_ends = [edge[0]]
    while open_ends:
        name = open_ends.pop()
        if name in way or name not in block.names or type(nodes[name]).__name__ in STATEFUL:
            continue
        way.append(name)
        open_ends += [a for a in wiring.sources[name] if (a, name) not in block.delayed]
    return way


def ways_into(block: Block, wiring: Wiring) -> list[str]:
    """Return the nodes at which a cycle is entered; of several another could get the last step."""
    return [name for name in block.names if set(wiring.sources[name]) - set(block.names)]


def check_states(block: Block, nodes: Mapping[str, nir.NIRNode]) -> None:
    """Refuse a cycle without a state.

    Raises:
        ValueError: Names its nodes.
    """
    if block.delayed and not any(type(nodes[n]).__name__ in STATEFUL for n in block.names):
        raise ValueError(
            f"the cycle {' -> '.join(map(repr, block.names[:8]))} holds no neuron and no "
            "delay; every cycle must have a state"
        )


def _moved(
    block: Block, ways: Mapping[Edge, Sequence[str]], wiring: Wiring, readers: Mapping[str, int]
) -> Block:
    """Return a block whose delays lie in front of the biases on its ways back."""
    delayed = frozenset(_in_front(e, ways.get(e, ()), wiring, readers) for e in block.delayed)
    if delayed == block.delayed:
        return block
    inside = nx.DiGraph()
    inside.add_nodes_from(block.names)
    inside.add_edges_from(
        (a, b) for b in block.names for a in wiring.sources[b] if a in block.names
    )
    inside.remove_edges_from(delayed)
    order = nx.lexicographical_topological_sort(inside, key=block.names.index)
    return Block(tuple(order), delayed)


def _in_front(
    edge: Edge, biased: Sequence[str], wiring: Wiring, readers: Mapping[str, int]
) -> Edge:
    """Return the edge on the way back to ``edge`` that lies in front of all of ``biased``."""
    left, way = set(biased), edge
    while left:
        name, sources = way[0], wiring.sources[way[0]]
        if len(sources) != 1 or readers[name] != 1:
            raise ValueError(
                f"node {name!r} lies on a way back with a bias and has {len(sources)} inputs "
                f"and {readers[name]} readers; feedback='biased' takes ways of one each: move "
                "the bias to a node in front of the cycle"
            )
        left.discard(name)
        way = (sources[0], name)
    return way
