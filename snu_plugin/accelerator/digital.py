"""What runs in digital beside the crossbars: neurons, and all that needs no devices."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from snu_plugin.accelerator.program import Digital, Neurons
from snu_plugin.neuron.euler import euler_scan
from snu_plugin.neuron.wiring import Node


def node(op: Neurons | Digital, threshold: Tensor | None) -> Node:
    """Return what a digital operation computes; ``threshold`` replaces the compiled one."""
    if isinstance(op, Digital):
        return op.compute
    euler = op.euler if threshold is None else replace(op.euler, threshold=threshold)
    return lambda x, state: euler_scan(x, euler, state)
