"""Cuts matrices into parts that fit a tile, and finds every part a place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

from snu_plugin.accelerator import Chip, Tile

Span = tuple[int, int]


class Matrix(NamedTuple):
    """What one node asks of the tiles."""

    node: str
    shape: tuple[int, int]
    """Outputs and inputs; each group of outputs reads all of the inputs, its own."""
    groups: int = 1


def spans(size: int, limit: int) -> tuple[Span, ...]:
    """Cut ``range(size)`` into the fewest spans of at most ``limit``, as even as possible.

    >>> spans(300, 256)
    ((0, 150), (150, 300))
    """
    count = -(-size // limit)
    edges = [size * part // count for part in range(count + 1)]
    return tuple(pairwise(edges))


def column_spans(out: int, groups: int, limit: int) -> tuple[Span, ...]:
    """Cut the outputs group by group, as ``spans`` does."""
    size = out // groups
    return tuple(
        (group * size + left, group * size + right)
        for group in range(groups)
        for left, right in spans(size, limit)
    )


def tiles(node: str, shape: tuple[int, int], chip: Chip, groups: int = 1) -> tuple[Tile, ...]:
    """Return the parts of a matrix ``(out, in)``, each on a tile of its own, counted from 0."""
    out, inputs = shape
    parts = product(spans(inputs, chip.tile_rows), column_spans(out, groups, chip.tile_columns))
    return tuple(Tile(node, rows, columns, n) for n, (rows, columns) in enumerate(parts))


def arrange_on(matrices: Iterable[Matrix], chips: Mapping[str, Chip]) -> tuple[Tile, ...]:
    """Return a place for every part of every matrix, by the chip that its node lies on.

    Tiles are numbered over all chips, those of one after those of another.
    """
    on: dict[Chip, list[Matrix]] = {}
    for matrix in matrices:
        on.setdefault(chips[matrix.node], []).append(matrix)
    placed: list[Tile] = []
    used = 0
    for chip, own in on.items():
        parts = arrange(own, chip)
        placed += [part._replace(number=used + part.number) for part in parts]
        used += len({part.number for part in parts})
    return tuple(placed)


def arrange(matrices: Iterable[Matrix], chip: Chip) -> tuple[Tile, ...]:
    """Return a place for every part of every matrix; may use more tiles than the chip has.

    Nodes lie on tiles of their own, groups of one node packed together, so that no node waits for
    another's converters. Only where the chip has too few tiles for that do nodes share them.
    """
    apart: list[Tile] = []
    together: list[Tile] = []
    used = 0
    for matrix in matrices:
        parts = tiles(matrix.node, matrix.shape, chip, matrix.groups)
        placed = parts if matrix.groups == 1 else pack(parts, chip)
        apart += [part._replace(number=used + part.number) for part in placed]
        used += len({part.number for part in placed})
        together += parts
    return tuple(apart) if used <= chip.tiles else pack(together, chip)


def pack(parts: Iterable[Tile], chip: Chip) -> tuple[Tile, ...]:
    """Put rectangles on as few tiles as shelves allow, in the order they were given.

    First fit by falling height: every part goes to the first shelf that is high enough and has
    columns left, else onto a new shelf of the first tile with rows left, else onto a new tile
    (Coffman et al., SIAM J. Comput. 9, 1980: at most 1.7 times the least height).
    """
    parts = list(parts)
    order = sorted(range(len(parts)), key=lambda n: (-parts[n].height, -parts[n].width, n))
    shelves: list[_Shelf] = []
    filled: list[int] = []  # rows taken of each tile
    places: dict[int, Tile] = {}
    for n in order:
        height, width = parts[n].height, parts[n].width
        fitting = (s for s in shelves if height <= s.height and width <= chip.tile_columns - s.used)
        shelf = next(fitting, None)
        if shelf is None:
            roomy = (k for k, rows in enumerate(filled) if rows + height <= chip.tile_rows)
            number = next(roomy, len(filled))
            filled += [0] * (number == len(filled))
            shelf = _Shelf(number, filled[number], height)
            shelves.append(shelf)
            filled[number] += height
        places[n] = parts[n]._replace(number=shelf.number, row=shelf.row, column=shelf.used)
        shelf.used += width
        if shelf.used == chip.tile_columns:
            shelves.remove(shelf)
    return tuple(places[n] for n in range(len(parts)))


@dataclass
class _Shelf:
    """Rows of a tile that are filled from the left."""

    number: int
    row: int
    height: int
    used: int = 0
