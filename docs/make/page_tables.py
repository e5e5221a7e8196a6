"""Tables of the pages."""

from __future__ import annotations

from collections.abc import Iterable

Cells = Iterable[object]


def line(cells: Cells) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(heads: Cells, rows: Iterable[Cells]) -> str:
    """Return a table.

    >>> print(table(("host", "networks"), [("norse", 5)]))
    | host | networks |
    |---|---|
    | norse | 5 |
    """
    titles = [*heads]
    return "\n".join([line(titles), "|" + "---|" * len(titles), *map(line, rows)])


def renewed(page: str, rows: Iterable[Cells]) -> str:
    r"""Return a page whose table from ``<!-- table -->`` to ``<!-- end -->`` has other rows.

    >>> page = "a\n<!-- table -->\n| n |\n|---|\n| 1 |\n<!-- end -->\nb"
    >>> renewed(page, [[2], [3]]).splitlines()
    ['a', '<!-- table -->', '| n |', '|---|', '| 2 |', '| 3 |', '<!-- end -->', 'b']
    """
    top, begin, rest = page.partition("<!-- table -->\n")
    old, end, tail = rest.partition("<!-- end -->")
    return "\n".join([top + begin + "\n".join(old.splitlines()[:2]), *map(line, rows), end + tail])
