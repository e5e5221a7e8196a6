"""NIR files as the source of programs: compiled again, or given new weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import nir
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accelerator import Program, Scaling
from snu_plugin.compiler.chips import Chips
from snu_plugin.compiler.compilation import compile_checked
from snu_plugin.graph import discretise_checked, from_bytes


def compile_source(source: bytes, chip: Chips, scaling: Scaling, dt: float | None) -> Program:
    """Compile the NIR file ``source`` again; gives the program it was stored with."""
    graph = from_bytes(source)
    return compile_checked(graph, discretise_checked(graph, dt), chip, scaling)


def restore(
    source: bytes, weights: Mapping[str, Tensor], registers: Mapping[str, Tensor]
) -> nir.NIRGraph:
    """Return the graph of ``source``, flat, with other weights, biases and thresholds.

    Args:
        source: The NIR file that was compiled.
        weights: By node, in the graph's shapes, digital gain included.
        registers: Digital values by name: ``<node>.bias`` and ``<node>.threshold`` are taken.
    """
    graph = from_bytes(source)
    nodes = {name: copy.deepcopy(node) for name, node in graph.nodes.items()}
    for name, weight in weights.items():
        nodes[name].weight = _array(weight, nodes[name].weight)
    for register, value in registers.items():
        name, field = register.rsplit(".", 1)
        if field == "bias":
            nodes[name].bias = _array(value, nodes[name].bias)
        elif field == "threshold":
            slot = "v_threshold" if hasattr(nodes[name], "v_threshold") else "threshold"
            setattr(nodes[name], slot, _array(value, getattr(nodes[name], slot)))
    return nir.NIRGraph(nodes, list(graph.edges), graph.flat_metadata, type_check=False)


def _array(value: Tensor, like: NDArray[np.floating]) -> NDArray[np.floating]:
    return value.numpy().astype(np.float64).reshape(like.shape)
