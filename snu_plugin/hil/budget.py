"""How many pulses a rule may spend: few at first, more while they do no harm; and what it may cost.

Devices cannot be set back: the most that a rule may spend is said before it begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Board, writing
from snu_plugin.durations import energy
from snu_plugin.hil.rules import Bounded, DigitalOnly, Rule, most_of, weights_of

FIRST_SHARE = 1e-3
"""Pulses of an update before the first look, as a share of the weights, at least one. Ours: so few
do harm that a look hardly sees, and what does harm is seen before it is large."""
MORE = 2.0
"""What that is multiplied by after a look at which they did no harm, where all were spent. Ours."""


def first_pulses(board: Board) -> int:
    """Return how many pulses an update may spend before anything was seen of what they do."""
    count = sum(op.weight.numel() for op in board.layout.products.values())
    return max(1, round(FIRST_SHARE * count))


class Metered:
    """A board that applies at most so many SET pulses of ``pulse``, drawn from those asked for.

    All else is the board's own.
    """

    def __init__(self, board: Board, most: int, seed: int) -> None:
        self._board, self._left = board, most
        self._draw = Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    def pulse(self, counts: Mapping[str, Any]) -> None:
        """Apply pulses as far as they may be spent."""
        self.spend(counts)

    def spend(self, counts: Mapping[str, Any]) -> dict[str, Tensor]:
        """Apply pulses as far as they may be spent, and return those that were."""
        wanted = {name: torch.as_tensor(count) for name, count in counts.items()}
        if not wanted:
            return {}
        flat = torch.cat([count.flatten() for count in wanted.values()])
        size = flat.abs().long()
        if int(size.sum()) > self._left:
            order = torch.randperm(len(size), generator=self._draw)
            before = size[order].cumsum(0) - size[order]
            given = torch.empty_like(size)
            given[order] = torch.minimum((self._left - before).clamp_min(0), size[order])
            flat, size = (flat.sign() * given).to(flat.dtype), given
        self._left -= int(size.sum())
        kept, at = dict[str, Tensor](), 0
        for name, count in wanted.items():
            kept[name] = flat[at : at + count.numel()].reshape(count.shape)
            at += count.numel()
        self._board.pulse({name: count for name, count in kept.items() if bool(count.any())})
        return kept


def pulsed(board: Board, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Apply pulses and return those that were applied, fewer where an update may not spend all."""
    if isinstance(board, Metered):
        return board.spend(counts)
    board.pulse({name: count for name, count in counts.items() if bool(count.any())})
    return counts


class Worst(NamedTuple):
    """The most that a rule may spend, besides what refresh writes."""

    pulses: int
    """In all updates."""
    until_look: int
    """Before the first look that can stop it."""
    energy_nj: float
    """Of all of them."""
    wear: float
    """Pulses a device."""

    def text(self) -> str:
        """Return the line that a terminal shows."""
        stops = f"{self.until_look:,} before the first look can stop it"
        return (
            f"at worst the rule spends {self.pulses:,} pulses, {energy(self.energy_nj)}, "
            f"{self.wear:.3g} a device; "
            + (stops if self.until_look < self.pulses else "nothing stops it before")
        )


def worst(
    board: Board, rule: Rule, updates: int, look_every: int = 1, most_pulses: int | None = None
) -> Worst | None:
    """Return the most that so many updates may spend; ``None`` for a rule that does not know.

    Args:
        board: The chip.
        rule: An update rule; one without pulses spends none.
        updates: In all.
        look_every: Updates until the first look at what is held back, which stops a rule that made
            it worse.
        most_pulses: Of an update before the first look, more after each; see ``Loop``.
    """
    if isinstance(rule, DigitalOnly):
        return Worst(0, 0, 0.0, 0.0)
    if not isinstance(rule, Bounded) and most_pulses is None:
        return None
    count, products = weights_of(board), board.layout.products
    fills = {n: k * most_of(board, n) for n, k in count.items()}
    each = sum((rule.worst(board) if isinstance(rule, Bounded) else fills).values())
    allowed = math.inf if most_pulses is None else most_pulses
    spent = [min(each, allowed * MORE ** min(at // look_every, 64)) for at in range(updates)]
    pulses = int(sum(spent))
    pulse_nj = max(writing(op.chip, 1, 0).energy_nj for op in products.values())
    devices = sum(len(op.layout.shares) * count[n] for n, op in products.items())
    return Worst(pulses, int(sum(spent[:look_every])), pulses * pulse_nj, pulses / devices)
