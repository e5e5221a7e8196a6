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
from snu_plugin.accelerator import Program
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


def ports(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the one Input and the one Output."""
    if len(program.inputs) != 1 or len(program.outputs) != 1:
        raise ValueError(
            f"the graph has the Inputs {', '.join(program.inputs)} and the Outputs "
            f"{', '.join(program.outputs)}; data are scored on graphs with one of each: export a "
            "model that returns what is scored alone, such as its spikes"
        )
    return program.shapes[program.inputs[0]], program.shapes[program.outputs[0]]


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
