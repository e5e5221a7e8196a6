"""One row of tiles: from what drives its rows to what its converters say.

Order of ``pcm_accelerator`` section 9.1: input converter, product, IR drop, voltage offset, read
noise, output non-linearity, output noise, output converter. Outputs are in steps of the converter,
or in full conductances (``g_max_us`` times an input of 1) where there is none.

A lane is a step of a sequence on one chip, or one of several chips at one step: then what a chip
owns has a leading axis of chips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from snu_plugin.accelerator import periphery
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.columns import Columns
from snu_plugin.accelerator.geometry import dot
from snu_plugin.accelerator.noise import Bits, Several, normals
from snu_plugin.accelerator.wires import Drop

LEAST = 16
"""Rows of a product below which its rounding would depend on how many there are."""
EVEN = 4
"""Columns of whose multiples rows of a product have to be, lest it depend on where they lie."""
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
    """One row of tiles as it stands at one moment; of several chips, with a leading axis."""

    first: int
    end: int
    weight: Tensor
    """``(out, end - first)``, float32, in steps, ``even``."""
    variance: Tensor | None
    """Variance of the fluctuating read noise, squared steps, of the shape of ``weight``."""
    drop: Drop | None
    columns: Columns | None
    scale: Tensor
    """What one step stands for in the graph's units, ``(out,)``; the same on all chips."""


class Setup(NamedTuple):
    """What all tiles of a crossbar share."""

    chip: Chip
    groups: int
    """Matrices side by side, each with inputs of its own."""
    bits: Bits | Several
    """Stream of the noise added before the output converter."""


def unit(chip: Chip) -> float:
    """Return one step of the output converter in full conductances; 1 without a converter."""
    if chip.adc_bits is None:
        return 1.0
    return 2 * chip.adc_bound * periphery.resolution(chip.adc_bits)


def draws(chip: Chip, row: TileRow) -> int:
    """Return how many normal numbers one output takes."""
    noisy, added = row.variance is not None, chip.output_noise is not None
    return noisy + added if chip.output_nonlinearity else int(noisy or added)


def tally(counts: Sequence[Count], field: str, by_lane: Tensor) -> None:
    """Count up a field of one chip by the sum of its lanes, or of several by one lane each."""
    found = by_lane.tolist()
    for count, more in zip(counts, [sum(found)] if len(counts) == 1 else found, strict=True):
        setattr(count, field, getattr(count, field) + more)


def run(
    x: Tensor,
    spikes: Tensor | bool,
    row: TileRow,
    setup: Setup,
    noise: Tensor,
    counts: Sequence[Count],
) -> Tensor:
    """Return the columns' converted sums, in steps, ``(lanes, n, out)``.

    Args:
        x: Inputs of these rows ``(lanes, n, in)``, or ``(lanes, n, groups, in)``, ``even``.
        spikes: Which lanes hold only 0 and 1, ``(lanes,)``; True if all do.
        row: The tiles.
        setup: What all tiles of a crossbar share.
        noise: Normal numbers ``(lanes, draws n out)``.
        counts: Of each chip; are counted up.
    """
    scale = _scale(x, spikes, setup.chip)
    if setup.chip.bound_management:
        y, clipped = _managed(x, spikes, scale, row, setup, noise, counts[0])
    else:
        driven = _drive(x, spikes, scale, setup.chip, counts)
        y, clipped = _sums(driven, spikes, row, setup, noise, setup.chip.adc_bits)
    for count in counts:
        count.conversions += y.numel() // len(counts)
    tally(counts, "saturated", clipped)
    return y if scale is None else y.mul_(scale)


def _managed(
    x: Tensor,
    spikes: Tensor | bool,
    scale: Tensor | None,
    row: TileRow,
    setup: Setup,
    noise: Tensor,
    count: Count,
) -> tuple[Tensor, Tensor]:
    """Send every input vector that made an output saturate again, half as large, on one chip."""
    bits = setup.chip.adc_bits
    if bits is None:  # nothing to saturate
        driven = _drive(x, spikes, scale, setup.chip, (count,))
        return _sums(driven, spikes, row, setup, noise, None)
    last = periphery.last_code(bits)
    one = x.new_ones(*x.shape[:2], 1) if scale is None else scale
    factor, again = 1.0, torch.ones_like(one, dtype=torch.bool)
    y = x.new_zeros(())
    while True:
        driven = _drive(x, spikes, scale if factor == 1 else one * factor, setup.chip, (count,))
        codes = _sums(driven, spikes, row, setup, noise, None)[0].round_()
        y = torch.where(again, codes.clamp(-last, last) * factor, y)
        over = (codes.abs() > last) & again
        again = over.any(2, keepdim=True)
        if not bool(again.any()) or factor >= _most(setup.chip):
            return y, over.flatten(1).sum(1)
        factor *= 2
        count.repeats += int(again.sum())
        noise = normals(setup.bits, len(noise), noise.shape[1])


def _most(chip: Chip) -> float:
    """Return the factor at which bound management gives up: aihwkit 1.2.0."""
    if chip.dac_bits is None:
        return MOST
    return min(MOST, 0.25 / periphery.resolution(chip.dac_bits))


def _scale(x: Tensor, spikes: Tensor | bool, chip: Chip) -> Tensor | None:
    """Return what each input vector is divided by, ``(lanes, n, 1)``; ``None`` divides nothing."""
    if chip.input_scaling == "fixed" or spikes is True:
        return None
    largest = x.abs().flatten(2).amax(2, keepdim=True)
    passed = torch.as_tensor(spikes).view(-1, 1, 1)
    return torch.where((largest == 0) | passed, 1.0, largest)


def _drive(
    x: Tensor,
    spikes: Tensor | bool,
    scale: Tensor | None,
    chip: Chip,
    counts: Sequence[Count],
) -> Tensor:
    """Return what the rows are driven with: converted inputs, and spikes as they are."""
    scaled = x if scale is None else x / scale.view(*scale.shape[:2], *[1] * (x.dim() - 2))
    if chip.dac_bits is None or isinstance(spikes, bool):
        return scaled
    values, clipped = periphery.fastest().drive(scaled, spikes, chip.dac_bits, chip.dac_bound)
    tally(counts, "saturated", clipped)
    return values  # type: ignore[no-any-return]


def _sums(
    x: Tensor,
    spikes: Tensor | bool,
    row: TileRow,
    setup: Setup,
    noise: Tensor,
    bits: int | None,
) -> tuple[Tensor, Tensor]:
    """Return what the columns add up to, noise included and converted, and how many clipped."""
    chip, edge = setup.chip, periphery.fastest()
    y = _linear(x, spikes, row, setup)
    variance = None
    if row.variance is not None:
        # Spikes are their own squares.
        squares = x if spikes is True else x * x
        variance = product(squares, row.variance, setup.groups)
    size = y[0].numel()
    drawn = [noise[:, n : n + size] for n in range(0, noise.shape[1], size)]
    added = (chip.output_noise or 0.0) / unit(chip)
    if chip.output_nonlinearity:
        if variance is not None:
            edge.digitise(y, drawn.pop(0), variance, 0.0, None)
            variance = None
        k = chip.output_nonlinearity / chip.adc_bound * unit(chip)
        y /= (y * k).abs_().add_(1)
    last = drawn[0] if drawn else None
    if row.columns is not None:
        edge.digitise(y, last, variance, added, None)
        y.mul_(row.columns.gain).add_(row.columns.offset / unit(chip))
        last = variance = None
    return y, edge.digitise(y, last, variance, added, bits)


def _linear(x: Tensor, spikes: Tensor | bool, row: TileRow, setup: Setup) -> Tensor:
    """Return the sums of the columns less what wires and a lower voltage take of them."""
    y = product(x, row.weight, setup.groups)
    if row.drop is not None:
        load = product(x if spikes is True else x.abs(), row.drop.load, setup.groups)
        periphery.fastest().lack(y, load, product(x, row.drop.far, setup.groups))
    if row.columns is not None:
        y *= row.columns.transmission
    return y


def even(x: Tensor) -> Tensor:
    """Return ``x`` in one piece, its rows filled up with zeros to a multiple of ``EVEN``.

    Of other rows MKL adds the products on AMD processors in an order that depends on the place.
    """
    missing = -x.shape[-1] % EVEN
    return pad(x, (0, missing)) if missing else x.contiguous()


def product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return ``x Wᵀ``, ``(lanes, n, out)``, to the last bit the same whatever the lanes are.

    Both have ``even`` rows. Several chips, ``weight`` ``(chips, out, in)``, multiply one lane each,
    one after the other: a batched product would round differently.
    """
    if weight.dim() == 2:
        return _multiply(x.flatten(0, 1), weight, groups).view(*x.shape[:2], -1)
    return torch.stack([_multiply(own, w, groups) for own, w in zip(x, weight, strict=True)])


def _multiply(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return ``x Wᵀ``, ``(n, out)``, to the last bit the same however many rows ``x`` has."""
    n, out = len(x), len(weight)
    if n < LEAST:
        x = pad(x.flatten(1), (0, 0, 0, LEAST - n)).view(LEAST, *x.shape[1:])
    if groups > 1:
        return dot(x, weight, groups)[:n]
    # A single output would be a product of vectors, which is rounded by another kernel.
    whole = pad(weight, (0, 0, 0, 1)) if out == 1 else weight
    return torch.mm(x, whole.T)[:n, :out].contiguous()
