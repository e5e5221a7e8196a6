"""Chips looked after in several ways over years of use, from files to files: ``snu life``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nir
import numpy as np
from torch import Tensor

from snu_plugin import files
from snu_plugin.accelerator import Accelerator, Chip, Program, set_ranges
from snu_plugin.durations import UNITS_S, count, energy, span
from snu_plugin.experiments import pictures, ways
from snu_plugin.experiments.chip_life import Load, conditions
from snu_plugin.experiments.datasets import SAMPLE, Judged, ScoredData, TuningData
from snu_plugin.experiments.lives import LifeSettings, Visit, live
from snu_plugin.experiments.runs import ALONE, Running, check_resumable, checkpoints
from snu_plugin.experiments.settings import silent_text, table, versions, write_json
from snu_plugin.report import plots

PROBES = 16
"""Sequences without labels that the health of a chip is seen by."""
SHOWN = 6
"""Ages that the terminal shows."""


def life(
    g: nir.NIRGraph,
    data: Load[ScoredData | TuningData],
    chip: Chip,
    settings: LifeSettings,
    out: Path,
    *,
    sample: Callable[[], Tensor],
    running: Running = ALONE,
) -> dict[str, Any]:
    """Let the same chips live a life for each policy, and leave scores, costs and the picture.

    At every visit the data score a chip, it is looked after if the schedule says so, and is scored
    again. On the way checkpoints lie in ``out``.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Returns the data for it; tuning needs ``TuningData``.
        chip: The chip's settings.
        settings: How long, when, what is done, how many chips.
        out: A folder for ``life.json`` and ``life.png``; it is made.
        sample: Returns inputs that set the ranges of the converters and show the chip's health.
        running: On which processes.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, a first visit before the chip can be read, checkpoints
            that are damaged or belong to other settings, or nothing to resume.
    """
    from joblib import delayed

    resume, progress = running.resume, running.progress
    pictures.check_folder(out)
    kept = out / "life.checkpoints"
    check_resumable(kept, resume)
    program, scored = settings.lay_out(g, chip, data)
    seen = sample()
    program = set_ranges(program, seen[:, :SAMPLE])
    same = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("do", "chips", "seed")},
        "by": type(settings.schedule).__name__,
        **conditions(scored, chip, running),
    }
    made = Accelerator(program, settings.seed)
    made.program()
    if settings.schedule.seconds < made.age_s:
        raise ValueError(
            f"a visit every {span(settings.schedule.seconds)} is too early: {program.chip_name} is "
            f"first read {span(made.age_s)} after programming"
        )
    lives = [(policy, settings.seed + n) for policy in settings.do for n in range(settings.chips)]
    with files.claim(out / "life.json"), checkpoints(kept, resume):
        told = [progress] if running.jobs == 1 and running.scheduler is None else []
        calls = [
            delayed(live)(
                program, scored, seen[:, :PROBES], policy, number, settings,
                kept / f"{policy.replace(':', '=')}-{number}.checkpoint", same, *told,
            )
            for policy, number in lives
        ]  # fmt: skip
        visits: list[Visit] = []
        for done, lived in enumerate(running.spread(calls), 1):
            visits += lived
            progress(f"{done} of {len(lives)} lives done")
        strict = settings.strict(g, program, scored.test)
        record = life_record(program, scored.test, strict, settings, visits)
        draw(out / "life.png", record)
        write_json(out / "life.json", record)
    return record


def life_record(
    program: Program,
    data: ScoredData,
    strict: Judged,
    settings: LifeSettings,
    visits: Sequence[Visit],
) -> dict[str, Any]:
    """Return settings, statistics and every visit, as JSON can hold them."""
    return {
        "data": data.name,
        "metric": data.metric,
        "higher_is_better": data.higher_is_better,
        "loss": data.loss_says,
        "chip": program.chip_name,
        "devices": program.devices,
        "schedule": {"kind": type(settings.schedule).__name__, **asdict(settings.schedule)},
        "seconds": settings.seconds,
        "chips": settings.chips,
        "reads": settings.reads,
        "seed": settings.seed,
        "outliers": settings.outliers,
        "reference": strict.score,
        "silent": {"reference": strict.silent}
        | {
            name: statistics.fmean(v.silent for v in visits if v.policy == name)
            for name in settings.do
        },
        "policies": {name: ways.says(name) for name in settings.do},
        "costs": {
            name: _costs([v for v in visits if v.policy == name], settings) for name in settings.do
        },
        "visits": [visit._asdict() for visit in visits],
        "notes": [
            *program.notes,
            "every number about the chip comes from a simulation of its devices, not from silicon",
            "costs are those of looking after one chip, mean over chips, without its use; what a "
            "chip leaks while it waits is not known",
        ],
        "versions": versions(),
    }


def _costs(visits: Sequence[Visit], settings: LifeSettings) -> dict[str, float]:
    """Return what a life took in the end, mean over chips."""
    last = [v for v in visits if v.number == settings.visits]
    mean = {
        name: statistics.fmean(getattr(v, name) for v in last)
        for name in ("pulses", "readings", "energy_nj", "seconds", "stuck")
    }
    return {"upkeeps": sum(v.done for v in visits) / settings.chips, **mean}


def found(record: Mapping[str, Any], policy: str, what: str = "found") -> np.ndarray:
    """Return a score or count of every visit, ``(chips, visits)``."""
    rows = [v for v in record["visits"] if v["policy"] == policy]
    return np.array([row[what] for row in rows], float).reshape(record["chips"], -1)


def draw(path: Path, record: Mapping[str, Any]) -> Path:
    """Draw the score against years, a line for each policy, with what it costs beside."""
    policies = list(record["policies"])
    ages = found(record, policies[0], "age_s").mean(0) / UNITS_S["y"]
    return plots.life(
        path,
        ages,
        {name: found(record, name) for name in policies},
        {name: found(record, name, "left") for name in policies},
        {name: found(record, name, "done").mean(0) > 0 for name in policies},
        {name: record["costs"][name] for name in policies},
        lines={"no chip": record["reference"]},
        ylabel=pictures.axis(record["metric"]),
    )


def cost_cells(cost: Mapping[str, float], *, time: bool = True) -> tuple[str, ...]:
    """Return what a life took as cells of a table."""
    counts = (count(cost[what]) for what in ("upkeeps", "pulses", "readings"))
    took = [span(cost["seconds"])] * time
    return *counts, energy(cost["energy_nj"]), *took, count(cost["stuck"])


def text(record: Mapping[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    schedule, policies = record["schedule"], list(record["policies"])
    when = f"looked at every {span(schedule['seconds'])}"
    if schedule["kind"] == "WhenWorse":
        when += f" and looked after when {100 * schedule['by']:g} % worse"
    written = found(record, policies[0])[:, 0].mean()
    ages = found(record, policies[0], "age_s").mean(0)
    most = len(ages) - 1
    shown = sorted({round(1 + (most - 1) * (n / (SHOWN - 1)) ** 2) for n in range(SHOWN)})
    lines = [
        f"{record['data']}: {record['metric']}",
        f"{record['chip']}, {record['devices']:,} devices, {record['chips']} chips from seed "
        f"{record['seed']}, {span(record['seconds'])}, {when}",
        f"strict reference, no chip: {record['reference']:.4f}; as written {written:.4f}",
    ]
    for what, said in (("found", "before upkeep"), ("left", "after upkeep")):
        chosen = {n: found(record, n, what) for n in policies if what == "found" or n != "none"}
        if not chosen:
            continue
        lines.append(f"{said}, mean ± standard deviation over chips:")
        rows = []
        for name, chips in chosen.items():
            spread = chips.std(0, ddof=1) if len(chips) > 1 else np.zeros(chips.shape[1])
            rows.append((name, *(f"{chips[:, n].mean():.4f} ± {spread[n]:.4f}" for n in shown)))
        lines += table(("", *(span(ages[n]) for n in shown)), rows)
    lines += silent_text(record["silent"])
    lines.append("what looking after one chip took in all:")
    heads = ("times", "pulses", "readings", "energy", "time", "stuck devices")
    rows = [(name, *cost_cells(cost)) for name, cost in record["costs"].items()]
    return "\n".join([*lines, *table(("", *heads), rows)])
