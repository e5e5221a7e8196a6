"""A chip tuned in the loop, as ``snu tune`` does it."""

import json
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from few import few_of
from snu_plugin import cli, graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.experiments import data_files, passes, reports, tuning
from snu_plugin.experiments.datasets import Sequences, TuningData
from snu_plugin.experiments.runs import Running
from snu_plugin.experiments.tuning import TuneSettings
from snu_plugin.experiments.ways import MIXED, NAMED, way, ways
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import (
    Adapter,
    Loop,
    MixedPrecision,
    ProgramVerify,
    Recalibrate,
    Rewrite,
    SignPulses,
    Tuning,
    Way,
)
from snu_plugin.neuron import SNUConfig
from snu_plugin.training import load_checkpoint

JSB = Path(__file__).parents[3] / "shared" / "data" / "jsb" / "JSB_Chorales.mat"
DT = 2.0**-10
CLASSES, INPUTS, HIDDEN = 4, 12, 16


def network(scale: float = 1.0) -> nir.NIRGraph:
    """Each class is a group of inputs; the hidden units fire for groups, the outputs sum them."""
    draw = np.random.default_rng(0)
    unit = np.arange(HIDDEN) % CLASSES
    member = np.arange(INPUTS) % CLASSES == unit[:, None]
    first = 0.5 * member - 0.1 + 0.05 * draw.normal(size=(HIDDEN, INPUTS))
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(first),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(HIDDEN, 0.7), dt=DT),
        "fc2": nir.Linear(scale * (1.0 * (np.arange(CLASSES)[:, None] == unit) - 0.2)),
        "out": nir.Output({"output": np.array([CLASSES])}),
    }
    return stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), DT)


def sequences(count: int, seed: int, prefix: str = "") -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    rate = np.where(np.arange(INPUTS) % CLASSES == labels[:, None], 0.5, 0.25)
    return {f"{prefix}x": draw.random((6, count, INPUTS)) < rate, f"{prefix}labels": labels}


def splits() -> dict[str, Any]:
    learned, chosen = sequences(64, 1, "train_"), sequences(40, 2, "valid_")
    return learned | chosen | sequences(40, 3)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    graph.write(tmp_path / "graph.nir", network())
    np.savez(tmp_path / "data.npz", **splits())
    return str(tmp_path / "graph.nir"), str(tmp_path / "data.npz")


def data_of(files: tuple[str, str]) -> Callable[..., Any]:
    return lambda *shapes: data_files.load_tuning(files[1], *shapes)


def labelled(count: int, seed: int) -> Sequences:
    part = sequences(count, seed)
    return Sequences("", torch.tensor(part["x"]).float(), torch.tensor(part["labels"]))


class Interrupted(Exception):
    """Stands for Ctrl-C, which a test runner would take for its own."""


def interrupt_at(moment: str) -> Callable[[str], None]:
    def say(text: str) -> None:
        if text.startswith(moment):
            raise Interrupted

    return say


def state(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize(
    "rule",
    few_of(
        ["digital", "mixed", "pulses", "verify", "adapter:2,digital", "rewrite:0.1,mixed"],
        "adapter:2,digital", "rewrite:0.1,mixed",
    ),
)  # fmt: skip
def test_a_tuning_that_was_interrupted_ends_as_if_it_had_not_been(
    files: tuple[str, str], tmp_path: Path, rule: str
) -> None:
    settings = TuneSettings(
        rule=rule, lr=0.01 if rule == "pulses" else None, passes=3, age_s=3e7, seed=5
    )
    whole = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "whole.nir")
    for moment in ("pass 1", "pass 3 of 3, batch 2"):
        with pytest.raises(Interrupted):
            tuning.tune(
                network(), data_of(files), PCM, settings, tmp_path / "part.nir",
                Running(resume=moment != "pass 1", progress=interrupt_at(moment)),
            )  # fmt: skip
        assert not (tmp_path / "part.nir").exists()
    taken_up = Running(resume=True)
    part = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "part.nir", taken_up)
    assert part == whole
    for name, value in state(tmp_path / "whole.chip.npz").items():
        if name != "source":  # a file, which holds when it was made
            np.testing.assert_array_equal(state(tmp_path / "part.chip.npz")[name], value)
    for name in ("fc1", "fc2"):
        weights = [graph.read(tmp_path / f).nodes[name].weight for f in ("whole.nir", "part.nir")]
        np.testing.assert_array_equal(*weights)


def test_tuning_wins_back_what_a_wrong_chip_lost() -> None:
    """The chip holds a network whose units were mixed up; its thresholds and gains must adapt."""
    wrong = network()
    wrong.nodes["snu"].v_threshold[::2] = 3.0
    parts = labelled(200, 1), labelled(80, 2), labelled(200, 3)
    data = TuningData(*parts)
    made = Accelerator(compile(wrong, PCM), 0)
    made.program()
    made.calibrate()
    before = passes.mean_score(made, data.test)
    loop = Loop(rule=MIXED, digital_lr=0.03)
    made = passes.run_passes(passes.begin(made, data, loop, 0), data, 6)
    assert passes.mean_score(made, data.test) > before + 0.1


def test_the_pass_that_is_kept_is_the_best_to_choose_by_or_else_the_last(
    files: tuple[str, str], tmp_path: Path
) -> None:
    settings = TuneSettings(passes=2, age_s=3e7)
    record = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "a.nir")
    scores = [p["score"] for p in record["passes"]]
    assert len(scores) == 3
    assert record["kept"] == scores.index(max(scores))
    few = {name: v for name, v in splits().items() if not name.startswith("valid")}
    few |= {"train_x": few["train_x"][:, :2], "train_labels": few["train_labels"][:2]}
    np.savez(files[1], **few)
    record = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "b.nir")
    assert record["kept"] == 2
    assert {p["score"] for p in record["passes"]} == {None}


def test_a_chip_that_was_left_alone_has_no_score_of_a_tuned_one(
    files: tuple[str, str], tmp_path: Path
) -> None:
    """Two readings of the same chip differ by read noise, which is no gain and no loss."""
    settings = TuneSettings(passes=1, age_s=86_400.0, digital_lr=0.0)
    record = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "a.nir")
    assert record["kept"] == record["pulses"] == 0
    said = tuning.text(record)
    assert "tuning changed nothing: the recalibrated chip, read again, 0." in said
    assert "tuned 0." not in said
    assert "tuned 0." in tuning.text(record | {"kept": 1})
    data = np.load(files[1])
    page = reports.of_tune(
        tmp_path / "a.html", record, network(), torch.tensor(data["x"]).float(), command="snu"
    )
    assert "the same, read again: nothing was kept" in page.read_text()


def test_what_chooses_is_taken_from_what_is_learned_from_where_nothing_else_is_given(
    files: tuple[str, str], tmp_path: Path
) -> None:
    unchosen = {name: v for name, v in splits().items() if not name.startswith("valid")}
    np.savez(files[1], **unchosen)
    count = len(unchosen["train_labels"])
    data = data_files.load_tuning(files[1], (INPUTS,), (CLASSES,))
    assert isinstance(data.train, Sequences)
    assert data.valid is not None
    assert (len(data.train), len(data.valid)) == (
        count - round(count / 5),
        round(count / 5),
    )


def test_pulses_begin_with_few_of_those_asked_for(files: tuple[str, str], tmp_path: Path) -> None:
    """The rule wants a pulse to every weight after every batch, which writes nothing but noise."""
    settings = TuneSettings(rule="pulses", lr=1e-9, passes=2, age_s=3e7)
    record = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "a.nir")
    assert record["worst"]["until_look"] == 1
    weights = record["devices"] // 2
    assert 0 < record["pulses"] <= record["worst"]["pulses"] < weights


def test_what_was_learned_is_shown_on_chips_that_never_learned(
    files: tuple[str, str], tmp_path: Path
) -> None:
    settings = TuneSettings(passes=1, others=2)
    record = tuning.tune(network(), data_of(files), PCM, settings, tmp_path / "a.nir")
    assert [len(scores) for scores in record["others"].values()] == [2, 2]
    said = tuning.text(record)
    assert "2 chips that it never saw, recalibrated: " in said
    assert "2 chips that it never saw, with what was learned: " in said


def test_the_loss_does_not_depend_on_the_unit_of_the_outputs() -> None:
    data, labels = labelled(50, 1), torch.tensor(sequences(50, 1)["labels"])
    losses = []
    for scale in (1.0, 1024.0):
        net = graph.network(network(scale))

        def model(x: Tensor, net: Any = net) -> Tensor:
            outputs: Tensor = net(x)[0].detach()
            return outputs

        losses.append(float(data.loss(model(data.x), labels, data.unit(model))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] < float(np.log(CLASSES))


def test_silent_outputs_have_a_loss_all_the_same() -> None:
    data, labels = labelled(50, 1), torch.tensor(sequences(50, 1)["labels"])
    silent = torch.zeros(6, 50, CLASSES)
    unit = data.unit(lambda x: silent)
    assert float(data.loss(silent, labels, unit)) == pytest.approx(np.log(CLASSES))


def test_data_in_one_part_are_divided_by_the_seed_and_nothing_is_used_twice(
    tmp_path: Path,
) -> None:
    arrays = sequences(50, 1)
    arrays["x"] = arrays["x"] * 1.0
    arrays["x"][0, :, 0] = np.arange(50)  # tells the sequences apart
    np.savez(tmp_path / "data.npz", **arrays)
    seen = []
    for seed in (0, 0, 1):
        data = data_files.load_tuning(tmp_path / "data.npz", (INPUTS,), (CLASSES,), seed=seed)
        assert isinstance(data.train, Sequences)
        assert data.valid is not None
        assert "drawn from x by the seed" in data.note
        drawn = (data.train, data.valid, data.test)
        parts = [p.x[0, :, 0].tolist() for p in drawn if isinstance(p, Sequences)]
        assert [len(part) for part in parts] == [30, 10, 10]
        assert sorted(chain.from_iterable(parts)) == list(range(50))
        seen.append(parts)
    assert seen[0] == seen[1] != seen[2]


def test_a_pass_shows_every_sequence_once(files: tuple[str, str]) -> None:
    data = data_files.load_tuning(files[1], (INPUTS,), (CLASSES,))
    assert isinstance(data.train, Sequences)
    labels = torch.cat([target for _, target in data.batches(Generator().manual_seed(0))])
    assert sorted(labels.tolist()) == sorted(splits()["train_labels"].tolist())


def test_rules_are_found_by_name() -> None:
    assert way("mixed") == MIXED
    assert way("mixed", 0.5) == MixedPrecision(lr=0.5, evidence=MIXED.evidence)
    assert way("pulses", 0.2) == SignPulses(threshold=0.2)
    assert way("verify") == ProgramVerify(lr=0.1)


def test_a_sequence_of_names_is_what_fine_tune_takes() -> None:
    assert ways("recalibrate, adapter:4, mixed", 2.0) == [
        Recalibrate(), Adapter(rank=4), MixedPrecision(lr=2.0, evidence=MIXED.evidence),
    ]  # fmt: skip
    assert ways("rewrite:0.1+adapters") == [Rewrite(worst=0.1), Adapter(where="all")]
    assert all(isinstance(way(name), Way) for name in NAMED)


def test_an_adapter_asked_for_by_name_is_trained_and_leaves_with_the_graph(
    files: tuple[str, str], tmp_path: Path
) -> None:
    """Two classes have no weights: gains cannot bring them back, a product of rank two can."""
    parts = sequences(256, 1, "train_") | sequences(80, 2, "valid_") | sequences(100, 3)
    np.savez(files[1], **parts)
    wrong, record = network(), {}
    wrong.nodes["fc2"].weight[1:3] = 0
    for rule in ("digital", "adapter:2,digital"):
        settings = TuneSettings(rule=rule, passes=4)
        record[rule] = tuning.tune(wrong, data_of(files), PCM, settings, tmp_path / "a.nir")
    tuned = {rule: found["test"]["tuned"] for rule, found in record.items()}
    assert tuned["adapter:2,digital"] > tuned["digital"] + 0.1
    assert record["adapter:2,digital"]["preparations"] == [repr(Adapter(rank=2))]
    assert record["adapter:2,digital"]["pulses"] == 0
    added = set(graph.read(tmp_path / "a.nir").nodes) - set(wrong.nodes)
    assert sum("adapter" in name for name in added) == 2


def tune(files: tuple[str, str], *more: str) -> int:
    return cli.main(["tune", *files, "--epochs", "2", "--at", "1y", *more])


def test_the_command_leaves_graph_chip_history_and_pictures(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    out = tmp_path / "new" / "out"
    assert tune(files, "--out", str(out)) == 0
    said, err = capsys.readouterr()
    assert err == ""
    assert "40 sequences" not in said.splitlines()[0]
    assert "64 sequences to learn from, 40 to choose by, 40 to judge on" in said
    left = {path.name for path in out.iterdir()}
    pictures = {"passes.png", "tuning.png", "conductances.png"}
    assert left == {"tuned.nir", "chip.npz", "tuning.json", *pictures}
    record = json.loads((out / "tuning.json").read_text())
    assert record["pulses"] == record["passes"][record["kept"]]["pulses"]
    made = Accelerator.load(out / "chip.npz")
    assert made.age_s > 365 * 86_400
    g = graph.read(out / "tuned.nir")
    assert not np.array_equal(g.nodes["fc1"].weight, network().nodes["fc1"].weight)
    x = torch.tensor(splits()["x"]).float()
    guesses = [y.sum(0).argmax(1) for y in (graph.network(g)(x)[0], made.run(x)[0])]
    assert int((guesses[0] == guesses[1]).sum()) >= 36  # of 40; the chip is noisy


def test_a_file_gets_its_siblings_and_json_is_what_it_holds(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert tune(files, "--out", str(folder / "better.nir"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "better.json").read_text())
    left = {path.name for path in folder.iterdir()}
    assert left == {"better.nir", "better.chip.npz", "better.json"}


def test_ctrl_c_leaves_a_checkpoint_that_resume_takes_up(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = str(tmp_path / "whole.nir"), str(tmp_path / "out.nir")
    assert tune(files, "--out", whole) == 0
    update, count = Tuning.update, 0

    def stop(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return update(*given)

    monkeypatch.setattr(Tuning, "update", stop)
    assert tune(files, "--out", out) == 130
    assert "--resume goes on after the last whole pass" in capsys.readouterr().err
    assert [p.name for p in tmp_path.glob("out.*")] == ["out.checkpoint"]
    monkeypatch.undo()
    assert tune(files, "--out", out, "--seed", "1", "--resume") == 2
    assert "other settings: seed was 0, is" in capsys.readouterr().err
    assert tune(files, "--out", out, "--resume") == 0
    assert Path(out).with_suffix(".json").read_text() == (tmp_path / "whole.json").read_text()
    assert not list(tmp_path.glob("*.checkpoint"))
    assert tune(files, "--out", out, "--resume") == 2
    assert "leave out --resume to start anew" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.checkpoint").write_bytes(b"PK\x03\x04 not a checkpoint")
    assert tune(files, "--out", str(tmp_path / "out.nir"), "--resume") == 2
    assert "is not a whole checkpoint; delete it" in capsys.readouterr().err


def test_a_checkpoint_with_a_flipped_bit_is_not_taken_up(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Tuning, "update", stop)
        assert tune(files, "--out", str(tmp_path / "out.nir")) == 130
    file = tmp_path / "out.checkpoint"
    whole = file.read_bytes()
    capsys.readouterr()
    for bit in range(0, 8 * len(whole), 97 * max(1, len(whole) // 10_000)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="is not a whole checkpoint; delete it"):
            load_checkpoint(file, {})
    assert tune(files, "--out", str(tmp_path / "out.nir"), "--resume") == 2
    err = capsys.readouterr().err
    assert "is not a whole checkpoint; delete it and start anew" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--rule", "hebb"], "no way 'hebb' to change a chip; give recalibrate, rewrite, adapter"),
        (["--rule", "adapter:0,digital"], "rank of adapter is 0; it must be a positive whole"),
        (["--rule", "rewrite:2"], "worst of rewrite is 2; it must be a share above 0"),
        (["--rule", "adapter:x"], "adapter:x needs a number behind the colon"),
        (["--rule", "digital:3"], "'digital' takes no number; 3 was given"),
        (["--rule", "digital,adapter"], "an update rule comes last"),
        (["--lr", "2"], "'digital' takes no number; 2 was given, leave it out"),
        (["--lr", "-1"], "lr is -1.0; it must be a positive number"),
        (["--digital-lr", "nan"], "digital-lr is nan"),
        (["--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["--at", "1h,1d"], "at is '1h,1d'; give one age"),
        (["--at", "5s"], "PCM is first read 20 s after programming"),
        (["--chip", "HERMES9"], "no chip"),
        (["--out", "nowhere/tuned.nir"], "its folder does not exist"),
        (["--out", "graph.nir"], "would be overwritten"),
        (["--out", "data.npz"], "give a folder, or a file that ends in .nir"),
    ],
)
def test_bad_settings_are_one_clear_line_and_exit_2(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["tune", *files, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no labels", "train_x and train_labels must both be there; train_labels is not"),
        ("labels too large", "train_labels run from 1 to 4; the graph has 4 outputs"),
        ("few", "holds 3 sequences and no train_x"),
    ],
)
def test_data_that_cannot_teach_are_one_clear_line(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    arrays = splits()
    if kind == "no labels":
        del arrays["train_labels"]
    elif kind == "labels too large":
        arrays["train_labels"] = arrays["train_labels"] + 1
    else:
        arrays = sequences(3, 0)
    np.savez(files[1], **arrays)
    assert tune(files) == 2
    assert said in capsys.readouterr().err


def test_chorales_teach_with_the_splits_they_come_with(tmp_path: Path) -> None:
    if not JSB.is_file():
        pytest.skip(f"needs the JSB chorales, looked for {JSB}")
    data = data_files.load_tuning(JSB, (88,), (88,))
    assert data.note == "229 chorales to learn from, 76 to choose by, 77 to judge on"
    assert data.valid is not None
    assert data.valid.metric.startswith("negative log-likelihood")
    x, target = next(iter(data.batches(Generator().manual_seed(0))))
    assert x.shape[1:] == (8, 88)
    # A key that may sound or not: log 2 for each of 88.
    assert float(data.train.loss(torch.zeros_like(x), target)) == pytest.approx(88 * np.log(2))


def test_an_ideal_chip_is_tuned_too(files: tuple[str, str], tmp_path: Path) -> None:
    settings = TuneSettings(passes=1, age_s=0.0)
    record = tuning.tune(network(), data_of(files), IDEAL, settings, tmp_path / "ideal.nir")
    assert record["test"]["programmed"] == record["test"]["reference"]
