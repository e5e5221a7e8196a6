"""Chips looked after in several ways over years of use, from files to files: ``snu life``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nir
from torch import Tensor

from snu_plugin import files
from snu_plugin.accelerator import Accelerator, Chip, set_ranges
from snu_plugin.durations import span
from snu_plugin.experiments import pictures
from snu_plugin.experiments.datasets import SAMPLE, ScoredData, TuningData
from snu_plugin.experiments.layout import Load, conditions
from snu_plugin.experiments.life_record import draw, life_record
from snu_plugin.experiments.lives import LifeSettings, Visit, live
from snu_plugin.experiments.progress import Say
from snu_plugin.experiments.resuming import check_resumable, checkpoints
from snu_plugin.experiments.settings import write_json
from snu_plugin.experiments.spread import check_spread, spread

PROBES = 16
"""Sequences without labels that the health of a chip is seen by."""


def life(
    g: nir.NIRGraph,
    data: Load[ScoredData | TuningData],
    chip: Chip,
    settings: LifeSettings,
    out: Path,
    *,
    sample: Callable[[], Tensor],
    inputs: Mapping[str, Path] | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    progress: Say = lambda text: None,
) -> dict[str, Any]:
    """Let the same chips live a life for each policy, and leave scores, costs and the picture.

    At every visit the data score a chip, it is looked after if the schedule says so, and is scored
    again. The number of jobs changes nothing but the time. On the way checkpoints lie in ``out``;
    ``resume`` takes them up and gives bit for bit what an uninterrupted run gives.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Returns the data for it; tuning needs ``TuningData``.
        chip: The chip's settings.
        settings: How long, when, what is done, how many chips.
        out: A folder for ``life.json`` and ``life.png``; it is made.
        sample: Returns inputs that set the ranges of the converters and show the chip's health.
        inputs: Files whose content must be the same when a run is taken up, by name.
        jobs: Processes; see ``spread``.
        scheduler: A Dask cluster; see ``spread``.
        resume: Take up what the checkpoints hold.
        progress: Called with a sentence on what is going on.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, a first visit before the chip can be read, checkpoints
            that are damaged or belong to other settings, or nothing to resume.
    """
    from joblib import delayed

    check_spread(jobs, scheduler)
    pictures.check_folder(out)
    kept = out / "life.checkpoints"
    check_resumable(kept, resume)
    program, scored = settings.lay_out(g, chip, data)
    seen = sample()
    program = set_ranges(program, seen[:, :SAMPLE])
    same = {
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("do", "chips", "seed")},
        "by": type(settings.schedule).__name__,
        **conditions(scored, chip, inputs),
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
        calls = [
            delayed(live)(
                program,
                scored,
                seen[:, :PROBES],
                policy,
                number,
                settings,
                kept / f"{policy.replace(':', '=')}-{number}.checkpoint",
                same,
                *([progress] if jobs == 1 and scheduler is None else []),
            )
            for policy, number in lives
        ]
        visits: list[Visit] = []
        for done, lived in enumerate(spread(calls, jobs=jobs, scheduler=scheduler), 1):
            visits += lived
            progress(f"{done} of {len(lives)} lives done")
        test = scored.test if isinstance(scored, TuningData) else scored
        strict = settings.strict(g, program, test)
        record = life_record(program, test, strict, settings, visits)
        draw(out / "life.png", record)
        write_json(out / "life.json", record)
    return record
