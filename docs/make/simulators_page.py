"""Every node of NIR in every simulator, by running it: ``python docs/make/simulators_page.py``.

Run ``snu simulators install NAME`` for each simulator first; one that is not there is left out.
"""

from __future__ import annotations

import sys
import warnings
from datetime import date
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np

import page_tables
from snu_plugin import environments
from snu_plugin.bench.simulators import example
from snu_plugin.experiments.settings import listed
from snu_plugin.graph import Report, Run, stamp, verify

DT = 2.0**-10
"""A power of two, so that a step and its inverse are exact."""

MEANS = {"crashed": "crash", "refused": "refused", "silent": "not shown", "timed out": "no end"}


def images() -> nir.NIRGraph:
    """Return a network of images."""
    draw = np.random.default_rng(0)
    size = np.array([4, 8, 8])
    nodes = {
        "Conv2d": nir.Conv2d((8, 8), draw.normal(0, 0.5, (4, 2, 3, 3)), 1, 1, 1, 1, np.zeros(4)),
        "LIF of images": lif((4, 8, 8)),
        "SumPool2d": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "AvgPool2d": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "Flatten": nir.Flatten({"input": size // [1, 4, 4]}, 0, -1),
    }
    return chained(nodes, (2, 8, 8))


def lines() -> nir.NIRGraph:
    """Return a network of signals along a line."""
    draw = np.random.default_rng(1)
    weight = draw.normal(0, 0.5, (4, 2, 3))
    return chained({"Conv1d": nir.Conv1d(16, weight, 1, 1, 1, 1, np.zeros(4))}, (2, 16))


def lif(shape: int | tuple[int, ...], r: float = 8.0, leak: float = 0.0) -> nir.LIF:
    """Return LIF neurons with a time constant of 8 steps; ``r = 8`` takes inputs as they are."""
    ones = np.ones(shape)
    return nir.LIF(8 * DT * ones, r * ones, leak * ones, 0.4 * ones, 0 * ones)


def vectors() -> nir.NIRGraph:
    """Return a network with every other node, each behind what makes it fire."""
    draw = np.random.default_rng(2)
    ones = np.ones(12)
    mixed = {f"mix {n}": nir.Linear(draw.normal(0, 1.2, (12, 12))) for n in range(8)}
    uneven = lif(12)
    uneven.v_threshold = np.linspace(0.3, 0.6, 12)
    cuba = nir.CubaLIF(
        4 * DT * ones, 8 * DT * ones, 8 * ones, 0 * ones, 0.4 * ones, 0 * ones, 4 * ones
    )
    nodes = {
        "Affine": nir.Affine(draw.normal(0, 1, (12, 12)), draw.normal(0, 0.1, 12)),
        "LIF, r = tau/dt": lif(12),
        "Linear": mixed["mix 0"],
        "LIF, r = 1": lif(12, r=1.0),
        "mix 1": nir.Linear(4 * mixed["mix 1"].weight),
        "LIF, v_leak": lif(12, leak=0.1),
        "mix 2": mixed["mix 2"],
        "LIF, thresholds differ": uneven,
        "mix 3": mixed["mix 3"],
        "IF, r = 1/dt": nir.IF(ones / DT, 2 * ones, 0 * ones),
        "mix 4": mixed["mix 4"],
        "CubaLIF": cuba,
        "mix 5": mixed["mix 5"],
        "Scale": nir.Scale(0.5 * ones),
        "Threshold": nir.Threshold(0.2 * ones),
        "mix 6": mixed["mix 6"],
        "Delay": nir.Delay(2 * DT * ones),
        "LI": nir.LI(8 * DT * ones, 8 * ones, 0 * ones),
        "CubaLI": nir.CubaLI(4 * DT * ones, 8 * DT * ones, 8 * ones, 0 * ones, 4 * ones),
        "I": nir.I(ones / DT),
    }
    return chained(nodes, (12,))


def chained(nodes: dict[str, nir.NIRNode], shape: tuple[int, ...]) -> nir.NIRGraph:
    """Return nodes one after the other between an Input and an Output."""
    every = {"input": nir.Input({"input": np.array(shape)}), **nodes, "output": nir.Output(None)}
    names = list(every)
    return stamp(nir.NIRGraph(every, list(pairwise(names)), False), DT)


def told(run: Run | None) -> str:
    """Return a cell."""
    if run is None:
        return ""
    if run.status == "exact":
        return "**exact**"
    if run.status == "approximate":
        return "other shape" if run.message else f"{run.differing:.1%}"
    return MEANS.get(run.status, run.status)


def main() -> int:
    """Write the page."""
    warnings.simplefilter("ignore")
    names = [row.name for row in environments.listed() if row.runs]
    reports: list[Report] = [verify(g(), simulators=names) for g in (vectors, lines, images)]
    loop = verify(example(), simulators=names)
    columns = [(run.simulator, run.importer) for run in loop.runs]
    rows = []
    for report in reports:
        for node, runs in report.readers.items():
            if not node.startswith("mix "):
                rows.append((node, {(run.simulator, run.importer): run for run in runs}))
    rows.append(("two LIF, one in a loop", {(r.simulator, r.importer): r for r in loop.runs}))
    head = [f"{name}, {importer}" if importer == "plugin" else name for name, importer in columns]
    cells = []
    reasons: dict[str, list[str]] = {}
    for node, found in rows:
        cells.append([node, *(told(found.get(column)) for column in columns)])
        for (name, importer), run in found.items():
            if importer == "stock" and run.message and run.status not in ("exact", "missing"):
                reasons.setdefault(f"{name}: {' '.join(run.message.split())[:160]}", []).append(
                    node
                )
    here = listed({**reports[0].versions, **loop.versions})
    notes = sorted({note for report in reports for note in report.notes if " runs with " in note})
    page = [
        "# Every node of NIR in every simulator",
        "",
        f"Made by `python docs/make/simulators_page.py` on {date.today()} with {here}. "
        + "; ".join(notes)
        + ".",
        "",
        "`snu simulators` lists them, `snu simulators install NAME` gives each an environment of "
        "its own, and `snu verify` runs a graph of yours there. Here every node was written to a "
        "file, read by the simulator's own importer (*plugin*: by ours) and run alone, float32, "
        "100 steps, batch 4, on what it receives in a network that makes it fire; a cell is the "
        "share of outputs that differ from strict forward Euler. Images are (channels, height, "
        "width), turned for spyx, which takes channels last. *Not shown*: nothing but zeros came, "
        "or was to come.",
        "",
        page_tables.table(("node", *head), cells),
        "",
        "What was said:",
        "",
        *(f"- {_plain(reason)} ({', '.join(nodes)})" for reason, nodes in sorted(reasons.items())),
        "",
    ]
    Path(__file__).parents[1].joinpath("simulators.md").write_text("\n".join(page))
    return 0


def _plain(reason: str) -> str:
    """Return a reason whose underscores Markdown leaves alone."""
    return reason.replace("__", r"\_\_")


if __name__ == "__main__":
    sys.exit(main())
