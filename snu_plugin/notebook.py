"""How results show themselves in a notebook: a small table, escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


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


def _row(kind: str, cells: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(str(cell))}</{kind}>' for cell in cells)}</tr>"
