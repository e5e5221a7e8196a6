"""What runs in digital beside the crossbars: neurons, and all that needs no devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snu_plugin.accelerator.program import Digital, Neurons, Program
from snu_plugin.neuron import euler_scan
from snu_plugin.schedule import Node, run


def node(op: Neurons | Digital, threshold: Tensor | None) -> Node:
    """Return what a digital operation computes; ``threshold`` replaces the compiled one."""
    if isinstance(op, Digital):
        return op.compute
    euler = op.euler if threshold is None else replace(op.euler, threshold=threshold)
    return lambda x, state: euler_scan(x, euler, state)


def play(
    layout: Program, nodes: Mapping[str, Node], inputs: Mapping[str, Tensor], steps: int
) -> dict[str, Tensor]:
    """Run a network over so many ``steps`` at a time; returns the values of all nodes."""
    parts, state = [], None
    for t in range(0, len(next(iter(inputs.values()))), steps):
        now = {name: value[t : t + steps] for name, value in inputs.items()}
        values, state = run(layout.wiring, nodes, now, layout.shapes, state)
        parts.append(values)
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
