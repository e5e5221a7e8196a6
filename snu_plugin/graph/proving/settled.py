"""Nodes that give, bit for bit, what a model gave, each on what the model's modules gave before it.

Where every node does, the model and its graph agree, and no bound on roundings has to be known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.reference_network import Network
from snu_plugin.schedule import Block, Wiring, run

Given = Mapping[str, tuple[int, Tensor]]
"""What a model gave for some nodes, ``(T, B, ...)``, from which step on."""


class Settled(NamedTuple):
    """What came of running each node on what the model gave before it."""

    spikes: dict[str, Tensor]
    """What each node that fires gives itself, ``(T, B, ...)``."""
    apart: dict[str, Tensor]
    """Nodes that do not give what the model gave for them, and where not in some step, as
    ``(B, ...)``."""


@torch.no_grad()
def settled(net: Network, x: Mapping[str, Tensor], given: Given) -> Settled:
    """Run every node from a fresh start over all steps, and see which give what the model gave.

    If all do, a run of the whole graph gives that, too: each receives in it what it received here.

    Args:
        net: The graph, in the model's dtype.
        x: What each Input receives.
        given: What the model gave for some nodes.
    """
    signals = net.signals(dict(x))
    spikes, apart = dict[str, Tensor](), dict[str, Tensor]()
    read = {source for sources in net.discrete.wiring.sources.values() for source in sources}
    idle = {n for n in net.names if n not in read and n not in given and not net.discrete.spikes(n)}
    for block in net.discrete.wiring.blocks:
        if idle.issuperset(block.names):
            continue
        for name, own in _block(block, net, signals, given).items():
            first, y = given.get(name, (0, own))
            compared = own[first : first + len(y)].to(y)
            if name in given and not torch.equal(compared, y):
                apart[name] = (compared != y).any(0)
            signals[name] = y.to(own) if len(y) == len(own) else own
            if net.discrete.spikes(name):
                spikes[name] = own if name in apart else signals[name]
    return Settled(spikes, apart)


def comes_from(name: str, discrete: DiscreteGraph, known: Collection[str]) -> set[str]:
    """Return a node, and those before it up to what is ``known``, Inputs included."""
    spikes_of = {one.mem: one.spike for one in discrete.subtracting}
    found, new = set[str](), {name}
    while new:
        found |= new
        before = {source for name in new for source in discrete.wiring.sources[name]}
        before |= {spikes_of[name] for name in new if name in spikes_of}
        new = before - found - set(known) - set(discrete.inputs)
    return found


def _block(
    block: Block, net: Network, signals: Mapping[str, Tensor], given: Given
) -> dict[str, Tensor]:
    """Return what the nodes of a block give; a cycle whose ways back are known runs as none."""
    like = next(iter(signals.values()))
    back = {source for source, _ in block.delayed}
    modules: dict[str, Any] = dict(zip(net.names, net.nodes, strict=True))
    if any(source not in given or len(given[source][1]) != len(like) for source in back):
        alone = Wiring((block,), net.discrete.wiring.sources)
        return run(alone, modules, signals, net.discrete.shapes, keep=block.names)[0]
    late = {source: given[source][1].to(like) for source in back}
    late = {name: torch.cat([torch.zeros_like(y[:1]), y[:-1]]) for name, y in late.items()}
    now, values = dict(signals), dict[str, Tensor]()
    for name in block.names:
        total: Tensor | None = None
        for source in net.discrete.wiring.sources[name]:
            part = late[source] if (source, name) in block.delayed else now[source]
            total = part if total is None else total + part
        values[name], _ = modules[name](total, None)
        now[name] = given[name][1].to(like) if name in given else values[name]
    return values
