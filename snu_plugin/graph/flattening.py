"""Nested graphs checked and laid out flat, every node under one unique name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import nir
import numpy as np

from snu_plugin.graph.cycles import Feedback
from snu_plugin.graph.metadata import KEY, check_choice, declare, declared
from snu_plugin.graph.parts import declared_by_parts
from snu_plugin.graph.shapes import Edge, Flat, Path, complete, ends
from snu_plugin.graph.validate import rebuild

DEEPEST = 64
"""Levels of graphs inside graphs."""
MOST_EDGES_TO_MATCH = 200
"""Edges of a graph up to which a wrong name is looked for: files that need it are small."""
MOST_NODES = 20_000
"""Nodes of one graph, all levels together."""

PORTS: dict[str, type] = {"source": nir.Output, "target": nir.Input}
"""Through which a sub-graph talks, by the end of the edge that names it."""


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that was checked: every value in its range, every shape found, no sub-graphs.

    Public functions take and return ``nir.NIRGraph`` and check it once, at the door; what they call
    takes a ``CheckedGraph`` and never checks again. Its arrays are read-only.
    """

    nodes: Mapping[str, nir.NIRNode]
    """Flat nodes by name, sorted by name, with parameters of full shape."""
    edges: tuple[Edge, ...]
    declared: Mapping[str, Any]
    """What the metadata declares, that of its parts included."""
    notes: tuple[str, ...]
    """What was repaired, a sentence each."""
    nested: nir.NIRGraph
    """The same graph with its sub-graphs, complete and repaired: what a file of it holds."""

    def chosen(self, feedback: Feedback | None) -> CheckedGraph:
        """Return the same graph, which declares what a path that feeds back delivers at first.

        ``None`` leaves what it declares.

        Raises:
            ValueError: For a feedback that does not exist.
        """
        check_choice("feedback", feedback, Feedback)
        if feedback is None:
            return self
        whole = self.nested
        copied = nir.NIRGraph(whole.nodes, whole.edges, dict(whole.metadata), type_check=False)
        declare(copied, declared(copied) | {"feedback": feedback})
        return replace(self, declared={**self.declared, "feedback": feedback}, nested=copied)

    def declaring(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """Return metadata for the flat graph: what its parts declare is declared by the whole.

        ``more`` are other entries; those of ``None`` are left out.
        """
        said = {name: value for name, value in more.items() if value is not None}
        return _flat_metadata(self.nested, {**self.declared, **said})


Broken = list[tuple[str, str, ValueError]]
"""Name, type and error of each node that is wrong in itself."""


def checked_graph(graph: nir.NIRGraph, broken: Broken | None = None) -> CheckedGraph:
    """Check ``graph``, which stays as it is.

    Args:
        graph: Any graph.
        broken: Takes up the nodes that are wrong in themselves, all of them; without it the first
            one ends the check.

    Raises:
        ValueError: For a graph that cannot be resolved; names the node and the field.
    """
    flat = expand(graph, broken=broken)
    complete(flat)
    return sealed(nest(graph, flat), flat)


def sealed(nested: nir.NIRGraph, flat: Flat) -> CheckedGraph:
    """Return a complete graph, flat and nested, as checked; its arrays can no longer be changed."""
    entries = declared_by_parts(nested, flat)
    splice(flat)
    for node in flat.nodes.values():
        for field, value in vars(node).items():
            if isinstance(value, np.ndarray):
                view = value.view()  # the array itself may be the user's
                view.flags.writeable = False
                setattr(node, field, view)
    nodes = dict(sorted(flat.nodes.items()))
    return CheckedGraph(nodes, tuple(flat.edges), entries, tuple(flat.notes), nested)


def flatten(graph: nir.NIRGraph) -> nir.NIRGraph:
    """Return ``graph`` without sub-graphs, with complete shapes; the argument stays as it is.

    Node ``b`` of sub-graph ``a`` is called ``a.b`` (``a.b_2`` where that name is taken).

    Raises:
        ValueError: For a graph that cannot be resolved; see ``expand`` and ``complete``.
    """
    flat = expand(graph)
    complete(flat)
    metadata = _flat_metadata(graph, declared_by_parts(graph, flat))
    splice(flat)
    return nir.NIRGraph(flat.nodes, flat.edges, metadata, type_check=False)


def _flat_metadata(graph: nir.NIRGraph, entries: Mapping[str, Any]) -> dict[str, Any]:
    said = {KEY: json.dumps(entries, sort_keys=True)} if entries else {}
    return {**graph.metadata, **said}


def expand(graph: nir.NIRGraph, rebuilt: bool = False, broken: Broken | None = None) -> Flat:
    """Return every node of ``graph``, checked and named, and the edges between them.

    Edges to names that do not exist are repaired where only one node can be meant (public files
    need it, see ``_match``); ends that lead nowhere get an Input or Output, as ``NIRGraph`` does.

    Args:
        graph: Any graph.
        rebuilt: Whether its nodes are fresh from ``validate.build``, which checks them.
        broken: As in ``checked_graph``.

    Raises:
        ValueError: For node types without a rule, values out of range, edges that cannot be
            resolved, or graphs inside themselves; names the node and the field.
    """
    found = walk(graph)
    flat = Flat()
    taken: set[str] = set()
    for path, _ in sorted(found, key=lambda item: len(item[0])):
        flat.names[path] = unique(".".join(path), taken)
        taken.add(flat.names[path])
    for path, node in found:
        name = flat.names[path]
        try:
            flat.nodes[name] = node if rebuilt else rebuild(name, node)
        except ValueError as error:
            if broken is None:
                raise
            broken.append((name, type(node).__name__, error))
    if broken:
        raise broken[0][2]
    _connect(graph, (), flat)
    _close(flat)
    flat.notes = list(dict.fromkeys(flat.notes))
    return flat


def nest(graph: nir.NIRGraph, flat: Flat, path: Path = ()) -> nir.NIRGraph:
    """Return ``graph`` with its nodes and edges replaced by the repaired ones of ``flat``."""
    paths = {name: place for place, name in flat.names.items()}
    nodes = {
        name: nest(node, flat, (*path, name))
        if type(node) is nir.NIRGraph
        else flat.nodes[flat.names[(*path, name)]]
        for name, node in graph.nodes.items()
    }
    if not path:
        nodes |= {name: node for name, node in flat.nodes.items() if name not in paths}
    edges, depth = [], len(path)
    for edge in flat.edges:
        a, b = (paths.get(end, (end,)) for end in edge)
        if not a[:depth] == b[:depth] == path:
            continue
        if depth == min(len(a), len(b)) - 1 or a[depth] != b[depth]:  # no graph inside holds both
            edges.append((a[depth], b[depth]))
    return nir.NIRGraph(nodes, edges, dict(graph.metadata), type_check=False)


def walk(graph: nir.NIRGraph) -> list[tuple[Path, nir.NIRNode]]:
    """Return every node of ``graph`` that is no sub-graph, with its path.

    Raises:
        ValueError: For an empty graph, a graph inside itself, or too many nodes.
    """
    if type(graph) is not nir.NIRGraph:
        given = type(graph).__name__
        how = "; its to_nir() gives one" if callable(getattr(graph, "to_nir", None)) else ""
        if hasattr(graph, "named_parameters") and not how:
            how = "; to_nir(model, sample) of snu_snntorch or snu_norse makes one of a model"
        elif isinstance(graph, str | PathLike):
            how = "; snu_plugin.graph.read(path) reads one from a file"
        raise TypeError(f"graph is a {given}; it must be a nir.NIRGraph{how}")
    found: list[tuple[Path, nir.NIRNode]] = []

    def enter(inner: nir.NIRGraph, path: Path) -> None:
        if len(path) > DEEPEST:
            raise ValueError(
                f"sub-graph {'.'.join(path[:3])}... lies more than {DEEPEST} graphs deep; "
                "no graph may contain itself"
            )
        if not inner.nodes:
            raise ValueError(f"{_called(path)} has no nodes; a graph has at least one")
        for name, node in inner.nodes.items():
            if type(node) is nir.NIRGraph:
                enter(node, (*path, str(name)))
                continue
            found.append(((*path, str(name)), node))
            if len(found) > MOST_NODES:
                raise ValueError(f"the graph has more than {MOST_NODES} nodes; give a smaller one")

    enter(graph, ())
    return found


def splice(flat: Flat) -> None:
    """Remove Inputs that are fed and Outputs that feed: they only pass on what they get.

    The new edges take the place of those that left the port, whatever the order of the nodes. A
    port whose removal would merge two copies of one signal becomes a Scale by 1.
    """
    sources, targets = ends(flat.nodes, flat.edges)
    place: dict[Edge, tuple[int, ...]] = {edge: (i,) for i, edge in enumerate(flat.edges)}
    for name, node in list(flat.nodes.items()):
        if not isinstance(node, (nir.Input, nir.Output)) or not (sources[name] and targets[name]):
            continue
        if any((a, b) in place for a in sources[name] for b in targets[name]):
            flat.nodes[name] = nir.Scale(scale=np.ones(tuple(node.input_type["input"])))
            flat.notes.append(f"{name!r} passes on a second copy of a signal: it became a Scale")
            continue
        for b in targets[name]:
            order = place.pop((name, b))
            place |= {(a, b): (*order, i) for i, a in enumerate(sources[name])}
            at = sources[b].index(name)
            sources[b][at : at + 1] = sources[name]
        for a in sources[name]:
            del place[a, name]
            at = targets[a].index(name)
            targets[a][at : at + 1] = targets[name]
        del flat.nodes[name], sources[name], targets[name]
    flat.edges = sorted(place, key=place.__getitem__)


def unique(name: str, taken: set[str] | dict[str, Any]) -> str:
    """Return ``name``, or ``name_2``, ``name_3``, ... if it is taken."""
    out, count = name, 1
    while out in taken:
        count += 1
        out = f"{name}_{count}"
    return out


def _connect(graph: nir.NIRGraph, path: Path, flat: Flat) -> None:
    for name, node in graph.nodes.items():
        if type(node) is nir.NIRGraph:
            _connect(node, (*path, name), flat)
    given: set[Edge] = set()
    for pair in graph.edges:
        try:
            a, b = (str(end) for end in pair)
        except (TypeError, ValueError):
            raise ValueError(
                f"{_called(path)} has the edge {pair!r:.60}; an edge is a pair of names"
            ) from None
        edge = _end(a, graph, path, flat, "source"), _end(b, graph, path, flat, "target")
        if edge in given:
            flat.notes.append(f"edge {edge} was given twice; one counts")
        else:
            flat.edges.append(edge)
        given.add(edge)


def _end(name: str, graph: nir.NIRGraph, path: Path, flat: Flat, role: str) -> str:
    """Return the flat name of the node that one end of an edge means."""
    place: Path = (name,)
    if name not in graph.nodes:
        found = _match(name, graph, role)
        if found is None:
            raise ValueError(
                f"{_called(path)} has an edge whose {role} {name!r} does not exist; "
                f"its nodes: {', '.join(map(repr, list(graph.nodes)[:12]))}"
            )
        flat.notes.append(
            f"{_called(path)} has an edge whose {role} {name!r} does not exist; "
            f"read as {'.'.join(found)!r}, the only node it can mean"
        )
        place = found
    node: nir.NIRNode = graph
    for part in place:
        node = node.nodes[part]
    return _port((*path, *place), node, flat, role)


def _match(name: str, graph: nir.NIRGraph, role: str) -> Path | None:
    """Return the only node that a name without a node can mean, or None.

    Seen in public files: ``lif1`` for the flat nodes ``lif1.input`` and ``lif1.output``; ``lif``
    for a node that no edge names, where it is the only such name and the only such node; and
    ``sub.node`` for the node through which a sub-graph talks.
    """
    ports = [n for n, node in graph.nodes.items() if isinstance(node, PORTS[role])]
    ports = [n for n in ports if n.rpartition(".")[0] == name]
    if len(ports) == 1:
        return (ports[0],)
    head, _, tail = name.partition(".")
    inner = graph.nodes.get(head)
    if type(inner) is nir.NIRGraph and _ports(inner, role) == [tail]:
        return (head, tail)
    if len(graph.edges) > MOST_EDGES_TO_MATCH:
        return None
    named = {str(end) for edge in graph.edges for end in edge}
    idle = [n for n in graph.nodes if n not in named]
    return (idle[0],) if len(idle) == 1 and len(named - graph.nodes.keys()) == 1 else None


def _port(path: Path, node: nir.NIRNode, flat: Flat, role: str) -> str:
    """Return the flat name of a node, or of the Input or Output through which a sub-graph talks."""
    while type(node) is nir.NIRGraph:
        ports = _ports(node, role)
        if len(ports) != 1:
            raise ValueError(
                f"sub-graph {'.'.join(path)!r} is the {role} of an edge but has {len(ports)} "
                f"{PORTS[role].__name__} nodes; it must have one, or the edge must name one"
            )
        path, node = (*path, ports[0]), node.nodes[ports[0]]
    return flat.names[path]


def _ports(graph: nir.NIRGraph, role: str) -> list[str]:
    """Return the Inputs or Outputs of a sub-graph, else what nothing inside feeds, or reads."""
    ports = [name for name, node in graph.nodes.items() if isinstance(node, PORTS[role])]
    if ports:
        return ports
    used = {edge[0 if role == "source" else 1] for edge in graph.edges}
    return [name for name in graph.nodes if name not in used]


def _close(flat: Flat) -> None:
    """Give an Input to every node that nothing feeds, and an Output to every node nothing reads."""
    read, fed = ({edge[place] for edge in flat.edges} for place in (0, 1))
    for name, node in list(flat.nodes.items()):
        if name not in fed and not isinstance(node, nir.Input):
            port = unique(f"input_{name}", flat.nodes)
            flat.nodes[port] = nir.Input(input_type={"input": None})
            flat.edges.append((port, name))
            flat.notes.append(f"nothing feeds {name!r}: it got the Input {port!r}")
        if name not in read and not isinstance(node, nir.Output):
            port = unique(f"output_{name}", flat.nodes)
            flat.nodes[port] = nir.Output(output_type={"output": None})
            flat.edges.append((name, port))
            flat.notes.append(f"nothing reads {name!r}: it got the Output {port!r}")


def _called(path: Path) -> str:
    return f"sub-graph {'.'.join(path)!r}" if path else "the graph"
