"""What is done with trained networks: weights of few bits, weights on devices, a life on a chip."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import results_figures
import results_page as results
from few import few_of
from snu_plugin import cli
from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.experiments import passes
from snu_plugin.experiments.datasets import Sequences, TuningData, chorale_parts
from snu_plugin.experiments.paper import jobs, studies
from snu_plugin.experiments.paper import reproduce as paper
from snu_plugin.experiments.paper.classifiers import EventJob
from snu_plugin.experiments.paper.studies import Study
from snu_plugin.hil import Loop
from snu_plugin.tasks import nmnist
from snu_plugin.tasks.chorales import Chorales
from snu_plugin.tasks.digits import Digits
from snu_plugin.tasks.nmnist import NMNIST, Recordings

pytestmark = pytest.mark.usefixtures("few_units")

STAGES = ["float", "programmed", "aged", "recalibrated", "tuned"]


@pytest.fixture
def chorales() -> Chorales:
    draw = Generator().manual_seed(0)

    def pieces(count: int) -> tuple[torch.Tensor, ...]:
        odds = torch.full((7, 88), 0.4)
        return tuple(torch.bernoulli(odds, generator=draw) for _ in range(count))

    parts = {"train": pieces(4), "valid": pieces(2), "test": pieces(2)}
    return Chorales(name="other", source="drawn", sha256="", **parts)


@pytest.fixture
def events(recordings: Path) -> NMNIST:
    return nmnist.load(recordings, verify=False)


def trained(unit: str, data: NMNIST) -> EventJob:
    """Train on the few events of ``data`` until most digits are told apart."""
    changed: dict[str, Any] = {
        "snu": {"lr": 1e-2, "threshold": 0.2}, "ssnu": {"lr": 2e-2}, "src": {"lr": 2e-2}
    }[unit]  # fmt: skip
    epochs = {"snu": 4, "ssnu": 8, "src": 8}[unit]
    chosen = replace(paper.recipe("nmnist", unit), decay=0.8, batch=6, epochs=epochs, **changed)
    one = EventJob(chosen, data, 0)
    paper.train(one, chosen)
    assert one.result()["test"] >= 80
    return one


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(5, 7), (3, 2, 4, 4), (1, 1)])
def test_weights_of_few_bits_have_few_levels_in_every_row(
    bits: int, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=Generator().manual_seed(0))
    found = studies.quantised(weight, bits)
    assert found.shape == weight.shape
    for row in found.flatten(1):
        levels = set(row.abs().tolist())
        assert len(levels) <= 2 ** (bits - 1)


def test_the_step_of_a_row_is_the_best_that_was_tried() -> None:
    weight = torch.randn(4, 50, generator=Generator().manual_seed(0))
    found = (studies.quantised(weight, 3) - weight).square().sum(1)
    for share in (1.0, 0.8, 0.6, 0.4):
        step = weight.abs().amax(1, keepdim=True) * share / 3
        plain = (weight / step).round().clamp(-3, 3) * step
        assert bool((found <= (plain - weight).square().sum(1) + 1e-6).all())


def test_more_bits_are_closer_and_a_grid_stays_as_it_is() -> None:
    weight = torch.randn(20, 50, generator=Generator().manual_seed(0))
    errors = [float((studies.quantised(weight, b) - weight).square().mean()) for b in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    grid = torch.tensor([[-1.5, 0.5, 1.5, 0.0], [-3.0, 3.0, 1.0, 0.0]])
    torch.testing.assert_close(studies.quantised(grid, 3), grid)
    assert torch.equal(studies.quantised(torch.zeros(2, 3), 4), torch.zeros(2, 3))


def test_weights_on_devices_miss_by_what_the_devices_miss_by() -> None:
    weight = torch.rand(40, 60, generator=Generator().manual_seed(0)) - 0.5
    found = studies.written(weight, seed=0)
    missed = (found - weight) / weight.abs().amax(1, keepdim=True)
    # Joshi 2020: each device misses by 0.3 to 1.1 of 25 µS when written, and reads are noisy.
    assert 0.3 / 25 < float(missed.std()) < 2.5 / 25
    assert torch.equal(studies.written(weight, seed=0), found)
    assert not torch.equal(studies.written(weight, seed=1), found)


@pytest.mark.parametrize("unit", ["snu", "ssnu", "lstm", "gru"])
def test_a_sweep_scores_every_precision_and_leaves_the_network_alone(
    chorales: Chorales, unit: str
) -> None:
    one = jobs.job(paper.recipe("jsb", unit), chorales, 0)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    found = studies.sweep(one, (2, 8), seed=0)
    assert list(found) == ["float", "2", "8", "pcm"]
    assert found["float"] == one.result()["test"]
    assert found["8"] == pytest.approx(found["float"], rel=1e-2)
    assert len(set(found.values())) == 4
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_sweep_shows_digits_for_as_many_steps_as_training_does(images: Digits) -> None:
    chosen = paper.recipe("mnist", "ssnu", "quick")
    one = jobs.job(chosen, images, 0)
    found = studies.sweep(one, (16,), seed=0)
    short = jobs.job(replace(chosen, test_steps=chosen.steps), images, 0)
    assert found["float"] == short.result()["test"]
    assert one.result()["test_steps"] == chosen.test_steps > chosen.steps


@pytest.mark.parametrize("unit", ["snu", "ssnu", "src"])
def test_a_sweep_judges_on_the_test_recordings(events: NMNIST, unit: str) -> None:
    one = trained(unit, events)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    found = studies.sweep(one, (2, 16), seed=0)
    assert list(found) == ["float", "2", "16", "pcm"]
    assert found["float"] == found["16"] == one.result()["test"]
    assert found["pcm"] > 50
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("unit", "recipe"), [("snu", "plain"), ("ssnu", "plain"), ("ssnu", "skip"), ("ssnu", "deep")]
)
def test_an_ideal_chip_changes_no_score_of_chorales(
    chorales: Chorales, unit: str, recipe: str
) -> None:
    one = jobs.job(paper.recipe("jsb", unit, recipe), chorales, 0)
    one.network.eval()
    found = studies.on_chip(one, IDEAL, 0)
    assert list(found) == STAGES
    assert found["float"] == pytest.approx(one.result()["test"], rel=1e-6)
    for stage in ("programmed", "aged", "recalibrated"):
        assert found[stage] == pytest.approx(found["float"], rel=1e-5), stage


@pytest.mark.parametrize(
    ("unit", "recipe"), few_of([("ssnu", "quick"), ("snu", "conv")], ("snu", "conv"))
)
def test_digits_are_followed_in_percent(
    images: Digits, monkeypatch: pytest.MonkeyPatch, unit: str, recipe: str
) -> None:
    monkeypatch.setattr(studies, "LEARNED_FROM", 32)
    monkeypatch.setattr(studies, "CHOSEN_BY", 10)
    monkeypatch.setattr(passes, "PASSES", 1)
    one = jobs.job(replace(paper.recipe("mnist", unit, recipe), held_out=0), images, 0)
    found = studies.on_chip(one, PCM, 0)
    assert list(found) == STAGES
    assert all(0 <= score <= 100 for score in found.values())
    assert found["float"] == pytest.approx(5 * round(found["float"] / 5))  # of 20 images


@pytest.mark.parametrize("unit", studies.CHIP_UNITS)
def test_an_ideal_chip_changes_no_score_of_recordings(
    events: NMNIST, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(passes, "PASSES", 1)
    one = trained(unit, events)
    found = studies.on_chip(one, IDEAL, 0)
    assert list(found) == STAGES
    assert found["float"] == one.result()["test"]
    for stage in ("programmed", "aged", "recalibrated"):
        assert found[stage] == pytest.approx(found["float"]), stage


def test_a_chip_is_tuned_on_the_recordings_that_the_network_learned_from(
    events: NMNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[studies.Distillation] = []
    begin = passes.begin

    def seen(
        made: Accelerator,
        distilled: studies.Distillation,
        loop: Loop,
        seed: int,
        *,
        choose_step: bool = False,
    ) -> passes.TuningState:
        begun.append(distilled)
        return begin(made, distilled, loop, seed, choose_step=choose_step)

    monkeypatch.setattr(passes, "begin", seen)
    monkeypatch.setattr(passes, "PASSES", 1)
    one = trained("ssnu", events)
    found = studies.on_chip(one, PCM, 0)
    assert all(0 <= score <= 100 for score in found.values())
    assert found["programmed"] > found["aged"]
    (distilled,) = begun
    assert distilled.note == "36 sequences to learn from, 4 to choose by, 10 to judge on"
    held_out = one.score()
    assert held_out is not None
    assert distilled.valid is not None
    assert 100 * distilled.valid.score(distilled.network) == pytest.approx(100 - held_out)


def test_recordings_too_few_to_hold_any_out_are_followed_all_the_same(
    events: NMNIST, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES", 1)
    train = events.train
    few = replace(events, train=Recordings(train.labels[:9], train.ids[:9], train.read))
    one = EventJob(paper.recipe("nmnist", "snu"), few, 0)
    assert one.parts(100, 100)[1] is None
    assert list(studies.on_chip(one, PCM, 0)) == STAGES


def test_sequences_of_bool_are_judged_and_learned_from_as_floats() -> None:
    draw = Generator().manual_seed(0)
    x = torch.rand(5, 40, 3, generator=draw) < 0.4
    lean, whole = (Sequences("drawn", each, torch.arange(40) % 3) for each in (x, x.float()))
    slope = torch.randn(3, 3, generator=draw)
    assert lean.score(lambda x: x @ slope) == whole.score(lambda x: x @ slope)
    assert torch.equal(lean.sample, whole.sample)
    one, other = (
        TuningData(part, None, part).batches(Generator().manual_seed(1)) for part in (lean, whole)
    )
    for (seen, labels), (expected, true) in zip(one, other, strict=True):
        torch.testing.assert_close(seen, expected, rtol=0, atol=0)
        assert torch.equal(labels, true)


def test_a_chip_learns_from_what_the_network_says_and_is_chosen_by_the_truth(
    chorales: Chorales,
) -> None:
    draw = Generator().manual_seed(0)
    learned, chosen, judged = (
        Sequences("drawn", torch.rand(5, n, 3, generator=draw), torch.arange(n) % 3)
        for n in (40, 6, 7)
    )
    for data in (chorale_parts(chorales), TuningData(learned, chosen, judged)):
        distilled = studies.Distillation(
            data.train, data.valid, data.test, network=lambda x: 3 * x - 1
        )
        ((x, odds), *_), ((_, true), *_) = (list(d.batches(draw)) for d in (distilled, data))
        logits = ((3 * x - 1) / data.train.unit(distilled.network)).requires_grad_()
        distilled.train.loss(logits, odds).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert float(logits.grad.abs().max()) < 1e-6  # nothing to mend where both say the same
        assert float(data.train.loss(logits.detach(), true)) > 0
        assert distilled.test.score(distilled.network) == data.test.score(distilled.network)
        assert distilled.valid is not None
        assert data.valid is not None
        assert distilled.valid.score(distilled.network) == data.valid.score(distilled.network)


def test_a_study_is_recorded_and_its_command_gives_the_same(
    mat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(passes, "PASSES", 1)
    line = ["reproduce", "jsb", "--unit", "ssnu", "--epochs", "1", "--seeds", "0,1"]
    line += ["--bits", "2,4", "--chip", "PCM", "--no-verify", "--data", str(mat)]
    assert cli.main([*line, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "jsb-ssnu-bits-chip.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[1:]] == ["bits", "chip"]
    for kind, stages in record["study"].items():
        for stage, mean in stages.items():
            values = [run["study"][kind][stage] for run in record["runs"]]
            assert mean == pytest.approx(sum(values) / 2), (kind, stage)
    assert list(record["study"]["bits"]) == ["float", "2", "4", "pcm"]
    monkeypatch.chdir(mat.parent)
    again = [*shlex.split(record["command"])[1:], "--no-verify", "--out", str(tmp_path / "two")]
    assert cli.main(again) == 0
    second = json.loads((tmp_path / "two" / "jsb-ssnu-bits-chip.json").read_text())
    assert second["study"] == record["study"]
    assert results.main([str(tmp_path / "out")]) == 0
    page = (tmp_path / "out.md").read_text()
    assert "| task | unit | recipe | seeds | float | 2 | 4 | pcm |" in page
    assert "| float | programmed | aged | recalibrated | tuned |" in page
    assert {f.name for f in (tmp_path / "out").glob("*.png")} == {
        "jsb.png",
        "jsb-bits.png",
        "jsb-chip.png",
    }
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jsb", "--bits", "1"], "bits are 1; give distinct numbers from 2 to 16"),
        (["jsb", "--bits", "4,4"], "bits are 4, 4"),
        (["jsb", "--bits", "x"], "bits are 'x'; give whole numbers"),
        (["jsb", "--chip", "TTL"], "no chip and no file 'TTL'"),
        (["jsb", "--unit", "lstm", "--chip", "PCM"], "lstm on jsb cannot be followed on a chip"),
        (
            ["nmnist", "--unit", "src", "--chip", "PCM"],
            "give one of snu, ssnu on one of jsb, mnist, fashion, nmnist, ptb, or leave out --chip",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    line = ["reproduce", *arguments, "--data", "nowhere", "--out", str(tmp_path / "out")]
    assert cli.main(line) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_study_names_itself() -> None:
    assert Study(bits=(2, 3), chip=PCM).options == ["--bits", "2,3", "--chip", "PCM"]
    assert Study().kinds == []
    assert list(results.study_sections([], Path("results"))) == []


def test_a_table_says_when_the_data_are_not_the_published_ones() -> None:
    record = {
        "task": "ptb", "data": "other: mine.txt", "unit": "snu", "metric": "test perplexity",
        "recipe": {"name": "adam"}, "study": {"bits": {"float": 200.0}},
        "runs": [{"seed": 0, "study": {"bits": {"float": 200.0}}}],
    }  # fmt: skip
    _, table, _ = results.study_sections([record], Path("results"))
    assert "| ptb, other data: mine.txt | snu | adam | 0 |" in table


def test_a_figure_shows_every_recipe_of_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[float | None]] = {}

    def stages(
        out: Path, names: object, curves: dict[str, list[float | None]], **_: object
    ) -> Path:
        drawn.update(curves)
        return out

    monkeypatch.setattr("snu_plugin.report.plots.stages", stages)
    records = [
        {
            "task": "jsb", "unit": "ssnu", "metric": "NLL", "recipe": {"name": name},
            "study": {"bits": {"float": score}}, "runs": [],
        }
        for name, score in (("plain", 8.4), ("deep", 8.1))
    ]  # fmt: skip
    assert results_figures.draw_studies(records, tmp_path) == [tmp_path / "jsb-bits.png"]
    assert drawn == {"ssnu plain": [8.4], "ssnu deep": [8.1]}
