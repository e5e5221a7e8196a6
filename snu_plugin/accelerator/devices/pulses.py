"""SET and RESET pulses on phase-change memory: the measured response, and an exact one.

Nandakumar et al., J. Appl. Phys. 124, 152135 (2018), as coded in srnn-pcm (2d91783): model C.
Conductances in µS for devices of at most ``CEILING_US``; other devices are scaled onto these.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.noise import normal_like

CEILING_US = 12.0
"""Largest conductance of the model's devices."""
CREDIT_US = 0.75
"""Step that a SET pulse is credited with on devices of 12 µS: srnn-pcm 2d91783. The mean measured
step is about that size after five pulses."""
FLOOR_US = 0.1
"""Least conductance after a pulse."""
MEMORY = 2.6
"""Pulses over which the memory of a RESET fades."""
T0_S = 38.6
"""Age at which the model's conductances hold."""
NU = 0.04
"""Drift exponent of every device."""
AGE_FLOOR_S = 1.0
"""The power law diverges at age 0; below this age it is held. Ours."""


def step(g: Tensor, pulses: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the step of one SET pulse, µS.

    Mean ``-0.084 g + 0.880 + 1.40 P``, standard deviation ``0.091 g + 0.260 + 2.15 P``,
    ``P = exp(-pulses / 2.6)``; ``pulses`` counts from the last RESET, this one included.
    """
    p = torch.exp(-pulses / MEMORY)
    return -0.084 * g + 0.880 + 1.40 * p, 0.091 * g + 0.260 + 2.15 * p


def set_pulse(g: Tensor, pulses: Tensor, ceiling_us: float, noise: Tensor | None) -> Tensor:
    """Return the conductance after one SET pulse; see ``step``.

    Args:
        g: Conductance before the pulse, µS.
        pulses: SET pulses since the last RESET, this one included; may be fractional.
        ceiling_us: Largest conductance, µS.
        noise: Standard normals, one for each device; ``None`` takes the mean step.
    """
    mean, sigma = step(g, pulses)
    change = mean if noise is None else mean + sigma * noise
    return (g + change).clamp(FLOOR_US, ceiling_us)


def reset(shape: torch.Size, generator: Generator | None) -> Tensor:
    """Return conductances after a RESET: ``N(0.1, 0.01)`` floored at 0.01 µS, float64."""
    if generator is None:
        return torch.full(shape, FLOOR_US, dtype=torch.float64)
    g = FLOOR_US + 0.01 * torch.randn(shape, generator=generator, dtype=torch.float32)
    return g.clamp_min(0.01).double()


def read_sigma(g: Tensor) -> Tensor:
    """Return the standard deviation of one read, ``0.03 g + 0.13`` µS."""
    return 0.03 * g + 0.13


@cache
def mean_curve(count: int = 60) -> Tensor:
    """Return the noise-free conductance after 0 .. ``count`` SET pulses from RESET, float64."""
    g = torch.tensor(FLOOR_US, dtype=torch.float64)
    trace = [g]
    for n in range(1, count + 1):
        g = set_pulse(g, torch.tensor(float(n), dtype=torch.float64), 20.0, None)
        trace.append(g)
    return torch.stack(trace)


def pulses_to_reach(g: Tensor) -> Tensor:
    """Return how many mean pulses from RESET lead to ``g``: 0 .. 60, fractional.

    The history given to a device that was not written by pulses (docs/devices.md, pulses on
    written devices).
    """
    return pulses_along(mean_curve(), g)


def pulses_along(curve: Tensor, g: Tensor) -> Tensor:
    """Return how many pulses lead to ``g`` where ``curve`` rises pulse by pulse, fractional."""
    curve = curve.to(g)
    if len(curve) == 1:
        return torch.zeros_like(g)
    lower = torch.searchsorted(curve, g.contiguous()).sub_(1).clamp_(0, len(curve) - 2)
    share = (g - curve.take(lower)).div_(curve.diff().take(lower))
    return share.clamp_(0, 1).add_(lower)


class Response:
    """What a SET and a RESET pulse do to a device, chosen by ``Chip.pulse``.

    This one is exact: equal steps of ``pulse_step_us``, and a RESET to 0.
    """

    exact = True
    """Whether every pulse has the same effect, known without a reading."""
    mean_curve: Tensor | None = None
    """The noise-free conductance after 0, 1, 2 ... SET pulses from RESET, µS float64; ``None``:
    equal steps, or those of Nandakumar et al."""
    floor_us = 0.0
    """Conductance of a device that is stuck at RESET, µS."""

    def __init__(self, chip: Chip, scale: float) -> None:
        self.credit_us = chip.pulse_step_us
        """Step that a SET pulse is counted as, µS."""
        self.ceiling_us = chip.g_max_us
        self.full = math.ceil(chip.g_max_us / chip.pulse_step_us)
        """SET pulses that fill a device from RESET; more at once move nothing."""

    def set(self, g: Tensor, history: Tensor, counts: Tensor, generator: Generator) -> Tensor:
        """Return the conductance after ``counts`` SET pulses, ``history`` of them before, µS."""
        return (g + counts * self.credit_us).clamp_max(self.ceiling_us)

    def reset(self, count: int, generator: Generator) -> Tensor:
        """Return conductances ``(count,)`` after a RESET, µS float64, on the processor."""
        return torch.zeros(count, dtype=torch.float64)

    def step(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the next step of devices at ``g`` µS.

        In units of the devices on which it was measured: of ``credit_us / CREDIT_US`` µS.
        """
        return torch.full_like(g, CREDIT_US), torch.zeros_like(g)

    def to_reach(self, g: Tensor) -> Tensor:
        """Return how many mean pulses lead from RESET to ``g`` µS, fractional."""
        return g / self.credit_us


class Stepwise(Response):
    """Steps that depend on where a device stands, and scatter.

    A class derived from this one sets ``noisy``, ``ceiling_us``, ``credit_us``, ``floor_us``,
    ``full`` and ``mean_curve``, and says what one ``pulse`` does, what a ``reset`` and a ``step``.
    """

    exact = False
    unit_us: float = 1.0
    """Unit of the conductances that ``pulse`` takes and gives, µS."""
    noisy: bool
    """Whether steps scatter."""

    def pulse(self, g: Tensor, pulses: Tensor, noise: Tensor | None) -> Tensor:
        """Return the conductance after one SET pulse, in ``unit_us``.

        Args:
            g: Conductance before, in ``unit_us``.
            pulses: SET pulses since the last RESET, this one included.
            noise: Standard normals, one for each device; ``None`` takes the mean step.
        """
        raise NotImplementedError

    def set(self, g: Tensor, history: Tensor, counts: Tensor, generator: Generator) -> Tensor:
        """Apply the pulses to all devices at once, round by round."""
        g = g / self.unit_us
        for n in range(int(counts.max()) if counts.numel() else 0):
            noise = normal_like(g, generator) if self.noisy else None
            g = torch.where(counts > n, self.pulse(g, history + n + 1, noise), g)
        return g * self.unit_us

    def to_reach(self, g: Tensor) -> Tensor:
        """Return pulses of the mean curve."""
        assert self.mean_curve is not None
        return pulses_along(self.mean_curve, g)


class Measured(Stepwise):
    """The measured response, scaled onto the devices of a chip."""

    def __init__(self, chip: Chip, scale: float) -> None:
        self.unit_us = scale
        self.ceiling_us = chip.g_max_us / scale
        self.noisy = chip.programming_noise is not None
        self.credit_us, self.floor_us = CREDIT_US * scale, FLOOR_US * scale
        self.full = len(mean_curve()) - 1

    def pulse(self, g: Tensor, pulses: Tensor, noise: Tensor | None) -> Tensor:
        """Return what the published step leads to."""
        return set_pulse(g, pulses, self.ceiling_us, noise)

    def reset(self, count: int, generator: Generator) -> Tensor:
        """Return conductances near ``FLOOR_US``."""
        return reset(torch.Size([count]), generator) * self.unit_us

    def step(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the published step where the mean curve passes ``g``."""
        g = g / self.unit_us
        return step(g, pulses_to_reach(g) + 1)

    def to_reach(self, g: Tensor) -> Tensor:
        """Return pulses of the mean curve."""
        return pulses_to_reach(g / self.unit_us)


OWN = "own"
"""How ``Chip.pulse`` says that pulses act as the model of the devices knows."""
PULSES = {OWN: None, "nandakumar2018": Measured, "linear": Response}
