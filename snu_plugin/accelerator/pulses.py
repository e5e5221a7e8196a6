"""SET pulses on phase-change memory whose response depends on its history.

Nandakumar et al., J. Appl. Phys. 124, 152135 (2018), as coded in srnn-pcm (2d91783): model C.
Conductances in µS for devices of at most ``CEILING_US``; other devices are scaled onto these.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Generator, Tensor

CEILING_US = 12.0
"""Largest conductance of the model's devices."""
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
    g = FLOOR_US + 0.01 * torch.randn(shape, generator=generator)
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

    The history given to a device that was not written by pulses (``pcm_accelerator`` section 6).
    """
    curve = mean_curve().to(g)
    upper = torch.searchsorted(curve, g.contiguous()).clamp(1, len(curve) - 1)
    low, high = curve[upper - 1], curve[upper]
    return upper - 1 + ((g - low) / (high - low)).clamp(0, 1)
