"""A flat NIR graph in the making, out of the nodes of a model's modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import networkx as nx
import nir
import numpy as np
from torch import Tensor, nn

from snu_plugin.graph.chain import scaled
from snu_plugin.graph.rules.pool_rules import MAX_POOLS
from snu_plugin.graph.rules.torch_rules import (
    BATCH_NORMS,
)
from snu_plugin.graph.tracing.function_layers import Either, Fired, Together
from snu_plugin.graph.tracing.traced_tensor import Shape, Source, named
from snu_plugin.graph.tracing.wiring import Call

Bias = np.ndarray[Any, Any]


def _now(source: Source) -> Source:
    """Return what a source is in the step itself."""
    return source._replace(late=False)


def _stand_in(source: Source) -> str:
    """Return what stands for the node of a late source until all nodes are there."""
    return f"late {source}"


def taken_out(
    calls: Sequence[Call],
    nodes: Mapping[str, nir.NIRNode],
    at_first: Mapping[str, Tensor],
    biased: Collection[str],
) -> tuple[dict[str, nir.NIRNode], dict[str, Bias]]:
    """Take biases that act at once out of ways back, along which nothing comes in the first step.

    Args:
        calls: The calls of a model.
        nodes: The node of each.
        at_first: What some calls make of zeros, ``(B, ...)``.
        biased: Those of them of which that acts in the first step.

    Returns:
        The nodes without those biases, and by receiver what it must get from elsewhere.
    """
    without, moved = dict(nodes), dict[str, Bias]()
    readers = Counter(_now(source) for call in calls for source in call.sources)
    by_name = {call.name: call for call in calls}

    def at_once(name: str) -> Bias:
        """Return what each unit, or each channel of maps, gives, in every sequence and place."""
        y: Bias = at_first[name].reshape(-1, *by_name[name].out)[0].double().cpu().numpy()
        return y if y.ndim < 3 else y[:, 0, 0]

    def lessened(name: str) -> bool:
        """Take what a node gives at first out of it, or else of the one that alone feeds it."""
        less = scaled(nodes[name], None, -at_once(name))
        if less is not None:
            without[name] = less
            return True
        (source, *more) = by_name[name].sources
        alone = not more and source.name in at_first and readers[source] == 1
        return alone and lessened(str(source.name))

    for call in calls:
        for source in call.sources:
            known = source.late and source.name in biased and source.name in at_first
            if known and readers[_now(source)] == 1 and lessened(str(source.name)):
                moved[call.name] = moved.get(call.name, 0) + at_once(str(source.name))
    return without, moved


def _unbiased(node: nir.NIRNode) -> nir.NIRNode:
    if isinstance(node, nir.Affine):
        return nir.Linear(node.weight)
    node.bias = np.zeros_like(node.bias)
    return node


def _fires(node: nir.NIRNode) -> bool:
    kinds = ("LIF", "IF", "CubaLIF", "Threshold", "SNU")
    return type(node).__name__ in kinds and not getattr(node, "soft", False)


class Assembly:
    """A flat graph in the making."""

    def __init__(
        self, input_shapes: Mapping[str, Shape], calls: Sequence[Call], outputs: Sequence[Call]
    ) -> None:
        """Begin with the Inputs; ``calls`` are all that will be added, ``outputs`` be closed."""
        self.nodes: dict[str, nir.NIRNode] = {
            name: nir.Input(input_type={"input": np.array(shape)})
            for name, shape in input_shapes.items()
        }
        self.edges: list[tuple[str, str]] = []
        self.gives = {Source(None, name): name for name in input_shapes} | {Source(None): "input"}
        """The node that gives what a source is."""
        self.modules: dict[str, str] = {}
        """The call whose first output each node gives."""
        self.nested = False
        """Whether it holds graphs, or nodes whose shapes are not known yet."""
        ports = ("input", "output", *input_shapes, *(output.name for output in outputs))
        self.taken = {name.replace(".", "_") for name in ports}
        self.late: dict[str, Source] = {}
        """What the step before gave, by what stands for its node until all nodes are there."""
        self.of_spikes: dict[str, Call] = {}
        """The calls, by node, that do what NIR can say of 0 and 1 only."""
        self.calls = (*calls, *outputs)
        self.readers = Counter(_now(source) for call in self.calls for source in call.sources)

    def add(self, call: Call, node: nir.NIRNode, more: Bias | None = None) -> None:
        """Add a module's node behind its sources; a recurrent layer's parts by their names.

        A graph with ports of its own stays a sub-graph, unless one of its states is read. The bias
        of recurrent weights moves to what lies in front of the layer, where it acts from the first
        step on: executors of NIR deliver nothing there along an edge that closes a cycle. ``more``
        is the bias of other ways back to it that moves likewise.
        """
        name = self._new(call.name or type(call.module).__name__.lower())
        sources = self._sources(call)
        if isinstance(call.module, (*MAX_POOLS, Together, Either)):
            self.of_spikes[name] = call
        if more is not None:
            sources = self._biased(call, sources, name, more)
        if isinstance(call.module, BATCH_NORMS) and self._folded(call, sources, node):
            return
        w_rec = node.nodes.get("w_rec") if isinstance(node, nir.NIRGraph) else None
        bias: Any = getattr(w_rec, "bias", 0)
        if np.any(bias):
            sources = self._biased(call, sources, name, bias)
        if isinstance(w_rec, (nir.Affine, nir.Conv2d)):
            w_rec = node.nodes["w_rec"] = _unbiased(w_rec)
        if w_rec is not None and "input" not in node.nodes:
            lif, back = self._new(f"{name}.lif"), self._new(f"{name}.w_rec")
            self.nodes[lif], self.nodes[back] = node.nodes["lif"], w_rec
            self.edges += [*((source, lif) for source in sources), (lif, back), (back, lif)]
            self.gives[Source(call.name)] = lif
            self.modules[lif] = call.name
            return
        state_is_read = any(source.name == call.name and source.state for source in self.readers)
        if isinstance(node, nir.NIRGraph) and state_is_read:
            self._expand(call, name, sources, node)
            return
        self.nodes[name] = node
        if isinstance(node, nir.NIRGraph):
            self.nested = True
            ends = [a for a, b in node.edges if isinstance(node.nodes[b], nir.Output)]
            self.modules |= {f"{name}.{end}": call.name for end in ends if len(ends) == 1}
        else:
            self.modules[name] = call.name
            node.input_type = {"input": np.array(call.shape)}
            node.output_type = {"output": np.array(call.out)}
        self.edges += [(source, name) for source in sources]
        self.gives[Source(call.name)] = name

    def pass_on(self, call: Call) -> None:
        """Leave out a rectifier: spikes go through it as they are, and NIR has no other.

        A reshape is a node as soon as its sources are there.
        """
        sources = self._sources(call)
        if isinstance(call.module, nn.Flatten):
            (self.gives[Source(call.name)],) = sources
            return
        if len(sources) > 1 or not self._gives_spikes(sources[0]):
            reader = next(c for c in self.calls if Source(call.name) in c.sources)
            name = "the model's output" if reader in self.calls[-1:] else repr(reader.name)
            raise ValueError(
                f"{name} receives relu() of {named(call.sources)}; NIR has no node for that"
            )
        self.gives[Source(call.name)] = sources[0]

    def _gives_spikes(self, name: str) -> bool:
        """Tell whether all that a node gives is 0 or 1."""
        if name in self.late:
            return False
        node, inside = self.nodes[name], [a for a, b in self.edges if b == name]
        if isinstance(node, nir.NIRGraph):
            last = [node.nodes[a] for a, b in node.edges if isinstance(node.nodes[b], nir.Output)]
            return len(last) == 1 and _fires(last[0])
        if isinstance(node, (nir.Flatten, nir.Delay)):
            return len(inside) == 1 and self._gives_spikes(inside[0])
        return _fires(node)

    def check_spikes(self) -> None:
        """Refuse what takes a maximum or a product of anything but spikes; all nodes are there."""
        for name, call in self.of_spikes.items():
            fed = [a for a, b in self.edges if b == name]
            if all(self._gives_spikes(self._turned(a, call)) for a in fed):
                continue
            what, instead = "the maximum", "pool the spikes behind the neurons, or take an average"
            if isinstance(call.module, Fired):
                what, instead = "the spikes", "ask that of spikes, or compare with a threshold (>)"
            elif isinstance(call.module, Together):
                what, instead = (
                    f"the {call.module.what}",
                    "combine spikes, or let a layer weigh them",
                )
            raise ValueError(
                f"{call.name}: it takes {what} of {named(call.sources)}, which are no spikes "
                f"(0 and 1) for certain; only of these NIR can say it: {instead}"
            )

    def _turned(self, name: str, call: Call) -> str:
        """Return the node that one turns round which a call takes, where one does; else itself."""
        node, feeds = self.nodes.get(name), [a for a, b in self.edges if b == name]
        minus = isinstance(node, nir.Scale) and bool(np.all(node.scale == -1))
        return feeds[0] if isinstance(call.module, Together) and minus and len(feeds) == 1 else name

    def _expand(self, call: Call, name: str, sources: list[str], graph: nir.NIRGraph) -> None:
        """Add the nodes of a neuron's graph one by one; those named as its states give them."""
        ports = {n for n, node in graph.nodes.items() if isinstance(node, (nir.Input, nir.Output))}
        names = {n: self._new(f"{name}.{n}") for n in graph.nodes if n not in ports}
        self.nodes |= {new: graph.nodes[old] for old, new in names.items()}
        self.nested = True
        for a, b in graph.edges:
            if isinstance(graph.nodes[a], nir.Input):
                self.edges += [(source, names[b]) for source in sources]
            elif isinstance(graph.nodes[b], nir.Output):
                self.gives[Source(call.name)] = names[a]
                self.modules[names[a]] = call.name
            else:
                self.edges.append((names[a], names[b]))
        self.gives |= {Source(call.name, old): new for old, new in names.items()}

    def close(self, output: Call) -> None:
        """Add an Output."""
        sources = self._sources(output)
        name = output.name.replace("/", "_")
        self.nodes[name] = nir.Output(output_type={"output": np.array(output.shape)})
        self.edges += [(source, name) for source in sources]

    def prune(self) -> None:
        """Remove what no Output depends on: of a neuron whose potential is read, the spikes."""
        needed = {name for name, node in self.nodes.items() if isinstance(node, nir.Output)}
        size = 0
        while len(needed) > size:
            size = len(needed)
            needed |= {a for a, b in self.edges if b in needed}
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}
        self.edges = [edge for edge in self.edges if needed.issuperset(edge)]

    def _sources(self, call: Call) -> list[str]:
        """Return the nodes that feed a call; a reshape on the way becomes a Flatten."""
        name = call.name or "the output"
        late = {_stand_in(source): source for source in call.sources if source.late}
        self.late |= late
        sources = [_stand_in(s) if s.late else self._giver(name, s) for s in call.sources]
        old, new = call.source_shape, call.shape
        if old == new:
            return sources
        start = next(i for i in range(len(old) + 1) if old[: i + 1] != new[: i + 1])
        start = min(start, max(0, len(new) - 1))  # axes of size 1 that end the source's
        end = start + len(old) - len(new)
        flat = (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :])
        if end < start or flat != new:
            why = (
                "NIR's Flatten joins axes, and no node splits a vector: make them so from the start"
            )
            if len(old) > 1:
                why = "not yet supported of maps: leave them as they are, or flatten"
            raise ValueError(f"{name} receives {old} reshaped to {new}; {why}")
        flat_name = self._new("flatten")
        self.nodes[flat_name] = nir.Flatten({"input": np.array(old)}, start, end)
        self.edges += [(source, flat_name) for source in sources]
        return [flat_name]

    def _giver(self, receiver: str, source: Source) -> str:
        """Return the node that gives what a source is."""
        if source not in self.gives:
            raise ValueError(
                f"{receiver!r} receives {named((source,))}, whose value no node of NIR has: an "
                "integrator has that of a neuron that never resets, or that subtracts in the "
                "step after a spike"
            )
        return self.gives[source]

    def feed_back(self, dt: float) -> None:
        """Put the nodes in for what the step before gave.

        The edge that closes a cycle carries the last step by itself; any other needs a Delay.
        """
        wired = nx.DiGraph(edge for edge in self.edges if edge[0] not in self.late)
        edges = list[tuple[str, str]]()
        for stand_in, b in self.edges:
            if stand_in not in self.late:
                edges.append((stand_in, b))
                continue
            a = self._giver(b, _now(self.late[stand_in]))
            known = wired.has_node(a) and wired.has_node(b)
            if not (a == b or (known and nx.has_path(wired, b, a))):
                shape = self.nodes[b].input_type["input"]
                node = self._new(f"{a}.delay")
                self.nodes[node] = nir.Delay(np.full(tuple(shape), dt))
                edges.append((a, node))
                wired.add_edge(a, node)
                a = node
            edges.append((a, b))
            wired.add_edge(a, b)
        self.edges = edges

    def _biased(self, call: Call, sources: list[str], name: str, bias: Bias) -> list[str]:
        """Return what feeds a layer with a bias added: to weights, if it is all that they feed.

        That is one value for each unit, or for each channel of (C, H, W).
        """
        total = np.float64(bias)
        for name_of_feed, source in zip(sources, call.sources, strict=False):
            feed = self.nodes.get(name_of_feed)
            if feed is None or name_of_feed != self.gives.get(source) or self.readers[source] > 1:
                continue
            if isinstance(feed, (nir.Affine, nir.Linear)) and len(call.shape) == 1:
                total = total + getattr(feed, "bias", 0.0)
                self.nodes[name_of_feed] = nir.Affine(feed.weight, total)
            elif isinstance(feed, nir.Conv2d):
                feed.bias = total + feed.bias
            else:
                continue
            self.modules.pop(name_of_feed, None)
            return sources
        node = self._new(f"{name}.bias")
        if len(call.shape) == 1:
            self.nodes[node] = nir.Affine(np.eye(call.shape[-1]), total)
        else:
            channels, one = call.shape[0], np.ones((call.shape[0], 1, 1, 1))
            self.nodes[node] = nir.Conv2d(call.shape[1:], one, 1, 0, 1, channels, total)
        self.edges += [(source, node) for source in sources]
        return [node]

    def _folded(self, call: Call, sources: list[str], node: nir.NIRNode) -> bool:
        """Put a normalisation into the weights that alone it reads; tell whether that was done."""
        before = self.nodes.get(sources[0])
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if before is None or not alone or call.source_shape != call.shape:
            return False
        scale = node.weight.diagonal() if isinstance(node, nir.Affine) else node.weight.reshape(-1)
        folded = scaled(before, scale, node.bias)
        if folded is None:
            return False
        self.nodes[sources[0]] = folded
        self.modules[sources[0]] = call.name
        self.gives[Source(call.name)] = sources[0]
        return True

    def _new(self, name: str) -> str:
        """Return ``name`` made legal and unlike all others, also where "." is read as "_"."""
        base = name.replace("/", "_")
        wanted, count = base, 0
        while wanted.replace(".", "_") in self.taken:
            count += 1
            wanted = f"{base}_{count}"
        self.taken.add(wanted.replace(".", "_"))
        return wanted
