"""How far a graph with approximate nodes is from its model, measured on data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import torch
from torch import Tensor, nn

from snu_plugin.graph.metadata import (
    APPROXIMATE,
    declare,
    declared,
)
from snu_plugin.graph.reference_network import network
from snu_plugin.graph.tracing.calling import Sample, detached_copy, standing_in
from snu_plugin.graph.tracing.traced_tensor import tensors

ROUNDING = 1e-5
"""Real-valued outputs that are nearer, relative to the largest, do not count as different."""


def approximated(
    model: nn.Module,
    sample: Sample | None,
    export: Callable[[Tensor, dict[str, str]], nir.NIRGraph],
    run: Callable[[nn.Module, Tensor, bool], Any],
    cells: tuple[type, ...],
) -> nir.NIRGraph:
    """Return a graph whose nodes may be near to the model's only, and which says how far it is.

    Args:
        model: As its user calls it; stays as it is.
        sample: Data, ``(T, B, ...)``.
        export: Returns the graph for a sample as the model takes it, and takes up why nodes are not
            exact, by name; with none nothing is measured.
        run: Returns what a copy of the model gives for data ``(T, B, ...)``, its outputs first;
            told whether it takes single steps.
        cells: Types of modules that advance one step in a call.

    Raises:
        ValueError: If the sample, or what the model gives for it, is no sequence.
    """
    x, reasons = _checked_sequence(sample), dict[str, str]()
    single = bool(cells) and _runs_single_steps(model, x, cells)
    graph = export(x[0] if single else x, reasons)
    if not reasons:
        return graph
    with torch.no_grad():
        y = next(tensors(run(detached_copy(model).eval(), x, single)))
        actual = network(graph, dtype=torch.float32)(x)[0]
    if not isinstance(actual, Tensor) or actual.shape != y.shape:
        shape = tuple(actual.shape) if isinstance(actual, Tensor) else "several outputs"
        raise ValueError(
            f"the model gives {tuple(y.shape)} for a sample of {tuple(x.shape)}, its graph {shape};"
            " approximate=True measures on a sample (T, B, ...), T at least 2"
        )
    far = (actual - y).abs() > ROUNDING * y.abs().max()
    found = {
        "nodes": dict(reasons),
        "differing": float(far.double().mean()),
        "steps": x.shape[0],
        "batch": x.shape[1],
    }
    return declare(graph, declared(graph) | {APPROXIMATE: found})


def _checked_sequence(sample: Sample | None) -> Tensor:
    """Return a sample that differences can be measured on.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(sample, Tensor) and sample.dim() > 2 and len(sample) > 1 and sample.numel():
        return sample
    given = "None" if sample is None else "no tensor"
    given = f"of shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else given
    raise ValueError(
        f"sample is {given}; approximate=True measures what it costs: give data, "
        "(T, B, ...) with T at least 2"
    )


@torch.no_grad()
def _runs_single_steps(model: nn.Module, x: Tensor, network: tuple[type, ...]) -> bool:
    """Tell whether a model takes one step, ``(B, ...)``, and not a sequence ``(T, B, ...)``.

    Args:
        model: Stays as it is; a copy runs.
        x: Data, ``(T, B, ...)``.
        network: Types of modules that advance one step in a call.
    """
    copied_from, model = model, detached_copy(model)
    calls = {m: 0 for m in model.modules() if isinstance(m, network)}

    def count(module: nn.Module, *_: object) -> None:
        calls[module] += 1

    for module in calls:
        module.register_forward_hook(count)
    try:
        with standing_in(copied_from, model):
            model(x[0, :1].expand(2, *x.shape[2:]))  # two: a loop over time calls it twice
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(calls) and max(calls.values()) == 1
