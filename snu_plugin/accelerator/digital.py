"""What runs in digital beside the crossbars: neurons, and relays that only shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from snu_plugin.accelerator.program import Neurons, Relay
from snu_plugin.neuron.euler import euler_scan
from snu_plugin.neuron.wiring import Node


def node(op: Neurons | Relay, threshold: Tensor | None) -> Node:
    """Return what a digital operation computes; ``threshold`` replaces the compiled one."""
    if isinstance(op, Relay):
        return _relay(op)
    euler = op.euler if threshold is None else replace(op.euler, threshold=threshold)
    return lambda x, state: euler_scan(x, euler, state)


def _relay(op: Relay) -> Node:
    def relay(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y = x if op.scale is None else x * op.scale
        return y.reshape(*y.shape[:2], *op.shape), state

    return relay
