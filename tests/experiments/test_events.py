"""What the trainings of event recordings and of GRAPES' own network promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from snu_plugin import cli
from snu_plugin.experiments import jobs, paper, results
from snu_plugin.experiments.events import EventJob
from snu_plugin.experiments.perceptron import PerceptronJob
from snu_plugin.neuron import SNU
from snu_plugin.tasks import nmnist
from snu_plugin.tasks.digits import Digits, Images

UNITS = ("snu", "ssnu", "src", "lstm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write recordings in the official layout: a digit sees events in rows of its own."""
    draw = np.random.default_rng(0)
    for split, count in (("Train", 40), ("Test", 10)):
        for i in range(count):
            digit = i % 10
            file = tmp_path / split / str(digit) / f"{i + 1:05d}.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            events = np.zeros((60, 5), np.uint8)
            events[:, 0] = draw.integers(0, 34, 60)
            events[:, 1] = 3 * digit + draw.integers(0, 3, 60)
            time = np.sort(draw.integers(0, 300_000, 60)) | (draw.integers(0, 2, 60) << 23)
            events[:, 2:] = np.stack((time >> 16, time >> 8, time), 1) & 255
            file.write_bytes(events.tobytes())
    return tmp_path


@pytest.fixture
def images() -> Digits:
    draw = Generator().manual_seed(0)

    def drawn(count: int) -> Images:
        pixels = torch.randint(256, (count, 28, 28), generator=draw, dtype=torch.uint8)
        return Images(pixels, torch.randint(10, (count,), generator=draw))

    return Digits(name="other", train=drawn(60), test=drawn(20))


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_leaves_a_record_that_says_how_many_recordings_there_were(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str
) -> None:
    line = ["reproduce", "nmnist", "--unit", unit, "--epochs", "1", "--data", str(folder)]
    assert cli.main([*line, "--no-verify", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / f"nmnist-{unit}.json").read_text())
    run = record["runs"][0]
    assert (run["train_recordings"], run["test_recordings"]) == (36, 10)
    assert run["valid"] is not None
    assert record["published"] is None
    assert "(36 to learn from, 10 to test)" in capsys.readouterr().out


def test_recordings_that_tell_digits_apart_are_learned(folder: Path) -> None:
    chosen = replace(paper.recipe("nmnist", "ssnu"), lr=5e-3, batch=6, epochs=8, decay=0.8)
    one = EventJob(chosen, nmnist.load(folder, verify=False), 0)
    paper.train(one, chosen)
    assert one.result()["test"] == 100


def test_an_incomplete_folder_of_recordings_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reproduce", "nmnist", "--data", str(folder), "--out", str(tmp_path / "out")]
    assert cli.main(line) == 2
    assert "expected 60000" in capsys.readouterr().err


def test_the_network_of_grapes_is_the_published_one(images: Digits) -> None:
    one = PerceptronJob(paper.recipe("mnist", "relu"), images, 0)
    shapes = [tuple(p.shape) for p in one.network.parameters()]
    assert shapes == [(256, 784), (256, 256), (10, 256)]
    for weight in one.network.parameters():
        bound = math.sqrt(6 / weight.shape[1])
        assert 0.98 * bound < float(weight.detach().abs().max()) <= bound


def test_dropout_is_for_training_alone(images: Digits) -> None:
    one = PerceptronJob(paper.recipe("mnist", "relu"), images, 0)
    batch = images.test
    one.network.train()
    assert float(one.loss(batch).detach()) != float(one.loss(batch).detach())
    one.network.eval()
    assert float(one.loss(batch).detach()) == float(one.loss(batch).detach())


def test_grapes_weighs_its_own_network(images: Digits) -> None:
    found = []
    for optimizer in (None, "grapes"):
        chosen = paper.recipe("mnist", "relu", optimizer=optimizer, epochs=1)
        one = jobs.job(chosen, images, 0)
        paper.train(one, chosen)
        found.append([p.detach().clone() for p in one.network.parameters()])
    assert not torch.equal(found[0][0], found[1][0])


def test_the_gain_of_grapes_is_that_of_runs_of_the_same_seed() -> None:
    def record(tests: dict[int, float], grapes: bool) -> dict[str, object]:
        runs = [{"seed": seed, "test": test} for seed, test in tests.items()]
        recipe = {"name": "perceptron", "grapes": grapes}
        about = {"task": "mnist", "data": "mnist", "unit": "relu", "metric": "test accuracy, %"}
        return {**about, "recipe": recipe, "runs": runs}

    plain = record({0: 97.0, 1: 98.0, 2: 96.0}, grapes=False)
    with_it = record({1: 98.4, 0: 97.2, 7: 50.0}, grapes=True)
    (said,) = results.gains([plain, with_it])
    assert "gain +0.300 ± 0.100" in said
    assert "2 pairs" in said
    assert results.gains([with_it]) == []


@pytest.mark.parametrize("name", ["single", "inhibited-sample", "inhibited-batch"])
def test_lateral_inhibition_is_in_the_hidden_layer_alone(images: Digits, name: str) -> None:
    chosen = paper.recipe("mnist", "snu", name)
    one = jobs.job(chosen, images, 0)
    hidden, last = (
        m.config.lateral_inhibition for m in one.network.modules() if isinstance(m, SNU)
    )
    assert hidden == (None if name == "single" else name.removeprefix("inhibited-"))
    assert last is None
    assert chosen.optimizer == "rmsprop"
    assert set(one.result()) == {"test", "test_steps", "spikes", "hidden_spikes"}
