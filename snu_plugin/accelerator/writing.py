"""Program and verify: pulses with a reading after each, until a device is close enough."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import pulses
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.noise import Streams


class Written(NamedTuple):
    """What is left of devices that were written by pulses; see ``devices.Cells``."""

    g_us: Tensor
    history: Tensor
    sets: Tensor
    resets: Tensor


def verified(target: Tensor, g: Tensor, stuck: Tensor, chip: Chip, streams: Streams) -> Written:
    """Read, then SET if too low or RESET if too high, until close enough, device by device.

    Recipe: ``pcm_accelerator`` section 8.6. A device keeps its last state once a reading lies
    within ``verify_tolerance_us``, or after ``verify_iterations`` readings. Readings refer to the
    age at which the model's conductances hold. Only devices still open are computed.

    Args:
        target: Wanted conductance, µS float64.
        g: Conductance after the RESET of every device, which is counted.
        stuck: Whether a device never changes; it is tried as often as any.
        chip: Its settings.
        streams: Generators by effect.
    """
    once = torch.ones_like(g)
    state = torch.stack([v.flatten() for v in (g, 0 * once, 0 * once, once)])
    goal, never = target.flatten(), stuck.flatten()
    open_ = torch.arange(target.numel())
    for _ in range(chip.verify_iterations):
        now = state[:, open_]
        error = _seen(now[0], chip, streams["read"]) - goal[open_]
        far = error.abs() > chip.verify_tolerance_us
        open_, now, error = open_[far], now[:, far], error[far]
        if not len(open_):
            break
        state[:, open_] = _corrected(now, error > 0, never[open_], chip, streams["pulse"])
    g, history, sets, resets = state.reshape(4, *target.shape)
    return Written(g.clone(), history.float(), sets.int(), resets.int())


def reset_level(count: int, chip: Chip, generator: Generator) -> Tensor:
    """Return conductances after a RESET, µS float64: 0 exactly where pulses are linear."""
    if chip.pulse == "linear":
        return torch.zeros(count, dtype=torch.float64)
    return pulses.reset(torch.Size([count]), generator) * chip.pulse_scale


def _seen(g: Tensor, chip: Chip, generator: Generator) -> Tensor:
    if chip.read_noise is None:
        return g
    sigma = chip.read_noise * pulses.read_sigma(g)
    return (g + sigma * torch.randn(g.shape, generator=generator)).clamp_min(0)


def _corrected(
    now: Tensor, high: Tensor, stuck: Tensor, chip: Chip, generator: Generator
) -> Tensor:
    """Return (g, history, sets, resets) after a RESET where ``high`` and a SET elsewhere."""
    g, history, sets, resets = now
    noise = None if chip.programming_noise is None else torch.randn(g.shape, generator=generator)
    raised = pulses.set_pulse(g, history + 1, chip.g_max_us, noise)
    lowered = reset_level(len(g), chip, generator)
    after = torch.where(stuck, g, torch.where(high, lowered, raised))
    return torch.stack((after, torch.where(high, 0, history + 1), sets + ~high, resets + high))
