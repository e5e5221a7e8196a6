"""The devices of one crossbar as a chip has them: written, pulsed, aged and read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import pcm, pulses, writing
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.noise import Streams

PART = 1 << 18
"""Devices that are worked on at once; a multiple of 16."""


class Cells(NamedTuple):
    """The state of every device; all of one shape, 37 bytes a device."""

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
    stuck: Tensor
    """Whether the device never changes, bool."""


def program(
    target: Tensor, clock_s: float, chip: Chip, streams: Streams, faults: Tensor | None = None
) -> Cells:
    """Write every device to its ``target`` and return the cells.

    Models A and B draw the written conductance and ν from the target; model C pulses and verifies.

    Args:
        target: Conductances, µS float64, any shape.
        clock_s: When.
        chip: Its settings.
        streams: Generators by effect.
        faults: Conductance at which a device is stuck, µS, NaN for those that work; see
            ``faults.draw``. A stuck device keeps it exactly and does not drift.
    """
    whole: Cells | None = None
    for part in parts(target.numel()):
        own = None if faults is None else faults.flatten()[part]
        cells = _written(target.flatten()[part], clock_s, chip, streams, own)
        if whole is None:
            whole = Cells(*(field.new_empty(target.shape) for field in cells))
        for field, some in zip(whole, cells, strict=True):
            field.view(-1)[part] = some
    return _at(target.clone(), clock_s) if whole is None else whole


def parts(count: int) -> Iterator[slice]:
    """Cut a row of so many devices into parts of ``PART``, the last one up to twice as long.

    What is computed between fits a cache, and memory holds little more than the devices. Random
    numbers drawn part by part are those drawn at once: torch fills 16 at a time.
    """
    cuts = [*range(0, max(1, count - PART + 1), PART), count]
    return (slice(*cut) for cut in pairwise(cuts) if count)


def _written(
    target: Tensor, clock_s: float, chip: Chip, streams: Streams, faults: Tensor | None
) -> Cells:
    """Return a row of devices after writing; see ``program``."""
    if chip.fit == "nandakumar2018":
        return _by_pulses(target, clock_s, chip, streams, faults)
    cells = _at(target.clone(), clock_s)
    if chip.fit is not None:
        cells = _by_statistics(cells, chip, pcm.STATISTICS[chip.fit], streams)
    if faults is None:
        return cells
    stuck = ~faults.isnan()
    g = torch.where(stuck, faults.to(cells.g_us), cells.g_us)
    q = torch.where(stuck, _relative_noise(g, chip), cells.q)
    return cells._replace(g_us=g, q=q, nu=cells.nu.masked_fill(stuck, 0), stuck=stuck)


def conductance(cells: Cells, clock_s: float, chip: Chip) -> Tensor:
    """Return the conductances at ``clock_s``, µS float64, drifted since the last event."""
    if chip.drift is None or chip.fit is None:
        return cells.g_us
    age = _age(cells, clock_s)
    if chip.fit == "nandakumar2018":
        t = (age.clamp_min(pulses.AGE_FLOOR_S) / pulses.T0_S).float()
        return cells.g_us * torch.exp(-cells.nu * t.log())
    return pcm.drift(cells.g_us, cells.nu, age, pcm.STATISTICS[chip.fit].t0_s)


def read_sigma(
    cells: Cells, g: Tensor, clock_s: float, chip: Chip, observed_s: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the read noise of the drifted conductances ``g``, µS, as (frozen, fluctuating).

    The frozen part stays for an inference of ``observed_s`` seconds, the other is new at every
    product; without ``observed_s`` all of it is new. Model C has no spectrum, so all of its noise
    is new at every product.
    """
    if chip.read_noise is None or chip.fit is None:
        return torch.zeros_like(g), torch.zeros_like(g)
    if chip.fit == "nandakumar2018":
        return torch.zeros_like(g), chip.read_noise * pulses.read_sigma(g)
    fit = pcm.STATISTICS[chip.fit]
    age = _age(cells, clock_s).clamp_min(pulses.AGE_FLOOR_S)
    sigma = chip.read_noise * pcm.read_sigma(g, cells.q, age, fit.t_read_s)
    if not observed_s:
        return torch.zeros_like(g), sigma
    share = pcm.frozen_shares(age, observed_s, fit.t_read_s).to(g)
    return sigma * share.sqrt(), sigma * (1 - share).sqrt()


def has_frozen_noise(chip: Chip, observed_s: float) -> bool:
    """Return whether ``read_sigma`` has a frozen part."""
    noisy = chip.read_noise is not None and chip.fit in pcm.STATISTICS
    return noisy and observed_s > 0


def read(cells: Cells, clock_s: float, chip: Chip, generator: Generator) -> Tensor:
    """Return one noisy reading of every device, µS float64, clipped at 0."""
    seen = torch.empty_like(cells.g_us)
    for part in parts(seen.numel()):
        own = Cells(*(field.view(-1)[part] for field in cells))
        g = conductance(own, clock_s, chip)
        _, sigma = read_sigma(own, g.float(), clock_s, chip)
        noise = torch.randn(g.shape, generator=generator).mul_(sigma)
        torch.add(g, noise, out=seen.view(-1)[part]).clamp_min_(0)
    return seen


def pulse(cells: Cells, counts: Tensor, clock_s: float, chip: Chip, generator: Generator) -> Cells:
    """Apply ``counts`` SET pulses (0 or more, integer) to each device; the others stay as they are.

    A pulse starts from the drifted conductance and restarts the clock of that device. ν stays the
    device's own; model C's step is scaled by ``g_max / 12`` on devices of another model. Pulses
    on a stuck device count and change nothing.
    """
    moved = (counts > 0) & ~cells.stuck
    n = counts[moved]
    # Shortly after a pulse a device reads higher than what that pulse will leave: not to be added.
    drifted = conductance(cells, clock_s, chip).minimum(cells.g_us)
    before, history = drifted[moved], cells.history[moved]
    if chip.pulse == "linear":
        after = (before + n * chip.pulse_step_us).clamp_max(chip.g_max_us)
    else:
        after = _measured_pulses(before, history, n, chip, generator)
    return _put(cells, moved, after, clock_s, history + n, chip)._replace(
        sets=cells.sets + counts.to(cells.sets)
    )


def reset(cells: Cells, where: Tensor, clock_s: float, chip: Chip, generator: Generator) -> Cells:
    """RESET the devices where the mask is true: near 0 µS, no history, a clock that starts anew."""
    moved = where & ~cells.stuck
    after = writing.reset_level(int(moved.sum()), chip, generator)
    history = torch.zeros(len(after))
    return _put(cells, moved, after, clock_s, history, chip)._replace(
        resets=cells.resets + where.to(cells.resets)
    )


def _age(cells: Cells, clock_s: float) -> Tensor:
    """Return seconds since the last event, float64; one value where all devices share it."""
    first, last = cells.t_s.aminmax()
    return clock_s - (first if first == last else cells.t_s)


def _put(
    cells: Cells, moved: Tensor, g: Tensor, clock_s: float, history: Tensor, chip: Chip
) -> Cells:
    """Return the cells with new conductances where ``moved``."""
    new = cells._replace(
        g_us=cells.g_us.clone(),
        t_s=cells.t_s.clone(),
        q=cells.q.clone(),
        history=cells.history.clone(),
    )
    new.g_us[moved] = g
    new.t_s[moved] = clock_s
    new.q[moved] = _relative_noise(g, chip)
    new.history[moved] = history
    return new


def _measured_pulses(
    g: Tensor, history: Tensor, counts: Tensor, chip: Chip, generator: Generator
) -> Tensor:
    """Apply Nandakumar's pulses to all devices at once, round by round."""
    scale = chip.pulse_scale
    g = g / scale
    for n in range(int(counts.max()) if counts.numel() else 0):
        noise = (
            None if chip.programming_noise is None else torch.randn(g.shape, generator=generator)
        )
        after = pulses.set_pulse(g, history + n + 1, chip.g_max_us / scale, noise)
        g = torch.where(counts > n, after, g)
    return g * scale


def _relative_noise(g: Tensor, chip: Chip) -> Tensor:
    """Return Q_s of devices written to ``g`` µS, float32; 0 where the model has none."""
    if chip.fit not in pcm.STATISTICS:
        return torch.zeros(g.shape)
    return pcm.STATISTICS[chip.fit].q(g / chip.g_max_us).float()


def _by_statistics(cells: Cells, chip: Chip, fit: pcm.Statistics, streams: Streams) -> Cells:
    """Draw the written conductances and ν of devices whose targets are in ``cells``."""
    g = target = cells.g_us
    nu = cells.nu
    if chip.programming_noise is not None:
        exact = pcm.write(target, fit, chip.g_max_us, streams["programming"])
        g = (target + chip.programming_noise * (exact - target)).clamp_min(0)
    if chip.drift is not None:
        nu = chip.drift * pcm.drift_exponent(target, fit, chip.g_max_us, streams["drift"]).float()
    history = pulses.pulses_to_reach(g / chip.pulse_scale).float()
    q = _relative_noise(target if chip.noise_of == "target" else g, chip)
    return cells._replace(g_us=g, nu=nu, q=q, history=history)


def _by_pulses(
    target: Tensor, clock_s: float, chip: Chip, streams: Streams, faults: Tensor | None
) -> Cells:
    """RESET model C devices, then pulse them blindly or with verification."""
    cells = _at(torch.zeros_like(target), clock_s)
    if chip.drift is not None:
        cells = cells._replace(nu=torch.full_like(cells.nu, chip.drift * pulses.NU))
    if faults is not None:
        stuck = ~faults.isnan()
        level = torch.where(stuck, faults.to(cells.g_us), cells.g_us)
        cells = cells._replace(g_us=level, nu=cells.nu.masked_fill(stuck, 0), stuck=stuck)
    everywhere = torch.ones_like(cells.stuck)
    cells = reset(cells, everywhere, clock_s, chip, streams["pulse"])
    if chip.verify:
        written = writing.verified(target, cells.g_us, cells.stuck, chip, streams)
        return cells._replace(**written._asdict())
    counts = pulses.pulses_to_reach(target).round().int()
    return pulse(cells, counts, clock_s, chip, streams["pulse"])


def _at(g: Tensor, clock_s: float) -> Cells:
    """Return cells at conductance ``g`` that neither drift nor make noise."""
    plain = torch.zeros(g.shape)
    count = torch.zeros(g.shape, dtype=torch.int32)
    works = torch.zeros(g.shape, dtype=torch.bool)
    return Cells(g, torch.full_like(g, clock_s), plain, plain, plain, count, count, works)
