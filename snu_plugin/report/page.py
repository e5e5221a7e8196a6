"""Reports as one HTML page each that opens from disk: that of the demo, and those of commands."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files as resources
from os import PathLike
from pathlib import Path
from typing import Any

from snu_plugin import files
from snu_plugin.durations import UNITS_S, count
from snu_plugin.origin import how_to_install
from snu_plugin.report import style

_DATA = {
    "jsb": "the published JSB chorales",
    "music21": "Bach chorales bundled with music21",
}

SAID = {
    "programmed": "left alone",
    "global": "one gain",
    "compensated": "recalibrated",
    "tuned": "tuned",
}
"""What tables, pages and pictures call the cases of a chip; records have the keys."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture of a page."""

    file: str | PathLike[str]
    """A PNG; it is copied into the page."""
    title: str
    caption: str = ""
    wide: bool = False
    """Take the whole width of the page."""


def write_page(
    path: str | PathLike[str], record: Mapping[str, Any], figures: Sequence[Figure] = ()
) -> Path:
    """Write ``report.html``: text, tables and pictures in one file, for light and dark screens.

    Args:
        path: Where the page goes; it is written whole or not at all.
        record: What ``report.json`` holds, as ``demo.summary`` makes it. In ``extra``
            ``command``, ``chip``, ``source`` (of the data), ``assumptions`` (sentences about
            energy and latency), ``tiles`` (a count), ``published`` (unit to NLL, shown beside the
            JSB data only) and ``cases`` (what was done to the chip) have their own places;
            anything else is listed as it is.
        figures: Pictures in their order.

    Returns:
        The path.

    Raises:
        ImportError: jinja2 is not installed.
        OSError: A picture cannot be read, or the page cannot be written.
    """
    extra = record["extra"]
    known = ("command", "chip", "source", "assumptions", "tiles", "published", "cases")
    html = template("page.html").render(
        r=record,
        nll=record["nll"],
        said=SAID,
        times=list(record["nll"]["programmed"]),
        published=extra["published"] if record["data"]["name"] == "jsb" else {},
        sentences=sentences(record),
        notes=[*_warnings(record), *record["notes"]],
        pictures=[(figure, inline(figure.file)) for figure in figures],
        energy=_energy(record["energy_nj_per_step"]),
        extra=extra,
        further={key: value for key, value in extra.items() if key not in known},
    )
    return files.write(path, html.encode())


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Say in five sentences what was done and what came of it."""
    nll, data = record["nll"], record["data"]
    times = list(nll["programmed"])
    first, last = times[0], times[-1]
    pieces = dict(zip(("train", "valid", "test"), data["chorales"], strict=True))
    ran = "; ".join(f"{name}: {verdict}" for name, verdict in record["verify"].items())
    layers = "-".join(map(str, record["network"]))
    learned = f"An {record['unit']} network of {layers} units learned to predict the next chord of "
    learned += f"{data_name(data['name'])} from {pieces['train']} pieces, and scores "
    learned += f"{number(nll['float'])} nats per time step on {pieces['test']} pieces it had never "
    learned += "seen."
    return [
        learned,
        f"It left its simulator as a NIR file, which read back scores {number(nll['nir'])}; "
        f"running that file elsewhere gave: {ran}.",
        f"Its weights were mapped onto {count(record['devices'])} modelled phase-change devices: "
        f"an ideal chip scores {number(nll['ideal_chip'])}, a realistic one "
        f"{number(nll['programmed'][first])} after {duration(first)} and, left alone, "
        f"{number(nll['programmed'][last])} after {duration(last)}.",
        f"Recalibrating the chip before use, which needs no new writing, gives "
        f"{_span(nll['compensated'])}.",
        f"Fine-tuning with the chip in the loop took {count(record['pulses'])} pulses on the same "
        f"devices and gives {_span(nll['tuned'])}.",
    ]


def _span(values: Mapping[str, float]) -> str:
    first, last = next(iter(values)), list(values)[-1]
    return (
        f"{number(values[first])} after {duration(first)} and "
        f"{number(values[last])} after {duration(last)}"
    )


def _warnings(record: Mapping[str, Any]) -> list[str]:
    """Return what every reader of such numbers must know, whoever made the record."""
    said = ["Every number about the chip comes from a simulation of its devices, not from silicon."]
    if record["data"]["name"] != "jsb":
        said.append(
            f"The data are {data_name(record['data']['name'])}, not the published JSB file: "
            "likelihoods on the two must not be compared."
        )
    return said


def _energy(parts: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Return name, value and share of each part."""
    total = sum(parts.values()) or 1.0
    return [(name, value, value / total) for name, value in parts.items()]


def inline(file: str | PathLike[str]) -> str:
    """Return a PNG as a page holds it; raises ``ValueError`` for another kind of file."""
    content = Path(file).read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"{Path(file)} is not a PNG; a page takes PNG pictures only")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def number(value: float | None) -> str:
    """Write a likelihood with three decimals; what was not measured is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def difference(value: float | None, reference: float) -> str:
    """Write how far a likelihood lies from another, with its sign."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value - reference:+.3f}".replace("-", "−")


def duration(text: str) -> str:
    """Write ``30d`` as ``30 d``; what is no such time stays as it is."""
    return re.sub(rf"^(\d+)({'|'.join(UNITS_S)})$", r"\1 \2", text)


def data_name(name: str) -> str:
    """Say what a data set is."""
    return _DATA.get(name, f"the data set {name!r}")


def template(name: str) -> Any:
    """Return one of the templates beside this file; all have the same style.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError(
            f"the report needs jinja2; install it with: {how_to_install('report')}"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number, "difference": difference, "count": count, "duration": duration,
        "data_name": data_name,
    }  # fmt: skip
    here = resources("snu_plugin.report")
    css = here.joinpath("page.css").read_text(encoding="utf-8")
    made = environment.from_string(here.joinpath(name).read_text(encoding="utf-8"))
    made.globals["css"] = Markup(css)  # ours, as it is
    return made


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
