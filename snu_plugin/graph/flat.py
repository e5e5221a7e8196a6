"""A graph without sub-graphs, while it is being put in order."""

from __future__ import annotations

from dataclasses import dataclass, field

import nir

Path = tuple[str, ...]
Edge = tuple[str, str]


@dataclass
class Flat:
    """A graph without sub-graphs. Inner Inputs and Outputs are still nodes: they pass on."""

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    """Name of each node by its path through the sub-graphs."""
    notes: list[str] = field(default_factory=list)
    """What was repaired or added, a sentence each."""


def ends(flat: Flat) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what feeds each node and what each node feeds, in the order of the edges."""
    sources: dict[str, list[str]] = {name: [] for name in flat.nodes}
    targets: dict[str, list[str]] = {name: [] for name in flat.nodes}
    for a, b in flat.edges:
        sources[b].append(a)
        targets[a].append(b)
    return sources, targets
