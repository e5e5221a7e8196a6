"""What was spent on a chip, by what it was spent on."""

from __future__ import annotations

from typing import NamedTuple

from snu_plugin.durations import energy, span


class Spent(NamedTuple):
    """What operations of one kind took so far."""

    times: int = 0
    energy_nj: float | None = 0.0
    """``None``: no number is known."""
    seconds: float = 0.0
    """On the chip's clock."""
    sets: int = 0
    resets: int = 0
    readings: int = 0
    """Readings of one device each."""
    conversions: int = 0
    """Outputs converted in products."""
    estimated: bool = False
    """Whether pulses are those of the mean curve, since the devices' model does not say."""

    def plus(self, other: Spent) -> Spent:
        """Return both together; a sum with something unknown is unknown."""
        unknown = self.energy_nj is None or other.energy_nj is None
        return Spent(
            self.times + other.times,
            None if unknown else (self.energy_nj or 0.0) + (other.energy_nj or 0.0),
            self.seconds + other.seconds,
            self.sets + other.sets,
            self.resets + other.resets,
            self.readings + other.readings,
            self.conversions + other.conversions,
            self.estimated or other.estimated,
        )

    def since(self, then: Spent) -> Spent:
        """Return what was spent after ``then``; of what is not known nothing."""
        less = zip(self[:-1], then[:-1], strict=True)
        return Spent._make((*((now or 0) - (was or 0) for now, was in less), self.estimated))

    def text(self) -> str:
        """Return the line that a terminal shows."""
        spent = "no energy known" if self.energy_nj is None else energy(self.energy_nj)
        counted = {
            "SET": self.sets,
            "RESET": self.resets,
            "readings": self.readings,
            "conversions": self.conversions,
        }
        parts = [f"{count:,} {what}" for what, count in counted.items() if count]
        estimated = " (pulses estimated)" if self.estimated else ""
        return ", ".join([f"{spent}, {span(self.seconds)}", *parts]) + estimated
