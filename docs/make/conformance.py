"""The table of who exchanges which neuron with whom: ``python docs/make/conformance.py``.

Adapters offer ``conformance_networks()``: networks of their neurons, how they run, and how they
leave.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Tensor

import page_tables
from snu_plugin import simulators
from snu_plugin.experiments.settings import listed
from snu_plugin.graph import Report, Run, network, verify
from snu_plugin.graph.report import Comparison

NOTHING = "–"
"""In a cell where there is nothing to say: no file was made, no settings were given."""


class Exhibit(NamedTuple):
    """One network with one kind of neuron."""

    exporter: str
    """Whose export, "snntorch, plugin" or the host's own "snntorch, stock"."""
    neuron: str
    """Kind and settings."""
    run: Callable[[Tensor], Tensor]
    """Outputs ``(T, B, ...)`` of the original network on ``(T, B, 8)``."""
    export: Callable[[Tensor], nir.NIRGraph]
    """Its graph; takes the same data as a sample."""
    dt: float | None = None
    """Time step that a graph of a host's own leaves undeclared; None where it is found."""


class Row(NamedTuple):
    """What became of one exhibit."""

    exporter: str
    neuron: str
    reference: str
    """The strict reference, against the original."""
    cells: dict[tuple[str, str], str]
    """By simulator and importer."""


def rows(exhibits: list[Exhibit], x: Tensor) -> Iterator[tuple[Row, Report | None]]:
    """Export each exhibit, run it everywhere, and compare with the original network's outputs."""
    for exhibit in exhibits:
        expected = exhibit.run(x).numpy()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # snnTorch prints what it lacks
                graph = exhibit.export(x)
            report = verify(graph, x, dt=exhibit.dt)
        except Exception as error:  # a host's exporter may raise anything: that is what is told
            text = " ".join(str(error).split())
            verdict = "crashed" if isinstance(error, AttributeError) else "refused"
            yield Row(exhibit.exporter, exhibit.neuron, f"{verdict}: {text:.120}", {}), None
            continue
        judge = Comparison(expected, 1e-5 * float(np.abs(expected).max()), "")
        cells = {(r.simulator, r.importer): _cell(r, report, judge) for r in report.runs}
        told = "-" if report.expected is None else _told(judge.judge("", "", report.expected))
        yield Row(exhibit.exporter, exhibit.neuron, told, cells), report


def _cell(run: Run, report: Report, judge: Comparison) -> str:
    if run.status == "exact" and report.expected is not None:
        return _told(judge.judge(run.simulator, run.importer, report.expected))
    if run.outputs is not None:
        return _told(judge.judge(run.simulator, run.importer, run.outputs))
    return run.status


def _told(run: Run) -> str:
    if run.status == "exact":
        return "**exact**"
    share = run.differing or 0.0
    return f"{share:.1%}" if share >= 5e-4 else f"{100 * share:.1g}%"


class Entry(NamedTuple):
    """One class of a host, with some settings."""

    kind: str
    settings: str
    """Its settings; where it does not run, what it is instead."""
    inputs: tuple[int, ...]
    run: Callable[[Tensor], Tensor] | None
    """Outputs ``(T, B, ...)`` of a network with it on ``(T, B, *inputs)``."""
    export: Callable[[Tensor], nir.NIRGraph] | None
    """The network's graph."""


def entries(host: str) -> list[Entry]:
    """Return what the adapter of a host offers of its classes; nothing if it offers nothing."""
    offered: Any = getattr(simulators.adapter(host), "conformance_classes", None)
    return [Entry(*one) for one in offered()] if callable(offered) else []


def told(entry: Entry) -> str:
    """Return what becomes of a class when it leaves: exact, a share, or why not."""
    if entry.run is None or entry.export is None:
        return entry.settings
    x = (torch.rand(60, 4, *entry.inputs) < 0.4).float()
    try:
        graph = entry.export(x)
    except (TypeError, ValueError) as error:
        return f"refused: {error}"
    expected, (actual, _) = entry.run(x).numpy(), network(graph)(x)
    actual = actual if isinstance(actual, Tensor) else next(iter(actual.values()))
    judge = Comparison(expected, 1e-5 * float(np.abs(expected).max()), "")
    return _told(judge.judge("", "", actual.detach().numpy()))


def classes(hosts: list[str]) -> str:
    """Return the table of what becomes of every class of the hosts, in Markdown."""
    rows = []
    for host in hosts:
        for entry in entries(host):
            settings = NOTHING if entry.run is None else entry.settings.strip() or "as it comes"
            rows.append((host, entry.kind, settings, told(entry)))
    return page_tables.table(("host", "class", "settings", "leaves"), rows)


def document(table: list[Row], versions: dict[str, str], every: str = "") -> str:
    """Return the page: tables in Markdown, with date and versions; ``every`` is ``classes``'."""
    columns = sorted({key for row in table for key in row.cells}, key=lambda k: (k[1], k[0]))
    names = ["exporter", "neuron", "reference", *(f"{a}, {b}" for a, b in columns)]
    cells = [(*row[:3], *(row.cells.get(column, NOTHING) for column in columns)) for row in table]
    lines = [
        "# Conformance: who exchanges which neuron with whom",
        "",
        f"Made by `python docs/make/conformance.py` on {date.today().isoformat()} with "
        f"{listed(versions)}.",
        "",
        "One layer 8 → 6 in its own simulator, exported, written, read, and run: 100 steps, batch "
        "4, spikes with rate 0.3. A cell is the share of outputs that differ from the *original "
        "network's own run*. *plugin* is this package's exporter or importer, *stock* the "
        "host's own; *refused*: an error that says why (in the column of the reference: on export, "
        "or by `graph.verify`, before anything runs); *crashed*: an error that does not. Graphs of "
        "Norse's own exporter declare no dt and are read with Norse's default, 1e-3. What snnTorch "
        "exports of a recurrent layer has its bias in the loop: read with `feedback='biased'` it "
        "acts at the first step, as in snnTorch; here it is read as NIR's executors do. A dash: no "
        "file was made, or no settings were given.",
        "",
        page_tables.table(names, cells),
    ]
    if every:
        lines += [
            "",
            "## Every class of the hosts",
            "",
            "As each comes, and with every reset: behind weights of its own, exported by the "
            "plugin and run by the strict reference on the same data. *exact*: no output differs "
            "from the original network's own; *refused*: it does not leave, and why.",
            "",
            every,
        ]
    public = Path(__file__).with_name("public_networks.md")  # measured on files that are not here
    return "\n".join([*lines, "", public.read_text()])


def progress(
    found: Iterator[tuple[Row, Report | None]], total: int
) -> Iterator[tuple[Row, Report | None]]:
    """Yield the rows, and say on standard error which are done and since when."""
    begin = time.perf_counter()
    for done, (row, report) in enumerate(found, 1):
        seconds = time.perf_counter() - begin
        told = f"{done}/{total}, {seconds:.0f} s: {row.exporter}, {row.neuron}: {row.reference:.40}"
        print(told, file=sys.stderr, flush=True)
        yield row, report


def main() -> int:
    """Print the page for all adapters that are installed."""
    torch.manual_seed(0)
    x = (torch.rand(100, 4, 8) < 0.3).float()
    exhibits: list[Exhibit] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what hosts warn of is not the question here
        for name in simulators.adapters():
            offered: Any = getattr(simulators.adapter(name), "conformance_networks", None)
            exhibits += [Exhibit(*one) for one in offered()] if callable(offered) else []
        found = list(progress(rows(exhibits, x), len(exhibits)))
        every = classes(list(simulators.adapters()))
    versions = next((report.versions for _, report in found if report is not None), {})
    sys.stdout.write(document([row for row, _ in found], versions, every))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
