"""One row of tiles: from what drives its rows to what its converters say.

Order of ``pcm_accelerator`` section 9.1: input converter, product, IR drop, voltage offset, read
noise, output non-linearity, output noise, output converter. Outputs are in steps of the converter,
or in full conductances (``g_max_us`` times an input of 1) where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from snu_plugin.accelerator import wires
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.columns import Columns
from snu_plugin.accelerator.geometry import dot
from snu_plugin.accelerator.noise import Bits, normals
from snu_plugin.accelerator.periphery import quantise, resolution

LEAST = 16
"""Rows of a product below which its rounding would depend on how many there are."""
MOST = 1000.0
"""Largest factor by which bound management shrinks an input: aihwkit 1.2.0."""


@dataclass
class Count:
    """What one crossbar did during a run, summed over steps and batch."""

    steps: int = 0
    active_rows: int = 0
    """Times that a row was driven by a value other than 0."""
    conversions: int = 0
    """Outputs converted: columns of every row of tiles, every step."""
    saturated: int = 0
    """Inputs and outputs that hit the end of a converter's range."""
    spikes_only: bool = True
    """Whether every input was 0 or 1, so that no input converter worked."""
    repeats: int = 0
    """Products repeated with a smaller input because an output saturated."""


class TileRow(NamedTuple):
    """One row of tiles as it stands at one moment."""

    first: int
    end: int
    weight: Tensor
    """``(out, end - first)``, float32, in steps."""
    variance: Tensor | None
    """Variance of the fluctuating read noise, squared steps, of the shape of ``weight``."""
    drop: wires.Drop | None
    columns: Columns | None
    scale: Tensor
    """What one step stands for in the graph's units, ``(out,)``."""


class Setup(NamedTuple):
    """What all tiles of a crossbar share."""

    chip: Chip
    groups: int
    """Matrices side by side, each with inputs of its own."""
    bits: Bits
    """Stream of the noise added before the output converter."""


def unit(chip: Chip) -> float:
    """Return one step of the output converter in full conductances; 1 without a converter."""
    return 1.0 if chip.adc_bits is None else 2 * chip.adc_bound * resolution(chip.adc_bits)


def draws(chip: Chip, row: TileRow) -> int:
    """Return how many normal numbers one output takes."""
    noisy, added = row.variance is not None, chip.output_noise is not None
    return noisy + added if chip.output_nonlinearity else int(noisy or added)


def run(
    x: Tensor, spikes: Tensor | bool, row: TileRow, setup: Setup, noise: Tensor, count: Count
) -> Tensor:
    """Return the columns' converted sums, in steps, ``(steps n, out)``.

    Args:
        x: Inputs of these rows ``(steps, n, in)``, or ``(steps, n, groups, in)``.
        spikes: Which steps hold only 0 and 1, ``(steps,)``; True if all do.
        row: The tiles.
        setup: What all tiles of a crossbar share.
        noise: Normal numbers ``(steps, draws n out)``.
        count: Is counted up.
    """
    passed = spikes if isinstance(spikes, bool) else spikes.repeat_interleave(x.shape[1])
    x = x.flatten(0, 1)
    scale = _scale(x, passed, setup.chip)
    y, over = _once(x, passed, scale, row, setup, noise, count)
    factor = 1.0
    while setup.chip.bound_management and over is not None and factor < _most(setup.chip):
        # Every input vector that made an output saturate is sent again, half as large.
        again = over.any(1)
        factor *= 2
        count.repeats += int(again.sum())
        size = torch.full((len(x), 1), factor) if scale is None else scale * factor
        fresh = normals(setup.bits, len(noise), noise.shape[1])
        repeated, still = _once(x, passed, size, row, setup, fresh, count)
        y = torch.where(again[:, None], repeated * factor, y)
        over = None if still is None else still & again[:, None]
    count.conversions += y.numel()
    if over is not None:
        count.saturated += int(over.sum())
    return y if scale is None else y.mul_(scale)


def _once(
    x: Tensor,
    spikes: Tensor | bool,
    scale: Tensor | None,
    row: TileRow,
    setup: Setup,
    noise: Tensor,
    count: Count,
) -> tuple[Tensor, Tensor | None]:
    """Return the converted sums and which of them were clipped."""
    driven = _drive(x, spikes, scale, setup.chip, count)
    y = _analog(driven, row, setup, noise)
    if row.columns is not None:
        y.mul_(row.columns.gain).add_(row.columns.offset / unit(setup.chip))
    return (y, None) if setup.chip.adc_bits is None else quantise(y, setup.chip.adc_bits)


def _most(chip: Chip) -> float:
    """Return the factor at which bound management gives up: aihwkit 1.2.0."""
    return MOST if chip.dac_bits is None else min(MOST, 0.25 / resolution(chip.dac_bits))


def _scale(x: Tensor, spikes: Tensor | bool, chip: Chip) -> Tensor | None:
    """Return what each input vector is divided by, ``(n, 1)``; ``None`` divides nothing."""
    if chip.input_scaling == "fixed" or spikes is True:
        return None
    largest = x.abs().flatten(1).amax(1, keepdim=True)
    return torch.where((largest == 0) | torch.as_tensor(spikes)[..., None], 1.0, largest)


def _drive(
    x: Tensor, spikes: Tensor | bool, scale: Tensor | None, chip: Chip, count: Count
) -> Tensor:
    """Return what the rows are driven with: converted inputs, and spikes as they are."""
    scaled = x if scale is None else x / scale.view(-1, *[1] * (x.dim() - 1))
    if chip.dac_bits is None or spikes is True:
        return scaled
    step = 2 * chip.dac_bound * resolution(chip.dac_bits)
    codes, over = quantise(scaled / step, chip.dac_bits)
    values = codes.mul_(step)
    passed = torch.as_tensor(spikes)
    if over is not None:
        over[passed] = False
        count.saturated += int(over.sum())
    if bool(passed.any()):
        values[passed] = scaled[passed]
    return values


def _analog(x: Tensor, row: TileRow, setup: Setup, noise: Tensor) -> Tensor:
    """Return what the columns add up to at the converter, noise included, ``(n, out)``."""
    chip, groups = setup.chip, setup.groups
    y = product(x, row.weight, groups)
    if row.drop is not None:
        share = wires.share(product(x.abs(), row.drop.load, groups))
        y -= share.mul_(product(x, row.drop.far, groups))
    if row.columns is not None:
        y *= row.columns.transmission
    size = y.numel() // len(noise)
    drawn = [noise[:, n : n + size] for n in range(0, noise.shape[1], size)]
    added = (chip.output_noise or 0.0) / unit(chip)
    if chip.output_nonlinearity:
        if row.variance is not None:
            _shake(y, product(x * x, row.variance, groups).sqrt_(), drawn[0])
        k = chip.output_nonlinearity / chip.adc_bound * unit(chip)
        y /= (y * k).abs_().add_(1)
        if chip.output_noise is not None:
            _shake(y, added, drawn[-1])
    elif row.variance is not None:
        variance = product(x * x, row.variance, groups)
        _shake(y, variance.add_(added**2).sqrt_(), drawn[0])
    elif drawn:
        _shake(y, added, drawn[0])
    return y


def _shake(y: Tensor, sigma: Tensor | float, noise: Tensor) -> None:
    """Add ``sigma`` times ``noise``, ``(steps, ...)``, to ``y``."""
    if isinstance(sigma, Tensor):
        y.view(noise.shape).addcmul_(noise, sigma.reshape(noise.shape))
    else:
        y.view(noise.shape).add_(noise, alpha=sigma)


def product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return ``x Wᵀ``, ``(n, out)``, to the last bit the same however many rows ``x`` has."""
    n = len(x)
    if n < LEAST:
        x = pad(x.flatten(1), (0, 0, 0, LEAST - n)).view(LEAST, *x.shape[1:])
    return (torch.mm(x, weight.T) if groups == 1 else dot(x, weight, groups))[:n]
