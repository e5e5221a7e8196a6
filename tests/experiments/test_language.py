"""What the word task promises: the published sizes, one running text, every word scored once."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from few import few_of
from snu_plugin import cli, graph
from snu_plugin.accelerator import IDEAL, PCM
from snu_plugin.experiments import passes
from snu_plugin.experiments.datasets import TuningData
from snu_plugin.experiments.paper import reproduce as paper
from snu_plugin.experiments.paper import studies
from snu_plugin.experiments.paper.jobs import LanguageJob
from snu_plugin.experiments.paper.published import WORDS
from snu_plugin.experiments.paper.recipes import RECIPES, Recipe
from snu_plugin.experiments.paper.studies import CHIP_UNITS, Perplexity
from snu_plugin.tasks import penn_treebank
from snu_plugin.tasks.penn_treebank import Text
from snu_plugin.training import Language, LanguageModel

STAGES = ["float", "programmed", "aged", "recalibrated", "tuned"]
UNITS = ("snu", "ssnu", "rnn", "lstm", "gru")


def text(train: int = 500, words: int = 30) -> Text:
    draw = Generator().manual_seed(0)
    parts = {
        split: torch.randint(words, (size,), generator=draw)
        for split, size in (("train", train), ("valid", 90), ("test", 61))
    }
    return Text(name="other", vocabulary=tuple(map(str, range(words))), **parts)


def small(unit: str, **changed: Any) -> Recipe:
    found = paper.recipe("ptb", unit)
    assert found.language is not None
    settings = replace(found.language, **{"window": 5, "dropout": 0.0, **changed})
    return replace(found, sizes=(8, 8, 8), batch=4, language=settings)


def written(folder: Path) -> Path:
    """Write a text of 20 words in three files."""
    draw = Generator().manual_seed(0)
    for split, lines in (("train", 70), ("valid", 50), ("test", 5)):
        rows = torch.randint(20, (lines, 8), generator=draw).tolist()
        (folder / f"ptb.{split}.txt").write_text(
            "".join(" ".join(f"w{i}" for i in row) + " \n" for row in rows)
        )
    return folder


@cache
def learned(unit: str) -> LanguageJob:
    """Learn a text that counts up and begins again."""
    words = torch.arange(600) % 6
    data = Text(name="other", vocabulary=tuple("abcdef"), train=words, valid=words, test=words)
    chosen = replace(small(unit), optimizer="adam", lr=0.03, epochs=16)
    one = LanguageJob(chosen, data, seed=0)
    paper.train(one, chosen)
    return one


@pytest.mark.parametrize(
    ("unit", "name", "expected"),
    [
        ("snu", "adam", 4_090_400),
        ("snu", "small", 4_090_400),
        ("ssnu", "adam", 2_170_400),
        ("ssnu", "small", 2_170_400),
        ("lstm", "small", 4_651_600),
        ("lstm", "tied", 2_651_600),
    ],
)
def test_the_networks_have_the_published_sizes(unit: str, name: str, expected: int) -> None:
    chosen = paper.recipe("ptb", unit, name)
    model = LanguageModel(
        chosen.kind, 10_000, chosen.sizes, chosen.config, chosen.language, generator=Generator()
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


def test_an_lstm_is_trained_as_published_unless_said_otherwise() -> None:
    chosen = paper.recipe("ptb", "lstm")
    assert chosen == paper.recipe("ptb", "lstm", "small")
    assert chosen.source == WORDS


@pytest.mark.parametrize("unit", UNITS)
def test_windows_with_carried_state_equal_the_whole_text(unit: str) -> None:
    chosen = small(unit)
    model = LanguageModel(
        chosen.kind, 30, chosen.sizes, chosen.config, chosen.language,
        generator=Generator().manual_seed(0),
    )  # fmt: skip
    words = text().train.view(50, 10)
    expected, _ = model(words)
    first, state = model(words[:17])
    second, _ = model(words[17:], state)
    torch.testing.assert_close(torch.cat((first, second)), expected)


@pytest.mark.parametrize("unit", UNITS)
def test_every_word_of_the_test_text_but_the_first_is_scored_once(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = text()
    one = LanguageJob(small(unit), data, seed=0)
    logits = one.network(data.test[:-1, None])[0].detach()
    expected = math.exp(float(F.cross_entropy(logits[:, 0], data.test[1:])))
    for at_once in (1, 7, 500):
        monkeypatch.setattr("snu_plugin.experiments.paper.jobs.WORDS_AT_ONCE", at_once)
        assert one.result()["test"] == pytest.approx(expected, rel=1e-5)


def test_the_state_is_carried_over_windows_and_starts_anew_with_every_pass() -> None:
    one = LanguageJob(small("ssnu"), text(), seed=0)
    first, second, *_ = one.batches()
    whole, _ = one.network(torch.cat((first.x, second.x)))
    costs = [float(one.loss(window).detach()) for window in (first, second)]
    expected = F.cross_entropy(whole[5:].flatten(0, 1), second.target.flatten(), reduction="sum")
    assert costs[1] == pytest.approx(float(expected.detach()) / 4, rel=1e-5)
    again = one.batches()
    assert float(one.loss(again[0]).detach()) == costs[0]


def test_the_gradient_ends_where_the_window_does() -> None:
    one = LanguageJob(small("lstm"), text(), seed=0)
    first, second, *_ = one.batches()
    one.loss(first).backward()  # type: ignore[no-untyped-call]
    one.loss(second).backward()  # type: ignore[no-untyped-call]  # raises if it went further


def test_tied_weights_are_one_matrix_with_a_bias_of_its_own() -> None:
    model = LanguageModel(
        "ssnu", 30, (8, 8), settings=Language(tied=True), generator=Generator().manual_seed(0)
    )
    assert model.readout.weight is model.embedding.weight
    with pytest.raises(ValueError, match="tied"):
        LanguageModel("snu", 30, (8, 9), settings=Language(tied=True), generator=Generator())


def test_centred_outputs_are_the_same_network_with_other_weights_of_the_read_out() -> None:
    plain, centred = (
        LanguageModel("ssnu", 30, (8, 8), settings=settings, generator=Generator().manual_seed(0))
        for settings in (Language(), Language(center=0.3, gain=4.0))
    )
    words = text().train.view(50, 10)
    expected, _ = centred(words)
    with torch.no_grad():
        plain.readout.weight.mul_(4)
        plain.readout.bias.sub_(0.3 * plain.readout.weight.sum(1))
    torch.testing.assert_close(plain(words)[0], expected)
    assert torch.equal(plain.through(words)[1][0], centred.through(words)[1][0])


def test_an_embedding_may_start_wider_than_the_other_weights() -> None:
    settings = Language(init=0.1, embedding=1.0)
    model = LanguageModel("snu", 400, (50, 50), settings=settings, generator=Generator())
    assert 0.99 < float(model.embedding.weight.detach().abs().max()) <= 1
    assert 0.099 < float(model.readout.weight.detach().abs().max()) <= 0.1


def test_units_of_a_recipe_with_memory_forget_at_different_rates() -> None:
    one = LanguageJob(replace(small("snu"), memory=(2.0, 32.0)), text(), seed=0)
    for each in one.network.layers:
        decay = each.get_submodule("unit").get_buffer("decay")
        torch.testing.assert_close(decay[[0, -1]], torch.tensor([1 / 2, 31 / 32]))


@pytest.mark.parametrize(
    "wrong", [{"gain": 0.0}, {"gain": math.inf}, {"center": math.nan}, {"dropout": 1.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is|gain is .* center"):
        Language(**wrong)  # type: ignore[arg-type]


def test_dropout_is_for_training_and_keeps_the_mean() -> None:
    model = LanguageModel(
        "ssnu", 30, (50, 50), settings=Language(dropout=0.4), generator=Generator().manual_seed(0)
    )
    dropped = model._drop(torch.ones(200, 50, 10))
    assert set(dropped.flatten().tolist()) == {0, float(torch.tensor(1 / 0.6))}
    sigma = math.sqrt(0.4 / 0.6 / dropped.numel())
    assert float(dropped.mean()) == pytest.approx(1, abs=5 * sigma)
    model.eval()
    assert torch.equal(model._drop(dropped), dropped)


def test_the_gradient_of_all_parameters_together_is_held() -> None:
    one = LanguageJob(small("lstm", clip=1e-3), text(), seed=0)
    before = torch.cat([p.detach().flatten().clone() for p in one.network.parameters()])
    paper.train(one, replace(one.recipe, epochs=1, lr=1.0, optimizer="sgd"))
    after = torch.cat([p.detach().flatten() for p in one.network.parameters()])
    moved = float((after - before).norm())
    assert 0 < moved <= len(one.batches()) * 1e-3 * 1.001


def test_rates_halve_after_five_epochs_as_published() -> None:
    rate = paper.lr_factor(RECIPES["ptb"]["small"]["lstm"])
    assert rate is not None
    assert [rate(epoch + 0.5) for epoch in range(7)] == [1, 1, 1, 1, 1, 0.5, 0.25]


def test_another_text_is_said_not_to_be_mikolovs_once_and_not_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["reproduce", "ptb", "--data", str(written(tmp_path)), "--epochs", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main([*line, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert f"ptb, other data: {tmp_path.name} snu" in out
    assert err.count("not the Mikolov PTB") == err.count("\n") == 1
    record = json.loads((tmp_path / "out" / "ptb-snu.json").read_text())
    assert record["published"] is None
    assert record["metric"] == "test perplexity"
    assert record["mean"] > 1
    assert record["spikes"] is not None


def test_learning_a_text_that_repeats_brings_its_perplexity_near_one() -> None:
    assert learned("ssnu").result()["test"] < 1.5
    assert penn_treebank.perplexity(0.0, 1) == 1


def test_training_leaves_small_numbers_as_it_found_them() -> None:
    one = LanguageJob(small("ssnu"), text(), seed=0)
    paper.train(one, replace(one.recipe, epochs=1))
    assert float(torch.tensor(1e-40) * torch.tensor(1.0)) > 0


@pytest.mark.parametrize("unit", CHIP_UNITS)
@pytest.mark.parametrize(
    "changed", [{"center": 0.3, "gain": 4.0, "dropout": 0.5}, {"center": 0.0, "gain": 1.0}], ids=str
)
@pytest.mark.parametrize(("recurrent", "tied"), [(False, False), (True, True)])
def test_a_network_without_its_embedding_equals_the_model_and_leaves_through_nir(
    unit: str, changed: dict[str, float], recurrent: bool, tied: bool
) -> None:
    one = LanguageJob(small(unit, recurrent=recurrent, tied=tied, **changed), text(), seed=0)
    model, words = one.network, one.data.train.view(50, 10)
    for p in model.parameters():  # biases and thresholds too
        torch.nn.init.normal_(p, generator=one.generator)
    apart = model.without_embedding()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected, outputs, _ = model.through(words)
        seen = model.embedding(words)
        assert float(outputs[-1].std()) > 0.1
        torch.testing.assert_close(apart(seen)[0], expected)
        strict = graph.network(graph.to_nir(apart, seen[:, :1]))
        torch.testing.assert_close(strict(seen)[0], expected)
        for p in apart.parameters():
            p.zero_()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_only_layers_of_snu_and_ssnu_run_apart_from_the_embedding() -> None:
    with pytest.raises(ValueError, match="only networks of snu and ssnu"):
        studies.on_chip(LanguageJob(small("lstm"), text(), seed=0), PCM, 0)


def test_passages_cover_a_text_or_are_spread_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PASSAGE", 4)

    def cut(words: int, most: int) -> list[list[int]]:
        return studies.passages(torch.arange(words), most).t().tolist()

    assert cut(12, 100) == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]  # 9 to 11 fill no passage
    assert cut(3, 100) == [[0, 1, 2]]
    assert [first for first, *_ in cut(41, 13)] == [0, 12, 24]
    assert cut(41, 1) == [[0, 1, 2, 3, 4]]


def test_the_perplexity_of_passages_is_that_of_their_words_from_a_state_of_zero() -> None:
    one = LanguageJob(small("ssnu"), text(), seed=0)
    words = one.data.train[:120].view(6, 20)
    scored = Perplexity("drawn", words, one.network.embedding.weight.detach())
    apart = one.network.without_embedding()
    odds = []
    with torch.no_grad():
        for passage in words.t():
            said = one.network(passage[:-1, None])[0][:, 0].softmax(1)
            odds += [float(said[t, word]) for t, word in enumerate(passage[1:])]
        expected = math.exp(-sum(math.log(p) for p in odds) / 100)
        assert len(odds) == 100
        assert scored.score(lambda x: apart(x)[0]) == pytest.approx(expected, rel=1e-5)
    uniform = scored.score(lambda x: torch.zeros(*x.shape[:2], 30))
    assert uniform == pytest.approx(30)
    assert scored.sample.shape == (5, 8, 8)
    assert scored.worst([2.0, 3.0]) == 3.0


def test_what_a_chip_learns_from_a_text_is_every_word_that_the_network_expects() -> None:
    one = LanguageJob(small("ssnu"), text(), seed=0)
    part = Perplexity("drawn", studies.passages(one.data.train, 500), torch.eye(30))
    data = TuningData(part, part, part)
    assert data.note.startswith("4 passages to learn from")
    distilled = studies.Distillation(part, part, part, network=lambda x: 3 * x - 1)
    (x, odds), *_ = distilled.batches(one.generator)
    (_, true), *_ = data.batches(one.generator)
    assert (x.shape, odds.shape, true.shape) == ((100, 4, 30), (100, 4, 30), (100, 4))
    logits = (3 * x - 1).requires_grad_()
    part.loss(logits, odds).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6  # nothing to mend where both say the same
    costs = [-odds[t, 2].log()[true[t, 2]] for t in (7, 8)]
    found = part.loss(logits.detach()[7:9, 2:3], true[7:9, 2:3])
    assert float(found) == pytest.approx(float(sum(costs)) / 2)


@pytest.mark.parametrize("unit", few_of(CHIP_UNITS, "ssnu"))
def test_an_ideal_chip_changes_no_perplexity(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "PASSES", 1)
    one = learned(unit)
    found = studies.on_chip(one, IDEAL, 0)
    assert list(found) == STAGES
    assert one.result()["test"] < found["float"] < 3  # each passage begins anew
    for stage in ("programmed", "aged", "recalibrated"):
        assert found[stage] == pytest.approx(found["float"], rel=1e-4), stage


@pytest.mark.slow
@pytest.mark.filterwarnings("always")
def test_a_language_network_is_followed_onto_a_chip_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(passes, "PASSES", 1)
    own = replace(small("ssnu"), epochs=1)
    monkeypatch.setitem(RECIPES["ptb"]["adam"], "ssnu", own)
    line = ["reproduce", "ptb", "--unit", "ssnu", "--bits", "2,8", "--chip", "PCM"]
    line += ["--data", str(written(tmp_path)), "--out", str(tmp_path / "out")]
    assert cli.main(line) == 0
    record = json.loads((tmp_path / "out" / "ptb-ssnu-bits-chip.json").read_text())
    assert list(record["study"]["bits"]) == ["float", "2", "8", "pcm"]
    assert list(record["study"]["chip"]) == STAGES
    assert all(1 < score < 100 for kind in record["study"].values() for score in kind.values())
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[1:]] == ["bits", "chip"]
