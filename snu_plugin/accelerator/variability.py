"""What is drawn once for the life of a chip: how its columns and rows differ, and what fails.

Lines that are open and tiles that failed are drawn tile by tile: networks that share a tile share
its faults.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.noise import generator
from snu_plugin.accelerator.program import Product, Program


class Columns(NamedTuple):
    """What sets the columns of one row of tiles apart for the life of a chip, each ``(out,)``."""

    transmission: Tensor
    """Share of the read voltage that arrives, ``1 - max(0, N(0, voltage_offset))``."""
    gain: Tensor
    """Gain of the output converter, ``N(1, adc_gain_spread)``."""
    offset: Tensor
    """Offset of the output converter, ``N(0, adc_offset_spread)``, in full conductances."""


def draw_columns(out: int, chip: Chip, generator: Generator) -> Columns | None:
    """Draw the constants of ``out`` columns; ``None`` if all columns are alike.

    Forms: voltage offset as in aihwkit 1.2.0; converter spread is ours.
    """
    spreads = (chip.voltage_offset, chip.adc_gain_spread, chip.adc_offset_spread)
    if not any(spreads):
        return None
    lacking, gain, offset = (
        (spread or 0.0) * torch.randn(out, generator=generator, dtype=torch.float32)
        for spread in spreads
    )
    return Columns(1 - lacking.clamp_min(0), 1 + gain, offset)


def draw_drivers(op: Product, generator: Generator) -> Tensor | None:
    """Draw the offset of each row's input converter, ``(in,)``, in units of the input.

    ``N(0, dac_offset_spread)`` of ``dac_bound``; ``None`` without. Form: ours.
    """
    if not (spread := op.chip.dac_offset_spread):
        return None
    drawn = torch.randn(op.weight.shape[1], generator=generator, dtype=torch.float32)
    return drawn * (spread * op.chip.dac_bound)


YEAR_S = 365 * 86_400.0


class Ends(NamedTuple):
    """When devices of a crossbar stick or stop, each of the shape of the cells."""

    clock_s: Tensor
    """On the chip's clock, float64."""
    stops: Tensor
    """Whether the device stops, bool; else it sticks."""


def draw_ends(shape: torch.Size, chip: Chip, generator: Generator) -> Ends | None:
    """Draw when each device sticks or stops; ``None`` if none ever does.

    Times are exponential with the sum of both rates. They are drawn once, for the life of a chip,
    so that neither writing it again nor how long waits are changes which devices fail when.
    """
    rate = (chip.sticking or 0.0) + (chip.stopping or 0.0)
    if not rate:
        return None
    lot = torch.rand(shape, generator=generator, dtype=torch.float64)
    kind = torch.rand(shape, generator=generator, dtype=torch.float64)
    return Ends(-(-lot).log1p() * (YEAR_S / rate), kind * rate < (chip.stopping or 0.0))


class Reach(NamedTuple):
    """What still reaches the converters of a crossbar."""

    weights: Tensor
    """Whether a weight does, ``(out, in)``, bool."""
    columns: Tensor
    """Columns of each row of tiles that are converted, ``(rows of tiles, out)``, bool."""


class Lines(NamedTuple):
    """What failed of one tile, bool."""

    rows: Tensor
    """Word lines that are open, ``(tile_rows,)``."""
    columns: Tensor
    """Bit lines that are open, ``(tile_columns,)``."""
    whole: bool
    """Whether the tile does nothing any more."""


def draw_lines(chip: Chip, seed: int, number: int) -> Lines:
    """Draw what failed of a tile; its number on the chip and the seed decide."""
    stream = generator(seed, "lines", f"tile {number}")
    tile, rows, columns = (
        torch.rand(n, generator=stream, dtype=torch.float32)
        for n in (1, chip.tile_rows, chip.tile_columns)
    )
    return Lines(
        rows < (chip.open_rows or 0.0),
        columns < (chip.open_columns or 0.0),
        bool(tile < (chip.dead_tiles or 0.0)),
    )


def reaches(program: Program, seed: int) -> dict[str, Reach]:
    """Return what reaches the converters, by node; nodes of chips without such faults are left out.

    An open word line drives none of its devices, an open bit line brings nothing from its devices
    to its converter, which works on; a tile that failed is not converted.
    """
    found: dict[str, Reach] = {}
    for name, op in program.products.items():
        chip = op.chip
        if any((chip.open_rows, chip.open_columns, chip.dead_tiles)):
            out = len(op.weight)
            found[name] = Reach(
                torch.ones(op.weight.shape, dtype=torch.bool),
                torch.ones(len(op.row_blocks), out, dtype=torch.bool),
            )
    for tile in program.tiles:
        if tile.node not in found:
            continue
        op, reach = program.products[tile.node], found[tile.node]
        lines = draw_lines(op.chip, seed, tile.number)
        outputs, inputs = slice(*tile.columns), slice(*tile.rows)
        rows = lines.rows[tile.row : tile.row + tile.height]
        columns = lines.columns[tile.column : tile.column + tile.width]
        open_ = rows | columns[:, None] | lines.whole
        reach.weights[outputs, inputs] = ~open_
        reach.columns[op.row_blocks.index(tile.rows), outputs] = not lines.whole
    device = program.device
    return {name: Reach(*(part.to(device) for part in reach)) for name, reach in found.items()}
