"""What a rule with pulses may cost, said before it begins: devices cannot be set back."""

from __future__ import annotations

import math
from typing import NamedTuple

from snu_plugin.accelerator import Board, writing
from snu_plugin.durations import energy
from snu_plugin.hil.budget import MORE
from snu_plugin.hil.update import Bounded, DigitalOnly, Rule, most_of, weights_of


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
