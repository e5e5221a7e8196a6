"""How time grows with steps, batch, neurons and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from snu_plugin.bench.candidates import ALONE, COPIES, Maker, Workload, ready
from snu_plugin.bench.timing import table, time_in_turns

STEPS, BATCH, WIDTH = 50, 16, 128
"""What stays the same while another size grows."""

SIZES = {
    "steps": (10, 30, 100, 300, 1000),
    "batch": (1, 4, 16, 64, 256),
    "neurons": (16, 64, 256, 1024),
    "depth": (1, 2, 4, 8),
}
"""Values of each size for everybody."""

FAR = {"steps": (10_000, 40_000), "batch": (4096, 16_384), "neurons": (16_384, 131_072)}
"""More values, up to 400 MB a tensor, for our neurons alone."""

LONGEST_S = 1.0
"""Who takes longer is left out at larger sizes."""

LAYERS = ("reference", "sSNU (", "by steps")
"""Parts of the names of those who are left out: another of their kind is there."""


def workload(axis: str, size: int) -> Workload:
    """Return the layer, or the layers, where one size has this value."""
    steps, batch = (size if axis == name else n for name, n in (("steps", STEPS), ("batch", BATCH)))
    outputs = size if axis == "neurons" else WIDTH
    return Workload(steps, batch, (WIDTH,) + (outputs,) * (size if axis == "depth" else 1))


def run(
    makers: Mapping[str, Maker],
    seconds: float,
    absent: dict[str, str],
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Return a row for every candidate at every size: axis, size, candidate, median in seconds.

    Args:
        makers: Who may be timed.
        seconds: About how long each axis takes.
        absent: Who cannot run here; more are added.
        progress: Is told what is going on.
    """
    taking = {
        name: make
        for name, make in makers.items()
        if name != COPIES and not any(part in name for part in LAYERS)
    }
    rows = []
    for axis in SIZES:
        progress(f"growth with {axis}")
        rows += along(axis, taking, seconds, absent)
    return rows


def along(
    axis: str, makers: Mapping[str, Maker], seconds: float, absent: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the rows of one axis."""
    rows: list[dict[str, Any]] = []
    slow: set[str] = set()
    far = FAR.get(axis, ())
    for size in (*SIZES[axis], *far):
        # In a stack nobody runs without products, far out our neurons alone.
        quick = {
            name: make
            for name, make in makers.items()
            if name not in slow
            and not (axis == "depth" and ALONE in name)
            and (size not in far or (ALONE in name and name.startswith("SNU (")))
        }
        calls = ready(workload(axis, size), quick, absent)
        for name, timing in time_in_turns(calls, seconds / len(SIZES[axis])).items():
            rows.append({"axis": axis, "size": size, "candidate": name, "median": timing.median})
            if timing.median > LONGEST_S:
                slow.add(name)
    return rows


def exponent(rows: list[dict[str, Any]], axis: str, candidate: str) -> float:
    """Return the power of the size with which time grew between the two largest sizes."""
    found = sorted(
        (row["size"], row["median"])
        for row in rows
        if (row["axis"], row["candidate"]) == (axis, candidate)
    )
    if len(found) < 2:
        return math.nan
    (size, time), (larger, longer) = found[-2:]
    return math.log(longer / time) / math.log(larger / size)


def text(rows: list[dict[str, Any]]) -> str:
    """Return a table for each axis: milliseconds by size, and the exponent at its end."""
    blocks = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        sizes = list(dict.fromkeys(row["size"] for row in rows if row["axis"] == axis))
        found = {(r["candidate"], r["size"]): r["median"] for r in rows if r["axis"] == axis}
        lines = [
            (
                name,
                *(f"{1e3 * found[name, n]:.3g}" if (name, n) in found else "" for n in sizes),
                f"{exponent(rows, axis, name):.2f}",
            )
            for name in dict.fromkeys(name for name, _ in found)
        ]
        kept = ", ".join(
            f"{value} {name}"
            for name, value in (("steps", STEPS), ("batch", BATCH), ("neurons", WIDTH))
            if name != axis
        )
        blocks.append(f"Milliseconds by {axis} ({kept}):")
        blocks.append(table(("candidate", *map(str, sizes), "power"), lines))
    return "\n\n".join(blocks)
