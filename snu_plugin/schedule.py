"""A network in time: which node runs when, the run itself, and steps cut out of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import networkx as nx
import torch
from torch import Tensor

ALLOCATION = 64
"""Where torch lets a tensor of its own begin: at a multiple of so many bytes."""

Edge = tuple[str, str]
Node = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""``y, state = node(x, state)`` with ``x`` and ``y`` ``(T, B, ...)``; ``None`` starts a state."""


class Block(NamedTuple):
    """Nodes that run together: one node over all time, or a cycle of nodes step by step."""

    names: tuple[str, ...]
    """In the order in which they run within a step."""
    delayed: frozenset[Edge]
    """Edges inside the block that carry the value of the last step; none where nothing loops."""


@dataclass(frozen=True)
class Wiring:
    """A schedule for a network: blocks in order, and what each node reads.

    A node with several sources receives their sum, in the order of the edges.
    """

    blocks: tuple[Block, ...]
    sources: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes as a step meets them: those that receive data from outside, then the others."""
        running = dict.fromkeys(name for block in self.blocks for name in block.names)
        return (*(name for name in self.sources if name not in running), *running)


class WiringState(NamedTuple):
    """What a network carries from one call to the next."""

    nodes: dict[str, Any]
    """The state of each node, as the node returned it."""
    last: dict[str, Tensor]
    """Last outputs of the nodes that feed a delayed edge, ``(B, ...)``."""


def wire(names: Sequence[str], edges: Iterable[Edge], inputs: Sequence[str]) -> Wiring:
    """Find the order of a network whose cycles carry one step of delay each.

    Walking depth first from the inputs, the edge that closes a cycle is the delayed one: it enters
    the node at which the walk first met the cycle. Cycles no input reaches start at their first
    node in ``names``.

    Args:
        names: All nodes; ties are broken by this order.
        edges: Pairs (from, to); the order decides the order of sums.
        inputs: Names in ``names`` that receive data from outside; they run no node.

    >>> wire(["in", "lif", "rec"], [("in", "lif"), ("lif", "rec"), ("rec", "lif")], ["in"]).blocks
    (Block(names=('lif', 'rec'), delayed=frozenset({('rec', 'lif')})),)
    """
    edges = list(dict.fromkeys(edges))
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(edges)
    parts = nx.strongly_connected_components(graph)
    cycles = [c for c in parts if len(c) > 1 or any(graph.has_edge(name, name) for name in c)]
    delayed = _closing_edges(graph, inputs, names) if cycles else set()
    straight = graph.copy()
    straight.remove_edges_from(delayed)
    rank = {name: place for place, name in enumerate(names)}
    home = {name: i for i, cycle in enumerate(cycles) for name in cycle}
    blocks = nx.DiGraph()
    members: dict[Any, list[str]] = {}
    for name in nx.lexicographical_topological_sort(straight, key=rank.__getitem__):
        members.setdefault(home.get(name, name), []).append(name)
    blocks.add_nodes_from(members)
    blocks.add_edges_from(
        (home.get(a, a), home.get(b, b)) for a, b in edges if home.get(a, a) != home.get(b, b)
    )
    first = {block: rank[inside[0]] for block, inside in members.items()}
    ordered = nx.lexicographical_topological_sort(blocks, key=first.__getitem__)
    skip = set(inputs)
    late: dict[Any, set[Edge]] = {}
    sources: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        sources[edge[1]].append(edge[0])
        if edge in delayed:
            late.setdefault(home[edge[1]], set()).add(edge)
    return Wiring(
        tuple(
            Block(tuple(members[b]), frozenset(late.get(b, ())))
            for b in ordered
            if not skip.issuperset(members[b])
        ),
        {name: tuple(found) for name, found in sources.items()},
    )


def run(
    wiring: Wiring,
    nodes: Mapping[str, Node],
    inputs: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    state: WiringState | None = None,
    *,
    keep: Iterable[str] | None = None,
) -> tuple[dict[str, Tensor], WiringState]:
    """Run a wired network over a sequence.

    Args:
        wiring: The schedule from ``wire``.
        nodes: What each node computes.
        inputs: Values of the input nodes, each ``(T, B, ...)``.
        shapes: Output shape of each node that feeds a delayed edge, without time and batch.
        state: State to go on from; ``None`` starts at zero.
        keep: Names whose outputs to return; ``None`` returns all.

    Returns:
        Outputs by node name, each ``(T, B, ...)``, and the state after the last step.
    """
    values = dict(inputs)
    any_input = next(iter(inputs.values()))
    old = state or WiringState({}, {})
    new = WiringState({}, {})
    for block in wiring.blocks:
        if block.delayed:
            _run_loop(block, wiring, nodes, values, shapes, old, new, any_input)
        else:
            (name,) = block.names
            x = reduce(add, [values[source] for source in wiring.sources[name]])
            values[name], new.nodes[name] = nodes[name](x, old.nodes.get(name))
    wanted = values if keep is None else keep
    return {name: values[name] for name in wanted}, new


def aligned(x: Tensor) -> Tensor:
    """Return ``x``, or a copy where it begins elsewhere than a tensor of its own would.

    On AMD processors MKL adds the terms of a small product in an order that depends on where they
    lie in memory. A step cut out of a sequence would be rounded otherwise than the same step alone.

    >>> import torch
    >>> x = torch.zeros(3, 5)
    >>> [aligned(x_t).storage_offset() for x_t in x]
    [0, 0, 0]
    """
    return x.clone() if x.storage_offset() * x.element_size() % ALLOCATION else x


def _run_loop(
    block: Block,
    wiring: Wiring,
    nodes: Mapping[str, Node],
    values: dict[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    old: WiringState,
    new: WiringState,
    like: Tensor,
) -> None:
    """Run one block step by step; adds its outputs to ``values`` and its state to ``new``."""
    steps, batch = like.shape[:2]
    inside = set(block.names)
    outside = {
        name: reduce(add, [values[s] for s in wiring.sources[name] if s not in inside])
        for name in block.names
        if not inside.issuperset(wiring.sources[name])
    }
    inner = {name: tuple(s for s in wiring.sources[name] if s in inside) for name in block.names}
    now: dict[str, Tensor] = {
        source: old.last[source][None]
        if source in old.last
        else like.new_zeros((1, batch, *shapes[source]))
        for source, _ in block.delayed
    }
    feeding = tuple(now)
    states = {name: old.nodes.get(name) for name in block.names}
    outputs: dict[str, list[Tensor]] = {name: [] for name in block.names}
    for t in range(steps):
        last = dict(now)
        for name in block.names:
            parts = [outside[name][t : t + 1]] if name in outside else []
            parts += [last[s] if (s, name) in block.delayed else now[s] for s in inner[name]]
            now[name], states[name] = nodes[name](reduce(add, parts), states[name])
            outputs[name].append(now[name])
    for name in block.names:
        values[name] = (
            torch.cat(outputs[name]) if steps else like.new_zeros((0, batch, *shapes[name]))
        )
    new.nodes.update(states)
    new.last.update({source: now[source][0] for source in feeding})


def _closing_edges(graph: nx.DiGraph, inputs: Sequence[str], names: Sequence[str]) -> set[Edge]:
    """Return the edges that lead back to a node still open in a depth-first walk."""
    closing: set[Edge] = set()
    opened: set[str] = set()
    closed: set[str] = set()
    for root in (*inputs, *names):
        if root in opened:
            continue
        opened.add(root)
        stack = [(root, iter(graph.successors(root)))]
        while stack:
            node, following = stack[-1]
            for target in following:
                if target not in opened:
                    opened.add(target)
                    stack.append((target, iter(graph.successors(target))))
                    break
                if target not in closed:
                    closing.add((node, target))
            else:
                closed.add(node)
                stack.pop()
    return closing
