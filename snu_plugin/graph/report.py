"""What came of running a graph in simulators, as values and as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.checking import Verdict
from snu_plugin.notebook import Shown, Table

Array = NDArray[Any]
Status = Literal["exact", "approximate", "refused", "crashed", "timed out", "missing", "silent"]
"""What came of a run; silent: nothing but zeros were to be given, which shows nothing."""


EXACT = "exact"
FIRE = "give inputs that make the graph fire"

LONGEST = 200
"""Characters that a table shows of what an importer said; ``Run.message`` has all of it."""

WIDEST, SHORTEST = 80, 24
"""Columns of a terminal that a table fits, and what its sentences take of them at least."""

AROUND = 20
"""Steps before and after a first difference that ``divergence`` gives."""


@dataclass(frozen=True)
class Run:
    """One importer of one simulator on one graph."""

    simulator: str
    importer: str
    """"plugin": this plugin's; "stock": the host's own."""
    status: Status
    differing: float | None = None
    """Share of outputs that differ from the strict reference's; None where nothing came back."""
    first_step: int | None = None
    """First step with a differing output."""
    only_first: bool = False
    """Only the first tenth of the steps differ: suspect the start potential or a fed-back bias."""
    message: str = ""
    outputs: Array | None = field(default=None, repr=False, compare=False)
    """What came back where it differs, ``(T, B, ...)``; not in ``to_dict``."""

    @property
    def shortly(self) -> str:
        """The message, or its beginning."""
        return textwrap.shorten(self.message, LONGEST, placeholder=" ...")


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Shown):
    """What ``verify`` found; ``str(report)`` is a table, and it is true where it is ``exact``."""

    dt: float | None
    dt_source: str
    steps: int
    batch: int
    inputs: str
    """What was fed."""
    compared: str
    """How outputs were compared. Spikes inside other simulators are not seen, only outputs."""
    active: float
    """Share of the reference's outputs that are not zero: where it is 0, silence was compared."""
    near_threshold: float
    """Share of states of the reference within a few float32 ulps of their threshold: there one
    rounding decides a spike."""
    fired: dict[str, float]
    """Share of neurons of the reference that fired at least once, for each node that spikes."""
    nodes: tuple[Verdict, ...]
    notes: tuple[str, ...]
    runs: tuple[Run, ...]
    readers: dict[str, tuple[Run, ...]]
    """What came of each node alone, on what it receives in this graph, in each importer: whether
    one reads it exactly. How nodes are wired is judged by ``runs``."""
    known: dict[str, dict[str, str]]
    """How simulators that did not run read nodes, as far as that is known (docs/hosts.md): by
    simulator and node."""
    named: bool
    """Whether the simulators were named: then one that is missing counts."""
    versions: dict[str, str]
    expected: Array | None = field(default=None, repr=False, compare=False)
    """Outputs of the strict reference, ``(T, B, ...)``; not in ``to_dict``."""
    elsewhere: tuple[str, ...] = ()
    """Simulators that ran in environments of their own: unless they were named, it does not count
    that one of them cannot read the graph."""

    @property
    def exact(self) -> bool:
        """Whether the graph runs as it was trained, shown by outputs that are not silence."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.exact

    @property
    def silent(self) -> tuple[str, ...]:
        """Nodes that can spike and of which no neuron fired."""
        return tuple(name for name, share in self.fired.items() if not share)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the graph is not ``exact``, a phrase each; empty where it is.

        A simulator is judged by this plugin's importer, where there is one, else by its own.
        """
        found = []
        if self.fired and len(self.silent) == len(self.fired):
            found.append(f"nothing fired, so that silence was compared; {FIRE}")
        elif self.fired and not self.active:
            found.append(f"no output fired, so that silence was compared; {FIRE}")
        found += [
            f"{n.name or 'the graph'} is {n.verdict}" for n in self.nodes if n.verdict != EXACT
        ]
        ours = {run.simulator for run in self.runs if run.importer == "plugin"}
        judged = [
            run
            for run in self.runs
            if (run.importer == "plugin" or run.simulator not in ours)
            and (self.named or not self._unread(run))
        ]
        if not judged:
            found.append("no simulator ran")
        return (*found, *(f"{r.simulator}: {r.status}" for r in judged if r.status != EXACT))

    def _unread(self, run: Run) -> bool:
        own = run.simulator in self.elsewhere and run.status in ("refused", "crashed")
        return own or run.status == "missing"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        plain = asdict(self) | {
            "exact": self.exact,
            "problems": list(self.problems),
            "silent": list(self.silent),
        }
        plain["nodes"] = [node._asdict() for node in self.nodes]
        alone = [run for found in plain["readers"].values() for run in found]
        for record in (plain, *plain["runs"], *alone):
            record.pop("expected", None)
            record.pop("outputs", None)
        return plain

    def _read_alone(self) -> list[str]:
        """Return a table of nodes by importers."""
        if not any(self.readers.values()):
            return []
        kinds = {node.name: node.kind for node in self.nodes}
        first = next(iter(self.readers.values()))
        rows = [("node alone", "type", *(f"{r.simulator} {r.importer}" for r in first))]
        for name, found in self.readers.items():
            cells = (
                f"{run.differing:.2%} differ" if run.differing else run.status for run in found
            )
            rows.append((name, kinds[name], *cells))
        lines: list[str] = []
        for part in _parts(rows, held=2):
            lines += [*_lines(part), ""]
        return lines

    def _known_elsewhere(self) -> list[str]:
        """Return a line for each thing that is known of simulators that did not run."""
        rows = [("not run", "known of it (nodes)")]
        for simulator, told in self.known.items():
            for text in dict.fromkeys(told.values()):
                nodes = ", ".join(node for node, of_it in told.items() if of_it == text)
                rows.append((simulator, f"{text} ({nodes})"))
        return [*_lines(rows), ""] if self.known else []

    def divergence(self) -> Divergence | None:
        """Return where the first run that differs leaves the reference; None if none does."""
        for run in self.runs:
            if run.outputs is None or run.first_step is None or self.expected is None:
                continue
            steps = len(self.expected)
            given, got = (a.reshape(steps, a.shape[1], -1) for a in (self.expected, run.outputs))
            sample = int((given[run.first_step] != got[run.first_step]).any(1).argmax())
            begin = max(0, run.first_step - AROUND)
            window = slice(begin, run.first_step + AROUND)
            return Divergence(
                run.simulator, run.importer, run.first_step, sample, begin,
                given[window, sample], got[window, sample],
            )  # fmt: skip
        return None

    def _table(self) -> Table:
        rows = [(run.simulator, run.importer, run.status, _outcome(run)) for run in self.runs]
        return Table(self._in_a_line(), ("simulator", "importer", "result", ""), rows, self.notes)

    def _in_a_line(self) -> str:
        if self.problems:
            return "not exact: " + "; ".join(self.problems)
        others = [r.simulator for r in self.runs if r.importer == "stock" and r.status != EXACT]
        if not others:
            return EXACT
        return (
            f"{EXACT} as this plugin imports it; not as their own importers do: {', '.join(others)}"
        )

    def __str__(self) -> str:
        shares = {name: f"{100 * share:.3g}%" for name, share in self.fired.items()}
        nodes = [("node", "type", "fired", "verdict", "reason")]
        nodes += [
            (n.name or "(graph)", n.kind, shares.get(n.name, ""), n.verdict, n.reason)
            for n in self.nodes
        ]
        runs = [("simulator", "importer", "result", "")]
        runs += [(r.simulator, r.importer, r.status, _outcome(r)) for r in self.runs]
        dt = "none" if self.dt is None else f"{self.dt:.6g}"
        lines = [
            f"dt {dt}: {self.dt_source}",
            f"{self.steps} steps, batch {self.batch}, inputs {self.inputs}; "
            f"compared as {self.compared}",
            f"{self.active:.2%} of the outputs are not zero",
            f"{self.near_threshold:.2%} of the states lie within rounding of their threshold",
            *(f"note: {note}" for note in self.notes),
            "",
            *_lines(nodes),
            "",
            *_lines(runs),
            "",
            *self._read_alone(),
            *self._known_elsewhere(),
            self._in_a_line(),
            "",
            ", ".join(f"{name} {number}" for name, number in self.versions.items()),
        ]
        return "\n".join(lines)


class Divergence(NamedTuple):
    """Outputs around the first step at which a simulator leaves the reference."""

    simulator: str
    importer: str
    step: int
    sample: int
    """Which of the batch."""
    begin: int
    """Step of the first row."""
    expected: Array
    """``(steps, outputs)``, of the reference."""
    outputs: Array
    """``(steps, outputs)``, of the simulator."""


class Comparison(NamedTuple):
    """Outputs of the strict reference, and how far others may be from them."""

    expected: Array
    budget: float
    how: str

    def judge(self, simulator: str, importer: str, y: Array) -> Run:
        """Return what came of a run that gave ``y``."""
        if y.shape != self.expected.shape:
            return Run(
                simulator,
                importer,
                "approximate",
                1.0,
                0,
                message=f"gave the shape {y.shape} instead of {self.expected.shape}",
            )
        far = np.abs(y.astype(np.float64) - self.expected) > self.budget
        far |= ~np.isfinite(y)
        if not far.any():
            return Run(simulator, importer, "exact", 0.0)
        steps = np.flatnonzero(far.reshape(len(far), -1).any(1))
        return Run(
            simulator,
            importer,
            "approximate",
            float(far.mean()),
            int(steps[0]),
            bool(steps[-1] < len(far) / 10),
            outputs=y,
        )


def _outcome(run: Run) -> str:
    if run.differing and not run.message:
        share = f"{100 * run.differing:.3g}%"
        first = f"{share} of outputs differ, the first at step {run.first_step}"
        if run.outputs is not None and not run.outputs.any():
            return f"{first}; it gives nothing but zeros"
        hint = "; only first steps: another start potential, or a bias fed back at once"
        return first + (hint if run.only_first else "")
    return run.shortly


def _lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the lines of a table; sentences of its last column go on below."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    taken = sum(widths) + 2 * len(widths)
    room = max(SHORTEST, WIDEST - taken)
    lines = []
    for row in rows:
        head = "".join(f"{cell:{w}}  " for cell, w in zip(row, widths, strict=False))
        first, *more = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        lines += [(head + first).rstrip(), *(" " * taken + each for each in more)]
    return lines


def _parts(rows: Sequence[tuple[str, ...]], held: int) -> Iterator[list[tuple[str, ...]]]:
    """Yield tables of at most ``WIDEST`` columns; each begins with the first ``held`` of all."""
    widths = [2 + max(map(len, column)) for column in zip(*rows, strict=True)]
    begin = sum(widths[:held])
    part, width = list(range(held)), begin
    for place in range(held, len(widths)):
        if len(part) > held and width + widths[place] > WIDEST + 2:
            yield [tuple(row[p] for p in part) for row in rows]
            part, width = list(range(held)), begin
        part.append(place)
        width += widths[place]
    yield [tuple(row[p] for p in part) for row in rows]
