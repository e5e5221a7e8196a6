"""Nodes put together into a flat graph, one module's call after the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import nir
import numpy as np

from snu_plugin.graph.flow import Shape
from snu_plugin.graph.trace import Call


class Assembly:
    """A flat graph in the making."""

    def __init__(self, input_shape: Shape, calls: Sequence[Call]) -> None:
        """Begin with the Input; ``calls`` are all that will be added, the output's among them."""
        self.nodes: dict[str, nir.NIRNode] = {
            "input": nir.Input(input_type={"input": np.array(input_shape)})
        }
        self.edges: list[tuple[str, str]] = []
        self.gives: dict[str | None, str] = {None: "input"}
        self.taken = {"input", "output"}
        self.readers = Counter(source for call in calls for source in call.sources)

    def add(self, call: Call, node: nir.NIRNode) -> None:
        """Add a module's node behind its sources; a recurrent layer's parts by their names.

        A graph with ports of its own stays a sub-graph.
        """
        name = self._new(call.name or type(call.module).__name__.lower())
        sources = self._sources(call)
        if not isinstance(node, nir.NIRGraph) or "w_rec" not in node.nodes:
            self.nodes[name] = node
            if not isinstance(node, nir.NIRGraph):
                node.input_type = {"input": np.array(call.shape)}
                node.output_type = {"output": np.array(call.out)}
            self.edges += [(source, name) for source in sources]
            self.gives[call.name] = name
            return
        lif, w_rec = self._new(f"{name}.lif"), self._new(f"{name}.w_rec")
        bias = getattr(node.nodes["w_rec"], "bias", None)
        if bias is not None:
            sources = [self._biased(call, sources, name, bias)]
        self.nodes[lif] = node.nodes["lif"]
        self.nodes[w_rec] = nir.Linear(node.nodes["w_rec"].weight)
        self.edges += [*((source, lif) for source in sources), (lif, w_rec), (w_rec, lif)]
        self.gives[call.name] = lif

    def close(self, output: Call) -> None:
        """Add the Output."""
        sources = self._sources(output)
        self.nodes["output"] = nir.Output(output_type={"output": np.array(output.shape)})
        self.edges += [(source, "output") for source in sources]

    def _sources(self, call: Call) -> list[str]:
        """Return the nodes that feed a call; a reshape on the way becomes a Flatten."""
        sources = [self.gives[source] for source in call.sources]
        if call.given == call.shape:
            return sources
        start = next(
            i for i in range(len(call.given) + 1) if call.given[: i + 1] != call.shape[: i + 1]
        )
        start = min(start, max(0, len(call.shape) - 1))  # axes of size 1 that end `given`
        end = start + len(call.given) - len(call.shape)
        flat = (*call.given[:start], math.prod(call.given[start : end + 1]), *call.given[end + 1 :])
        if end < start or flat != call.shape:
            raise ValueError(
                f"{call.name or 'the output'} receives {call.given} reshaped to {call.shape}; "
                "NIR can only flatten"
            )
        name = self._new("flatten")
        self.nodes[name] = nir.Flatten({"input": np.array(call.given)}, start, end)
        self.edges += [(source, name) for source in sources]
        return [name]

    def _biased(self, call: Call, sources: list[str], name: str, bias: np.ndarray[Any, Any]) -> str:
        """Return a node that adds a recurrent layer's bias: the Affine that feeds it, if alone.

        In the recurrent path the bias would be missing in the first step: there, executors of
        NIR deliver nothing along an edge that closes a cycle.
        """
        feed = self.nodes[sources[0]]
        alone = len(sources) == 1 and self.readers[call.sources[0]] == 1
        if alone and isinstance(feed, (nir.Affine, nir.Linear)):
            total = np.float64(bias) + getattr(feed, "bias", 0.0)
            self.nodes[sources[0]] = nir.Affine(feed.weight, total)
            return sources[0]
        node = self._new(f"{name}.bias")
        self.nodes[node] = nir.Affine(np.eye(call.shape[-1]), np.float64(bias))
        self.edges += [(source, node) for source in sources]
        return node

    def _new(self, name: str) -> str:
        """Return ``name`` made legal and unlike all others, also where "." is read as "_"."""
        base = name.replace("/", "_")
        wanted, count = base, 0
        while wanted.replace(".", "_") in self.taken:
            count += 1
            wanted = f"{base}_{count}"
        self.taken.add(wanted.replace(".", "_"))
        return wanted
