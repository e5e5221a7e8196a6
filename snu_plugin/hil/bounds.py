"""What a rule with pulses may cost, said before it begins: devices cannot be set back."""

from __future__ import annotations

from typing import NamedTuple

from snu_plugin.accelerator import Board, writing
from snu_plugin.hil.update import Bounded, DigitalOnly, Rule, weights_of


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
        return (
            f"at worst the rule spends {self.pulses:,} pulses, {self.energy_nj * 1e-3:.3g} µJ, "
            f"{self.wear:.3g} a device; {self.until_look:,} before the first look can stop it"
        )


def worst(board: Board, rule: Rule, updates: int, look_every: int = 1) -> Worst | None:
    """Return the most that so many updates may spend; ``None`` for a rule that does not know.

    Args:
        board: The chip.
        rule: An update rule; one without pulses spends none.
        updates: In all.
        look_every: Updates until the first look at what is held back, which stops a rule that made
            it worse.
    """
    if isinstance(rule, DigitalOnly):
        return Worst(0, 0, 0.0, 0.0)
    if not isinstance(rule, Bounded):
        return None
    products, most = board.layout.products, rule.worst(board)
    energy_nj = sum(
        writing(products[n].chip, count * updates, 0).energy_nj for n, count in most.items()
    )
    count = weights_of(board)
    devices = sum(len(op.layout.shares) * count[n] for n, op in products.items())
    each = sum(most.values())
    return Worst(
        each * updates, each * min(look_every, updates), energy_nj, each * updates / devices
    )
