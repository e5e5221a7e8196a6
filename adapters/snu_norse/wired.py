"""Cells wired as a NIR graph wires its nodes, where that is no chain."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import Tensor, nn

from snu_plugin.graph.layers import HostNetwork, Signal, host_network_node, to_node
from snu_plugin.schedule import WiringState


class Wired(HostNetwork):
    """One step of cells in any wiring: ``y, state = net(x, state=None)``.

    ``x`` and ``y`` are ``(B, *shape)``, or dicts of these by node name for a graph with several
    Inputs or Outputs. Norse's ``SequentialState`` and ``RecurrentSequential`` cannot say such a
    wiring.
    """

    def forward(
        self, input_tensor: Signal, state: WiringState | None = None
    ) -> tuple[Signal, WiringState]:
        cells = zip(self.names, self.cells, strict=True)
        nodes = {name: partial(_step, cell) for name, cell in cells}
        return self.advance(nodes, input_tensor, state)


to_node.register(Wired, host_network_node)


def _step(cell: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Call a cell, with its state if it has one, as the wiring calls its nodes."""
    if "state" in inspect.signature(cell.forward).parameters:
        y, state = cell(x[0], state)
        return y[None], state
    return cell(x[0])[None], None
