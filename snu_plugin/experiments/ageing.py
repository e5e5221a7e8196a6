"""A graph scored on many chips as they age: ``snu run``."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
from torch import Tensor

from snu_plugin.accelerator import (
    Accelerator,
    Chip,
    Program,
    Saturation,
    first_writing,
    set_ranges,
)
from snu_plugin.accepted import OFTEN
from snu_plugin.compiler import saturation_text
from snu_plugin.durations import energy, scaled
from snu_plugin.experiments import passes, pictures
from snu_plugin.experiments.chip_life import (
    Case,
    ChipFile,
    Layout,
    Load,
    Score,
    chip_life,
    conditions,
    copy_chip,
    left_alone,
    recalibrated,
)
from snu_plugin.experiments.datasets import SAMPLE, Judged, ScoredData, TuningData
from snu_plugin.experiments.runs import (
    ALONE,
    EVERY_S,
    Running,
    check_resumable,
    checkpoints,
)
from snu_plugin.experiments.settings import (
    deviation,
    one_thread,
    silent_text,
    table,
    versions,
    write_json,
)
from snu_plugin.files import check_file, claim, write
from snu_plugin.report.page import SAID

CASES = {
    "programmed": "written once, then left alone",
    "global": "one digital gain for the whole chip fitted anew at that age",
    "compensated": "digital gains of every column fitted anew at that age",
    "tuned": "a copy of the recalibrated chip tuned at that age",
}
"""What each row of the scores means."""


def score_chip(
    program: Program,
    data: ScoredData | TuningData,
    seed: int,
    at: Mapping[str, float],
    reads: int,
    checkpoint: Path | None = None,
    same: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Write one chip and score it at every age in every case of ``CASES``.

    Args:
        program: The network laid out.
        data: What is scored; where it holds parts to learn from, tuning is one of the cases.
        seed: Number of the chip.
        at: Seconds since programming by name, rising.
        reads: Runs of all data at each age; each meets other slow read noise.
        checkpoint: Where the chip is kept from age to age; what lies there is taken up.
        same: Settings that must be those of the checkpoint.

    Raises:
        ValueError: For an age before the chip can first be read, or a checkpoint that is damaged
            or belongs to other settings.
    """

    def one_gain(chip: Accelerator) -> Accelerator:
        chip.calibrate("global")
        return chip

    cases: dict[str, Case] = {
        "programmed": left_alone,
        "global": one_gain,
        "compensated": recalibrated,
    }
    if isinstance(data, TuningData):
        cases["tuned"] = lambda chip: passes.tuned(copy_chip(chip), data, seed).chip
    file = ChipFile(checkpoint, {**(same or {}), "number": seed}, EVERY_S)
    begun, known = file.load()
    scores = [Score(*s) for s in known.get("scores", ())]
    missing = dict(list(at.items())[len({s.age for s in scores}) :])

    def keep(age: str, chip: Accelerator) -> None:
        file.save(chip, {"scores": [tuple(s) for s in scores]}, last=age == list(at)[-1])

    with one_thread():
        for age, case, chip in chip_life(program, seed, missing, cases, chip=begun, on_age=keep):
            for read in range(reads):
                value = passes.judged(chip, data.test, reads=1)
                scores.append(Score(case, age, at[age], seed, read, value.score, int(value.silent)))
    return scores


@dataclass(frozen=True, kw_only=True)
class RunSettings(Layout):
    """What is asked for besides graph, data and chip.

    Raises:
        ValueError: For counts that are not positive.
    """

    at: Mapping[str, float]
    """Seconds since programming by name, rising; see ``ages``."""
    chips: int = 10
    """Chips 0, 1, ...; the number is the seed."""
    reads: int = 5
    """Runs of all data on each chip at each age."""

    def __post_init__(self) -> None:
        for name in ("chips", "reads"):
            OFTEN.check(name, getattr(self, name))


def run(
    g: nir.NIRGraph,
    data: Load[ScoredData | TuningData],
    chip: Chip,
    settings: RunSettings,
    out: Path | None = None,
    *,
    sample: Callable[[], Tensor] | None = None,
    running: Running = ALONE,
) -> tuple[dict[str, Any], list[Score]]:
    """Score a graph on chips as they age.

    With ``out`` checkpoints lie beside it on the way, and ``save`` leaves the answer there.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Returns the data for it; if those hold parts to learn from, a copy of every chip is
            tuned at every age as well.
        chip: The chip's settings.
        settings: When, how many chips, how often they are read.
        out: Where the answer is left; see ``save``.
        sample: Returns inputs that set the ranges of the converters, where the data hold no part
            to learn from, which sets them else; ``None``: the ranges are the chip's.
        running: On which processes; it may be taken up for more chips too.

    Returns:
        A record of settings and statistics, and every single score.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, checkpoints that are damaged or belong to other
            settings, or nothing to resume.
    """
    from joblib import delayed

    resume, progress, chips = running.resume, running.progress, settings.chips
    if resume and out is None:
        raise ValueError("--resume is given without --out; give that of the run to go on with")
    check_out(out)
    if out is not None:
        check_resumable(checkpoints_of(out), resume)
    program, scored = settings.lay_out(g, chip, data)
    if isinstance(scored, TuningData):
        program = set_ranges(program, scored.train.sample[:, :SAMPLE])
    elif sample is not None:
        program = set_ranges(program, sample())
    progress(f"0 of {chips} chips done")
    same = {
        **{name: value for name, value in asdict(settings).items() if name != "chips"},
        "tuned": isinstance(scored, TuningData),
        **conditions(scored, chip, running),
    }
    with _held(out, resume) as kept:
        score, at, reads = delayed(score_chip), settings.at, settings.reads
        calls = [
            score(program, scored, n, at, reads, kept and kept / f"chip-{n}.checkpoint", same)
            for n in range(chips)
        ]
        scores: list[Score] = []
        for done, lived in enumerate(running.spread(calls), 1):
            scores += lived
            progress(f"{done} of {chips} chips done")
        strict = settings.strict(g, program, scored.test)
        record = _record(strict, program, scored.test, scores, settings)
        if isinstance(scored, TuningData):
            record["parts"] = scored.note
        if out is not None:
            save(out, record, scores)
    return record, scores


def checkpoints_of(out: Path) -> Path:
    """Return the folder of the checkpoints that go with ``--out``."""
    return out.with_suffix(".checkpoints") if _is_file(out) else out / "scores.checkpoints"


def _is_file(out: Path) -> bool:
    return out.suffix in (".json", ".csv")


@contextmanager
def _held(out: Path | None, resume: bool) -> Iterator[Path | None]:
    """Claim what a run writes and give the folder of its checkpoints; without ``out``, none."""
    if out is None:
        yield None
        return
    with claim(out if _is_file(out) else out / "scores.json"):
        folder = checkpoints_of(out)
        with checkpoints(folder, resume):
            yield folder


def _record(
    strict: Judged,
    program: Program,
    data: ScoredData,
    scores: Sequence[Score],
    settings: RunSettings,
) -> dict[str, Any]:
    """Return settings and statistics, as JSON can hold them."""
    with one_thread():
        made = Accelerator(program)
        made.program()
        _, trace = made.run(data.sample)
    ages = {score.age: score.age_s for score in scores}
    cases = [case for case in CASES if any(score.case == case for score in scores)]
    by_place = {
        (case, age): [s for s in scores if (s.case, s.age) == (case, age)]
        for case in cases
        for age in ages
    }
    return {
        "data": data.name,
        "metric": data.metric,
        "chip": program.chip_name,
        "devices": program.devices,
        "tiles": program.tile_count,
        "chips": settings.chips,
        "reads": settings.reads,
        "reference": strict.score,
        "ages_s": ages,
        "silent": {"reference": strict.silent}
        | {
            f"{case} {age}": statistics.fmean(s.silent for s in of)
            for (case, age), of in by_place.items()
        },
        "cases": {case: CASES[case] for case in cases},
        "scores": {
            case: {age: _spread([s.score for s in by_place[case, age]], data) for age in ages}
            for case in cases
        },
        "cost": {
            **trace.cost.to_dict(len(data.sample)),
            "spikes_per_step": sum(trace.spikes_per_step.values()),
            "programming": first_writing(program, *made.worn)._asdict(),
            "spent": {what: took._asdict() for what, took in made.spent.items()},
            "assumptions": list(trace.cost.assumptions),
        },
        "saturation": {name: shares._asdict() for name, shares in trace.saturation.items()},
        "scaling": program.scaling_note,
        "notes": list(program.notes),
        "versions": versions(),
    }


def _spread(values: list[float], data: ScoredData) -> dict[str, float]:
    """Return mean, sample standard deviation and worst over all chips and reads."""
    mean, std = statistics.fmean(values), deviation(values)
    return {"mean": mean, "std": std, "worst": data.worst(values)}


def save(path: Path, record: dict[str, Any], scores: Sequence[Score]) -> None:
    """Write the record (.json), every single score (.csv), or both and pictures (a folder)."""
    if path.suffix == ".json":
        write_json(path, whole(record, scores))
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


def whole(record: dict[str, Any], scores: Sequence[Score]) -> dict[str, Any]:
    """Return the record with every single score, as a file of JSON holds it."""
    return record | {"values": [score._asdict() for score in scores]}


def check_out(path: Path | None) -> None:
    """Raise a ``ValueError`` or ``OSError`` unless ``save`` could write to ``path``."""
    if path is not None and _is_file(path):
        check_file("--out", path)
    elif path is not None:
        pictures.check_folder(path, "or a file that ends in .json or .csv")


def text(record: dict[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    lines = [
        f"{record['data']}: {record['metric']}",
        f"{record['chip']}, {record['devices']:,} devices on {record['tiles']} tiles; "
        f"{record['chips']} chips x {record['reads']} reads, mean ± standard deviation (worst)",
        record["scaling"],
        f"strict reference, no chip: {record['reference']:.4f}",
        *table(
            ("", *record["ages_s"]),
            [
                (
                    SAID[case],
                    *(f"{s['mean']:.4f} ± {s['std']:.4f} ({s['worst']:.4f})" for s in of.values()),
                )
                for case, of in record["scores"].items()
            ],
        ),
    ]
    lines += [f"{SAID[case]}: {meaning}" for case, meaning in record["cases"].items()]
    lines += silent_text(record["silent"])
    shares = {name: Saturation(**s) for name, s in record["saturation"].items()}
    lines += saturation_text(shares)
    lines += [note for note in record["notes"] if "ranges" in note]
    spent = record["cost"]
    whole = spent["energy_nj_per_inference"]
    lines.append(
        f"{energy(whole['total'])} and "
        f"{scaled(1e-6 * spent['latency_us_per_inference'], 's')} for an inference of "
        f"{spent['steps_per_inference']} steps ({energy(whole['dense'])} if dense), "
        f"{spent['area_mm2']:.3g} mm²; writing once "
        f"{energy(spent['programming']['energy_nj'])}, expected"
    )
    return "\n".join(lines)
