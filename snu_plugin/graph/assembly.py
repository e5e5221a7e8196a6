"""A flat NIR graph in the making, out of the nodes of a model's modules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import nir
import numpy as np

from snu_plugin.graph.chain import scaled
from snu_plugin.graph.pool_rules import MAX_POOLS
from snu_plugin.graph.torch_rules import (
    BATCH_NORMS,
)
from snu_plugin.graph.traced_tensor import Shape, Source, named
from snu_plugin.graph.watch import Call


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
        self.calls = (*calls, *outputs)
        self.readers = Counter(source for call in self.calls for source in call.sources)

    def add(self, call: Call, node: nir.NIRNode) -> None:
        """Add a module's node behind its sources; a recurrent layer's parts by their names.

        A graph with ports of its own stays a sub-graph, unless one of its states is read. The bias
        of recurrent weights moves to what lies in front of the layer, where it acts from the first
        step on: executors of NIR deliver nothing there along an edge that closes a cycle.
        """
        name = self._new(call.name or type(call.module).__name__.lower())
        sources = self._sources(call)
        if isinstance(call.module, MAX_POOLS) and not all(map(self._gives_spikes, sources)):
            raise ValueError(
                f"{call.name}: it takes the maximum of {named(call.sources)}, which are no spikes "
                "(0 and 1) for certain; only of these NIR can say it: pool the spikes behind the "
                "neurons, or take an average"
            )
        if isinstance(call.module, BATCH_NORMS) and self._folded(call, sources, node):
            return
        w_rec = node.nodes.get("w_rec") if isinstance(node, nir.NIRGraph) else None
        bias: Any = getattr(w_rec, "bias", 0)
        if np.any(bias):
            sources = [self._biased(call, sources, name, bias)]
        if isinstance(w_rec, nir.Affine):
            w_rec = node.nodes["w_rec"] = nir.Linear(w_rec.weight)
        elif isinstance(w_rec, nir.Conv2d):
            w_rec.bias = np.zeros_like(w_rec.bias)
        if w_rec is not None and "input" not in node.nodes:
            lif, back = self._new(f"{name}.lif"), self._new(f"{name}.w_rec")
            self.nodes[lif], self.nodes[back] = node.nodes["lif"], w_rec
            self.edges += [*((source, lif) for source in sources), (lif, back), (back, lif)]
            self.gives[Source(call.name)] = lif
            self.modules[lif] = call.name
            return
        if isinstance(node, nir.NIRGraph) and self._reads_a_state(call.name):
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
        """Leave out a rectifier: spikes go through it as they are, and NIR has no other."""
        sources = self._sources(call)
        if len(sources) > 1 or not self._gives_spikes(sources[0]):
            reader = next(c for c in self.calls if Source(call.name) in c.sources)
            name = "the model's output" if reader in self.calls[-1:] else repr(reader.name)
            raise ValueError(
                f"{name} receives relu() of {named(call.sources)}; NIR has no node for that"
            )
        self.gives[Source(call.name)] = sources[0]

    def _gives_spikes(self, name: str) -> bool:
        """Tell whether all that a node gives is 0 or 1."""
        node, inside = self.nodes[name], [a for a, b in self.edges if b == name]
        if isinstance(node, nir.NIRGraph):
            last = [node.nodes[a] for a, b in node.edges if isinstance(node.nodes[b], nir.Output)]
            return len(last) == 1 and _fires(last[0])
        if isinstance(node, nir.Flatten):
            return len(inside) == 1 and self._gives_spikes(inside[0])
        return _fires(node)

    def _reads_a_state(self, name: str) -> bool:
        """Tell whether something receives a state of the module ``name``."""
        return any(source.name == name and source.state for source in self.readers)

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
        for source in call.sources:
            if source not in self.gives:
                raise ValueError(
                    f"{name!r} receives {named((source,))}, whose value no node of NIR has: an "
                    "integrator has that of a neuron that never resets, or that subtracts in the "
                    "step after a spike"
                )
        sources = [self.gives[source] for source in call.sources]
        old, new = call.source_shape, call.shape
        if old == new:
            return sources
        start = next(i for i in range(len(old) + 1) if old[: i + 1] != new[: i + 1])
        start = min(start, max(0, len(new) - 1))  # axes of size 1 that end the source's
        end = start + len(old) - len(new)
        flat = (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :])
        if end < start or flat != new:
            raise ValueError(
                f"{name} receives {old} reshaped to {new}; not yet supported: flatten it instead"
            )
        flat_name = self._new("flatten")
        self.nodes[flat_name] = nir.Flatten({"input": np.array(old)}, start, end)
        self.edges += [(source, flat_name) for source in sources]
        return [flat_name]

    def _biased(self, call: Call, sources: list[str], name: str, bias: np.ndarray[Any, Any]) -> str:
        """Return a node that adds a bias: the weights that feed the layer, if it is all they feed.

        That is one value for each unit, or for each channel of (C, H, W).
        """
        feed, total = self.nodes[sources[0]], np.float64(bias)
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if alone and isinstance(feed, (nir.Affine, nir.Linear)) and len(call.shape) == 1:
            total = total + getattr(feed, "bias", 0.0)
            self.nodes[sources[0]] = nir.Affine(feed.weight, total)
            self.modules.pop(sources[0], None)
            return sources[0]
        if alone and isinstance(feed, nir.Conv2d):
            feed.bias = total + feed.bias
            self.modules.pop(sources[0], None)
            return sources[0]
        node = self._new(f"{name}.bias")
        if len(call.shape) == 1:
            self.nodes[node] = nir.Affine(np.eye(call.shape[-1]), total)
        else:
            channels, one = call.shape[0], np.ones((call.shape[0], 1, 1, 1))
            self.nodes[node] = nir.Conv2d(call.shape[1:], one, 1, 0, 1, channels, total)
        self.edges += [(source, node) for source in sources]
        return node

    def _folded(self, call: Call, sources: list[str], node: nir.NIRNode) -> bool:
        """Put a normalisation into the weights that alone it reads; tell whether that was done."""
        before = self.nodes[sources[0]]
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if not alone or call.source_shape != call.shape:
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
