"""How results show themselves: a small table, in a notebook, where rich prints it, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from typing import Any, NamedTuple


class Table(NamedTuple):
    """What a result shows of itself."""

    title: str
    heads: Sequence[str]
    """Of the columns; empty: they have none."""
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()
    """Sentences below it."""


class Shown:
    """A result that shows itself as a table, made anew each time it is asked for."""

    def _table(self) -> Table:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._table().title})"

    def _repr_html_(self) -> str:
        return table(*self._table())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))  # of IPython

    def __rich__(self) -> Any:
        """Return the table as rich prints it; rich alone asks for it."""
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        shown = self._table()
        made = RichTable(show_header=any(shown.heads))
        for head in shown.heads or [""] * max(map(len, shown.rows), default=0):
            made.add_column(Text(head))
        for row in shown.rows:
            made.add_row(*(Text(str(cell)) for cell in row))
        return Group(Text(shown.title, style="bold"), made, *map(Text, shown.notes))


def table(
    title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()
) -> str:
    """Return a title, a table and sentences below it as HTML; everything given is escaped.

    >>> table("<exact>", ["node"], [["a&b"]])
    '<p><b>&lt;exact&gt;</b></p><table><tr><th>node</th></tr><tr><td>a&amp;b</td></tr></table>'
    """
    lines = [_row("th", heads), *(_row("td", row) for row in rows)]
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<p><b>{escape(title)}</b></p><table>{''.join(lines)}</table>{below}"


def text(shown: Table) -> str:
    """Return a table as lines, its columns aligned.

    >>> print(text(Table("a run", ["node", "spikes"], [["lif1", 3], ["out", 0.25]], ["seeded"])))
    a run
    node  spikes
    lif1  3
    out   0.25
    seeded
    """
    rows = [[str(cell) for cell in row] for row in (shown.heads, *shown.rows)]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = (
        "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )
    return "\n".join([shown.title, *lines, *shown.notes])


def _row(kind: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"
