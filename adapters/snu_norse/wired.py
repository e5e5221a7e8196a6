"""Cells wired as a NIR graph wires its nodes, where that is no chain."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.graph import Discrete
from snu_plugin.neuron.wiring import WiringState, run

Signal = Tensor | dict[str, Tensor]


class Wired(nn.Module):
    """One step of cells in any wiring: ``y, state = net(x, state=None)``.

    ``x`` and ``y`` are ``(B, *shape)``, or dicts of these by node name for a graph with several
    Inputs or Outputs. Of each cycle one edge carries the value of the last step, nothing at first.
    Norse's ``SequentialState`` and ``RecurrentSequential`` cannot say such a wiring.

    Args:
        cells: A module for each node: one step, with a ``state`` argument where it has one.
        discrete: The graph that the nodes are from.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: Discrete) -> None:
        super().__init__()
        self.names = tuple(cells)
        self.cells = nn.ModuleList(cells.values())
        self.wiring, self.shapes = discrete.wiring, discrete.shapes
        self.inputs, self.outputs = discrete.inputs, discrete.outputs

    def forward(
        self, input_tensor: Signal, state: WiringState | None = None
    ) -> tuple[Signal, WiringState]:
        x = input_tensor if isinstance(input_tensor, dict) else {self.inputs[0]: input_tensor}
        y, state = self.sequence({name: value[None] for name, value in x.items()}, state)
        step = {name: value[0] for name, value in y.items()}
        return step[self.outputs[0]] if len(self.outputs) == 1 else step, state

    def sequence(
        self, x: dict[str, Tensor], state: WiringState | None = None
    ) -> tuple[dict[str, Tensor], WiringState]:
        """Run sequences ``(T, B, *shape)``, one by Input name, and return those of the Outputs.

        Raises:
            ValueError: If the names are not those of the Inputs.
        """
        if x.keys() != set(self.inputs):
            raise ValueError(
                f"x is given for {', '.join(map(repr, x))}; the Inputs of the graph are "
                f"{', '.join(map(repr, self.inputs))}: give a dict with one tensor for each"
            )
        nodes = {
            name: partial(over_time, cell)
            for name, cell in zip(self.names, self.cells, strict=True)
        }
        return run(self.wiring, nodes, x, self.shapes, state, keep=self.outputs)


def over_time(cell: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Run a one-step module over ``x``, ``(T, B, ...)``; one without a state over all T at once.

    Sums of the latter are rounded as in the strict reference, where stepping may differ in the
    last bit.
    """
    if "state" not in inspect.signature(cell.forward).parameters:
        y: Tensor = cell(x.flatten(0, 1))
        return y.reshape(*x.shape[:2], *y.shape[1:]), None
    outputs = []
    for x_t in x:
        y, state = cell(x_t, state)
        outputs.append(y)
    return torch.stack(outputs), state
