"""The devices of one crossbar as a chip has them: written, pulsed, aged and read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import pcm, pulses
from snu_plugin.accelerator.chip import Chip


class Cells(NamedTuple):
    """The state of every device; all of one shape, 40 bytes a device."""

    g_us: Tensor
    """Conductance at the last event, µS, float64 so that ideal weights come back exactly."""
    t_s: Tensor
    """Clock at the last event, s, float64."""
    nu: Tensor
    """Drift exponent, float32."""
    q: Tensor
    """Relative read noise Q_s, float32; 0 where the model has none."""
    history: Tensor
    """SET pulses since the last RESET, float32; estimated for devices not written by pulses."""
    sets: Tensor
    """SET pulses ever, int32."""
    resets: Tensor
    """RESET pulses ever, int32."""


def program(target: Tensor, clock_s: float, chip: Chip, streams: dict[str, Generator]) -> Cells:
    """Write every device to its ``target``, µS float64, and return the cells.

    Models A and B draw the written conductance and ν from the target; model C pulses and verifies.
    """
    if chip.fit == "nandakumar2018":
        return _pulse_and_verify(target, clock_s, chip, streams)
    cells = _at(target.clone(), clock_s)
    if chip.fit is None:
        return cells
    fit = pcm.STATISTICS[chip.fit]
    g, nu, q = target, cells.nu, fit.q(target / chip.g_max_us).float()
    if chip.programming_noise is not None:
        exact = pcm.write(target, fit, chip.g_max_us, streams["programming"])
        g = (target + chip.programming_noise * (exact - target)).clamp_min(0)
    if chip.drift is not None:
        nu = chip.drift * pcm.drift_exponent(target, fit, chip.g_max_us, streams["drift"]).float()
    scale = chip.g_max_us / pulses.CEILING_US
    return cells._replace(g_us=g, nu=nu, q=q, history=pulses.pulses_to_reach(g / scale).float())


def conductance(cells: Cells, clock_s: float, chip: Chip) -> Tensor:
    """Return the conductances at ``clock_s``, µS float64, drifted since the last event."""
    if chip.drift is None or chip.fit is None:
        return cells.g_us
    age = clock_s - cells.t_s
    if chip.fit == "nandakumar2018":
        t = age.clamp_min(pulses.AGE_FLOOR_S) / pulses.T0_S
        return cells.g_us * torch.exp(-cells.nu * t.log())
    return pcm.drift(cells.g_us, cells.nu, age, pcm.STATISTICS[chip.fit].t0_s)


def read_sigma(
    cells: Cells, g: Tensor, clock_s: float, chip: Chip, observed_s: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the read noise of the drifted conductances ``g``, µS, as (frozen, fluctuating).

    The frozen part stays for an inference of ``observed_s`` seconds, the other is new at every
    product. Model C has no spectrum, so all of its noise is new at every product.
    """
    zero = torch.zeros_like(g)
    if chip.read_noise is None or chip.fit is None:
        return zero, zero
    if chip.fit == "nandakumar2018":
        return zero, chip.read_noise * pulses.read_sigma(g)
    fit = pcm.STATISTICS[chip.fit]
    age = (clock_s - cells.t_s).clamp_min(pulses.AGE_FLOOR_S)
    sigma = chip.read_noise * pcm.read_sigma(g, cells.q, age, fit.t_read_s)
    share = pcm.frozen_share(float(age.median()), observed_s, fit.t_read_s) if observed_s else 0.0
    return sigma * share**0.5, sigma * (1 - share) ** 0.5


def read(cells: Cells, clock_s: float, chip: Chip, generator: Generator) -> Tensor:
    """Return one noisy reading of every device, µS, clipped at 0."""
    g = conductance(cells, clock_s, chip)
    _, sigma = read_sigma(cells, g, clock_s, chip)
    return (g + sigma * _normal(g, generator)).clamp_min(0)


def pulse(cells: Cells, counts: Tensor, clock_s: float, chip: Chip, generator: Generator) -> Cells:
    """Apply ``counts`` SET pulses (0 or more, integer) to each device; the others stay as they are.

    A pulse starts from the drifted conductance and restarts the clock of that device. ν stays the
    device's own; model C's step is scaled by ``g_max / 12`` on devices of another model.
    """
    touched = counts > 0
    g = conductance(cells, clock_s, chip)
    history = cells.history + counts
    if chip.pulse == "linear":
        g = (g + counts * chip.pulse_step_us).clamp_max(chip.g_max_us)
    else:
        g = _measured_pulses(g, cells.history, counts, chip, generator)
    g = torch.where(touched, g, cells.g_us)
    return cells._replace(
        g_us=g,
        t_s=torch.where(touched, clock_s, cells.t_s),
        q=torch.where(touched, _q(g, chip), cells.q),
        history=history.to(cells.history),
        sets=cells.sets + counts.to(cells.sets),
    )


def reset(cells: Cells, where: Tensor, clock_s: float, chip: Chip, generator: Generator) -> Cells:
    """RESET the devices where the mask is true: near 0 µS, no history, a clock that starts anew."""
    drawn = pulses.reset(cells.g_us.shape, None if chip.pulse == "linear" else generator)
    fresh = drawn * (chip.g_max_us / pulses.CEILING_US)
    if chip.pulse == "linear":
        fresh = torch.zeros_like(fresh)
    g = torch.where(where, fresh, cells.g_us)
    return cells._replace(
        g_us=g,
        t_s=torch.where(where, clock_s, cells.t_s),
        q=torch.where(where, _q(g, chip), cells.q),
        history=cells.history.masked_fill(where, 0),
        resets=cells.resets + where.to(cells.resets),
    )


def _measured_pulses(
    g: Tensor, history: Tensor, counts: Tensor, chip: Chip, generator: Generator
) -> Tensor:
    """Apply Nandakumar's pulses to all devices at once, round by round."""
    scale = chip.g_max_us / (chip.g_max_us if chip.fit == "nandakumar2018" else pulses.CEILING_US)
    ceiling = chip.g_max_us / scale
    g = g / scale
    for n in range(int(counts.max()) if counts.numel() else 0):
        noise = None if chip.programming_noise is None else _normal(g, generator)
        after = pulses.set_pulse(g, history + n + 1, ceiling, noise)
        g = torch.where(counts > n, after, g)
    return g * scale


def _pulse_and_verify(
    target: Tensor, clock_s: float, chip: Chip, streams: dict[str, Generator]
) -> Cells:
    """Write model C devices: read, then SET if too low or RESET if too high, until close enough.

    Recipe: ``pcm_accelerator`` section 8.6. Devices whose target is below the tolerance are RESET.
    Each device keeps its last state once a reading lies within ``verify_tolerance_us``.
    """
    cells = _at(torch.zeros_like(target), clock_s)
    if chip.drift is not None:
        cells = cells._replace(nu=torch.full_like(cells.nu, chip.drift * pulses.NU))
    open_ = torch.ones_like(target, dtype=torch.bool)
    cells = reset(cells, open_, clock_s, chip, streams["pulse"])
    # The readings refer to the age at which the model's conductances hold.
    later = clock_s + pulses.T0_S
    for _ in range(chip.verify_iterations):
        error = read(cells, later, chip, streams["read"]) - target
        open_ &= error.abs() > chip.verify_tolerance_us
        if not open_.any():
            break
        cells = reset(cells, open_ & (error > 0), clock_s, chip, streams["pulse"])
        cells = pulse(cells, (open_ & (error < 0)).int(), clock_s, chip, streams["pulse"])
    return cells


def _at(g: Tensor, clock_s: float) -> Cells:
    """Return cells at conductance ``g`` that neither drift nor make noise."""
    plain = torch.zeros(g.shape)
    count = torch.zeros(g.shape, dtype=torch.int32)
    return Cells(g, torch.full_like(g, clock_s), plain, plain, plain, count, count)


def _q(g: Tensor, chip: Chip) -> Tensor:
    if chip.fit not in pcm.STATISTICS:
        return torch.zeros(g.shape)
    return pcm.STATISTICS[chip.fit].q(g / chip.g_max_us).float()


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)
