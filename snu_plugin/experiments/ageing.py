"""A graph scored on many chips as they age: ``snu run``."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nir
import torch

from snu_plugin import graph
from snu_plugin.accelerator import Accelerator, Chip, Program
from snu_plugin.compiler import compile
from snu_plugin.experiments.demo import one_thread
from snu_plugin.experiments.scored import Scored
from snu_plugin.experiments.versions import versions
from snu_plugin.report.files import write

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "y": 365 * 86_400.0}
CASES = {
    "programmed": "written once, then left alone",
    "compensated": "digital gains of every column fitted anew at that age",
}
"""What each row of the scores means."""


class Score(NamedTuple):
    """One run of the data on one chip."""

    case: str
    age: str
    age_s: float
    chip: int
    """Number of the chip, which is its seed."""
    read: int
    score: float


def ages(text: str) -> dict[str, float]:
    """Return seconds since programming by name, in order, out of ``"1h,1d,30d,1y"``.

    >>> ages("1d,90min")
    {'90min': 5400.0, '1d': 86400.0}
    """
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d|y)", part.strip())
        if match is None:
            raise ValueError(
                f"age {part.strip()!r} is not a number with a unit; give ages such as 20s, 90min, "
                "1h, 30d or 1y, separated by commas"
            )
        found[part.strip()] = float(match[1]) * UNITS_S[match[2]]
    return dict(sorted(found.items(), key=lambda item: item[1]))


def life(
    program: Program, data: Scored, chip: int, at: dict[str, float], reads: int
) -> list[Score]:
    """Write one chip and score it at every age, as it is and recalibrated.

    The recalibration is undone afterwards, so that the next age meets the chip as it was written.

    Args:
        program: The network laid out.
        data: What is scored.
        chip: Number of the chip, its seed.
        at: Seconds since programming by name, rising.
        reads: Runs of all data at each age; each meets other slow read noise.

    Raises:
        ValueError: For an age before the chip can first be read.
    """
    with one_thread(), torch.no_grad():
        made = Accelerator(program, chip)
        made.program()
        if min(at.values()) < made.age_s:
            raise ValueError(
                f"age {next(iter(at))} is too early: {program.chip.name} is first read "
                f"{made.age_s:g} s after programming"
            )
        scores = []
        for age, seconds in at.items():
            made.wait(max(0.0, seconds - made.age_s))
            written = made.registers
            for case in CASES:
                if case == "compensated":
                    made.calibrate()
                for read in range(reads):
                    value = data.score(lambda x: made.run(x)[0])
                    scores.append(Score(case, age, seconds, chip, read, value))
            made.set_registers(written)
    return scores


def run(
    g: nir.NIRGraph,
    data: Callable[[tuple[int, ...], tuple[int, ...]], Scored],
    chip: Chip,
    *,
    at: dict[str, float],
    chips: int = 10,
    reads: int = 5,
    jobs: int = 1,
    dt: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], list[Score]]:
    """Score a graph on chips 0 to ``chips - 1``; the number of jobs changes nothing but the time.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Called with the shapes of Input and Output, returns the data for them.
        chip: The chip's settings.
        at: Seconds since programming by name; see ``ages``.
        chips: Chips, each with its number as seed.
        reads: Runs of all data on each chip at each age.
        jobs: Processes (joblib; -1: one per core). Inside ``joblib.parallel_config(backend=...)``
            that backend is used, Dask for example.
        dt: As in ``compile``.
        say: Called with a sentence whenever a chip is done.

    Returns:
        A record of settings and statistics, and every single score.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, or counts that are not positive.
    """
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    for name, count in (("chips", chips), ("reads", reads)):
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
    if jobs == 0:
        raise ValueError("jobs is 0; give a number of processes, or -1 for one per core")
    program = compile(g, chip, dt=dt)
    takes, gives = _ports(program)
    scored = data(takes, gives)
    say(f"chip 0 of {chips}")
    # One after the other as they are done, where the backend can; else all at the end.
    one_by_one = get_active_backend()[0].supports_return_generator
    found = Parallel(n_jobs=jobs, return_as="generator" if one_by_one else "list")(
        delayed(life)(program, scored, number, at, reads) for number in range(chips)
    )
    scores: list[Score] = []
    for done, lived in enumerate(found, 1):
        scores += lived
        say(f"{done} of {chips} chips done")
    return _record(g, program, scored, scores, reads), scores


def _ports(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(program.inputs) != 1 or len(program.outputs) != 1:
        raise ValueError(
            f"the graph has the Inputs {', '.join(program.inputs)} and the Outputs "
            f"{', '.join(program.outputs)}; data are scored on graphs with one of each"
        )
    return program.shapes[program.inputs[0]], program.shapes[program.outputs[0]]


def _record(
    g: nir.NIRGraph, program: Program, data: Scored, scores: Sequence[Score], reads: int
) -> dict[str, Any]:
    """Return settings and statistics, as JSON can hold them."""
    with one_thread(), torch.no_grad():
        reference = graph.network(g, program.dt)
        strict = data.score(lambda x: reference(x)[0])
    names = {score.age: score.age_s for score in scores}
    return {
        "data": data.name,
        "metric": data.metric,
        "chip": program.chip.name,
        "devices": program.devices,
        "tiles": program.tile_count,
        "chips": 1 + max(score.chip for score in scores),
        "reads": reads,
        "reference": strict,
        "ages_s": names,
        "cases": CASES,
        "scores": {
            case: {age: _spread(scores, case, age, data) for age in names} for case in CASES
        },
        "notes": list(program.notes),
        "versions": versions(),
    }


def _spread(scores: Sequence[Score], case: str, age: str, data: Scored) -> dict[str, float]:
    """Return mean, sample standard deviation and worst over all chips and reads."""
    values = [s.score for s in scores if (s.case, s.age) == (case, age)]
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "worst": data.worst(values),
    }


def save(path: Path, record: dict[str, Any], scores: Sequence[Score]) -> None:
    """Write the record (.json) or every single score (.csv), whole or not at all."""
    if path.suffix == ".json":
        listed = [score._asdict() for score in scores]
        write(path, (json.dumps(record | {"values": listed}, indent=1) + "\n").encode())
        return
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(Score._fields)
    table.writerows(scores)
    write(path, rows.getvalue().encode())


def check_out(path: Path | None) -> None:
    """Raise a ``ValueError`` or ``OSError`` unless ``save`` could write to ``path``."""
    if path is None:
        return
    if path.suffix not in (".json", ".csv"):
        raise ValueError(f"--out is {path}; its name must end in .json or .csv")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out is {path}; its folder does not exist, make it first")


def text(record: dict[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    lines = [
        f"{record['data']}: {record['metric']}",
        f"{record['chip']}, {record['devices']:,} devices on {record['tiles']} tiles; "
        f"{record['chips']} chips x {record['reads']} reads, mean ± standard deviation (worst)",
        f"strict reference, no chip: {record['reference']:.4f}",
        " " * 12 + "".join(f"{age:>28}" for age in record["ages_s"]),
    ]
    for case, by_age in record["scores"].items():
        cells = (f"{s['mean']:.4f} ± {s['std']:.4f} ({s['worst']:.4f})" for s in by_age.values())
        lines.append(f"{case:12}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)
