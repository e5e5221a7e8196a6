"""How a wanted change of the weights becomes pulses on the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from snu_plugin.accelerator.board import Board
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.pulses import CEILING_US

Weights = Mapping[str, Tensor]
"""A value for each weight, ``(out, in)`` by node."""


class Rule(Protocol):
    """An update rule: a value that turns gradients into pulses."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return the rule's digital memory before the first update."""

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Pulse the devices and return the memory after the update."""


def credited_us(chip: Chip) -> float:
    """Return the change in µS that one SET pulse is counted as.

    0.75 µS on devices of 12 µS (srnn-pcm 2d91783), in proportion on others; the exact step where
    the chip's pulses are linear. The mean measured step is about that size after five pulses.
    """
    if chip.pulse == "linear":
        return chip.pulse_step_us
    scale = 1.0 if chip.fit == "nandakumar2018" else chip.g_max_us / CEILING_US
    return 0.75 * scale


def steps(board: Board) -> dict[str, Tensor]:
    """Return the weight that one pulse is credited with, ``(out, in)`` by node."""
    size = credited_us(board.layout.chip)
    return {
        name: (op.weight_per_us * size).float() * board.registers[f"{name}.gain"][:, None]
        for name, op in board.layout.products.items()
    }


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """Accumulate in digital, transfer whole pulses: Nandakumar et al., Front. Neurosci. 14, 2020.

    ``chi -= lr D``; ``n = trunc(chi / eps)``; ``chi -= n eps``; ``|n|`` blind SET pulses on G+
    (n > 0) or G- (n < 0), ``eps`` the credited step. Source: ``pcm_accelerator`` section 8.1.
    """

    lr: float = 0.1
    """Learning rate of the weights, in weight per unit of gradient. Pulses are coarse and noisy:
    far larger rates write more error than they remove."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return an empty accumulator for every weight."""
        return {n: torch.zeros(op.weight.shape) for n, op in board.layout.products.items()}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Accumulate, transfer whole steps as pulses, keep the remainder."""
        eps = steps(board)
        chi = {name: memory[name] - self.lr * gradients[name] for name in memory}
        counts = {name: torch.trunc(chi[name] / eps[name]) for name in chi}
        board.pulse({name: n.int() for name, n in counts.items() if bool(n.any())})
        return {name: chi[name] - counts[name] * eps[name] for name in chi}


@dataclass(frozen=True, kw_only=True)
class SignPulses:
    """One pulse against the sign of every gradient larger than ``threshold`` (srnn-pcm)."""

    threshold: float = 0.0
    """Least magnitude of the gradient that causes a pulse."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return no memory: the rule keeps none."""
        return {}

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Pulse G+ where the gradient is below -threshold, G- where it is above threshold."""
        board.pulse(
            {n: -torch.sign(d).int() * (d.abs() > self.threshold) for n, d in gradients.items()}
        )
        return {}


@dataclass(frozen=True, kw_only=True)
class ProgramVerify:
    """Train digital copies of the weights and pulse the devices after them, reading each time.

    An upper bound on accuracy at the worst cost: every update reads all weights back.
    """

    lr: float = 0.1
    """Learning rate of the digital copies."""
    most: int = 3
    """Most pulses a device gets in one update."""

    def start(self, board: Board) -> dict[str, Tensor]:
        """Return a first reading as the digital copies."""
        return board.read_weights()

    def update(self, board: Board, memory: Weights, gradients: Weights) -> dict[str, Tensor]:
        """Move the copies, read the chip, and pulse what lags a whole step behind."""
        wanted = {name: memory[name] - self.lr * gradients[name] for name in memory}
        seen, eps = board.read_weights(), steps(board)
        counts = {
            n: torch.trunc((wanted[n] - seen[n]) / eps[n]).clamp(-self.most, self.most).int()
            for n in wanted
        }
        board.pulse(counts)
        return wanted


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """When a pair has used up its range: RESET both devices and write the difference again."""

    every: int = 20
    """Updates between two looks at the devices."""
    above: float = 0.5
    """A device is high above this share of ``g_max_us``; 6 of 12 µS in srnn-pcm."""
    difference: float = 0.125
    """... and its pair is worth refreshing below this share; 1.5 of 12 µS in srnn-pcm."""

    def apply(self, board: Board) -> int:
        """Refresh every pair that meets the criterion; returns how many did."""
        chip = board.layout.chip
        count = 0
        for name, g in board.read_conductances().items():
            difference = g[0] - g[1]
            worn = (g.amax(0) > self.above * chip.g_max_us) & (
                difference.abs() < self.difference * chip.g_max_us
            )
            if bool(worn.any()):
                board.reset({name: worn})
                again = torch.trunc(difference / credited_us(chip)).int() * worn
                board.pulse({name: again})
                count += int(worn.sum())
        return count
