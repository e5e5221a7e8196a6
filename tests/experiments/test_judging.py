"""What data teach and are judged by: losses, metrics and teachers, the same in every command."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from joblib.externals.loky.backend.reduction import dumps, loads
from torch import Generator, Tensor

from snu_plugin import cli, graph
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.experiments.data_files import load_scored, load_tuning
from snu_plugin.experiments.datasets import Judging, Sequences
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import LOSSES, METRICS, fine_tune, metric_of, taught_by
from snu_plugin.neuron import SNUConfig

CLASSES, INPUTS, HIDDEN, STEPS = 4, 12, 16, 6


def network() -> nir.NIRGraph:
    """Each class is a group of inputs; the hidden units fire for groups, the outputs sum them."""
    unit = np.arange(HIDDEN) % CLASSES
    member = np.arange(INPUTS) % CLASSES == unit[:, None]
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(0.5 * member - 0.1),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(HIDDEN, 0.7), dt=2.0**-10),
        "fc2": nir.Linear(1.0 * (np.arange(CLASSES)[:, None] == unit) - 0.2),
        "out": nir.Output({"output": np.array([CLASSES])}),
    }
    return stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), 2.0**-10)


def spikes(count: int, seed: int) -> tuple[Any, Any]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    rate = np.where(np.arange(INPUTS) % CLASSES == labels[:, None], 0.5, 0.25)
    return draw.random((STEPS, count, INPUTS)) < rate, labels


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    graph.write(tmp_path / "graph.nir", network())
    arrays: dict[str, Any] = {}
    for seed, (part, count) in enumerate((("train_", 64), ("valid_", 40), ("", 40))):
        arrays[f"{part}x"], arrays[f"{part}labels"] = spikes(count, seed)
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "graph.nir"), str(tmp_path / "data.npz")


def keep(path: str, *drop: str, **more: Any) -> None:
    with np.load(path) as held:
        arrays = {name: held[name] for name in held.files if name not in drop}
    np.savez(path, **arrays | more)


LABELS = ("train_labels", "valid_labels", "labels")


def tuned(files: tuple[str, str], tmp_path: Path, *more: str) -> dict[str, Any]:
    out = str(tmp_path / "t.nir")
    assert cli.main(["tune", *files, "--epochs", "2", "--at", "1y", "--out", out, *more]) == 0
    record: dict[str, Any] = json.loads((tmp_path / "t.json").read_text())
    return record


def test_a_silent_recording_is_counted_and_is_no_recording_of_class_0() -> None:
    x, labels = torch.zeros(STEPS, 10, INPUTS), torch.zeros(10, dtype=torch.int64)
    data = Sequences("", x, labels)

    def half(x: Tensor) -> Tensor:
        output = torch.zeros(STEPS, 10, CLASSES)
        output[2, :5, 0] = 1.0
        return output

    assert data.judge(half) == (0.5, 5)
    assert Sequences("", x, labels, Judging(metric="last")).judge(half) == (0.0, 5)


def test_commands_tell_on_how_many_recordings_a_network_is_silent(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, labels = spikes(40, 2)
    x[:, :7] = 0
    keep(files[1], x=x, labels=labels)
    record = tuned(files, tmp_path)
    count = record["silent"]["reference"]
    assert 7 <= count < 40
    assert record["silent"]["tuned"] >= 7
    told = f"sequences on which every output is silent, of no class: reference {count:g}"
    assert told in capsys.readouterr().out
    assert cli.main(["run", *files, "--at", "1h", "--chips", "1", "--reads", "1"]) == 0
    assert told in capsys.readouterr().out
    out = ["--out", str(tmp_path / "life")]
    short = ["--for", "60d", "--every", "60d", "--chips", "1", "--reads", "1", "--do", "none"]
    assert cli.main(["life", *files, *short, *out]) == 0
    assert told in capsys.readouterr().out


def test_a_teacher_needs_no_labels(files: tuple[str, str], tmp_path: Path) -> None:
    """Thresholds are wrong, and the right network says what should have come out."""
    wrong = network()
    wrong.nodes["snu"].v_threshold[::2] = 2.0
    teacher = files[0]
    files = (str(tmp_path / "wrong.nir"), files[1])
    graph.write(files[0], wrong)
    keep(files[1], *LABELS, train_x=spikes(400, 0)[0])
    record = tuned(files, tmp_path, "--teacher", teacher, "--epochs", "4")
    assert record["loss"] == "distance to the teacher's outputs, in shares of their power"
    assert record["metric"].startswith("distance to the teacher's outputs")
    print(record["test"])
    assert record["test"]["tuned"] < 0.9 * record["test"]["compensated"]
    agreeing = tuned(files, tmp_path, "--teacher", teacher, "--metric", "rate")
    assert agreeing["metric"].startswith("accuracy")
    assert agreeing["test"]["reference"] < 1


def test_a_network_is_its_own_perfect_pupil(files: tuple[str, str]) -> None:
    keep(files[1], *LABELS)
    teacher = taught_by(network())
    data = load_scored(files[1], (INPUTS,), (CLASSES,), by=Judging(teacher=teacher))
    assert data.judge(teacher).score == 0
    named = load_scored(
        files[1], (INPUTS,), (CLASSES,), by=Judging(teacher=teacher, metric="rate")
    ).judge(teacher)
    assert named.score == 1 - named.silent / 40


def test_labels_still_judge_what_a_teacher_taught(files: tuple[str, str], tmp_path: Path) -> None:
    record = tuned(files, tmp_path, "--teacher", files[0])
    assert record["metric"].startswith("accuracy")
    assert record["loss"].startswith("distance")


@pytest.mark.parametrize(
    ("loss", "says", "metric"),
    [
        ("rate", "cross-entropy of the spike counts", "accuracy, share"),
        ("last", "cross-entropy of the outputs of the last step", "accuracy at the last step"),
        ("count", "squared error of the firing rates", "accuracy, share"),
        ("population:2", "cross-entropy of populations that code 2", "accuracy of populations"),
    ],
)
def test_every_loss_for_classes_is_known_by_name_and_brings_its_metric(
    files: tuple[str, str], loss: str, says: str, metric: str
) -> None:
    by = Judging(loss=loss)
    if loss.startswith("population"):
        with np.load(files[1]) as held:
            halved: dict[str, Any] = {name: held[name] % 2 for name in LABELS}
        keep(files[1], **halved)
    data = load_tuning(files[1], (INPUTS,), (CLASSES,), by=by)
    assert data.loss_says.startswith(says)
    assert data.metric.startswith(metric)
    model = taught_by(network())
    x, target = next(iter(data.batches(Generator().manual_seed(0))))
    assert np.isfinite(float(data.train.loss(model(x), target, data.train.unit(model))))


def test_numbers_for_every_output_are_learned_by_regression_or_likelihood(
    files: tuple[str, str], tmp_path: Path
) -> None:
    with np.load(files[1]) as held:
        arrays: dict[str, Any] = {n: held[n] for n in held.files if n not in LABELS}
    teacher = taught_by(network())
    wanted: dict[str, Any] = {
        name.replace("x", "labels"): teacher(torch.from_numpy(x).float()).numpy()
        for name, x in arrays.items()
    }
    np.savez(files[1], **arrays, **wanted)
    record = tuned(files, tmp_path)
    assert record["metric"] == "mean squared error of the outputs, lower is better"
    assert record["test"]["reference"] == 0
    keep(files[1], **{name: 1.0 * (value > 0) for name, value in wanted.items()})
    record = tuned(files, tmp_path, "--loss", "likelihood")
    assert record["metric"].startswith("negative log-likelihood, nats per step")
    assert record["loss"].startswith("binary cross-entropy")


def test_a_function_is_a_metric_and_a_loss(files: tuple[str, str]) -> None:
    def quiet(output: Tensor, target: Any) -> Tensor:
        return output.abs().mean()

    found = metric_of(lambda output, target: output.abs().mean((0, 2)))
    by = Judging(loss=quiet, metric=found)
    data = load_scored(files[1], (INPUTS,), (CLASSES,), by=by)
    assert data.loss_says == "quiet, as given"
    assert data.judge(lambda x: torch.full((*x.shape[:2], CLASSES), 2.0)).score == 2.0
    assert not data.higher_is_better


def test_data_with_a_teacher_travel_to_other_processes(files: tuple[str, str]) -> None:
    teacher = taught_by(network())
    data = load_tuning(files[1], (INPUTS,), (CLASSES,), by=Judging(teacher=teacher, metric="rate"))
    here = data.test.judge(teacher)
    judge, taught = loads(dumps((data.test.judge, teacher)))  # as joblib hands them over
    assert judge(taught) == here


def test_the_command_and_fine_tune_minimise_the_same_by_default(files: tuple[str, str]) -> None:
    """The outputs are scaled: both find the unit in which they are logits."""
    g = network()
    g.nodes["fc2"].weight[:] *= 256
    data = load_tuning(files[1], (INPUTS,), (CLASSES,))
    chip = Accelerator(compile(g, IDEAL), 0)
    chip.program()
    batches = list(data.batches(Generator().manual_seed(0)))
    history = fine_tune(chip, batches, digital_lr=0, hold_back=0)
    assert data.loss_says in history.loss
    unit = data.train.unit(lambda x: chip.run(x)[0])
    x, target = batches[0]
    ours = float(data.train.loss(chip.run(x)[0], target, unit))
    assert history[0].loss == pytest.approx(ours, rel=0.2)
    assert ours < np.log(CLASSES)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--loss", "rates"], "no loss 'rates'; give rate, membrane"),
        (["--metric", "wit"], "no metric 'wit'; give rate, membrane"),
        (["--loss", "regression"], "loss is 'regression' and labels are classes; give another"),
        (["--loss", "population:2"], "loss is 'population:2' and labels run to 3; give at least 4"),
        (["--metric", "teacher"], "metric is 'teacher' and there is none; give a teacher"),
        (["--teacher", "nowhere.nir"], "nowhere.nir"),
    ],
)
@pytest.mark.parametrize("command", ["tune", "run", "life"])
def test_what_cannot_be_judged_is_one_clear_line(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([command, *files, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_metrics_are_named_as_losses_are() -> None:
    assert set(METRICS) == set(LOSSES) | {"teacher"}
