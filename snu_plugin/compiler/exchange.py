"""NIR files as the source of programs: compiled again, or given new weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import nir
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accelerator import Program, Scaling, adapter_of
from snu_plugin.compiler.compilation import compile_checked
from snu_plugin.compiler.rules import Chips
from snu_plugin.graph import discretise_checked, from_bytes


def compile_source(
    source: bytes, chip: Chips, scaling: Scaling, dt: float | None, outliers: float = 0.0
) -> Program:
    """Compile the NIR file ``source`` again; gives the program it was stored with."""
    graph = from_bytes(source)
    return compile_checked(graph, discretise_checked(graph, dt), chip, scaling, outliers)


def restore(
    source: bytes, weights: Mapping[str, Tensor], registers: Mapping[str, Tensor]
) -> nir.NIRGraph:
    """Return the graph of ``source``, flat, with other weights, biases and thresholds.

    An adapter becomes two nodes beside its layer. Its edges come right after those of the layer, so
    that sums of two are equal to the chip's; of more, within the rounding of another order.

    Args:
        source: The NIR file that was compiled.
        weights: By node, in the graph's shapes, digital gain included.
        registers: Digital values by name: ``<node>.bias``, ``<node>.threshold`` and
            ``<node>.adapter_in`` with ``<node>.adapter_out`` are taken.
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
    edges = list(graph.edges)
    for name in weights:
        if (values := adapter_of(registers, name)) is not None:
            edges = _with_adapter(nodes, edges, name, *values)
    return nir.NIRGraph(nodes, edges, graph.declaring({}), type_check=False)


def _with_adapter(
    nodes: dict[str, nir.NIRNode],
    edges: list[tuple[str, str]],
    name: str,
    into: Tensor,
    out: Tensor,
) -> list[tuple[str, str]]:
    """Add an adapter to ``nodes``; return the edges that join it beside its layer."""
    layer = nodes[name]
    first, second = (_unused(nodes, f"{name}_adapter_{side}") for side in ("in", "out"))
    a, b = (value.numpy().astype(np.float64) for value in (into, out))
    if isinstance(layer, (nir.Conv1d, nir.Conv2d)):
        kind, kernel = type(layer), a.reshape(len(a), *layer.weight.shape[1:])
        nodes[first] = kind(
            layer.input_shape, kernel, layer.stride, layer.padding, layer.dilation, 1,
            np.zeros(len(a)),
        )  # fmt: skip
        point = b.reshape(*b.shape, *(1,) * (layer.weight.ndim - 2))
        nodes[second] = kind(None, point, 1, 0, 1, 1, np.zeros(len(b)))
    else:
        nodes[first], nodes[second] = nir.Linear(a), nir.Linear(b)
    joined = []
    for source, end in edges:
        joined.append((source, end))
        if end == name:
            joined.append((source, first))
        if source == name:
            joined.append((second, end))
        if source == end == name:
            joined.append((second, first))
    return [*joined, (first, second)]


def _unused(nodes: Mapping[str, nir.NIRNode], name: str) -> str:
    """Return a name that no node has."""
    while name in nodes:
        name += "_"
    return name


def _array(value: Tensor, like: NDArray[np.floating]) -> NDArray[np.floating]:
    return value.numpy().astype(np.float64).reshape(like.shape)
