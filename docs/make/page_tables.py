"""Tables of the pages."""

from __future__ import annotations

from collections.abc import Iterable


def table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table.

    >>> print(table(("host", "networks"), [("norse", 5)]))
    | host | networks |
    |---|---|
    | norse | 5 |
    """
    titles = [*heads]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (titles, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(titles), *lines[1:]])
