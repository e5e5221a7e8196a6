"""Write the report of years of use as one HTML page that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from snu_plugin.report.page import count
from snu_plugin.report.sheet import Figure, Section, Sheet, Table, write_sheet

CAPTION = (
    "Mean and standard deviation over chips; a mark is a visit at which chips were looked after."
)


def write_page(
    path: str | PathLike[str], record: Mapping[str, Any], picture: str | PathLike[str], text: str
) -> Path:
    """Write picture, tables and what must be known in one file, for light and dark screens.

    Args:
        path: Where the page goes; it is written whole or not at all.
        record: What ``life.json`` holds: ``data``, ``chip``, ``devices``, ``chips``, ``seed``,
            ``policies``, ``costs``, ``reference``, ``notes``, ``versions``.
        picture: A PNG; it is copied into the page.
        text: The tables as a terminal shows them, of which the first lines become the lede.

    Returns:
        The path.

    Raises:
        OSError: The picture cannot be read, or the page cannot be written.
    """
    rows = [
        (
            name,
            means,
            f"{record['costs'][name]['upkeeps']:.4g}",
            count(record["costs"][name]["pulses"]),
            count(record["costs"][name]["readings"]),
            f"{record['costs'][name]['energy_nj'] * 1e-3:.4g} µJ",
            f"{record['costs'][name]['stuck']:.4g}",
        )
        for name, means in record["policies"].items()
    ]
    drawn = Figure(file=picture, title="Score and upkeep", caption=CAPTION, wide=True)
    heads = ("way", "what is done", "times", "pulses", "readings", "energy", "stuck devices")
    sheet = Sheet(
        title=f"Years of use: {record['data']}",
        lede=f"{record['metric']}. {' '.join(text.splitlines()[1:2])}.",
        badges=("simulated chip", f"chip: {record['chip']}", f"from seed {record['seed']}"),
        cards={
            "devices": count(record["devices"]),
            "chips, each in every life": str(record["chips"]),
            "strict reference, no chip": f"{record['reference']:.4f}",
        },
        sections=[
            Section(
                title="The score over the years",
                figures=[drawn],
            ),
            Section(
                title="What looking after one chip took in all",
                tables=[Table(heads=heads, rows=rows, words=(1,))],
            ),
        ],
        notes=record["notes"],
        command="snu life GRAPH DATA --report FILE.html",
        facts={"versions": ", ".join(f"{n} {v}" for n, v in record["versions"].items())},
    )
    return write_sheet(path, sheet)
