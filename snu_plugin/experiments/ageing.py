"""A graph scored on many chips as they age: ``snu run``."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nir
import torch

from snu_plugin import graph
from snu_plugin.accelerator import Accelerator, Chip, Program, first_writing
from snu_plugin.compiler import compile
from snu_plugin.experiments import pictures, tuning
from snu_plugin.experiments.chip_life import Score
from snu_plugin.experiments.scored import Scored
from snu_plugin.experiments.settings import one_thread, ports, versions
from snu_plugin.experiments.taught import Classes, Pieces
from snu_plugin.files import write
from snu_plugin.hil import Loop

CASES = {
    "programmed": "written once, then left alone",
    "global": "one digital gain for the whole chip fitted anew at that age",
    "compensated": "digital gains of every column fitted anew at that age",
    "tuned": "a copy of the recalibrated chip tuned at that age",
}
"""What each row of the scores means."""


def life(
    program: Program, data: Scored | Pieces | Classes, chip: int, at: dict[str, float], reads: int
) -> list[Score]:
    """Write one chip and score it at every age, as it is, recalibrated, and tuned if data teach.

    The recalibration is undone afterwards, and a copy is tuned, so that the next age meets the
    chip as it was written.

    Args:
        program: The network laid out.
        data: What is scored; where it holds parts to learn from, tuning is one of the cases.
        chip: Number of the chip, its seed.
        at: Seconds since programming by name, rising.
        reads: Runs of all data at each age; each meets other slow read noise.

    Raises:
        ValueError: For an age before the chip can first be read.
    """
    judged = test_of(data)
    with one_thread():
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
                if case == "tuned" and judged is data:
                    continue
                run_on = _prepared(case, made, data, chip)
                for read in range(reads):
                    value = _score(run_on, judged)
                    scores.append(Score(case, age, seconds, chip, read, value))
            made.set_registers(written)
    return scores


def _prepared(
    case: str, made: Accelerator, data: Scored | Pieces | Classes, seed: int
) -> Accelerator:
    """Bring a chip, or a copy of it, to what a case means; returns the one to score."""
    if case == "global":
        made.calibrate("global")
    elif case == "compensated":
        made.calibrate()
    elif case == "tuned" and isinstance(data, (Pieces, Classes)):
        copy, loop = tuning.copy(made), Loop(rule=tuning.RULE)
        return tuning.go_on(tuning.begin(copy, data, loop, seed), data, loop, tuning.PASSES)
    return made


@torch.no_grad()
def _score(made: Accelerator, data: Scored) -> float:
    return data.score(lambda x: made.run(x)[0])


def test_of(data: Scored | Pieces | Classes) -> Scored:
    """Return what is scored."""
    return data.test if isinstance(data, (Pieces, Classes)) else data


def run(
    g: nir.NIRGraph,
    data: Callable[[tuple[int, ...], tuple[int, ...]], Scored | Pieces | Classes],
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
        data: Called with the shapes of Input and Output, returns the data for them; if those
            hold parts to learn from, a copy of every chip is tuned at every age as well.
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
    takes, gives = ports(program)
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
    record = _record(g, program, test_of(scored), scores, reads)
    if isinstance(scored, (Pieces, Classes)):
        record["parts"] = scored.note
    return record, scores


def _record(
    g: nir.NIRGraph, program: Program, data: Scored, scores: Sequence[Score], reads: int
) -> dict[str, Any]:
    """Return settings and statistics, as JSON can hold them."""
    with one_thread(), torch.no_grad():
        reference = graph.network(g, program.dt)
        strict = data.score(lambda x: reference(x)[0])
        made = Accelerator(program)
        made.program()
        _, trace = made.run(data.sample)
    names = {score.age: score.age_s for score in scores}
    cases = [case for case in CASES if any(score.case == case for score in scores)]
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
        "cases": {case: CASES[case] for case in cases},
        "scores": {
            case: {age: _spread(scores, case, age, data) for age in names} for case in cases
        },
        "cost": {
            **trace.cost.to_dict(len(data.sample)),
            "spikes_per_step": sum(trace.spikes_per_step.values()),
            "programming": first_writing(program, *made.worn)._asdict(),
            "assumptions": list(trace.cost.assumptions),
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
    """Write the record (.json), every single score (.csv), or both and pictures (a folder)."""
    if path.suffix == ".json":
        listed = [score._asdict() for score in scores]
        write(path, (json.dumps(record | {"values": listed}, indent=1) + "\n").encode())
    elif path.suffix == ".csv":
        rows = io.StringIO()
        table = csv.writer(rows, lineterminator="\n")
        table.writerow(Score._fields)
        table.writerows(scores)
        write(path, rows.getvalue().encode())
    else:
        pictures.folder(path)
        for name in ("scores.json", "scores.csv"):
            save(path / name, record, scores)
        pictures.of_scores(path, record, scores)


def check_out(path: Path | None) -> None:
    """Raise a ``ValueError`` or ``OSError`` unless ``save`` could write to ``path``."""
    if path is None:
        return
    if path.suffix not in (".json", ".csv"):
        pictures.check_folder(path, "or a file that ends in .json or .csv")
    elif not path.absolute().parent.is_dir():
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
    spent = record["cost"]
    whole = spent["energy_nj_per_inference"]
    lines.append(
        f"{whole['total']:.3g} nJ and {spent['latency_us_per_inference']:.3g} µs for an inference "
        f"of {spent['steps_per_inference']} steps ({whole['dense']:.3g} nJ if dense), "
        f"{spent['area_mm2']:.3g} mm²; writing once {spent['programming']['energy_nj'] / 1e3:.3g} "
        "µJ, expected"
    )
    return "\n".join(lines)
