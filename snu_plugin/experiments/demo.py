"""The main job from start to end: chorales, snnTorch, NIR, Norse, 52,800 devices, a report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Generator, Tensor, nn

from snu_plugin import graph, simulators
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Program
from snu_plugin.accepted import SEED
from snu_plugin.compiler import compile
from snu_plugin.experiments import chorale_network, passes, pictures
from snu_plugin.experiments.chip_life import (
    Case,
    ChipFile,
    chip_bytes,
    chip_from_bytes,
    chip_life,
    copy_chip,
    left_alone,
    recalibrated,
)
from snu_plugin.experiments.datasets import SAMPLE, chorale_parts
from snu_plugin.experiments.runs import Say, check_resumable, checkpoints
from snu_plugin.experiments.settings import one_thread, versions, write_json
from snu_plugin.files import claim
from snu_plugin.graph import Report
from snu_plugin.hil import UpdateRecord
from snu_plugin.report import device_plots, plots
from snu_plugin.report.page import SAID, Figure, write_page
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Chorales
from snu_plugin.training import TrainingState
from snu_plugin.usage import again

EPOCHS = 70
PROMPT, ADDED = 16, 48
"""Chords of a test chorale that the network is given, and chords that it adds."""
PUBLISHED = {"SNU": 8.72}
"""Test likelihood of the SNU on these data: Woźniak et al. 2020."""

AGES_S = {"20s": 20.0, "1h": 3600.0, "1d": 86_400.0, "30d": 30 * 86_400.0, "1y": 365 * 86_400.0}
"""Times since programming at which the chip is looked at, s."""

CASES = {
    "programmed": "written once, then left alone",
    "compensated": "digital gains of every column fitted anew at that age",
    "tuned": "a copy of the chip tuned at that age from the recalibrated state, measured at once",
}
"""What each row of the scores means."""

NOTES = (
    "The chip is a simulation: devices are written with the statistics of Joshi et al. 2020 "
    "(model A) and pulsed with the step response of Nandakumar et al. 2018 (model C), bridged by "
    "the ratio of their largest conductances; no published map between the two exists.",
    "Weight scale, update rule, batches and refresh of the published hardware experiment are not "
    "known; the recipe is ours, and no likelihood measured on that hardware is compared with.",
    "Tuning trains digital gains, biases and thresholds beside the devices, and most of what it "
    "wins comes from these: a pulse is about as noisy as it is large, so only those are given that "
    "the gradients agree on.",
    "The negative log-likelihood is binary cross-entropy summed over the 88 keys, pooled over all "
    "predicted steps of the test chorales, in nats; the epoch was chosen on validation.",
)


@dataclass(frozen=True)
class Life:
    """Scores by case and age, and the chip that was tuned last."""

    scores: dict[str, dict[str, float]]
    """Test likelihood, nats per step: case, then age."""
    untuned: Accelerator
    """The chip at its last age, recalibrated, before tuning."""
    tuned: Accelerator
    """The chip tuned at its last age."""
    history: list[UpdateRecord]
    """What each update of the last tuning did."""


def demo(
    out: str | Path,
    *,
    data: str | Path | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    verify: bool = True,
    resume: bool = False,
    progress: Say = lambda text: None,
) -> dict[str, Any]:
    """Run the whole way and leave the report, the graphs and the chip in ``out``.

    On the way checkpoints lie there, after every epoch and age of the chip; ``resume`` takes them
    up and gives bit for bit what an uninterrupted run gives, but for the seconds that it took.

    Args:
        out: Folder for ``report.html``, ``report.json``, ``model.nir``, ``tuned.nir``,
            ``chip.npz``, ``continuation.mid`` and the figures; made if it is missing.
        data: ``JSB_Chorales.mat``; ``None`` takes the Bach chorales that music21 brings.
        epochs: Epochs of training.
        seed: Of training, chip and tuning.
        verify: Refuse a ``data`` whose sha256 is not that of ``JSB_Chorales.mat``.
        resume: Take up what the checkpoints in ``out`` hold.
        progress: Called with a sentence at every stage.

    Returns:
        The content of ``report.json``.

    Raises:
        ValueError, OSError, ImportError: With one line that says what to do; nothing is written
            before the data are read.
    """
    started = time.monotonic()
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    SEED.check("seed", seed)
    folder = Path(out)
    pictures.check_folder(folder)
    kept = checkpoints_of(folder)
    check_resumable(kept, resume)
    progress("reading the chorales")
    pieces = chorales.load(data, verify=verify)
    typed = ["demo", "--epochs", str(epochs), "--seed", str(seed)]
    typed += [] if data is None else ["--data", Path(data).name]
    command = again([*typed, *["--no-verify"] * (not verify)])
    same = {"data": pieces.sha256, "epochs": epochs, "seed": seed}
    with claim(folder / "report"), checkpoints(kept, resume):
        with one_thread():
            progress(f"training on {len(pieces.train)} chorales in snnTorch, {epochs} epochs")
            clock = time.monotonic()
            network, training = chorale_network.learn(
                pieces, epochs=epochs, seed=seed,
                checkpoint=kept / "training.checkpoint", resume=resume, settings=same,
                on_epoch=lambda e: progress(f"epoch {e.number}: {e.score:.3f}"),
            )  # fmt: skip
            seconds = {"train": time.monotonic() - clock}
            progress("exporting to NIR and verifying in every simulator")
            g, scores = exported(network, pieces, folder)
            verified = graph.verify(g)
            progress("mapping onto phase-change memory, ageing and tuning")
            clock = time.monotonic()
            sample = chorale_parts(pieces).train.sample[:, :SAMPLE]
            program = compile(g, PCM, sample=sample)
            life = age_and_tune(program, pieces, seed, kept / "chip.checkpoint", same, progress)
            seconds["tune"] = time.monotonic() - clock
            seconds["total"] = time.monotonic() - started
        progress("writing the report")
        life.tuned.save(folder / "chip.npz")
        graph.write(folder / "tuned.nir", life.tuned.to_nir())
        record = summary(pieces, training, life, verified, scores, seconds, command, seed)
        start, draw = pieces.test[0][:PROMPT], Generator().manual_seed(seed)
        roll = chorale_network.continuation(lambda x: life.tuned.run(x)[0], start, ADDED, draw)
        chorales.write_midi(folder / "continuation.mid", roll)
        figures = draw_figures(folder, training, life, record, roll)
        write_json(folder / "report.json", record)
        write_page(folder / "report.html", record, figures)
    return record


def checkpoints_of(out: Path) -> Path:
    """Return the folder of the checkpoints of a demo."""
    return out / "demo.checkpoints"


def age_and_tune(
    program: Program,
    data: Chorales,
    seed: int,
    checkpoint: Path,
    same: Mapping[str, Any],
    progress: Say,
) -> Life:
    """Write a chip and follow it to a year; at each age a copy of it is recalibrated and tuned.

    Args:
        program: The network laid out for the chip.
        data: Test pieces are scored, training pieces tune.
        seed: Of the chip and of the order of the training pieces.
        checkpoint: Where it is kept from age to age; what lies there is taken up.
        same: Settings that must be those of the checkpoint.
        progress: Told of every age that is done.
    """
    parts, history = chorale_parts(data), list[UpdateRecord]()

    def tune(chip: Accelerator) -> Accelerator:
        state = passes.tuned(recalibrated(copy_chip(chip)), parts, seed)
        history[:] = state.history
        return state.chip

    cases: dict[str, Case] = {
        "programmed": left_alone,
        "compensated": lambda chip: recalibrated(copy_chip(chip)),
        "tuned": tune,
    }
    scores: dict[str, dict[str, float]] = {case: {} for case in cases}
    last: dict[str, Accelerator] = {}
    file = ChipFile(checkpoint, same)
    begun, found = file.load()
    if begun is not None:
        scores, history = found["scores"], [UpdateRecord(*values) for values in found["history"]]
        last = {case: chip_from_bytes(state) for case, state in found["last"].items()}

    def keep(age: str, chip: Accelerator) -> None:
        known = {
            "scores": scores,
            "last": {case: chip_bytes(last[case]) for case in ("compensated", "tuned")},
            "history": [tuple(asdict(record).values()) for record in history],
        }
        file.save(chip, known, last=True)

    missing = {age: s for age, s in AGES_S.items() if age not in scores["tuned"]}
    for age, case, chip in chip_life(program, seed, missing, cases, chip=begun, on_age=keep):
        scores[case][age] = passes.mean_score(chip, parts.test)
        last[case] = chip
        if case == "tuned":
            progress(f"aged and tuned at {age}")
    return Life(scores, last["compensated"], last["tuned"], history)


def exported(
    network: nn.Module, data: Chorales, folder: Path
) -> tuple[nir.NIRGraph, dict[str, float]]:
    """Write the network as NIR; return the graph read back, and the scores that must be equal."""
    test = chorales.pad(data.test)
    path = folder / "model.nir"
    graph.write(path, simulators.adapter("snntorch").to_nir(network))
    g = graph.read(path)
    reference = graph.network(g)
    ideal = Accelerator(compile(g, IDEAL))
    ideal.program()
    return g, {
        "float": chorale_network.score(network, test),
        "nir": chorale_network.score(lambda x: reference(x)[0], test),
        "ideal_chip": passes.mean_score(ideal, chorale_parts(data).test, reads=1),
    }


def summary(
    data: Chorales,
    training: TrainingState,
    life: Life,
    verified: Report,
    scores: Mapping[str, float],
    seconds: Mapping[str, float],
    command: str,
    seed: int,
) -> dict[str, Any]:
    """Return the record that ``report.json`` holds."""
    layout = life.tuned.layout
    _, trace = life.tuned.run(chorale_parts(data).test.sample)
    cost = trace.cost
    return {
        "task": "jsb",
        "data": {"name": data.name, "chorales": list(data.sizes), "sha256": data.sha256},
        "unit": "SNU",
        "network": list(chorale_network.LAYERS),
        "seed": seed,
        "devices": layout.devices,
        "nll": {**scores, **life.scores},
        "verify": verdicts(verified, "plugin"),
        "energy_nj_per_step": {
            "array": cost.array_nj,
            "converters": cost.converters_nj,
            "digital": cost.digital_nj,
        },
        "latency_us_per_step": cost.latency_us,
        "spikes_per_step": sum(trace.spikes_per_step.values()),
        "pulses": sum(record.pulses for record in life.history),
        "seconds": dict(seconds),
        "versions": versions(),
        "notes": list(NOTES),
        "extra": {
            "command": command,
            "chip": layout.chip_name,
            "source": data.source,
            "assumptions": list(cost.assumptions),
            "published": PUBLISHED,
            "cases": CASES,
            "tiles": layout.tile_count,
            "energy of a dense step, nJ": cost.dense_nj,
            "share of saturated conversions": trace.saturated,
            **{
                f"share of saturated conversions of {name}, inputs and outputs": f"{a:.2%}, {b:.2%}"
                for name, (a, b) in trace.saturation.items()
            },
            **{f"spent on {what}": took.text() for what, took in life.tuned.spent.items()},
            "energy of a dense step on the rows and columns in use, nJ": cost.used_nj,
            "best epoch": training.best_epoch.number,
            "the simulators' own importers": verdicts(verified, "stock"),
            "chip.npz, tuned.nir and the pulses": "of the chip tuned at one year",
        },
    }


def verdicts(verified: Report, importer: str) -> dict[str, str]:
    """Return what each simulator made of the graph, through one kind of importer."""
    return {run.simulator: run.status for run in verified.runs if run.importer == importer}


def draw_figures(
    folder: Path, training: TrainingState, life: Life, record: Mapping[str, Any], roll: Tensor
) -> list[Figure]:
    """Draw every figure as a PNG in ``folder``; returns them in the order of the page."""
    nll = record["nll"]
    lines = {"float network": nll["float"]}
    if record["data"]["name"] == "jsb":
        lines["published SNU"] = record["extra"]["published"]["SNU"]
    best, pulses = record["extra"]["best epoch"], [r.pulses for r in life.history]
    return [
        Figure(
            file=plots.metric_over_time(
                folder / "nll_over_time.png",
                list(AGES_S.values()),
                {SAID[case]: list(nll[case].values()) for case in record["extra"]["cases"]},
                lines=lines,
                closer=(SAID["compensated"], SAID["tuned"]),
            ),
            title="Likelihood against age",
            caption="Lower is better. At every age a copy of the same chip is recalibrated, and "
            "another is recalibrated and tuned; both are measured at once.",
            wide=True,
        ),
        Figure(
            file=plots.training(
                folder / "training.png",
                {"validation": [epoch.score or 0.0 for epoch in training.epochs]},
                best=best,
            ),
            title="Training in snnTorch",
            caption=f"Validation likelihood; epoch {best} was kept.",
        ),
        Figure(
            file=plots.tuning(
                folder / "tuning.png",
                [r.loss for r in life.history],
                pulses=pulses,
            ),
            title="Tuning in the loop, at one year",
            caption="What the chip itself showed on each batch"
            + (", and the pulses that it took." if any(pulses) else "; it took no pulse."),
        ),
        *_on_devices(folder, life, record),
        Figure(
            file=plots.piano_roll(folder / "continuation.png", roll.numpy(), given=PROMPT),
            title="A chorale continued by the chip",
            caption="Grey was given, the rest is sampled from what the tuned chip predicts.",
            wide=True,
        ),
    ]


def _on_devices(folder: Path, life: Life, record: Mapping[str, Any]) -> list[Figure]:
    """Draw weights, conductances, energy and tiles of the tuned chip."""
    layout, read = life.tuned.layout, life.tuned.read_weights()
    target = torch.cat([op.whole.flatten() for op in layout.products.values()])
    return [
        Figure(
            file=device_plots.target_against_read(
                folder / "weights.png",
                target.numpy(),
                torch.cat([read[name].flatten() for name in layout.products]).numpy(),
                unit="weight",
            ),
            title="Weights wanted and read back",
            caption="After a year and tuning, digital gains included.",
        ),
        Figure(
            file=device_plots.conductances(
                folder / "conductances.png",
                {
                    "before tuning": pictures.read(life.untuned),
                    "after tuning": pictures.read(life.tuned),
                },
                g_max_us=layout.chip.g_max_us,
            ),
            title="Conductances at one year",
            caption="All devices, read once.",
        ),
        Figure(
            file=device_plots.energy(
                folder / "energy.png", {"one step": record["energy_nj_per_step"]}
            ),
            title="Energy of a time step",
            caption="Counted from events; the split is assumed, see the notes.",
        ),
        Figure(
            file=pictures.tiles(folder / "tiles.png", layout),
            title="The network on its tiles",
            caption="Cells that hold a weight, and their share of each tile.",
        ),
    ]
