"""Every way to change a chip, on copies of the same aged chips: ``snu tune --compare``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nir
from torch import Generator

from snu_plugin import files
from snu_plugin.accelerator import Chip, Program, Spent, set_ranges
from snu_plugin.accepted import OFTEN, SEED, hint
from snu_plugin.durations import count, energy, span
from snu_plugin.experiments.chip_life import Layout, Load, aged_chip, conditions
from snu_plugin.experiments.datasets import SAMPLE, TuningData
from snu_plugin.experiments.passes import fitted, judged
from snu_plugin.experiments.runs import ALONE, Running, check_checkpoint
from snu_plugin.experiments.settings import (
    deviation,
    one_thread,
    silent_text,
    table,
    versions,
    write_json,
)
from snu_plugin.experiments.ways import ways
from snu_plugin.hil import Rule, fine_tune, in_turn, shown_inputs
from snu_plugin.training import load_checkpoint, save_checkpoint

WAYS: Mapping[str, str] = {
    "recalibrated": "recalibrate",
    "rewritten": "rewrite",
    "worst tenth rewritten": "rewrite:0.1",
    "digital": "recalibrate,digital",
    "adapter": "recalibrate,adapter:8,digital",
    "adapters everywhere": "recalibrate,adapters:8,digital",
    "rewritten and adapter": "rewrite,adapter:8,digital",
    "corrected": "recalibrate,correct:16",
    "corrected and digital": "recalibrate,correct:16,digital",
    "mixed precision": "recalibrate,mixed",
    "sign pulses": "recalibrate,pulses",
    "stochastic pulses": "recalibrate,stochastic",
    "thinned pulses": "recalibrate,thinned",
    "program-verify": "recalibrate,verify",
}
"""Every way that is compared, by name, as ``--rule`` takes it; what ends without an update rule is
not tuned."""

LATER_S = {"now": 0.0, "30d": 30 * 86_400.0, "1y": 365 * 86_400.0}
"""When the chips are scored, seconds after the change."""
ERRORS = 2.0
"""Standard errors over chips within which two ways are taken to be equally good. Ours."""

NOTES = (
    "every number about the chip comes from a simulation of its devices, not from silicon",
    "every way changes a chip once; later the chip is recalibrated before each score, whatever "
    "was done to it, and nothing else",
    "costs are those of the change alone: the runs that tuning learns and judges by, readings, "
    "probes and pulses; time is the chip's clock with 0.05 s of the host for each update",
    "wear is SET and RESET pulses a device; pulses of a writing are estimated from the mean pulse "
    "curve where the model of the devices does not count them",
)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Layout):
    """What is asked for besides graph, data and chip."""

    chips: int = 3
    """Chips 0, 1, ...; the number is the seed of the chip and of the order of its data."""
    passes: int = 8
    age_s: float = 86_400.0
    """Seconds from programming to the change."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Names in ``WAYS``; recalibration and rewriting are always compared."""
    seed: int = 0
    """With which data that come in one part were divided."""

    def __post_init__(self) -> None:
        for name, often in (("chips", self.chips), ("epochs", self.passes)):
            OFTEN.check(name, often)
        SEED.check("seed", self.seed)
        for name in self.ways:
            if name not in WAYS:
                raise LookupError(f"no way {name!r}; give {', '.join(WAYS)}{hint(name, WAYS)}")

    @property
    def compared(self) -> list[str]:
        """Names of what is compared, in the order of ``WAYS``."""
        always = {"recalibrated", "rewritten"}
        return [name for name in WAYS if name in always.union(self.ways)]


def change(
    program: Program, data: TuningData, way: str, seed: int, settings: CompareSettings
) -> dict[str, Any]:
    """Age one chip, change it in one way, and say what it scores and what it took.

    The chip, the order of the data and every draw follow the seed: chips of one seed are the same
    until they are changed.
    """
    with one_thread():
        chip, course = aged_chip(program, seed, settings.age_s), ways(WAYS[way])
        preparations, rule = in_turn(course)
        tuned = isinstance(course[-1], Rule)
        spent, clock_s, worn = chip.spent, chip.clock_s, chip.worn
        for preparation in preparations:
            shown_inputs(preparation, data.train.sample[:, :SAMPLE]).begin(chip)
        kept = None
        if tuned:
            batches = list(data.batches(Generator().manual_seed(seed)))
            kept = fine_tune(chip, batches * settings.passes, fitted(chip, data.train), rule).note
        took = [after.since(spent.get(what, Spent())) for what, after in chip.spent.items()]
        pulses = sum(chip.worn) - sum(worn)
        held = [
            value.numel()
            for name, value in chip.registers.items()
            if tuned or name.endswith("gain") or "adapter_" in name
        ]
        cost = {
            "pulses": pulses,
            "readings": sum(one.readings for one in took),
            "energy_uj": sum(one.energy_nj or 0.0 for one in took) * 1e-3,
            "time_s": chip.clock_s - clock_s,
            "wear": pulses / program.devices,
            "digital_values": sum(held),
        }
        changed_s, scores, silent = chip.clock_s, {}, {}
        for when, seconds in LATER_S.items():
            if seconds:
                chip.wait(max(0.0, changed_s + seconds - chip.clock_s))
                chip.calibrate()
            scores[when], silent[when] = judged(chip, data.test)
    return {"scores": scores, "silent": silent, "cost": cost, "note": kept or ""}


def places(out: Path) -> tuple[Path, Path]:
    """Return the record and the checkpoint that go with ``--out``, a FILE.nir or a folder."""
    if out.suffix in (".nir", ".json"):
        files.check_file("--out", out)
        record = out if out.suffix == ".json" else out.with_suffix(".compare.json")
    else:
        files.check_folder("--out", out, "or a file that ends in .nir or .json")
        out.mkdir(parents=True, exist_ok=True)
        record = out / "compare.json"
    return record, record.with_suffix(".checkpoint")


def compare(
    g: nir.NIRGraph,
    data: Load[TuningData],
    chip: Chip,
    settings: CompareSettings,
    out: Path,
    running: Running = ALONE,
) -> dict[str, Any]:
    """Change copies of the same aged chips in every way and leave the table in ``out``.

    After every chip and way a checkpoint lies there; at the end it makes way.

    Args:
        g: The graph; it must have one Input and one Output.
        data: Returns the data for it.
        chip: The chip's settings.
        settings: Chips, ways, passes, age.
        out: See ``places``.
        running: On which processes.

    Returns:
        The record, as written.

    Raises:
        CannotMap: If the chip cannot hold the graph.
        ValueError: For data that do not fit, an age before the chip can be read, a checkpoint that
            is damaged or belongs to other settings, or nothing to resume.
    """
    from joblib import delayed

    left, checkpoint = places(out)
    check_checkpoint(checkpoint, running.resume)
    program, parts = settings.lay_out(g, chip, data)
    program = set_ranges(program, parts.train.sample[:, :SAMPLE])
    own = asdict(replace(settings, ways=tuple(settings.compared)))
    same = own | conditions(parts, chip, running)
    wanted = [(way, seed) for seed in range(settings.chips) for way in settings.compared]
    with files.claim(checkpoint):
        done: dict[str, Any] = load_checkpoint(checkpoint, same)["done"] if running.resume else {}
        save_checkpoint(checkpoint, {"done": done}, same)
        missing = [(way, seed) for way, seed in wanted if _key(way, seed) not in done]
        calls = [delayed(change)(program, parts, way, seed, settings) for way, seed in missing]
        for (way, seed), outcome in zip(missing, running.spread(calls), strict=True):
            done[_key(way, seed)] = outcome
            save_checkpoint(checkpoint, {"done": done}, same)
            running.progress(f"{len(done)} of {len(wanted)}: {way}, chip {seed}")
        strict = settings.strict(g, program, parts.test)
        by_way = {
            way: [done[_key(way, seed)] for seed in range(settings.chips)]
            for way in settings.compared
        }
        record = {
            "data": parts.test.name,
            "metric": parts.test.metric,
            "parts": parts.note,
            "chip": program.chip_name,
            "devices": program.devices,
            **own,
            "loss": parts.train.loss_says,
            "reference": strict.score,
            "silent": {"reference": strict.silent}
            | {
                f"{way} {when}": statistics.fmean(outcome["silent"][when] for outcome in outcomes)
                for way, outcomes in by_way.items()
                for when in LATER_S
            },
            "ways": {way: _summary(outcomes) for way, outcomes in by_way.items()},
            "best": {
                when: _cheapest_of_the_best(by_way, when, parts.test.higher_is_better)
                for when in LATER_S
            },
            "values": by_way,
            "notes": [*program.notes, *NOTES],
            "versions": versions(),
        }
        write_json(left, record)
        checkpoint.unlink()
    return record


def _key(way: str, seed: int) -> str:
    return f"{seed}/{way}"


def _summary(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and sample standard deviation of the scores over chips, and the mean costs."""
    scores = {}
    for when in LATER_S:
        values = [outcome["scores"][when] for outcome in outcomes]
        scores[when] = {"mean": statistics.fmean(values), "std": deviation(values)}
    costs = {
        what: statistics.fmean(outcome["cost"][what] for outcome in outcomes)
        for what in outcomes[0]["cost"]
    }
    return {"scores": scores, "cost": costs}


def _cheapest_of_the_best(
    by_way: Mapping[str, Sequence[Mapping[str, Any]]], when: str, higher: bool
) -> str:
    """Return the way of least wear, then energy, among those that are as good as the best.

    As good: no more worse, chip by chip, than ``ERRORS`` standard errors of the difference; of a
    single chip, which shows none, the best alone.
    """
    sign = -1.0 if higher else 1.0
    losses = {way: [sign * o["scores"][when] for o in of] for way, of in by_way.items()}
    best = min(losses, key=lambda way: statistics.fmean(losses[way]))
    good = []
    for way, values in losses.items():
        worse = [a - b for a, b in zip(values, losses[best], strict=True)]
        if statistics.fmean(worse) <= ERRORS * deviation(worse) / len(worse) ** 0.5:
            good.append(way)
    costs = {way: _summary(by_way[way])["cost"] for way in good}
    return min(good, key=lambda way: (costs[way]["wear"], costs[way]["energy_uj"]))


COSTS = "pulses", "readings", "energy", "time", "wear"
"""Heads of the cells of ``cost_cells``, but for the last, digital values."""


def cost_cells(cost: Mapping[str, float]) -> tuple[str, ...]:
    """Return what a way takes as cells of a table."""
    took = energy(1e3 * cost["energy_uj"]), span(cost["time_s"]), f"{cost['wear']:.3g}"
    return count(cost["pulses"]), count(cost["readings"]), *took, count(cost["digital_values"])


def text(record: Mapping[str, Any]) -> str:
    """Return the table as a terminal shows it."""
    heads, alone = ("", *LATER_S, *COSTS, "digital"), record["chips"] == 1
    rows = [
        (
            way,
            *(
                f"{s['mean']:.4f}" + (f" ± {s['std']:.4f}" if not alone else "")
                for s in found["scores"].values()
            ),
            *cost_cells(found["cost"]),
        )
        for way, found in record["ways"].items()
    ]
    lines = [
        f"{record['data']}: {record['metric']}",
        f"tuned by: {record['loss']}",
        record["parts"],
        f"{record['chip']}, {record['devices']:,} devices, changed {span(record['age_s'])} after "
        "programming; "
        + ("one chip" if alone else f"{record['chips']} chips, mean ± standard deviation"),
        f"strict reference, no chip: {record['reference']:.4f}",
        *table(heads, rows),
    ]
    best = ", ".join(f"{when} {way}" for when, way in record["best"].items())
    lines.append(f"as good as the best at least wear and energy: {best}")
    lines += silent_text(record["silent"])
    lines += [f"note: {note}" for note in record["notes"][-len(NOTES) :]]
    return "\n".join(lines)
