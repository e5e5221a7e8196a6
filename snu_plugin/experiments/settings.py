"""What several experiments need: ages, the ports of a graph, one thread, versions."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from snu_plugin import files
from snu_plugin.bench.timing import threads_of_torch
from snu_plugin.durations import UNITS_S
from snu_plugin.report.page import SAID

PACKAGES = ("torch", "numpy", "nir", "snntorch", "norse", "numba", "snu-plugin")


def ages(text: str) -> dict[str, float]:
    """Return seconds since programming by name, in order, out of ``"1h,1d,30d,1y"``.

    >>> ages("1 d,90min")
    {'90min': 5400.0, '1d': 86400.0}
    """
    found = {}
    for part in text.split(","):
        name = "".join(part.split())
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d|y)", name)
        if match is None:
            raise ValueError(
                f"age {part.strip()!r} is not a number with a unit; give ages such as 20s, 90min, "
                "1h, 30d or 1y, separated by commas"
            )
        found[name] = float(match[1]) * UNITS_S[match[2]]
    return dict(sorted(found.items(), key=lambda item: item[1]))


def one_age(text: str, name: str = "at") -> float:
    """Return the seconds of one age, such as ``"1d"``; ``name`` is what errors call it."""
    found = ages(text)
    if len(found) != 1:
        raise ValueError(f"{name} is {text!r}; give one age, such as 1d")
    return next(iter(found.values()))


one_thread = partial(threads_of_torch, 1)
"""Matrices of 88 x 150 are too small to share out."""


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of those that are installed, by name of the package."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def listed(names: Mapping[str, str]) -> str:
    """Return versions by name in a line."""
    return ", ".join(f"{name} {number}" for name, number in names.items())


def write_json(path: Path, record: Any) -> None:
    """Write a record in one stroke: whoever reads finds all of it or what was there before."""
    files.write(path, (json.dumps(record, indent=1) + "\n").encode())


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def silent_text(counts: Mapping[str, float]) -> list[str]:
    """Return a line on how many sequences found a network silent, by case; none where none did."""
    said = {case: " ".join(SAID.get(word, word) for word in case.split()) for case in counts}
    found = ", ".join(f"{said[case]} {count:.3g}" for case, count in counts.items() if count)
    return [f"sequences on which every output is silent, of no class: {found}"] if found else []


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
