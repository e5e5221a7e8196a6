"""Devices whose steps shrink exponentially, pulsed one way only: model D, for pairs G+ and G-.

The form and the constants are those of ``PCMPresetDevice`` of aihwkit 1.2.0, without the spread
from device to device that it also has. It says nothing of writing, drift and read noise, which are
ideal here. Not calibrated: its weights w have no unit; their end, 2, is taken as ``g_max_us``.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices.model import DeviceModel
from snu_plugin.accelerator.devices.pulses import CREDIT_US, Response, Stepwise

END = 2.0
"""Largest w."""
LEAST = 0.01
"""Step far from RESET, in w."""
MOST_PULSES = 100
"""SET pulses after which a device counts as full."""


def step(w: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the step of one SET pulse, in w.

    Mean ``0.01 (1 + 27.235 exp(-2.5 w))``, standard deviation ``0.6 (mean + 0.042 + 0.108 w)``.
    """
    mean = LEAST * (1 + 27.235 * torch.exp(-2.5 * w))
    return mean, 0.6 * (mean + 0.042 + 0.108 * w)


class Exponential(DeviceModel):
    """Exact devices but for their pulses."""

    def own_response(self) -> Response:
        """Return steps that shrink exponentially."""
        return ExponentialResponse(self.chip)


class ExponentialResponse(Stepwise):
    """Steps that shrink exponentially with the conductance."""

    def __init__(self, chip: Chip) -> None:
        self.unit_us = chip.g_max_us / END
        self.ceiling_us, self.floor_us = chip.g_max_us, LEAST * self.unit_us
        self.noisy = chip.programming_noise is not None
        self.credit_us = float(step(torch.tensor(END / 2))[0]) * self.unit_us
        self.full = MOST_PULSES
        w = torch.tensor(0.0, dtype=torch.float64)
        trace = [w]
        for _ in range(MOST_PULSES):
            w = (w + step(w)[0]).clamp_max(END)
            trace.append(w)
        self.mean_curve: Tensor = torch.stack(trace) * self.unit_us

    def pulse(self, g: Tensor, pulses: Tensor, noise: Tensor | None) -> Tensor:
        """Return what a step leads to, in w."""
        mean, sigma = step(g)
        return (g + (mean if noise is None else mean + sigma * noise)).clamp(0, END)

    def reset(self, count: int, generator: Generator) -> Tensor:
        """Return conductances around w = 0.01, with a standard deviation of 0.01."""
        drawn = torch.randn(count, generator=generator, dtype=torch.float32).double()
        return (LEAST + LEAST * drawn).clamp_min(0) * self.unit_us

    def step(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step where devices stand."""
        mean, sigma = step(g / self.unit_us)
        scale = self.unit_us * CREDIT_US / self.credit_us
        return mean * scale, sigma * scale


FITS = {"exponential": Exponential}
