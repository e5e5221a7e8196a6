"""A NIR graph run in Norse, through our importer and through Norse's own."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import nir
import torch
from norse.torch.utils.import_nir import from_nir as stock_from_nir
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_norse.importing import from_nir
from snu_norse.wired import Wired
from snu_plugin.graph.layers import SNU, SRC
from snu_plugin.schedule import aligned

Array = NDArray[Any]


def simulate(graph: nir.NIRGraph, x: Array, dt: float | None = None) -> Array:
    """Run ``graph`` as ``from_nir`` imports it, step by step.

    Args:
        graph: The graph, not changed.
        x: Inputs, ``(T, B, *shape)``; run in torch's default type.
        dt: Seconds per step; ``None``: see ``from_nir``.

    Returns:
        Outputs, ``(T, B, *shape)``.

    Raises:
        ValueError: As ``from_nir``, and for a graph with several Inputs or Outputs.
    """
    net = from_nir(graph, dt)
    for layer in net:
        if isinstance(layer, Wired):
            _check_ports(layer)
    with torch.no_grad():
        return _stepped(net, torch.tensor(x, dtype=torch.get_default_dtype()))


def simulate_stock(graph: nir.NIRGraph, x: Array, dt: float | None = None) -> Array:
    """Run ``graph`` as ``norse.torch.from_nir`` imports it, right or wrong.

    Nothing is repaired: what Norse drops (N8), ignores (N4, N6) or miscounts (N9) shows in the
    outputs or as its own error.

    Args:
        graph: The graph, not changed; Norse is given a copy.
        x: Inputs, ``(T, B, *shape)``.
        dt: Seconds per step; ``None`` is Norse's default.

    Returns:
        Outputs, ``(T, B, *shape)``.

    Raises:
        ValueError: For a graph with extension nodes: no file of it reaches Norse's importer.
        Exception: Whatever Norse raises.
    """
    name = _extension(graph)
    if name is not None:
        raise ValueError(
            f"node {name!r} is an extension node, which nir.read refuses; Norse's own importer "
            "gets no such file"
        )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # nirtorch.load, which Norse calls
        net = stock_from_nir(copy.deepcopy(graph), **({} if dt is None else {"dt": dt}))
        return _stepped(net, torch.tensor(x, dtype=torch.float32))


def _stepped(net: nn.Module, x: Tensor) -> Array:
    state, outputs = None, []
    for x_t in map(aligned, x):
        y, state = net(x_t, state)
        outputs.append(y)
    stacked: Array = torch.stack(outputs).numpy()
    return stacked


def _check_ports(net: Wired) -> None:
    if len(net.inputs) != 1 or len(net.outputs) != 1:
        raise ValueError(
            f"the graph has {len(net.inputs)} Inputs and {len(net.outputs)} Outputs; simulate "
            "takes one of each: run snu_norse.from_nir with dicts by name"
        )


def _extension(graph: nir.NIRGraph, inside: str = "") -> str | None:
    """Return the name of a node of our own type, in sub-graphs too."""
    for key, node in graph.nodes.items():
        name = f"{inside}{key}"
        if isinstance(node, (SNU, SRC)):
            return name
        found = _extension(node, f"{name}.") if isinstance(node, nir.NIRGraph) else None
        if found is not None:
            return found
    return None
