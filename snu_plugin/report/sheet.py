"""Write the report of a command as one HTML page that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from snu_plugin import files
from snu_plugin.report import style
from snu_plugin.report.page import Figure, inline, template


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as they are shown; the first of a row names it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: Sequence[int] = ()
    """Columns that hold words and stand to the left, counted from 0, which does so anyway."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, and what stands below it."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    """Each a ``Figure``."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a page says, from top to bottom."""

    title: str
    lede: str
    """One sentence: what came of it."""
    badges: Sequence[str] = ()
    cards: Mapping[str, str] = field(default_factory=dict)
    """Name to a number with its unit."""
    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    command: str
    """What to type to get the page again."""
    facts: Mapping[str, str] = field(default_factory=dict)


def check(path: str | PathLike[str]) -> None:
    """Raise unless a page with pictures could be left there, in a file that is called like one."""
    files.check_file("--report", Path(path))
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report is {path}; give a file that ends in .html")
    template("sheet.html")
    style.canvas()


def write_sheet(path: str | PathLike[str], sheet: Sheet) -> Path:
    """Write a page: text, tables and pictures in one file, for light and dark screens and paper.

    Args:
        path: Where the page goes; it is written whole or not at all.
        sheet: What it says; everything is escaped.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is not installed.
        OSError: A picture cannot be read, or the page cannot be written.
    """
    sections = [
        replace(section, figures=[(figure, inline(figure.file)) for figure in section.figures])
        for section in sheet.sections
    ]
    html = template("sheet.html").render(s=replace(sheet, sections=sections))
    return files.write(path, html.encode())


__all__ = ["Figure", "Section", "Sheet", "Table", "check", "write_sheet"]
