"""A NIR graph as the bytes of a file, and back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nir

from snu_plugin.graph import read, write


def as_file(graph: nir.NIRGraph) -> bytes:
    """Return ``graph`` as the bytes of a NIR file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        write(path, graph)
        return path.read_bytes()


def from_file(source: bytes) -> nir.NIRGraph:
    """Return the graph in the bytes of a NIR file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.nir"
        path.write_bytes(source)
        return read(path)
