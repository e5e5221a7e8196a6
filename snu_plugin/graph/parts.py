"""What a graph joined of others declares: what its parts declare, where they agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import networkx as nx
import nir

from snu_plugin.graph.cycles import UNSAID, is_biased
from snu_plugin.graph.metadata import (
    APPROXIMATE,
    DISAGREE,
    NO_RESET,
    UNCHECKED,
    declared,
    without_reset,
)
from snu_plugin.graph.shapes import Flat, Path
from snu_plugin.graph.time_step import GAINS, SAME, time_step

WHOLE = "the graph"


def declared_by_parts(graph: nir.NIRGraph, flat: Flat) -> dict[str, Any]:
    """Return what ``graph`` and its sub-graphs declare, under the names of the flat nodes.

    ``dt``, the reading of I and IF, and the feedback are those of the whole graph and of every part
    that holds nodes which depend on them. Where they differ, the entry is left out and listed under
    ``DISAGREE``; a feedback that the whole graph declares holds for its parts.

    Raises:
        ValueError: If a part declares what cannot be; names it.
    """
    found = dict(_declaring(graph, ()))
    entries = dict(found.get((), {}))
    if not found.keys() - {()}:
        return entries
    for entry, nodes in _depending(flat).items():
        said = {WHOLE: entries[entry]} if entries.get(entry, UNSAID) != UNSAID else {}
        if said and entry == "feedback":
            continue
        said |= _said(entry, nodes, found, flat)
        values = list(said.values())
        if any(not _same(value, values[0]) for value in values):
            entries.pop(entry, None)
            entries[DISAGREE] = entries.get(DISAGREE, {}) | {entry: said}
        elif values:
            entries[entry] = values[0]
    if any(own.get(UNCHECKED) for own in found.values()):
        entries[UNCHECKED] = True
    _add_named(entries, found, flat)
    return entries


def _declaring(graph: nir.NIRGraph, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the path of every graph that declares something, and what."""
    try:
        entries = declared(graph)
    except ValueError as error:
        raise ValueError(f"sub-graph {'.'.join(path)!r}: {error}" if path else str(error)) from None
    if entries:
        yield path, entries
    for name, node in graph.nodes.items():
        if type(node) is nir.NIRGraph:
            yield from _declaring(node, (*path, str(name)))


def _depending(flat: Flat) -> dict[str, dict[str, nir.NIRNode]]:
    """Return the nodes that depend on each entry: feedback matters to biases on a cycle."""
    cycles = nx.strongly_connected_components(nx.DiGraph(flat.edges))
    inside = {a for a, b in flat.edges if a == b}.union(*(c for c in cycles if len(c) > 1))
    nodes = flat.nodes.items()
    return {
        "dt": {name: node for name, node in nodes if type(node).__name__ in GAINS},
        "if": {name: node for name, node in nodes if isinstance(node, (nir.I, nir.IF))},
        "feedback": {n: node for n, node in nodes if n in inside and is_biased(node)},
    }


def _said(
    entry: str,
    nodes: Mapping[str, nir.NIRNode],
    found: Mapping[Path, Mapping[str, Any]],
    flat: Flat,
) -> dict[str, Any]:
    """Return what is said of ``nodes``, by the name of the innermost part that says it.

    A dt may also be told by the input gains of nodes whose part declares none.
    """
    said: dict[str, Any] = {}
    unsaid: dict[str, nir.NIRNode] = {}
    paths = {name: path for path, name in flat.names.items()}
    for name, node in nodes.items():
        path = paths.get(name, (name,))
        around = (path[:end] for end in range(len(path) - 1, -1, -1))
        place = next((p for p in around if found.get(p, {}).get(entry, UNSAID) != UNSAID), None)
        if place is None:
            unsaid[name] = node
        else:
            said[".".join(place) or WHOLE] = found[place][entry]
    if entry == "dt" and said and unsaid:
        with suppress(ValueError):
            said[next(iter(unsaid))] = time_step(unsaid, None, {}).dt
    return said


def _same(a: object, b: object) -> bool:
    """Tell whether two entries say the same; a dt told by gains is so but for rounding."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= SAME * abs(b)
    return a == b


def _add_named(
    entries: dict[str, Any], found: Mapping[Path, Mapping[str, Any]], flat: Flat
) -> None:
    """Add the entries of parts that name nodes, which have other names in the whole graph."""
    old = without_reset(entries)
    approximate = [entries[APPROXIMATE]] if APPROXIMATE in entries else []
    for path, own in found.items():
        depth = len(path)
        names = {".".join(p[depth:]): n for p, n in flat.names.items() if p[:depth] == path}
        left = own.get(APPROXIMATE)
        if not path:
            continue
        old += [names.get(name, name) for name in without_reset(own)]
        if isinstance(left, dict) and isinstance(left.get("nodes"), dict):
            nodes = {names.get(name, name): why for name, why in left["nodes"].items()}
            approximate.append(left | {"nodes": nodes})
    if old:
        entries[NO_RESET] = old
    if approximate:
        entries[APPROXIMATE] = approximate
