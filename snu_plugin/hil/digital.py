"""A step of the digital values: any optimiser of torch, whatever the units of chip and loss are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Adam, Optimizer

from snu_plugin.accelerator import Board

OptimizerFactory = Callable[..., Optimizer]
"""Called as ``factory(parameters, lr=...)``: a class of ``torch.optim``, or a ``partial`` of it."""

OptimizerState = Mapping[str, Mapping[str, Any]]
"""What ``Optimizer.state`` holds for each value, by name."""

ACTIVE = 0.1
"""Share of inputs taken to be 1 in a step, for the size of a product. Ours: spikes are sparse."""


class Memory(NamedTuple):
    """What is remembered from one step of the digital values to the next."""

    state: OptimizerState
    """Of the optimiser."""
    units: Mapping[str, float]
    """The size of each value, in which it is stepped; see ``sizes``."""
    scale: float
    """Root mean square of the first gradients, by which all are divided."""


NOTHING = Memory({}, {}, 0.0)
"""Before the first step."""


def sizes(board: Board, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what is a step of 1 for each digital value, by name.

    Gains, thresholds and other factors: their root mean square. Biases, and what else is added to
    a product: the deviation of a product whose inputs are 1 in one step of ten.
    """
    found = {}
    for name, value in board.registers.items():
        node, kind = name.rsplit(".", 1)
        if kind in ("bias", "adapter_out"):
            rows = weights[node].flatten(1)
            size = math.sqrt(ACTIVE * float(rows.square().sum(1).mean()))
        else:
            size = float(value.square().mean().sqrt())
        found[name] = size if 0 < size < math.inf else 1.0
    return found


def step(
    board: Board,
    gradients: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    memory: Memory,
    lr: float,
    optimizer: OptimizerFactory = Adam,
) -> tuple[dict[str, Tensor], Memory]:
    """Return the digital values after a step of size ``lr``, and what to remember.

    Each value is stepped in a unit of its own, and gradients are divided by the size of the first
    ones; so neither the unit of a threshold nor the scale of a loss changes where a step leads.
    """
    values = board.registers
    units = memory.units or sizes(board, weights)
    scaled = {name: gradients[name] * units[name] for name in values}
    scale = memory.scale
    if not scale:
        every = torch.cat([g.flatten() for g in scaled.values()]).double()
        scale = float(every.square().mean().sqrt()) or 1.0
    in_units = {name: value / units[name] for name, value in values.items()}
    shares = {name: value / scale for name, value in scaled.items()}
    stepped, state = optimised(in_units, shares, memory.state, lr, optimizer)
    moved = {name: value * units[name] for name, value in stepped.items()}
    return moved, Memory(state, units, scale)


def optimised(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: OptimizerState,
    lr: float,
    optimizer: OptimizerFactory,
) -> tuple[dict[str, Tensor], OptimizerState]:
    """Return values after a step of an optimiser, and its state, by name; all as values."""
    parameters = {name: Parameter(value) for name, value in values.items()}
    stepper = optimizer(list(parameters.values()), lr=lr)
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
        if name in state:
            stepper.state[parameter] = {
                key: kept.clone() if isinstance(kept, Tensor) else kept
                for key, kept in state[name].items()
            }
    stepper.step()
    after = {name: dict(stepper.state[parameter]) for name, parameter in parameters.items()}
    return {name: p.detach() for name, p in parameters.items()}, after
