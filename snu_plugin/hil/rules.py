"""What changes a chip: preparations, done once, and rules of updates: from gradients to pulses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from snu_plugin.accelerator import Board, device_model
from snu_plugin.accepted import by_known_names

Weights = Mapping[str, Tensor]
"""A value for each weight by node, in the graph's shapes."""


@runtime_checkable
class Preparation(Protocol):
    """What is done once to a chip before the first update: a value, e.g. a recalibration."""

    def begin(self, board: Board) -> None:
        """Change the chip."""


@runtime_checkable
class Rule(Protocol):
    """An update rule: a value that turns gradients into pulses."""

    def start(self, board: Board) -> Any:
        """Return the rule's digital memory before the first update."""

    def update(self, board: Board, memory: Any, gradients: Weights) -> Any:
        """Pulse the devices and return the memory after the update."""


Way = Preparation | Rule
"""What changes a chip."""


def in_turn(rule: Way | Sequence[Way]) -> tuple[list[Preparation], Rule]:
    """Return what is done before the first update, and the update rule.

    Args:
        rule: One value, or preparations in their order with at most one update rule behind them;
            without one, the rule is ``DigitalOnly()``.

    Raises:
        TypeError: For a value that is neither, or that comes behind the update rule.
    """
    given: list[Any] = [rule]
    if isinstance(rule, Sequence) and not isinstance(rule, str):
        given = list(rule)
    preparations: list[Preparation] = []
    for at, way in enumerate(given, 1):
        if isinstance(way, type):
            raise TypeError(f"rule holds the class {way.__name__}; give a value, {way.__name__}()")
        if isinstance(way, str):
            raise TypeError(f"rule holds the text {way!r}; give a value, such as MixedPrecision()")
        if isinstance(way, Preparation):
            preparations.append(way)
        elif isinstance(way, Rule) and at == len(given):
            return preparations, way
        else:
            why = "an update rule comes last" if isinstance(way, Rule) else "it is neither"
            raise TypeError(
                f"rule holds {way!r} in place {at} of {len(given)}; give preparations (begin) and "
                f"then at most one update rule (start and update): {why}"
            )
    return preparations, DigitalOnly()


@runtime_checkable
class Bounded(Protocol):
    """A rule that knows the most pulses it may spend."""

    def worst(self, board: Board) -> Mapping[str, int]:
        """Return the most pulses of an update, by node."""


def weights_of(board: Board) -> dict[str, int]:
    """Return how many weights each node has."""
    return {n: math.prod(op.geometry.shape) for n, op in board.layout.products.items()}


def most_of(board: Board, node: str) -> int:
    """Return the pulses that fill a device, more than which no update gives one."""
    return math.ceil(device_model(board.layout.products[node].chip).response.full)


@by_known_names
@dataclass(frozen=True, kw_only=True)
class DigitalOnly:
    """Spend no pulse: only gains, biases and thresholds move, which can be set back."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return no memory: the rule keeps none."""
        return {}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Leave the devices as they are."""
        return {}
