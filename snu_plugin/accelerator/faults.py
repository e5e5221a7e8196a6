"""Devices that never change, whatever is done to them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import pulses
from snu_plugin.accelerator.chip import Chip


def draw(shape: torch.Size, chip: Chip, generator: Generator) -> Tensor | None:
    """Return the conductance at which each device is stuck, µS; NaN for those that work.

    ``stuck_at_reset``, ``stuck_at_set`` and ``stuck_at_random`` are shares of all devices, drawn
    independently: at the level of a RESET, at ``g_max_us``, or uniformly in between. ``None`` if
    the chip has no faults. The same generator state gives the same devices.
    """
    shares = [share or 0.0 for share in (chip.stuck_at_reset, chip.stuck_at_set)]
    random = chip.stuck_at_random or 0.0
    if not any((*shares, random)):
        return None
    lot = torch.rand(shape, generator=generator)
    anywhere = chip.g_max_us * torch.rand(shape, generator=generator)
    low = 0.0 if chip.pulse == "linear" else pulses.FLOOR_US * chip.pulse_scale
    at_reset, at_set = shares
    level = torch.where(lot < at_reset + at_set + random, anywhere, torch.tensor(torch.nan))
    level = torch.where(lot < at_reset + at_set, torch.tensor(chip.g_max_us), level)
    return torch.where(lot < at_reset, torch.tensor(low), level)
