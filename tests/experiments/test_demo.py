"""The main job, end to end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from same_process import simulators_here
from snu_plugin import cli, graph
from snu_plugin.accelerator import Accelerator
from snu_plugin.experiments import chip_life, chorale_network, demo, passes
from snu_plugin.experiments.datasets import SAMPLE, chorale_parts
from snu_plugin.experiments.settings import one_thread
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Chorales

JSB = Path(__file__).parents[3] / "shared" / "data" / "jsb" / "JSB_Chorales.mat"


@pytest.fixture
def jsb() -> Path:
    if not JSB.is_file():
        pytest.skip(f"needs the JSB chorales, looked for {JSB}")
    return JSB


def two_chords(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Pieces that alternate between two chords, from a random start."""
    chords = torch.zeros(2, 88)
    chords[0, [39, 43, 46]] = 1
    chords[1, [41, 44, 48]] = 1
    generator = Generator().manual_seed(seed)
    return tuple(
        chords[(torch.arange(length) + length) % 2]
        for length in torch.randint(24, 40, (count,), generator=generator).tolist()
    )


def small_data() -> Chorales:
    return Chorales(
        name="music21",
        source="two chords",
        sha256="0" * 64,
        train=two_chords(12, 0),
        valid=two_chords(4, 1),
        test=two_chords(4, 2),
    )


@pytest.mark.filterwarnings("ignore:more than 1%")  # two chords are soon left
def test_the_demo_leaves_everything_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_here(monkeypatch)
    monkeypatch.setattr(chorales, "load", lambda path, verify: small_data())
    said: list[str] = []
    monkeypatch.setattr(passes, "PASSES", 1)
    own = tmp_path / "my own.mat"
    record = demo.demo(tmp_path / "out", data=own, epochs=8, seed=3, progress=said.append)
    typed = "snu demo --epochs 8 --seed 3 --data 'my own.mat'"
    assert record["extra"]["command"] == typed
    left = {path.name for path in (tmp_path / "out").iterdir()}
    promised = {"report.html", "report.json", "model.nir", "tuned.nir", "continuation.mid"}
    assert left >= promised | {"chip.npz", "nll_over_time.png"}
    assert not [name for name in left if "partial" in name or name.startswith(".")]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == record
    assert record["devices"] == 52_800
    assert record["network"] == [88, 150, 88]
    assert record["verify"] == {"norse": "exact", "snntorch": "exact"}
    assert record["data"]["chorales"] == [12, 4, 4]
    nll = record["nll"]
    assert nll["nir"] == pytest.approx(nll["float"], abs=1e-4)
    assert nll["ideal_chip"] == pytest.approx(nll["float"], abs=1e-4)
    for case in ("programmed", "compensated", "tuned"):
        assert list(nll[case]) == ["20s", "1h", "1d", "30d", "1y"]
    assert nll["programmed"]["1y"] > nll["compensated"]["1y"]
    assert set(record["energy_nj_per_step"]) == {"array", "converters", "digital"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f"<th>{said}<" in page for said in ("Left alone", "Recalibrated", "Tuned"))
    assert "52" in page
    assert not re.search(r"(src|href)=.https?:", page)
    assert any("exporting" in sentence for sentence in said)
    chip = Accelerator.load(tmp_path / "out" / "chip.npz")
    chip.run(torch.zeros(2, 1, 88))
    graph.network(graph.read(tmp_path / "out" / "tuned.nir"))(torch.zeros(2, 1, 88))


def test_other_chorales_than_the_published_are_taken_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path, *, verify: bool) -> Chorales:
        raise ValueError(f"{path} was read, verify is {verify}")

    monkeypatch.setattr(chorales, "load", load)
    own = ["demo", "--data", "own.mat", "--out", str(tmp_path / "out")]
    for more, verify in (([], True), (["--no-verify"], False)):
        assert cli.main([*own, *more]) == 2
        assert f"own.mat was read, verify is {verify}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_a_demo_that_was_interrupted_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chorales, "load", lambda path, verify: small_data())
    verify = graph.verify
    monkeypatch.setattr(graph, "verify", lambda g: verify(g, simulators=["snntorch"]))
    monkeypatch.setattr(demo, "AGES_S", {"20s": 20.0, "1h": 3600.0, "1d": 86_400.0})
    monkeypatch.setattr(passes, "PASSES", 2)
    out, again = tmp_path / "cut", ["--epochs", "6", "--seed", "3"]
    assert cli.main(["demo", "--out", str(tmp_path / "whole"), *again]) == 0

    def interrupted(module: Any, name: str, calls: int, *more: str) -> None:
        true, seen = getattr(module, name), []

        def killed(*arguments: Any, **named: Any) -> Any:
            seen.append(arguments)
            if len(seen) > calls:
                raise KeyboardInterrupt
            return true(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            assert cli.main(["demo", "--out", str(out), *again, *more]) == 130
        assert "--resume goes on" in capsys.readouterr().err

    interrupted(chorale_network, "score", 3)  # in the fourth epoch
    interrupted(passes, "tuned", 2, "--resume")  # at the third age
    interrupted(demo, "draw_figures", 0, "--resume")
    assert cli.main(["demo", "--out", str(out), *again, "--resume"]) == 0
    assert not list(out.rglob("*checkpoint*"))
    names = sorted(file.name for file in out.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "whole").iterdir())
    found, whole = (
        json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "whole")
    )
    assert found | {"seconds": whole["seconds"]} == whole
    for name in ("model.nir", "tuned.nir", "continuation.mid", "nll_over_time.png"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_continuation_starts_with_what_was_given() -> None:
    start = two_chords(1, 0)[0][:8]
    roll = chorale_network.continuation(lambda x: x * 20 - 10, start, 5, Generator().manual_seed(0))
    assert roll.shape == (13, 88)
    assert torch.equal(roll[:8], start)
    assert torch.equal(roll[8:], start[-1:].expand(5, 88))


def test_training_is_the_same_for_the_same_seed() -> None:
    networks = [chorale_network.learn(small_data(), epochs=2, seed=5)[0] for _ in range(2)]
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_weights_of_the_chips_network_stay_inside_their_limit() -> None:
    network = chorale_network.learn(small_data(), epochs=3, seed=0)[0]
    limit = chorale_network.ROBUST.weight_limit
    assert limit is not None
    assert all(float(p.detach().abs().max()) <= limit for p in network.parameters() if p.dim() > 1)


@pytest.mark.slow
def test_the_demo_meets_its_figures_on_the_published_data(
    tmp_path: Path, jsb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", "--data", str(jsb), "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "report.json").read_text())
    nll = record["nll"]
    assert record["data"]["name"] == "jsb"
    assert nll["float"] <= 8.80
    assert nll["nir"] == pytest.approx(nll["float"], abs=1e-4)
    assert nll["ideal_chip"] == pytest.approx(nll["float"], abs=1e-4)
    lost = nll["programmed"]["1d"] - nll["float"]
    assert (nll["programmed"]["1d"] - nll["tuned"]["1d"]) / lost >= 0.8
    assert nll["tuned"]["1d"] <= nll["compensated"]["1d"]
    assert record["pulses"] == 0  # tuned as by default
    assert record["seconds"]["total"] < 180


@pytest.mark.slow
def test_tuning_wins_back_most_of_what_a_day_cost_on_three_chips(jsb: Path, tmp_path: Path) -> None:
    from snu_plugin.accelerator import PCM
    from snu_plugin.compiler import compile

    data = chorales.load(jsb)
    parts = chorale_parts(data)
    test, sample = parts.test, parts.train.sample[:, :SAMPLE]
    won = []
    for seed in range(3):
        with one_thread():
            network = chorale_network.learn(data, epochs=demo.EPOCHS, seed=seed)[0]
            g, scores = demo.exported(network, data, tmp_path)
            chip = Accelerator(compile(g, PCM, sample=sample), seed)
            chip.program()
            chip.wait(86_400 - chip.age_s)
            aged = passes.mean_score(chip, test)
            still = chip_life.copy_chip(chip)
            still.calibrate()
            recalibrated = passes.mean_score(still, test)
            made = passes.tuned(chip_life.recalibrated(chip), parts, seed).chip
            tuned = passes.mean_score(made, test)
        assert tuned <= recalibrated
        won.append((aged - tuned) / (aged - scores["float"]))
    assert sorted(won)[1] >= 0.8
