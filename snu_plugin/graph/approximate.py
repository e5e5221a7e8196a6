"""Exports that are asked for although NIR cannot say exactly what a module does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import nir
import torch
from torch import Tensor, nn

from snu_plugin.graph import wire
from snu_plugin.graph.reference_network import network
from snu_plugin.graph.trace import detached

ENTRY = "approximate"
"""Entry of our metadata that says what left approximately, and what came of it."""

ROUNDING = 1e-5
"""Real-valued outputs that are nearer, relative to the largest, do not count as different."""


@singledispatch
def nearest(module: object, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the NIR node that is nearest to a module which ``to_node`` refuses.

    Adapters add rules for neurons whose reset NIR has no word for; see ``to_node`` for the
    arguments.

    Raises:
        TypeError: If there is no rule: the module stays refused.
        ValueError: If something else than the reset cannot be said.
    """
    raise TypeError(
        f"no nearest NIR node for {type(module).__qualname__}; add one with @nearest.register"
    )


def measured(graph: nir.NIRGraph, reasons: Mapping[str, str], x: Tensor, y: Tensor) -> nir.NIRGraph:
    """Record in the metadata of ``graph`` how far it is from the model; returns the same graph.

    Args:
        graph: What ``export.graph_of`` gave.
        reasons: Why each node, by name, is not exact; with none nothing is recorded.
        x: Data, ``(T, B, ...)``.
        y: What the model gives for it, ``(T, B, ...)``.

    Raises:
        ValueError: If ``y`` is no such sequence.
    """
    if not reasons:
        return graph
    with torch.no_grad():
        actual = network(graph, dtype=torch.float32)(x)[0]
    if not isinstance(actual, Tensor) or actual.shape != y.shape:
        shape = tuple(actual.shape) if isinstance(actual, Tensor) else "several outputs"
        raise ValueError(
            f"the model gives {tuple(y.shape)} for a sample of {tuple(x.shape)}, its graph {shape};"
            " approximate=True measures on a sample (T, B, ...), T at least 2"
        )
    far = (actual - y).abs() > ROUNDING * y.abs().max()
    told = {
        "nodes": dict(reasons),
        "differing": float(far.double().mean()),
        "steps": x.shape[0],
        "batch": x.shape[1],
    }
    said = wire.declared(graph) | {ENTRY: told}
    graph.metadata[wire.KEY] = json.dumps(said, sort_keys=True)
    return graph


def admitted(said: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each node that left approximately, from what a graph declares."""
    told = said.get(ENTRY)
    nodes = told.get("nodes") if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(nodes, dict):
        return {}
    share = told.get("differing")
    found = f"{share:.2%}" if isinstance(share, float) else "an unknown share"
    return {
        str(name): f"{reason}; exported as the nearest NIR node: {found} of the graph's outputs "
        f"differed, over {told.get('steps')} steps of {told.get('batch')} sequences"
        for name, reason in nodes.items()
    }


def data(sample: Tensor | None) -> Tensor:
    """Return a sample that differences can be measured on.

    Raises:
        ValueError: If it is none.
    """
    if sample is None or sample.dim() < 3 or len(sample) < 2 or not sample.numel():
        given = "None" if sample is None else f"of shape {tuple(sample.shape)}"
        raise ValueError(
            f"sample is {given}; approximate=True measures what it costs: give data, "
            "(T, B, ...) with T at least 2"
        )
    return sample


@torch.no_grad()
def takes_steps(model: nn.Module, x: Tensor, cells: tuple[type, ...]) -> bool:
    """Tell whether a model takes one step, ``(B, ...)``, and not a sequence ``(T, B, ...)``.

    Args:
        model: Stays as it is; a copy runs.
        x: Data, ``(T, B, ...)``.
        cells: Types of modules that advance one step in a call.
    """
    model = detached(model)
    calls = {m: 0 for m in model.modules() if isinstance(m, cells)}

    def count(module: nn.Module, *_: object) -> None:
        calls[module] += 1

    for module in calls:
        module.register_forward_hook(count)
    try:
        model(x[0, :1].expand(2, *x.shape[2:]))  # two: a loop over time calls its cells twice
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(calls) and max(calls.values()) == 1
