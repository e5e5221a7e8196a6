"""Cuts a matrix into parts that fit a tile."""

from __future__ import annotations

from itertools import pairwise, product

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.program import Tile

Span = tuple[int, int]


def spans(size: int, limit: int) -> tuple[Span, ...]:
    """Cut ``range(size)`` into the fewest spans of at most ``limit``, as even as possible.

    >>> spans(300, 256)
    ((0, 150), (150, 300))
    """
    count = -(-size // limit)
    edges = [size * part // count for part in range(count + 1)]
    return tuple(pairwise(edges))


def tiles(node: str, shape: tuple[int, int], chip: Chip) -> tuple[Tile, ...]:
    """Return the tiles that a matrix ``(out, in)`` takes; rows of a tile are inputs."""
    out, inputs = shape
    return tuple(
        Tile(node, rows, columns)
        for rows, columns in product(spans(inputs, chip.tile_rows), spans(out, chip.tile_columns))
    )
