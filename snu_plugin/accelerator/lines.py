"""Lines of the array that are open, and tiles that failed: what they cut off from a product.

Drawn once for the life of a chip, tile by tile: networks that share a tile share its faults.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.noise import generator
from snu_plugin.accelerator.program import Program


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
