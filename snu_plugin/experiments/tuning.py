"""A chip tuned in the loop from files to files: ``snu tune``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nir

from snu_plugin import files, graph
from snu_plugin.accelerator import (
    ASSUMPTIONS,
    Accelerator,
    Chip,
    Program,
    Saturation,
    Spent,
    Writing,
    set_ranges,
    writing,
)
from snu_plugin.accepted import OFTEN, SEED
from snu_plugin.compiler import saturation_text
from snu_plugin.durations import span
from snu_plugin.experiments import pictures
from snu_plugin.experiments.chip_life import Layout, Load, aged_chip, conditions, recalibrated
from snu_plugin.experiments.datasets import SAMPLE, Judged, TuningData
from snu_plugin.experiments.passes import (
    PASSES,
    TuningState,
    begin,
    fitted,
    judged,
    judges,
    most_spent,
    run_passes,
)
from snu_plugin.experiments.runs import ALONE, Running, Say, check_checkpoint
from snu_plugin.experiments.settings import (
    deviation,
    one_thread,
    silent_text,
    versions,
    write_json,
)
from snu_plugin.experiments.ways import ways
from snu_plugin.hil import (
    Loop,
    Preparation,
    Prepared,
    Prior,
    Worst,
    drop_idle,
    in_turn,
    prepared,
    shown_inputs,
)

NOTES = (
    "every number about the chip comes from a simulation of its devices, not from silicon",
    "gains, biases and thresholds are digital and learn beside the devices",
)


@dataclass(frozen=True)
class Places:
    """Where a tuning leaves what."""

    graph: Path
    chip: Path
    history: Path
    checkpoint: Path
    pictures: Path | None
    """A folder, or none."""


def places(out: Path) -> Places:
    """Return the files of ``out``: FILE.nir with its siblings, or a folder, which is made.

    Raises:
        OSError: If the folder of a file is missing, or the folder cannot be made.
    """
    if out.suffix == ".nir":
        files.check_file("--out", out)
        chip, history = out.with_suffix(".chip.npz"), out.with_suffix(".json")
        return Places(out, chip, history, out.with_suffix(".checkpoint"), None)
    pictures.check_folder(out, "or a file that ends in .nir")
    return Places(
        out / "tuned.nir", out / "chip.npz", out / "tuning.json", out / "tuning.checkpoint", out
    )


@dataclass(frozen=True, kw_only=True)
class TuneSettings(Layout):
    """What is asked for besides graph, data and chip."""

    rule: str = "digital"
    """Names of ways, the update rule last; see ``ways.ways``."""
    lr: float | None = None
    """Number of the update rule."""
    digital_lr: float | None = None
    """First step size of the digital values, in shares of their size; ``None``: by trial."""
    passes: int = PASSES
    age_s: float = 86_400.0
    """Seconds from programming to tuning."""
    seed: int = 0
    """Of the chip, and of the order of the data."""
    others: int = 0
    """Chips of the seeds behind it that are given what this one learned, and judged."""

    def __post_init__(self) -> None:
        ways(self.rule, self.lr)
        if self.others:
            OFTEN.check("others", self.others)
        if self.passes < 1:
            raise ValueError(f"epochs is {self.passes}; it must be at least 1")
        if self.digital_lr is not None and not 0 <= self.digital_lr < float("inf"):
            raise ValueError(f"digital-lr is {self.digital_lr}; it must be a number of at least 0")
        SEED.check("seed", self.seed)

    @property
    def asked(self) -> dict[str, Any]:
        """What must be the same when a run is taken up."""
        return {k: v for k, v in asdict(self).items() if k not in ("passes", "others")}

    @property
    def preparations(self) -> list[Preparation]:
        """What is done to the recalibrated chip before the first update."""
        return in_turn(ways(self.rule, self.lr))[0]

    @property
    def loop(self) -> Loop:
        """How every update goes."""
        made = Loop(rule=in_turn(ways(self.rule, self.lr))[1])
        return made if self.digital_lr is None else replace(made, digital_lr=self.digital_lr)


def tune(
    g: nir.NIRGraph,
    data: Load[TuningData],
    chip: Chip,
    settings: TuneSettings,
    out: Path,
    running: Running = ALONE,
) -> dict[str, Any]:
    """Write a graph onto a chip, let it age, tune it in the loop and leave the outcome in ``out``.

    After every pass, and before the first, a checkpoint lies there; at the end it makes way for the
    outcome.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Returns the data for it.
        chip: The chip's settings.
        settings: Rule, passes, age, seed.
        out: See ``places``.
        running: How it is taken up, and who is told of every update.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, an age before the chip can be read, a checkpoint that
            is damaged or belongs to other settings, or nothing to resume.
    """
    left = places(out)
    for name, file in running.inputs.items():
        if left.graph.exists() and left.graph.samefile(file):
            raise ValueError(f"--out is {out}; the {name} would be overwritten, give another file")
    check_checkpoint(left.checkpoint, running.resume)
    program, parts = settings.lay_out(g, chip, data)
    passes = settings.passes
    program = set_ranges(program, parts.train.sample[:, :SAMPLE])
    same = settings.asked | conditions(parts, chip, running)
    with files.claim(left.checkpoint):
        with one_thread():
            if running.resume:
                state = TuningState.load(left.checkpoint, same, parts, settings.loop)
            else:
                state = _prepared(program, parts, settings)
            if len(state.passes) > passes + 1:
                raise ValueError(
                    f"{left.checkpoint} holds {len(state.passes) - 1} passes, more than the "
                    f"{passes} asked for"
                )

            def keep(state: TuningState) -> None:
                state.save(left.checkpoint, same)

            keep(state)
            made = run_passes(state, parts, passes, on_pass=keep, progress=running.progress)
            drop_idle(made, {})
            tuned = judged(made, parts.test)
            strict = settings.strict(g, program, parts.test)
            before = aged_chip(program, settings.seed, settings.age_s)
            saturation = recalibrated(before).run(parts.train.sample[:, :SAMPLE])[1].saturation
            others = _others(
                program, parts, settings, state.tuning.history.learnt, running.progress
            )
        cases = {"reference": strict, **state.untuned, "tuned": tuned}
        record = _record(parts, settings, state, cases, before, saturation, others)
        made.save(left.chip)
        graph.write(left.graph, made.to_nir())
        if left.pictures is not None:
            pictures.of_tuning(left.pictures, record, state.history, before, made)
        write_json(left.history, record)
        left.checkpoint.unlink()
    return record


def _prepared(program: Program, parts: TuningData, settings: TuneSettings) -> TuningState:
    """Return an aged chip, recalibrated and prepared, as it is before the first update."""
    made = aged_chip(program, settings.seed, settings.age_s)
    untuned = {"programmed": judged(made, parts.test)}
    untuned["compensated"] = judged(recalibrated(made), parts.test)
    sample = parts.train.sample[:, :SAMPLE]
    ways = [shown_inputs(way, sample) for way in settings.preparations]
    fit = partial(fitted, made, parts.valid or parts.train)
    done = prepared(made, ways, judges(parts), fit)
    choose = settings.digital_lr is None
    state = begin(made, parts, settings.loop, settings.seed, choose_step=choose)
    state.untuned, state.prepared = untuned, done
    return state


def _record(
    parts: TuningData,
    settings: TuneSettings,
    state: TuningState,
    cases: Mapping[str, Judged],
    before: Accelerator,
    saturation: Mapping[str, Saturation],
    others: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Return settings and what came of them, as JSON can hold it.

    Args:
        parts: What was learned from, chosen by and judged on.
        settings: What was asked for.
        state: The tuning at its end.
        cases: What the chip came to.
        before: The chip as it was before.
        saturation: Of its converters.
        others: Scores of other chips, by what was done to them.
    """
    made, program, history = state.chip, before.layout, state.tuning.history
    written = (after - earlier for after, earlier in zip(made.worn, before.worn, strict=True))
    most = most_spent(
        state, settings.loop.rule, settings.passes, len(state.history) // settings.passes
    )
    return {
        "data": parts.test.name,
        "metric": parts.test.metric,
        "loss": parts.train.loss_says,
        "parts": parts.note,
        "chip": program.chip_name,
        "devices": program.devices,
        "tiles": program.tile_count,
        **settings.asked,
        "preparations": [repr(preparation) for preparation in settings.preparations],
        "prepared": [one._asdict() for one in state.prepared],
        "rule_settings": asdict(settings.loop.rule),  # type: ignore[call-overload]
        "test": {case: value.score for case, value in cases.items()},
        "others": others,
        "silent": {case: value.silent for case, value in cases.items()},
        "passes": [p._asdict() for p in state.passes],
        "kept": state.kept,
        "outcome": history.note,
        "step": history.step,
        "stopped": history.stopped,
        "pulses": state.passes[-1].pulses,
        "worst": None if most is None else most._asdict(),
        "losses": [r.loss for r in state.history],
        "spent": {what: took._asdict() for what, took in made.spent.items()},
        "saturation": {name: shares._asdict() for name, shares in saturation.items()},
        "notes": [*program.notes, *NOTES, ASSUMPTIONS[-1]],
        "versions": versions(),
        "writing": writing(program.chip, *written)._asdict(),
    }


def _others(
    program: Program, data: TuningData, settings: TuneSettings, learnt: Prior | None, progress: Say
) -> dict[str, list[float]]:
    """Return scores of chips that nobody tuned: recalibrated, and with what another one learned."""
    found: dict[str, list[float]] = {"recalibrated": [], "with what was learned": []}
    for number in range(1, settings.others + 1):
        chip = recalibrated(aged_chip(program, settings.seed + number, settings.age_s))
        found["recalibrated"].append(judged(chip, data.test).score)
        if learnt is not None:
            learnt.begin(chip)
        found["with what was learned"].append(judged(chip, data.test).score)
        progress(f"{number} of {settings.others} other chips")
    return found


def changed(record: Mapping[str, Any]) -> bool:
    """Tell whether a tuned chip is another than the recalibrated one."""
    kept = any(
        one["kept"] and (one["before"] is None or one["before"] != one["after"])
        for one in record["prepared"]
    )
    return bool(record["kept"] or record["pulses"] or kept)


def _scores_text(record: dict[str, Any]) -> list[str]:
    """Return what the chip came to; where it was left alone, both readings of the same chip."""
    test = record["test"]
    before = f"left alone {test['programmed']:.4f}   recalibrated {test['compensated']:.4f}"
    if changed(record):
        return [f"{before}   tuned {test['tuned']:.4f}"]
    return [
        before,
        f"tuning changed nothing: the recalibrated chip, read again, {test['tuned']:.4f}",
    ]


def _others_text(others: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the spread over chips that this tuning never saw."""
    return [
        f"{len(scores)} chips that it never saw, {how}: {statistics.fmean(scores):.4f} "
        f"± {deviation(scores):.4f}, "
        f"{min(scores):.4f} to {max(scores):.4f}"
        for how, scores in others.items()
        if scores
    ]


def text(record: dict[str, Any]) -> str:
    """Return the record as a terminal shows it."""
    test, passes = record["test"], record["passes"]
    shown = " ".join(f"{p['score']:.4f}" for p in passes if p["score"] is not None)
    return "\n".join(
        [
            f"{record['data']}: {record['metric']}",
            f"tuned by: {record['loss']}",
            record["parts"],
            f"{record['chip']}, {record['devices']:,} devices, tuned {span(record['age_s'])} after "
            f"programming, rule {record['rule']}",
            f"strict reference, no chip {test['reference']:.4f}",
            *(Prepared(**one).text() for one in record["prepared"]),
            *_scores_text(record),
            *_others_text(record["others"]),
            *silent_text(record["silent"]),
            *([Worst(**record["worst"]).text()] if (record["worst"] or {}).get("pulses") else []),
            f"to choose by, before and after each pass: {shown or 'nothing'}",
            *saturation_text({n: Saturation(**s) for n, s in record["saturation"].items()}),
            *(note for note in record["notes"] if "ranges" in note),
            *(f"spent on {what}: {Spent(**took).text()}" for what, took in record["spent"].items()),
            *([record["outcome"]] if record["outcome"] else []),
            f"kept: {record['kept']} of {len(passes) - 1} passes; written in tuning: "
            f"{Writing(**record['writing']).text()}",
        ]
    )
