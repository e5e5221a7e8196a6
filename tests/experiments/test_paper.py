"""What ``snu reproduce`` promises: a recorded row beside the published one, for any seed again.

C11, C12, C13 and C15 are checks of docs/neurons.md#checks.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import results_page as results
from few import few_of
from snu_plugin import cli, graph, training
from snu_plugin.experiments.paper import classifiers, jobs, records
from snu_plugin.experiments.paper import reproduce as paper
from snu_plugin.experiments.paper.published import PUBLISHED
from snu_plugin.experiments.paper.recipes import IBM_JSB, RECIPES
from snu_plugin.tasks import chorales, digits
from snu_plugin.training import Epoch

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the data set, looked for {path}")
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write a few random images in the format of MNIST."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, count in zip(digits.FILES, (40, 40, 20, 20), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        array = draw.integers(0, 10 if "labels" in name else 256, shape).astype(np.uint8)
        sizes = b"".join(n.to_bytes(4, "big") for n in shape)
        (folder / name).write_bytes(bytes([0, 0, 8, len(shape)]) + sizes + array.tobytes())
    return folder


def snu(*arguments: object) -> int:
    return cli.main(["reproduce", *map(str, arguments)])


@pytest.mark.usefixtures("few_units")
def test_the_chorales_are_learned_online_as_through_time(mat: Path) -> None:
    data = jobs.load("jsb", mat, verify=False)
    through_time, by_traces = RECIPES["jsb"]["recurrent"]["ssnu"], RECIPES["jsb"]["online"]["ssnu"]
    found = []
    for recipe in (through_time, replace(by_traces, online=3)):
        one = jobs.job(recipe, data, 0)
        assert isinstance(one, jobs.ChoraleJob)
        loss = one.loss(next(iter(one.batches())))
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([loss.detach(), *(p.grad for p in one.network.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", few_of(RECIPES["jsb"]["plain"], "snu", "ssnu", "gru"))
@pytest.mark.usefixtures("few_units")
def test_every_unit_leaves_a_record_of_the_chorales(
    mat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str
) -> None:
    out = tmp_path / "out"
    line = ("jsb", "--unit", unit, "--epochs", 2, "--seeds", "0,3", "--data", mat, "--no-verify")
    assert snu(*line, "--out", out) == 0
    leaves = unit in ("snu", "ssnu")
    graphs = [f"jsb-{unit}-seed{seed}.nir" for seed in (0, 3) if leaves]
    assert sorted(f.name for f in out.iterdir()) == sorted([f"jsb-{unit}.json", *graphs])
    record = json.loads((out / f"jsb-{unit}.json").read_text())
    tests = [run["test"] for run in record["runs"]]
    assert [run["seed"] for run in record["runs"]] == [0, 3]
    assert record["mean"] == pytest.approx(sum(tests) / 2)
    assert record["sigma"] == pytest.approx(abs(tests[0] - tests[1]) / 2**0.5)
    assert all(len(run["history"]) == 2 for run in record["runs"])
    assert record["published"] is None  # nothing was published about these data
    assert (record["spikes"] is None) == (unit != "snu")
    assert all(
        ("graph" in run) == leaves and ("no_graph" in run) != leaves for run in record["runs"]
    )
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"{record['mean']:.3f}" in printed.out


def test_the_network_of_a_seed_is_left_as_a_graph_with_its_score(mat: Path, tmp_path: Path) -> None:
    line = ("jsb", "--recipe", "skip", "--unit", "ssnu", "--epochs", 1, "--data", mat)
    assert snu(*line, "--no-verify", "--out", tmp_path) == 0
    run = json.loads((tmp_path / "jsb-ssnu-skip.json").read_text())["runs"][0]
    network = graph.network(graph.read(tmp_path / run["graph"]))
    test = chorales.pad(chorales.load(mat, verify=False).test)
    with torch.no_grad():
        nll = float(chorales.nll(network(test.x)[0], test.target, test.mask))
    assert nll == pytest.approx(run["test"], rel=1e-6)


@pytest.mark.parametrize("name", few_of(["skip", "deep"], "skip"))
@pytest.mark.usefixtures("few_units")
def test_networks_that_skip_and_drop_give_the_same_record_for_a_seed(
    mat: Path, tmp_path: Path, name: str
) -> None:
    line = ("jsb", "--unit", "ssnu", "--recipe", name, "--epochs", 2, "--data", mat, "--no-verify")
    runs = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert snu(*line, "--out", out) == 0
        runs.append(json.loads((out / f"jsb-ssnu-{name}.json").read_text())["runs"][0])
        runs[-1].pop("seconds")
    assert runs[0] == runs[1]


@pytest.mark.parametrize("unit", ["snu", "ssnu", "lstm", "src"])
@pytest.mark.parametrize("task", ["mnist", "fashion"])
@pytest.mark.usefixtures("few_units")
def test_every_unit_leaves_a_record_of_the_digits(
    raw: Path, tmp_path: Path, task: str, unit: str
) -> None:
    out = tmp_path / "out"
    line = (task, "--unit", unit, "--epochs", 1, "--data", raw, "--no-verify", "--out", out)
    assert snu(*line) == 0
    record = json.loads((out / f"{task}-{unit}.json").read_text())
    assert 0 <= record["mean"] <= 100
    assert record["sigma"] is None
    assert record["runs"][0]["valid"] is None


@pytest.mark.parametrize(
    ("name", "unit", "network"),
    [
        ("quick", "snu", "784-250-250-10"),
        ("distorted", "lstm", "784-256-256-256-10"),
        ("conv", "snu", "784-16c5/2-48c5/2-128-10"),
        pytest.param("deep", "ssnu", "784-256-256-256-10", marks=pytest.mark.slow),
        pytest.param("deep", "snu", "784-256-256-256-256-256-256-10", marks=pytest.mark.slow),
        pytest.param("deep", "gru", "784-256-256-256-10", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:no neuron of")  # two small passes leave deep layers silent
def test_a_named_recipe_leaves_a_record_of_its_own_that_runs_again(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    unit: str,
    network: str,
) -> None:
    few = replace(
        RECIPES["mnist"][name][unit], epochs=2, held_out=10 * (name != "quick"), test_steps=5
    )
    monkeypatch.setitem(RECIPES["mnist"][name], unit, few)
    monkeypatch.chdir(raw.parent)
    line = ("mnist", "--unit", unit, "--recipe", name, "--data", "raw", "--no-verify", "--out")
    assert snu(*line, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / f"mnist-{unit}-{name}.json").read_text())
    assert records.row(record)[2:4] == [network, f"{name} (ours)"]
    assert (record["runs"][0]["valid"] is None) == (name == "quick")
    again = shlex.split(record["command"])[1:]
    assert cli.main([*again, "--no-verify", "--out", str(tmp_path / "again")]) == 0
    second = json.loads((tmp_path / "again" / f"mnist-{unit}-{name}.json").read_text())
    for made in (record, second):
        made.pop("seconds")
        made["runs"][0].pop("seconds")
    assert second == record


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_rate_follows_its_schedule_batch_by_batch(
    raw: Path, monkeypatch: pytest.MonkeyPatch, schedule: Literal["cosine", "one_cycle"]
) -> None:
    chosen = replace(paper.recipe("mnist", "snu", "quick"), batch=10, epochs=4, schedule=schedule)
    one = jobs.job(chosen, jobs.load("mnist", raw, verify=False), 0)
    rates = []
    step = torch.optim.Adam.step

    def watched(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    paper.train(one, chosen)
    gone = np.arange(16) / 16
    expected = 0.5 + 0.5 * np.cos(math.pi * gone)
    if schedule == "one_cycle":
        rise = 0.5 - 0.5 * np.cos(math.pi * gone / 0.1)
        fall = 0.5 + 0.5 * np.cos(math.pi * (gone - 0.1) / 0.9)
        expected = np.where(gone < 0.1, rise, fall)
    assert rates == pytest.approx(chosen.lr * expected)


@pytest.mark.parametrize("change", [{"elastic": (25.0, 4.0)}, {"mirrored": True}])
def test_only_training_images_are_changed_and_held_out_ones_are_not_trained_on(
    raw: Path, change: dict[str, Any]
) -> None:
    data = jobs.load("mnist", raw, verify=False)
    assert isinstance(data, digits.Digits)
    recipe = replace(paper.recipe("mnist", "ssnu", "conv"), elastic=None)
    recipe = replace(recipe, held_out=15, batch=100, test_steps=5)
    one = classifiers.DigitJob(replace(recipe, **change), data, 0)
    (batch,) = one.batches()
    assert sorted(batch.labels.tolist()) == sorted(data.train.labels[:25].tolist())
    plain = classifiers.DigitJob(recipe, data, 0)
    assert one.score() == plain.score()
    assert one.result() == plain.result()
    next(iter(plain.batches()))
    assert not torch.equal(one.loss(batch), plain.loss(batch))


@pytest.mark.parametrize("taken", [4, 300])
def test_the_test_lasts_as_long_as_held_out_images_like_it_and_the_page_says_so(
    raw: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    data = jobs.load("mnist", raw, verify=False)
    assert isinstance(data, digits.Digits)
    recipe = replace(paper.recipe("mnist", "rnn", "distorted"), held_out=15, steps=4)
    one = classifiers.DigitJob(recipe, data, 0)

    def correct(images: digits.Images, steps: int) -> classifiers.Correct:
        held_out = len(images.labels) == recipe.held_out
        return classifiers.Correct(90.0 + (held_out and steps == taken), 0.0, 0.0)

    monkeypatch.setattr(one, "correct", correct)
    found = one.result()
    assert found == {"test": 90.0, "test_steps": taken}
    run = {"seed": 3, **found}
    record = {"task": "mnist", "unit": "rnn", "recipe": recipe.to_dict(), "runs": [run]}
    said = results.tested_briefly([record])
    assert bool(said) == (taken == recipe.steps)
    assert all("4 steps of training" in line and "seeds 3" in line for line in said)


@pytest.mark.usefixtures("few_units")
def test_the_recorded_command_runs_again_and_gives_the_same(
    mat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mat = tmp_path / "out", mat.rename(mat.with_name("my own.mat"))
    line = ("jsb", "--unit", "ssnu", "--optimizer", "grapes", "--lr", "0.01", "--epochs", 2)
    assert snu(*line, "--seeds", "5", "--data", mat, "--no-verify", "--out", out) == 0
    first = json.loads((out / "jsb-ssnu-grapes.json").read_text())
    monkeypatch.chdir(mat.parent)
    snu_, *again = shlex.split(first["command"])
    assert snu_ == "snu"
    assert cli.main([*again, "--no-verify", "--out", str(tmp_path / "again")]) == 0
    second = json.loads((tmp_path / "again" / "jsb-ssnu-grapes.json").read_text())
    for record in (first, second):
        record.pop("seconds")
        record["runs"][0].pop("seconds")
    assert second == first
    assert first["recipe"]["source"] == "ours"
    assert first["recipe"]["grapes"]


def test_grapes_changes_what_is_learnt_but_not_where_it_starts(mat: Path, tmp_path: Path) -> None:
    losses = []
    for optimizer in ("adam", "grapes"):
        chosen = paper.recipe("jsb", "ssnu", optimizer=optimizer, epochs=1)
        record = paper.reproduce("jsb", chosen, data=mat, out=tmp_path, verify=False)
        losses.append(record["runs"][0]["history"][0][0])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt the training after some passes in all."""
    count = 0

    def run(*arguments: Any, **options: Any) -> Any:
        seen = options.pop("on_epoch")

        def count_down(done: Epoch) -> None:
            nonlocal count
            seen(done)
            count += 1
            if count == after:
                raise KeyboardInterrupt

        return training.train(*arguments, **options, on_epoch=count_down)

    monkeypatch.setattr(paper, "run_training", run)


@pytest.mark.usefixtures("few_units")
def test_a_run_on_a_schedule_is_taken_up_where_it_was_but_not_for_another_length(
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ("mnist", "--recipe", "quick", "--data", raw, "--no-verify", "--out")
    assert snu(*line, tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        interrupt(patched, 2)
        assert snu(*line, tmp_path / "broken") == 130
    assert snu(*line, tmp_path / "broken", "--resume", "--epochs", 9) == 2
    assert "epochs was 3, is 9" in capsys.readouterr().err
    assert snu(*line, tmp_path / "broken", "--resume") == 0
    found, expected = (
        json.loads((tmp_path / name / "mnist-snu-quick.json").read_text())["runs"][0]
        for name in ("broken", "whole")
    )
    assert found | {"seconds": 0} == expected | {"seconds": 0}


@pytest.mark.parametrize(
    ("after", "more"),
    few_of([(1, ""), (3, ""), (5, ""), (4, "--hardware-aware")], (5, ""), (4, "--hardware-aware")),
)
@pytest.mark.usefixtures("few_units")
def test_an_interrupted_run_is_taken_up_and_ends_the_same(
    mat: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    more: str,
) -> None:
    line = (
        "jsb",
        "--epochs",
        3,
        "--seeds",
        "0,1",
        "--data",
        mat,
        "--no-verify",
        *more.split(),
        "--out",
    )
    name = "jsb-snu-aware.json" if more else "jsb-snu.json"
    assert snu(*line, tmp_path / "whole") == 0
    out = tmp_path / "broken"
    with monkeypatch.context() as patched:
        interrupt(patched, after)
        assert snu(*line, out) == 130
    assert "--resume" in capsys.readouterr().err
    assert not list(out.glob("*.json"))
    assert snu(*line, out, "--resume") == 0
    found, expected = (
        json.loads((folder / name).read_text()) for folder in (out, tmp_path / "whole")
    )
    for a, b in zip(found["runs"], expected["runs"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    left = sorted(f.name for f in out.iterdir())
    assert left == [*(f"{Path(name).stem}-seed{seed}.nir" for seed in (0, 1)), name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["imagenet"], "no task 'imagenet'; there are jsb, mnist, fashion"),
        (["jsb", "--unit", "src"], "no recipe for 'src' on jsb; there are snu"),
        (["jsb", "--recipe", "wide"], "no recipe 'wide' on jsb; there are plain, skip"),
        (["mnist", "--unit", "gru", "--recipe", "conv"], "'gru' on mnist, conv; there are snu, "),
        (["jsb", "--optimizer", "rmsprop"], "no optimizer 'rmsprop'"),
        (["jsb", "--optimizer", "sgd"], "give a learning rate with sgd"),
        (["jsb", "--epochs", "0"], "epochs is 0"),
        (["jsb", "--unit", "gru", "--hardware-aware"], "gru is on no chip; give one of snu, ssnu"),
        (["jsb", "--lr", "-1"], "lr is -1.0"),
        (["jsb", "--seeds", "0,x"], "seeds are '0,x'"),
        (["jsb", "--seeds", "1,1"], "give distinct numbers"),
        (["jsb", "--resume"], "holds no checkpoint of jsb-snu"),
        (["mnist"], "holds neither train-images-idx3-ubyte"),
        (["jsb", "--data", "nowhere.mat"], "nowhere.mat is not a file"),
        (["jsb"], "sha256"),
    ],
)
def test_bad_input_is_one_clear_line_exit_2_and_nothing_written(
    mat: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    given = [] if "--data" in arguments else ["--data", mat]
    assert snu(*arguments, *given, "--out", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_fashion_is_not_taken_for_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = shared("fashion/FashionMNIST/raw")
    assert snu("mnist", "--data", raw, "--out", tmp_path / "out") == 2
    assert "holds fashion, not mnist" in capsys.readouterr().err


def test_the_page_of_results_is_made_from_the_records() -> None:
    folder = ROOT / "docs" / "results"
    made = results.page(results.read(folder), Path("docs/results"))
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == made


def test_every_comparison_and_every_row_of_chips_says_which_code_it_came_with() -> None:
    folder = ROOT / "docs" / "results"
    chips = [r for r in results.read(folder) if "chip" in r["study"]]
    assert {results._named(r) for r in chips} == set(results.CHIP_CODE)
    assert {file.stem for file in (folder / "compare").glob("*.json")} == set(results.COMPARED)


def test_a_comparison_says_on_how_many_chips_tuning_helped() -> None:
    notes = {
        "rewritten": ["", ""],
        "digital": ["kept: 2 became 1 ± 0.1", "nothing helped: 1"],
        "adapter": ["nothing helped: 2", "nothing helped: 1"],
    }
    record = {"values": {way: [{"note": n} for n in of] for way, of in notes.items()}}
    assert results._kept(record) == "*digital* 1 of 2, *adapter* 0 of 2"


@pytest.mark.parametrize(
    ("epochs", "said"), [(15, "15"), (5, "5 of 15"), (24, "24 instead of 15")], ids=str
)
def test_a_run_of_other_epochs_than_the_recipes_says_so(epochs: int, said: str) -> None:
    chosen = replace(RECIPES["mnist"]["distorted"]["lstm"], epochs=epochs)
    record = {"task": "mnist", "unit": "lstm", "recipe": chosen.to_dict()}
    assert records.epochs_of(record) == said


def test_the_page_says_what_was_published_and_not_run() -> None:
    known = {"task": "ptb", "unit": "lstm", "published": {"value": 114.5, "source": "somebody"}}
    head, lines, reason = results.missing([known])
    assert head == "## Published, and not run here\n"
    assert "- ptb lstm: 112.4, " in lines
    assert "--unit lstm --recipe tied --data DATA`" in lines
    assert "114.5" not in lines
    assert "may not be passed on" in reason
    elsewhere = known | {"published": None}  # data of others stand beside no published number
    assert "- ptb lstm: 114.5, " in results.missing([elsewhere])[1]
    every = [
        {"task": task, "unit": unit, "published": {"value": number.value}}
        for (task, _, unit), number in PUBLISHED.items()
    ]
    assert results.missing(every) == []


@pytest.mark.usefixtures("few_units")
def test_a_studied_network_has_a_row_only_where_no_other_has(mat: Path, tmp_path: Path) -> None:
    for line in (
        ("--unit", "snu"),
        ("--unit", "snu", "--bits", "4"),
        ("--unit", "gru", "--bits", "4"),
    ):
        assert snu(
            "jsb", *line, "--epochs", 1, "--data", mat, "--no-verify", "--out", tmp_path / "out"
        ) == 0  # fmt: skip
    records = results.read(tmp_path / "out")
    assert len(records) == 3
    shown = results.shown(records)
    assert [(r["unit"], bool(r["study"])) for r in shown] == [("gru", True), ("snu", False)]


def test_one_command_makes_the_page(mat: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    for unit in ("snu", "gru"):
        line = ("jsb", "--unit", unit, "--epochs", 1, "--data", mat, "--no-verify", "--out", out)
        assert snu(*line) == 0
    assert results.main([str(out)]) == 0
    page = (tmp_path / "results.md").read_text()
    assert "](results/jsb.png)" in page
    assert (out / "jsb.png").read_bytes().startswith(b"\x89PNG")
    for unit in ("snu", "gru"):
        mean = json.loads((out / f"jsb-{unit}.json").read_text())["mean"]
        row = f"| jsb, other data | {unit} | 88-150-88 | plain (ours) | – | {mean:.3f} |"
        assert row in page
    assert f"snu reproduce jsb --unit gru --epochs 1 --seeds 0 --data {mat.name}" in page


def test_what_is_no_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main([str(tmp_path)]) == 2
    (tmp_path / "jsb.json").write_text('{"task": "jsb"}')
    assert results.main([str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "holds no record" in first
    assert "jsb.json is not a record" in second


def result(
    task: str, data: Path, chosen: Any, seed: int = 0
) -> tuple[dict[str, float], list[Epoch]]:
    one = jobs.job(chosen, jobs.load(task, data), seed)
    state = paper.train(one, chosen)
    return one.result(), state.epochs


@pytest.mark.slow
def test_the_toolkits_chorale_example_has_its_printed_training_losses() -> None:  # C11
    _, passes = result("jsb", shared("jsb/JSB_Chorales.mat"), IBM_JSB)
    losses = [passes[n - 1].loss for n in (1, 10, 40)]
    assert losses == pytest.approx([0.143, 0.097, 0.090], abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "nll", "margin"), [("snu", 9.73, 0.06), ("ssnu", 8.98, 0.05)])
def test_ten_epochs_on_the_chorales_reach_what_was_verified(  # C12
    unit: str, nll: float, margin: float
) -> None:
    chosen = paper.recipe("jsb", unit, epochs=10)
    found, _ = result("jsb", shared("jsb/JSB_Chorales.mat"), chosen)
    assert found["test"] == pytest.approx(nll, abs=margin)


@pytest.mark.slow
def test_the_full_recipe_reaches_the_published_likelihoods() -> None:  # C13
    data = shared("jsb/JSB_Chorales.mat")
    snu, ssnu = (
        result("jsb", data, paper.recipe("jsb", unit))[0]["test"] for unit in ("snu", "ssnu")
    )
    assert 8.65 <= snu <= 8.75
    assert 8.37 <= ssnu <= 8.46
    assert snu - ssnu > 0.15


@pytest.mark.slow
def test_the_quick_example_on_digits_has_its_printed_losses_and_accuracy() -> None:  # C15
    found, passes = result("mnist", shared("mnist/MNIST/raw"), paper.recipe("mnist", "snu"))
    assert passes[0].loss == pytest.approx(0.025, abs=0.001)
    assert passes[2].loss == pytest.approx(0.0124, abs=0.0005)
    assert 94.0 <= found["test"] <= 95.5


def test_a_diverging_run_says_so(mat: Path, tmp_path: Path) -> None:
    chosen = paper.recipe("jsb", "ssnu", optimizer="sgd", lr=1e38, epochs=3)
    with pytest.raises(ValueError, match="lower lr"):
        paper.reproduce("jsb", chosen, data=mat, out=tmp_path, verify=False)


@pytest.mark.parametrize("unit", few_of(["ssnu", "lstm"], "lstm"))
def test_only_the_given_seed_decides(mat: Path, tmp_path: Path, unit: str) -> None:
    tests = []
    for theirs, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(theirs)
        chosen = paper.recipe("jsb", unit, epochs=1)
        record = paper.reproduce("jsb", chosen, data=mat, seeds=[seed], out=tmp_path, verify=False)
        tests.append(record["mean"])
    assert tests[0] == tests[1] != tests[2]
