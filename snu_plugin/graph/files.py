"""NIR files read, whatever wrote them, and written, all or nothing."""

from __future__ import annotations

import json
import os
from typing import Any

import nir
import numpy as np

from snu_plugin.files import draft
from snu_plugin.graph import hdf5, wire
from snu_plugin.graph.flat import Flat
from snu_plugin.graph.flat import Path as NodePath
from snu_plugin.graph.flattening import expand
from snu_plugin.graph.nodes import build
from snu_plugin.graph.shapes import complete

REPAIRED = "repaired"
"""Entry of our metadata that lists what ``read`` had to repair."""

RESETS = ("IF", "LIF", "CubaLIF")
"""Types of nodes that have a ``v_reset`` since nir 1.0.6."""


def read(path: str | os.PathLike[str]) -> nir.NIRGraph:
    """Return the graph in a NIR file, with complete shapes and finite numbers.

    Reads what ``nir.read`` reads, and also: the ``SNU`` extension node, sub-graphs whose types
    disagree, missing shapes, parameters that are single numbers or integers, shapes with a batch,
    edges with old names. What had to be repaired is listed in
    ``wire.declared(graph)["repaired"]``, neurons of old files without a ``v_reset``, which are read
    as reset to 0, in ``["no_v_reset"]``. The cost is bounded by the size of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For anything that is not a NIR graph, or that leaves its meaning open; one line
            that names the file, the node and the field.
    """
    tree = hdf5.load(path, "node")
    if lacking := [field for field in ("nodes", "edges", "type") if field not in tree]:
        raise ValueError(
            f"{path}: the graph lacks the field {lacking[0]!r}: it is incomplete, as where the "
            "writing of a file broke off; write it again"
        )
    try:
        graph = _graph("", tree)
        flat = expand(graph)
        complete(flat)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    graph = _nest(graph, flat, ())
    found = {REPAIRED: flat.notes, wire.NO_RESET: _without_reset(tree)}
    if said := {key: names for key, names in found.items() if names}:
        graph.metadata[wire.KEY] = json.dumps(wire.declared(graph) | said, sort_keys=True)
    return graph


def write(path: str | os.PathLike[str], graph: nir.NIRGraph) -> None:
    """Write ``graph`` as a NIR file: complete shapes, no half-written file, ``graph`` unchanged.

    Raises:
        ValueError: For a graph that could not be read back; names the node and the field.
        OSError: If the folder cannot be written to.
    """
    flat = expand(graph)
    complete(flat)
    whole = _nest(graph, flat, ())
    said = wire.declared(whole)
    if said.pop(REPAIRED, None) is not None:
        whole.metadata[wire.KEY] = json.dumps(said, sort_keys=True)
    with draft(path) as new:
        nir.write(new, whole)


def _graph(name: str, tree: Any) -> nir.NIRGraph:
    """Return the graph that a tree of plain values describes; sub-graphs too."""
    if not isinstance(tree, dict) or tree.get("type") != "NIRGraph":
        kind = tree.get("type") if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"its root has type {kind!r}; it must be a NIRGraph")
    where = f"sub-graph {name!r}" if name else "the graph"
    for field, kind in (("nodes", dict), ("edges", np.ndarray)):
        if not isinstance(tree.get(field), kind):
            raise ValueError(f"{where} lacks the field {field!r}; give a file from nir.write")
    if extra := tree.keys() - {"type", "nodes", "edges", "metadata", "input_type", "output_type"}:
        raise ValueError(f"{where} has the unknown field {min(extra)!r}")
    edges = tree["edges"]
    if edges.size and (edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype != object):
        raise ValueError(
            f"{where}: edges have the shape {edges.shape}; they must be pairs of names"
        )
    nodes = {
        key: _node(f"{name}.{key}" if name else key, value) for key, value in tree["nodes"].items()
    }
    pairs = [(str(a), str(b)) for a, b in edges] if edges.size else []
    return nir.NIRGraph(nodes, pairs, _metadata(tree), type_check=False)


def _node(name: str, tree: Any) -> nir.NIRNode:
    if not isinstance(tree, dict) or not isinstance(tree.get("type"), str):
        raise ValueError(f"node {name!r} has no type; give a file from nir.write")
    if tree["type"] == "NIRGraph":
        return _graph(name, tree)
    values = {key: value for key, value in tree.items() if key not in ("type", "metadata")}
    return build(name, tree["type"], values | {"metadata": _metadata(tree)})


def _without_reset(tree: dict[str, Any], inside: str = "") -> list[str]:
    """Return the names of the neurons that fire and have no ``v_reset``, in sub-graphs too."""
    found = []
    for key, node in tree["nodes"].items():
        if node["type"] == "NIRGraph":
            found += _without_reset(node, f"{inside}{key}.")
        elif node["type"] in RESETS and "v_reset" not in node:
            found.append(f"{inside}{key}")
    return found


def _metadata(tree: dict[str, Any]) -> dict[str, Any]:
    metadata = tree.get("metadata", {})
    return dict(metadata) if isinstance(metadata, dict) else {}


def _nest(graph: nir.NIRGraph, flat: Flat, path: NodePath) -> nir.NIRGraph:
    """Return ``graph`` with its nodes and edges replaced by the repaired ones of ``flat``."""
    names = {flat.names[p]: p for p in flat.names}
    nodes = {
        name: _nest(node, flat, (*path, name))
        if type(node) is nir.NIRGraph
        else flat.nodes[flat.names[(*path, name)]]
        for name, node in graph.nodes.items()
    }
    if not path:
        nodes |= {name: node for name, node in flat.nodes.items() if name not in names}
    edges = []
    for a, b in flat.edges:
        ends = names.get(a, (a,)), names.get(b, (b,))
        common = _shared(*ends)
        if common == path:
            edges.append((ends[0][len(path)], ends[1][len(path)]))
    return nir.NIRGraph(nodes, edges, dict(graph.metadata), type_check=False)


def _shared(a: NodePath, b: NodePath) -> NodePath:
    """Return the path of the innermost graph that holds both nodes."""
    depth = 0
    while depth < min(len(a), len(b)) - 1 and a[depth] == b[depth]:
        depth += 1
    return a[:depth]
