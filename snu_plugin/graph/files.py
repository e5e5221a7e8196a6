"""NIR files read, whatever wrote them, and written, all or nothing; or as bytes in memory."""

from __future__ import annotations

import io
import os
from typing import Any

import nir
import numpy as np

from snu_plugin.files import draft
from snu_plugin.graph import hdf5
from snu_plugin.graph.flattening import CheckedGraph, checked_graph, expand, nest, sealed
from snu_plugin.graph.metadata import NO_RESET, REPAIRED, declare, declared
from snu_plugin.graph.shapes import Flat, complete
from snu_plugin.graph.validate import build

RESETS = ("IF", "LIF", "CubaLIF")
"""Types of nodes that have a ``v_reset`` since nir 1.0.6."""


def read(path: str | os.PathLike[str]) -> nir.NIRGraph:
    """Return the graph in a NIR file, with complete shapes and finite numbers.

    Reads what ``nir.read`` reads, and also: the ``SNU`` extension node, sub-graphs whose types
    disagree, missing shapes, parameters that are single numbers or integers, shapes with a batch,
    edges with old names. What had to be repaired is listed in
    ``declared(graph)["repaired"]``, neurons of old files without a ``v_reset``, which are read
    as reset to 0, in ``["no_v_reset"]``. The cost is bounded by the size of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For anything that is not a NIR graph, or that leaves its meaning open; one line
            that names the file, the node and the field.
    """
    return _loaded(path)[0]


def write(path: str | os.PathLike[str], graph: nir.NIRGraph) -> None:
    """Write ``graph`` as a NIR file: complete shapes, no half-written file, ``graph`` unchanged.

    Raises:
        ValueError: For a graph that could not be read back; names the node and the field.
        OSError: If the folder cannot be written to.
    """
    write_checked(path, checked_graph(graph))


def write_checked(path: str | os.PathLike[str], graph: CheckedGraph) -> None:
    """Write a checked graph as a NIR file; see ``write``."""
    with draft(path) as new:
        nir.write(new, _to_write(graph))


def from_bytes(source: bytes) -> CheckedGraph:
    """Return the graph in the bytes of a NIR file; see ``read``.

    Raises:
        ValueError: As ``read`` does.
    """
    return sealed(*_loaded(source))


def to_bytes(graph: CheckedGraph) -> bytes:
    """Return a graph as the bytes of a NIR file."""
    memory = io.BytesIO()
    nir.write(memory, _to_write(graph))
    return memory.getvalue()


def _loaded(source: str | os.PathLike[str] | bytes) -> tuple[nir.NIRGraph, Flat]:
    """Return the graph in a file, complete, with what was repaired in its metadata; and flat."""
    place = hdf5.place_of(source)
    tree = hdf5.load(source, "node")
    try:
        graph = _graph("", tree)
        flat = expand(graph, rebuilt=True)
        complete(flat)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    graph = nest(graph, flat)
    found = {REPAIRED: flat.notes, NO_RESET: _without_reset(tree)}
    if entries := {key: names for key, names in found.items() if names}:
        declare(graph, declared(graph) | entries)
    flat.notes = []
    return graph, flat


def _to_write(graph: CheckedGraph) -> nir.NIRGraph:
    """Return what a file holds: the whole graph, without a word on what had to be repaired."""
    whole = graph.nested
    if REPAIRED not in graph.declared:
        return whole
    entries = {key: value for key, value in graph.declared.items() if key != REPAIRED}
    copied = nir.NIRGraph(whole.nodes, whole.edges, dict(whole.metadata), type_check=False)
    return declare(copied, entries)


def _graph(name: str, tree: dict[str, Any]) -> nir.NIRGraph:
    """Return the graph that a tree of plain values describes; sub-graphs too."""
    where = f"sub-graph {name!r}" if name else "the graph"
    for field, kind in (("nodes", dict), ("edges", np.ndarray), ("type", object)):
        if field not in tree or not isinstance(tree[field], kind):
            raise ValueError(
                f"{where} lacks the field {field!r}: it is incomplete, as where the writing of a "
                "file broke off; write it again"
            )
    if tree["type"] != "NIRGraph":
        raise ValueError(f"its root has type {tree['type']!r}; it must be a NIRGraph")
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
        raise ValueError(
            f"node {name!r} has no type: it is incomplete, as where the writing of a file broke "
            "off; write it again"
        )
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
