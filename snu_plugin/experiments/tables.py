"""Tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Sequence

WIDEST = 80
"""Columns of a terminal that a table fits."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], widest: int = WIDEST) -> list[str]:
    r"""Return the lines of a table: names to the left, cells to the right.

    Columns that find no place stand below, beside the same names.

    >>> print("\n".join(table(("", "1 d", "1 y"), [("tuned", "0.97", "0.95")], widest=12)))
            1 d
    tuned  0.97
            1 y
    tuned  0.95
    """
    lines = [heads, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    blocks: list[list[int]] = []
    for place in range(1, len(heads)):
        taken = widths[0] + sum(2 + widths[p] for p in blocks[-1]) if blocks else widest
        if taken + 2 + widths[place] > widest:
            blocks.append([])
        blocks[-1].append(place)
    return [
        "  ".join([f"{line[0]:{widths[0]}}", *(f"{line[p]:>{widths[p]}}" for p in block)]).rstrip()
        for block in blocks
        for line in lines
    ]
