"""Devices that live by pulses, first writing included: model C, Nandakumar et al. 2018."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices import pulses
from snu_plugin.accelerator.devices.model import Cells, DeviceModel, blank
from snu_plugin.accelerator.noise import Streams, normal_like


class Pulsed(DeviceModel):
    """Every device is RESET, then pulsed blindly or with a reading after each pulse."""

    limit_us = 20.0  # fig. 5 of the paper
    holds_at_s = pulses.T0_S

    def __init__(self, chip: Chip) -> None:
        self.noisy = chip.read_noise is not None
        super().__init__(chip)

    @property
    def scale(self) -> float:
        """Return 1: these devices are those whose pulses were measured."""
        return 1.0

    def own_response(self) -> pulses.Response:
        """Return the measured response."""
        return pulses.Measured(self.chip, self.scale)

    def written(
        self, target: Tensor, stuck_at: Tensor | None, clock_s: float, streams: Streams
    ) -> Cells:
        """RESET the devices, then pulse them blindly or with verification."""
        cells = blank(torch.zeros_like(target), clock_s)
        if self.chip.drift is not None:
            cells = cells._replace(nu=torch.full_like(cells.nu, self.chip.drift * pulses.NU))
        cells = self.stick(cells, stuck_at)
        everywhere = torch.ones_like(cells.stuck)
        cells = self.reset(cells, everywhere, clock_s, streams)
        if self.chip.verify:
            return self._verified(cells, target, streams)
        counts = pulses.pulses_to_reach(target).round().int()
        return self.pulse(cells, counts, clock_s, streams)

    def drift(self, cells: Cells, age_s: Tensor) -> Tensor:
        """Return the conductances by the power law, held below ``AGE_FLOOR_S``."""
        if self.chip.drift is None:
            return cells.g_us
        t = (age_s.clamp_min(pulses.AGE_FLOOR_S) / pulses.T0_S).float()
        return cells.g_us * torch.exp(-cells.nu * t.log())

    def read_sigma(self, cells: Cells, g: Tensor, age_s: Tensor) -> Tensor:
        """Return the noise of one reading; the model has no spectrum."""
        return (self.chip.read_noise or 0.0) * pulses.read_sigma(g)

    def _verified(self, cells: Cells, target: Tensor, streams: Streams) -> Cells:
        """Read, then SET if too low or RESET if too high, until close enough, device by device.

        Recipe: docs/devices.md, closed-loop writing. A device keeps its last state once a reading
        lies within ``verify_tolerance_us``, or after ``verify_iterations`` readings. Readings refer
        to the age at which conductances hold. Only devices still open are computed; one that is
        stuck is tried as often as any.
        """
        chip = self.chip
        once = torch.ones_like(target)
        state = torch.stack((cells.g_us, 0 * once, 0 * once, once))
        open_ = torch.arange(len(target), device=target.device)
        for _ in range(chip.verify_iterations):
            now = state[:, open_]
            error = self._seen(now[0], streams["read"]) - target[open_]
            far = error.abs() > chip.verify_tolerance_us
            open_, now, error = open_[far], now[:, far], error[far]
            if not len(open_):
                break
            state[:, open_] = self._corrected(now, error > 0, cells.stuck[open_], streams["pulse"])
        g, history, sets, resets = state
        return cells._replace(g_us=g, history=history.float(), sets=sets.int(), resets=resets.int())

    def _seen(self, g: Tensor, generator: Generator) -> Tensor:
        if self.chip.read_noise is None:
            return g
        sigma = self.chip.read_noise * pulses.read_sigma(g)
        return (g + sigma * normal_like(g, generator)).clamp_min(0)

    def _corrected(self, now: Tensor, high: Tensor, stuck: Tensor, generator: Generator) -> Tensor:
        """Return (g, history, sets, resets) after a RESET where ``high`` and a SET elsewhere."""
        g, history, sets, resets = now
        noisy = self.chip.programming_noise is not None
        noise = normal_like(g, generator) if noisy else None
        raised = pulses.set_pulse(g, history + 1, self.chip.g_max_us, noise)
        lowered = self.response.reset(len(g), generator).to(g)
        after = torch.where(stuck, g, torch.where(high, lowered, raised))
        history = torch.where(high, 0, history + 1)
        return torch.stack((after, history, sets + ~high, resets + high))


FITS = {"nandakumar2018": Pulsed}
