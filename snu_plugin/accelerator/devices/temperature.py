"""Temperature: how much devices show, and how far they have relaxed (docs/devices.md).

Conduction through the amorphous part is thermally activated. Relaxation takes barrier after
barrier, of energy ``k T ln(t / τ_0)`` at time t, each crossed sooner where it is warmer; every one
of them adds to the activation energy. So at a steady temperature the drift exponent does not depend
on it. Form: Ielmini et al., Appl. Phys. Lett. 92, 193511, 2008; Le Gallo et al., Adv. Electron.
Mater. 4:1700627, 2018. Nothing here is calibrated to a chip.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from snu_plugin.accepted import Accepted, is_number

BOLTZMANN_EV = 8.617333262e-5
"""Boltzmann's constant, eV/K: CODATA 2018, exact."""
ATTEMPT_S = 1e-13
"""Time between two attempts to cross a barrier, τ_0: about that of a vibration. Assumed."""
ROOM_K = 300.0
"""Temperature of a chip that was never told another one. Ours."""
KELVIN = Accepted(
    "a temperature from 200 to 450 K", lambda value: is_number(value) and 200 <= value <= 450
)


@dataclass(frozen=True)
class Climate:
    """The temperatures that a chip went through, each from a moment of its clock on."""

    since_s: tuple[float, ...] = (0.0,)
    kelvin: tuple[float, ...] = (ROOM_K,)

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.since_s))
        if not rising or self.since_s[:1] != (0.0,) or len(self.since_s) != len(self.kelvin):
            raise ValueError("temperatures need a moment each, the first 0, one after the other")
        for kelvin in self.kelvin:
            KELVIN.check("a temperature", kelvin)

    @property
    def steady(self) -> bool:
        """Whether it never changed: then devices show what they would anywhere."""
        return len(self.kelvin) == 1

    @property
    def now_k(self) -> float:
        """The temperature of today, K."""
        return self.kelvin[-1]

    def then(self, clock_s: float, kelvin: float) -> Climate:
        """Return the climate with another temperature from ``clock_s`` on."""
        return Climate((*self.since_s, clock_s), (*self.kelvin, kelvin))

    def written_k(self, written_s: Tensor) -> Tensor:
        """Return the temperature at which devices were written, K float64."""
        since = written_s.new_tensor(self.since_s[1:])
        known = written_s.new_tensor(self.kelvin)
        return known[torch.bucketize(written_s, since, right=True)]

    def factor(self, activation_ev: Tensor, written_s: Tensor) -> Tensor:
        """Return what devices show now over what they showed where they were written.

        ``exp(-(E_a / k) (1 / T - 1 / T_written))``; of the shape of both, float64.
        """
        change = 1 / self.now_k - 1 / self.written_k(written_s)
        return torch.exp(-activation_ev.double() / BOLTZMANN_EV * change)

    def drift_age_s(self, written_s: Tensor, clock_s: Tensor | float, holds_at_s: float) -> Tensor:
        """Return the age at which drift is as far as it is now, s.

        ``t_0 exp((u - u_0) / (k T))`` with ``u`` the energy of the barriers crossed, and ``u_0``
        that at ``holds_at_s``, t_0, where a device was written. A law of the power of this age has
        an activation energy that grows with ``u``: warmed, a device shows less of its drift, and
        relaxes sooner.

        Args:
            written_s: When devices were written, float64.
            clock_s: Now, or a moment of each device since the last change.
            holds_at_s: Age from which on devices drift.
        """
        age_s = torch.zeros_like(written_s)
        ends_s = (*self.since_s[1:], clock_s)
        before_k = self.kelvin[0]
        for since_s, end_s, kelvin in zip(self.since_s, ends_s, self.kelvin, strict=True):
            # The time in which it would have come as far at this temperature.
            age_s = ATTEMPT_S * (age_s / ATTEMPT_S) ** (before_k / kelvin)
            age_s = age_s + (end_s - written_s.clamp_min(since_s)).clamp_min(0)
            before_k = kelvin
        if not holds_at_s:
            return age_s
        ratio = self.written_k(written_s) / self.now_k
        return age_s * (holds_at_s / ATTEMPT_S) ** (1 - ratio)


STEADY = Climate()
"""A chip whose temperature never changed."""
