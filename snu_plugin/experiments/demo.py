"""The main job from start to end: chorales, snnTorch, NIR, Norse, 52,800 devices, a report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import torch
from torch import Generator, nn

from snu_plugin import files, graph, plugins
from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.experiments import figures, lifetime, music
from snu_plugin.experiments.lifetime import Life
from snu_plugin.experiments.versions import versions
from snu_plugin.graph.verdicts import Report
from snu_plugin.report.page import write_page
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Chorales

EPOCHS = 70
GIVEN, ADDED = 16, 48
"""Chords of a test chorale that the network is given, and chords that it adds."""
PUBLISHED = {"SNU": 8.72}
"""Test likelihood of the SNU on these data: Woźniak et al. 2020."""

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
class Outcome:
    """What a demo gave: everything the report is made of."""

    data: Chorales
    trained: music.Trained
    graph: nir.NIRGraph
    verified: Report
    life: Life
    scores: dict[str, Any]
    seconds: dict[str, float]


def demo(
    out: str | Path,
    *,
    data: str | Path | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the whole way and leave the report, the graphs and the chip in ``out``.

    Args:
        out: Folder for ``report.html``, ``report.json``, ``model.nir``, ``tuned.nir``,
            ``chip.npz``, ``continuation.mid`` and the figures; made if it is missing.
        data: ``JSB_Chorales.mat``; ``None`` takes the Bach chorales that music21 brings.
        epochs: Epochs of training.
        seed: Of training, chip and tuning.
        say: Called with a sentence at every stage.

    Returns:
        The content of ``report.json``.

    Raises:
        ValueError, OSError, ImportError: With one line that says what to do; nothing is written
            before the data are read.
    """
    started = time.monotonic()
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    say("reading the chorales")
    pieces = chorales.load(data)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with one_thread():
        outcome = run(pieces, folder, epochs=epochs, seed=seed, started=started, say=say)
    say("writing the report")
    outcome.life.tuned.save(folder / "chip.npz")
    graph.write(folder / "tuned.nir", outcome.life.tuned.to_nir())
    record = summary(outcome, seed, epochs)
    record["extra"]["command"] += f" --data {Path(data).name}" if data is not None else ""
    start = pieces.test[0][:GIVEN]
    roll = music.continuation(
        lambda x: lifetime.play(outcome.life.tuned, x), start, ADDED, Generator().manual_seed(seed)
    )
    chorales.write_midi(folder / "continuation.mid", roll)
    pictures = figures.draw(folder, outcome.trained, outcome.life, record, roll, GIVEN)
    files.write(folder / "report.json", (json.dumps(record, indent=1) + "\n").encode())
    write_page(folder / "report.html", record, pictures)
    return record


def run(
    data: Chorales,
    folder: Path,
    *,
    epochs: int,
    seed: int,
    started: float,
    say: Callable[[str], None],
) -> Outcome:
    """Train, export, verify, map, age and tune; writes ``model.nir``, which is then what runs."""
    say(f"training on {len(data.train)} chorales in snnTorch, {epochs} epochs")
    clock = time.monotonic()
    trained = music.learn(
        data, epochs=epochs, seed=seed, seen=lambda e: say(f"epoch {e.number}: {e.score:.3f}")
    )
    train_s = time.monotonic() - clock
    say("exporting to NIR and verifying in every simulator")
    g, scores = exported(trained.network, data, folder)
    verified = graph.verify(g)
    say("mapping onto phase-change memory, ageing and tuning")
    clock = time.monotonic()
    life = lifetime.live(
        compile(g, PCM), data, seed, seen=lambda age: say(f"aged and tuned at {age}")
    )
    seconds = {"train": train_s, "tune": time.monotonic() - clock}
    seconds["total"] = time.monotonic() - started
    return Outcome(data, trained, g, verified, life, scores | life.scores, seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: matrices of 88 x 150 are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def exported(
    network: nn.Module, data: Chorales, folder: Path
) -> tuple[nir.NIRGraph, dict[str, float]]:
    """Write the network as NIR; return the graph read back, and the scores that must be equal."""
    test = chorales.pad(data.test)
    path = folder / "model.nir"
    graph.write(path, plugins.adapter("snntorch").to_nir(network))
    g = graph.read(path)
    reference = graph.network(g)
    ideal = Accelerator(compile(g, IDEAL))
    ideal.program()
    return g, {
        "float": music.score(network, test),
        "nir": music.score(lambda x: reference(x)[0], test),
        "ideal_chip": lifetime.likelihood(ideal, test, reads=1),
    }


def summary(outcome: Outcome, seed: int, epochs: int) -> dict[str, Any]:
    """Return the record that ``report.json`` holds."""
    data, life = outcome.data, outcome.life
    chip = life.tuned.layout.chip
    trace = lifetime.cost_of(life.tuned, data)
    cost = trace.cost
    return {
        "task": "jsb",
        "data": {"name": data.name, "chorales": list(data.sizes), "sha256": data.sha256},
        "unit": "SNU",
        "network": list(music.LAYERS),
        "seed": seed,
        "devices": life.tuned.layout.devices,
        "nll": outcome.scores,
        "verify": verdicts(outcome.verified, "plugin"),
        "energy_nj_per_step": {
            "array": cost.array_nj,
            "converters": cost.converters_nj,
            "digital": cost.digital_nj,
        },
        "latency_us_per_step": cost.latency_us,
        "spikes_per_step": sum(trace.spikes_per_step.values()),
        "pulses": sum(record.pulses for record in life.history),
        "seconds": outcome.seconds,
        "versions": versions(),
        "notes": list(NOTES),
        "extra": {
            "command": f"snu demo --epochs {epochs} --seed {seed}",
            "chip": chip.name,
            "source": data.source,
            "assumptions": list(cost.assumptions),
            "published": PUBLISHED,
            "cases": lifetime.CASES,
            "tiles": life.tuned.layout.tile_count,
            "energy of a dense step, nJ": cost.dense_nj,
            "share of saturated conversions": trace.saturated,
            "best epoch": min(outcome.trained.history, key=lambda e: e.score).number,
            "the simulators' own importers": verdicts(outcome.verified, "stock"),
            "chip.npz, tuned.nir and the pulses": "of the chip tuned at one year",
        },
    }


def verdicts(verified: Report, importer: str) -> dict[str, str]:
    """Return what each simulator made of the graph, through one kind of importer."""
    return {run.simulator: run.status for run in verified.runs if run.importer == importer}
