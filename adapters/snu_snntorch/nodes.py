"""Nodes of NIR that no snnTorch layer computes, as modules that keep their states as such do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import nir
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    DiscreteGraph,
    HostNetwork,
    Signal,
    batch_axes,
    host_network_node,
    rescale_dt,
    to_node,
    with_parameters,
)
from snu_plugin.schedule import WiringState
from snu_snntorch.stateful import Stateful


class Node(Stateful):
    """One step of a NIR node, ``(B, *shape)`` in and out; ``reset_mem()`` begins a new sequence.

    Its state is no ``mem``: what snnTorch puts there only says that a new sequence begins.

    Args:
        node: The node, kept for export; IF and I in the reading ``v += dt r x``.
        dt: Seconds per step for which ``over_time`` was made; ``None`` if it depends on none.
        over_time: The node over sequences, ``y, state = over_time(x, state)``.
        recurrent_weights: Weights from the last output to the input, ``(features, features)``,
            row = receiving unit.
    """

    def __init__(
        self,
        node: nir.NIRNode,
        dt: float | None,
        over_time: nn.Module,
        recurrent_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.node, self.dt, self.over_time = node, dt, over_time
        weights = None if recurrent_weights is None else nn.Parameter(recurrent_weights)
        self.recurrent_weights = weights
        self.reset_mem()

    def reset_mem(self) -> None:
        """Forget the state; the next call is a first step."""
        self.state: Any = None
        self.spk: Tensor | None = None
        self.leave(self.mem)

    def forward(self, input_: Tensor) -> Tensor:
        if self.touched():
            self.reset_mem()
        x = input_
        if self.recurrent_weights is not None and self.spk is not None:
            x = x + F.linear(self.spk, self.recurrent_weights)
        (y,), self.state = self.over_time(x[None], self.state)
        self.spk = y
        return self.spk

    def extra_repr(self) -> str:
        return f"{type(self.node).__name__}, recurrent={self.recurrent_weights is not None}"


class Wired(HostNetwork, Stateful):
    """One step of layers wired as a NIR graph wires its nodes, where that is no chain.

    ``x`` and ``y`` are ``(B, *shape)``, or dicts of these by node name for a graph with several
    Inputs or Outputs. ``reset_mem()`` begins a new sequence, for the wiring and for its layers.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: DiscreteGraph) -> None:
        super().__init__(cells, discrete)
        self.reset_mem()

    def reset_mem(self) -> None:
        """Forget the states; the next call is a first step."""
        self.state: WiringState | None = None
        self.leave(self.mem)
        for cell in self.cells:
            zero = getattr(cell, "reset_mem", None)
            if callable(zero):
                zero()

    def forward(self, input_: Signal) -> Signal:
        if self.touched():
            self.reset_mem()
        cells = zip(self.names, self.cells, strict=True)
        nodes = {name: partial(_step, cell) for name, cell in cells}
        y, self.state = self.advance(nodes, input_, self.state)
        return y


def _step(cell: nn.Module, x: Tensor, state: None) -> tuple[Tensor, None]:
    """Call a layer that keeps its own state as the wiring calls its nodes."""
    return cell(x[0])[None], None


to_node.register(Wired, host_network_node)


@to_node.register
def _node(module: Node, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    node = rescale_dt(module.node, module.dt, dt)
    return with_parameters(node, module.over_time.named_parameters(), module.recurrent_weights)


@batch_axes.register
def _(module: Node, x: Tensor) -> int | None:
    return x.dim() - len(module.node.input_type["input"])
