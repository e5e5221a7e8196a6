"""What the trainings of event recordings and of GRAPES' own network promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import results_page as results
from snu_plugin import cli
from snu_plugin.experiments.paper import jobs
from snu_plugin.experiments.paper import reproduce as paper
from snu_plugin.experiments.paper.classifiers import (
    FRAME_US,
    READOUT_DECAY,
    EventJob,
    PerceptronJob,
)
from snu_plugin.neuron import SNU
from snu_plugin.tasks import nmnist
from snu_plugin.tasks.digits import Digits
from snu_plugin.training import leaky_sum

UNITS = ("snu", "ssnu", "src", "lstm")


@pytest.mark.usefixtures("few_units")
@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_leaves_a_record_that_says_how_many_recordings_there_were(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str
) -> None:
    line = ["reproduce", "nmnist", "--unit", unit, "--epochs", "1", "--data", str(recordings)]
    assert cli.main([*line, "--no-verify", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / f"nmnist-{unit}.json").read_text())
    run = record["runs"][0]
    assert (run["train_recordings"], run["test_recordings"]) == (36, 10)
    assert run["valid"] is not None
    assert record["published"] is None
    assert "(36 to learn from, 10 to test)" in capsys.readouterr().out


def test_recordings_that_tell_digits_apart_are_learned(recordings: Path) -> None:
    chosen = replace(paper.recipe("nmnist", "ssnu"), lr=5e-3, batch=6, epochs=8, decay=0.8)
    one = EventJob(chosen, nmnist.load(recordings, verify=False), 0)
    paper.train(one, chosen)
    assert one.result()["test"] == 100


def test_the_deep_cells_are_two_layers_of_the_same_training() -> None:
    deep, plain = (paper.recipe("nmnist", "src", name) for name in ("src-deep", None))
    assert deep == replace(plain, name="src-deep", sizes=(2312, 100, 100, 10))
    assert {paper.recipe("nmnist", unit).name for unit in UNITS} == {"plain"}


def test_deep_cells_leave_a_record_of_their_own(recordings: Path, tmp_path: Path) -> None:
    line = ["reproduce", "nmnist", "--unit", "src", "--recipe", "src-deep", "--epochs", "1"]
    line += ["--data", str(recordings), "--no-verify", "--out", str(tmp_path / "out")]
    assert cli.main(line) == 0
    record = json.loads((tmp_path / "out" / "nmnist-src-src-deep.json").read_text())
    assert record["recipe"]["sizes"] == [2312, 100, 100, 10]
    assert "--recipe src-deep" in record["command"]


def test_parts_are_what_training_sees_a_quarter_as_large(recordings: Path) -> None:
    data = nmnist.load(recordings, verify=False)
    one = EventJob(paper.recipe("nmnist", "ssnu"), data, 0)
    learned, chosen, judged = one.parts(100, 100)
    assert chosen is not None
    seen = torch.cat(list(one.batches())).sort().values
    assert torch.equal(learned[1], data.train.labels[seen])
    assert torch.equal(torch.cat((learned[1], chosen[1])), data.train.labels)
    assert torch.equal(judged[1], data.test.labels)
    for part, i, kept in ((learned, 3, data.train[3]), (chosen, 1, data.train[37])):
        assert part[0].dtype == torch.bool
        expected = nmnist.frames(kept, one.recipe.steps, FRAME_US).flatten(1)
        assert torch.equal(part[0][:, i].float(), expected)
    first, last, _ = one.parts(5, 2)
    assert last is not None
    assert torch.equal(first[0], learned[0][:, :5])
    assert torch.equal(last[0], chosen[0][:, 2:])


def test_an_incomplete_folder_of_recordings_is_refused(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reproduce", "nmnist", "--data", str(recordings), "--out", str(tmp_path / "out")]
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


def test_a_temperature_divides_what_the_softmax_sees(images: Digits) -> None:
    chosen = paper.recipe("mnist", "src")
    assert chosen.temperature == 10
    hot, cold = (
        jobs.job(replace(chosen, steps=30, temperature=each), images, 0) for each in (10.0, 1.0)
    )
    batch = images.test
    coded = cold.coded(batch.pixels, 30, Generator().manual_seed(0))  # type: ignore[attr-defined]
    evidence = leaky_sum(cold.network(coded)[0], READOUT_DECAY)
    for one, scale in ((hot, 10), (cold, 1)):
        one.generator.manual_seed(0)
        expected = torch.nn.functional.cross_entropy(evidence / scale, batch.labels)
        torch.testing.assert_close(one.loss(batch), expected)


def test_the_gain_of_grapes_is_that_of_runs_of_the_same_seed() -> None:
    def record(tests: dict[int, float], grapes: bool) -> dict[str, Any]:
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
    newer = {**with_it, "recipe": {**with_it["recipe"], "temperature": 1.0}}
    assert len(results.gains([plain, newer])) == 1, "the older record lacks the field"
    newer["recipe"]["temperature"] = 10.0
    assert results.gains([plain, newer]) == []


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
