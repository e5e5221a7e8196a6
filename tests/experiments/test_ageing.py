"""A graph scored on ageing chips, as ``snu run`` does it."""

import csv
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from joblib import parallel_config

from few import few_of
from snu_plugin import cli, graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.experiments import ageing, data_files, datasets, passes
from snu_plugin.experiments.runs import Running
from snu_plugin.experiments.settings import ages
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

JSB = Path(__file__).parents[3] / "shared" / "data" / "jsb" / "JSB_Chorales.mat"
DT = 2.0**-10
CLASSES, INPUTS, HIDDEN = 4, 16, 40
AGES = {"1h": 3600.0, "1y": 365 * 86_400.0}


def classifier(inputs: int = INPUTS, outputs: int = CLASSES) -> nir.NIRGraph:
    """Each class is a group of inputs; the hidden units fire for groups, the outputs sum them."""
    draw = np.random.default_rng(0)
    member = np.arange(inputs) % outputs
    unit = np.arange(HIDDEN) % outputs
    first = 0.5 * (member == unit[:, None]) - 0.1 + 0.03 * draw.normal(size=(HIDDEN, inputs))
    second = 1.0 * (np.arange(outputs)[:, None] == unit) - 0.2
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc1": nir.Linear(first),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(HIDDEN, 0.8), dt=DT),
        "fc2": nir.Linear(second),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    return stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), DT)


def sequences(count: int = 60, steps: int = 8) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, CLASSES, count)
    rate = np.where(np.arange(INPUTS) % CLASSES == labels[:, None], 0.45, 0.25)
    return {"x": draw.random((steps, count, INPUTS)) < rate, "labels": labels}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("files")
    graph.write(folder / "graph.nir", classifier())
    np.savez(folder / "data.npz", **sequences())
    return str(folder / "graph.nir"), str(folder / "data.npz")


def run(data: str, *, chip: Any = PCM, jobs: int = 1, **more: Any) -> tuple[dict[str, Any], Any]:
    how: dict[str, Any] = {"at": AGES, "chips": 3, "reads": 2} | more
    return ageing.run(
        classifier(),
        lambda *shapes: data_files.load_scored(data, *shapes),
        chip,
        ageing.RunSettings(**how),
        sample=lambda: data_files.load_sample(data),
        running=Running(jobs=jobs),
    )


@pytest.fixture(scope="module")
def aged(files: tuple[str, str]) -> tuple[dict[str, Any], Any]:
    """Record and scores of three chips at two ages."""
    return run(files[1])


def test_ages_are_numbers_with_units_in_order() -> None:
    assert ages("1y, 20s,1.5h") == {"20s": 20.0, "1.5h": 5400.0, "1y": 31_536_000.0}


@pytest.mark.parametrize("text", ["", "1", "h", "1 week", "-1h", "1h,,2h", "1e3s"])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number with a unit"):
        ages(text)


def test_an_ideal_chip_scores_what_the_strict_reference_scores(files: tuple[str, str]) -> None:
    record, scores = run(files[1], chip=IDEAL)
    assert 0.5 < record["reference"] <= 1
    assert {score.score for score in scores} == {record["reference"]}
    assert record["scores"]["programmed"]["1y"]["std"] == 0


def test_accuracy_is_the_share_of_largest_sums_over_time() -> None:
    data = datasets.Sequences("", torch.zeros(2, 3, 1), torch.tensor([0, 1, 1]))
    y = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [5.0, 0.0]], [[3.0, 1.0], [0.0, 0.0], [0.0, 4.0]]])
    assert data.score(lambda x: y) == pytest.approx(2 / 3)


def test_more_sequences_than_run_at_once_are_all_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = sequences(23)
    x, labels = torch.tensor(arrays["x"]).float(), torch.tensor(arrays["labels"])
    net = graph.network(classifier())
    whole = datasets.Sequences("", x, labels).score(lambda x: net(x)[0])
    monkeypatch.setattr(datasets, "AT_ONCE", 5)
    assert datasets.Sequences("", x, labels).score(lambda x: net(x)[0]) == whole


def test_ageing_costs_accuracy_and_calibration_wins_it_back(
    aged: tuple[dict[str, Any], Any],
) -> None:
    record, _ = aged
    programmed, compensated = (record["scores"][c]["1y"] for c in ("programmed", "compensated"))
    assert programmed["mean"] < compensated["mean"] - 0.05
    assert programmed["worst"] <= programmed["mean"]
    assert programmed["std"] > 0


def test_one_gain_for_all_wins_back_what_all_columns_lost_alike(
    aged: tuple[dict[str, Any], Any],
) -> None:
    record, _ = aged
    means = {case: by_age["1y"]["mean"] for case, by_age in record["scores"].items()}
    assert means["global"] > means["programmed"] + 0.05


def test_a_copy_of_every_chip_is_tuned_at_every_age_where_data_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES", 2)
    np.savez(tmp_path / "data.npz", **sequences(80))
    settings = ageing.RunSettings(at=AGES, chips=2, reads=2)
    record, scores = ageing.run(
        classifier(),
        lambda *shapes: data_files.load_tuning(tmp_path / "data.npz", *shapes),
        PCM,
        settings,
    )
    assert list(record["scores"]) == ["programmed", "global", "compensated", "tuned"]
    assert record["parts"].startswith("48 sequences to learn from, 16 to choose by, 16 to judge on")
    assert len(scores) == 4 * 2 * 2 * 2
    parts = data_files.load_tuning(tmp_path / "data.npz", (INPUTS,), (CLASSES,))
    alone, _ = ageing.run(
        classifier(), lambda *shapes: parts.test,
        PCM, settings, sample=lambda: parts.train.sample,
    )  # fmt: skip
    for case in alone["scores"]:  # tuning a copy leaves the chip as it was
        assert record["scores"][case] == alone["scores"][case]


def test_what_an_inference_costs_is_counted(files: tuple[str, str]) -> None:
    record, _ = run(files[1], chips=1, reads=1)
    spent = record["cost"]
    assert spent["steps_per_inference"] == 8
    step, whole = spent["energy_nj_per_step"], spent["energy_nj_per_inference"]
    assert whole["total"] == pytest.approx(8 * step["total"])
    assert step["total"] == pytest.approx(step["array"] + step["converters"] + step["digital"])
    assert 0 < step["array"] < 0.27 * step["dense"]
    assert spent["programming"]["resets"] == record["devices"]
    assert any("assumed" in line for line in spent["assumptions"])


def test_statistics_are_those_of_the_single_scores(aged: tuple[dict[str, Any], Any]) -> None:
    record, scores = aged
    assert len(scores) == 3 * 2 * 3 * 2  # cases, ages, chips, reads
    values = [s.score for s in scores if (s.case, s.age) == ("programmed", "1h")]
    found = record["scores"]["programmed"]["1h"]
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["std"] == pytest.approx(np.std(values, ddof=1))
    assert found["worst"] == min(values)


def test_the_recalibration_of_one_age_does_not_reach_the_next(files: tuple[str, str]) -> None:
    """Without noise, the uncompensated score at an age is that of a chip never recalibrated."""
    quiet = replace(PCM, read_noise=None, output_noise=None)
    record, _ = run(files[1], chip=quiet, chips=1, reads=1)
    sample = data_files.load_sample(files[1])
    made = Accelerator(compile(classifier(), quiet, sample=sample), 0)
    made.program()
    made.wait(AGES["1y"] - made.age_s)
    data = data_files.load_scored(files[1], (INPUTS,), (CLASSES,))
    expected = data.score(lambda x: made.run(x)[0])
    assert record["scores"]["programmed"]["1y"]["mean"] == expected


@pytest.mark.parametrize("backend", few_of(["loky", "threading", "multiprocessing"], "threading"))
def test_the_number_and_kind_of_workers_change_nothing(
    files: tuple[str, str], aged: tuple[dict[str, Any], Any], backend: str
) -> None:
    with parallel_config(backend=backend):
        shared = run(files[1], jobs=2)
    assert shared == aged


def test_an_age_before_the_first_reading_is_refused(files: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"age 5s is too early: PCM is first read 20 s after"):
        run(files[1], at={"5s": 5.0})


def spoil(arrays: dict[str, Any], kind: str) -> dict[str, Any]:
    x, labels = arrays["x"], arrays["labels"]
    return {
        "batch first": {"x": x.swapaxes(0, 1), "labels": labels},
        "other inputs": {"x": x[..., :5], "labels": labels},
        "no labels": {"x": x},
        "not finite": {"x": np.where(x, np.nan, 0.0), "labels": labels},
        "labels too large": {"x": x, "labels": labels + 3},
        "labels of half": {"x": x, "labels": labels / 2},
        "objects": {"x": x.astype(object), "labels": labels},
        "no sequences": {"x": x[:, :0], "labels": labels[:0]},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("batch first", r"x has shape (60, 8, 16); it must be (T, 60, 16); time comes first"),
        ("other inputs", "x has shape (8, 60, 5); it must be (T, 60, 16)"),
        ("no labels", "x and labels must both be there; labels is not"),
        ("not finite", "must be finite"),
        ("labels too large", "labels run from 3 to 6; the graph has 4 outputs"),
        ("labels of half", "give whole numbers"),
        ("objects", "not an .npz of plain arrays"),
        ("no sequences", "of shape (0,)"),
    ],
)
def test_data_that_do_not_fit_are_one_clear_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    graph.write(tmp_path / "graph.nir", classifier())
    np.savez(tmp_path / "data.npz", **spoil(sequences(), kind))
    out = tmp_path / "scores.json"
    arguments = ["run", str(tmp_path / "graph.nir"), str(tmp_path / "data.npz"), "--out", str(out)]
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--chip", "tiny.toml"], "tiny cannot hold the graph: 10 tiles"),
        (["--chip", "HERMES9"], "no chip"),
        (["--at", "1fortnight"], "'1fortnight' is not a number with a unit"),
        (["--chips", "0"], "chips is 0"),
        (["--reads", "-1"], "reads is -1"),
        (["--jobs", "0"], "jobs is 0"),
        (["--out", "graph.nir"], "or a file that ends in .json or .csv"),
        (["--out", "nowhere/scores.csv"], "its folder does not exist"),
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
    Path("tiny.toml").write_text('like = "PCM"\ntile_rows = 10\ntile_columns = 10\ntiles = 1\n')
    assert cli.main(["run", *files, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_missing_and_unknown_data_are_named(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", files[0], str(tmp_path / "none.npz")]) == 2
    assert "none.npz: no such file" in capsys.readouterr().err
    other = tmp_path / "data.txt"
    other.write_text("1 2 3")
    assert cli.main(["run", files[0], str(other)]) == 2
    assert "give a .mat of chorales, or an .npz" in capsys.readouterr().err


def test_the_command_leaves_json_and_csv(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["run", *files, "--at", "1h,30d", "--chips", "2", "--reads", "2"]
    assert cli.main([*common, "--out", str(tmp_path / "scores.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "2 chips x 2 reads" in out
    assert "recalibrated" in out
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["ages_s"] == {"1h": 3600.0, "30d": 2_592_000.0}
    assert cli.main([*common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == record
    with parallel_config(backend="threading"):  # processes take seconds to begin
        assert cli.main([*common, "--jobs", "2", "--out", str(tmp_path / "scores.csv")]) == 0
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [v["score"] for v in record["values"]]
    assert len(rows) == 3 * 2 * 2 * 2


def interrupted_after(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come when chips were scored so many times."""
    true, seen = passes.judged, []

    def killed(*arguments: Any, **more: Any) -> Any:
        seen.append(arguments)
        if len(seen) > runs:
            raise KeyboardInterrupt
        return true(*arguments, **more)

    monkeypatch.setattr(passes, "judged", killed)


@pytest.mark.parametrize("name", ["scores.json", "folder"])
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.covering(1)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    jobs: str,
) -> None:
    monkeypatch.setattr(ageing, "EVERY_S", 0.0)
    common = ["run", *files, "--at", "1h,1d,30d", "--chips", "3", "--reads", "2"]

    def record(out: Path) -> dict[str, Any]:
        file = out if out.suffix else out / "scores.json"
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    assert cli.main([*common, "--out", str(tmp_path / "whole" / "scores.json")]) == 2
    (tmp_path / "whole").mkdir()
    assert cli.main([*common, "--out", str(tmp_path / "whole" / name)]) == 0
    with monkeypatch.context() as patch:
        interrupted_after(3 * 3 * 2 + 8, patch)  # the second chip stands in its second age
        assert cli.main([*common, "--out", str(tmp_path / name)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "snu run: interrupted; --resume goes on where the checkpoints stand"
    )
    assert not (tmp_path / name).is_file()
    again = [*common, "--out", str(tmp_path / name), "--resume", "--jobs", jobs]
    with parallel_config(backend="threading"):
        assert cli.main(again) == 0
    assert record(tmp_path / name) == record(tmp_path / "whole" / name)
    assert not list(tmp_path.rglob("*checkpoint*"))


def test_a_run_taken_up_does_again_only_what_was_missing(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.json"
    common = ["run", *files, "--at", "1h,1d", "--chips", "2", "--reads", "1", "--out", str(out)]
    with monkeypatch.context() as patch:
        interrupted_after(6, patch)  # one whole chip
        assert cli.main(common) == 130
    with monkeypatch.context() as patch:
        interrupted_after(6, patch)
        assert cli.main([*common, "--resume"]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "give that of the run"),
        (("--out", "scores.json"), "holds no checkpoint; leave out --resume"),
    ],
)
def test_nothing_to_resume_is_refused(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *files, "--resume", *more]) == 2
    assert said in capsys.readouterr().err


def test_a_run_with_other_settings_is_not_taken_up(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "scores.csv"), "--chips", "2"]
    with monkeypatch.context() as patch:
        interrupted_after(2 * 3 * 3, patch)
        assert cli.main(["run", *files, *out, "--at", "1h,1d", "--reads", "3"]) == 130
    assert cli.main(["run", *files, *out, "--at", "1h,1d", "--reads", "4", "--resume"]) == 2
    assert "reads was 3, is 4" in capsys.readouterr().err
    assert cli.main(["run", *files, *out, "--at", "1h,1d", "--reads", "4"]) == 0


def test_a_folder_gets_json_csv_and_a_picture(files: tuple[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    out = tmp_path / "new" / "scores"
    arguments = ["run", *files, "--at", "1h,30d", "--chips", "2", "--reads", "1"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    pictures = {"score.png", "energy.png"}
    assert {path.name for path in out.iterdir()} == {"scores.json", "scores.csv", *pictures}


def test_a_graph_with_two_outputs_is_refused(tmp_path: Path, files: tuple[str, str]) -> None:
    g = classifier()
    g.nodes["spikes"] = nir.Output({"output": np.array([HIDDEN])})
    g.edges.append(("snu", "spikes"))
    with pytest.raises(ValueError, match="scored on graphs with one of each"):
        ageing.run(
            g,
            lambda *s: data_files.load_scored(files[1], *s),
            PCM,
            ageing.RunSettings(at=AGES, chips=1, reads=1),
        )


def test_the_reference_and_the_chips_begin_as_they_are_told(
    files: tuple[str, str], tmp_path: Path
) -> None:
    g = classifier()
    g.nodes["back"] = nir.Affine(np.zeros((HIDDEN, HIDDEN)), np.full(HIDDEN, 0.4))
    g.edges += [("snu", "back"), ("back", "snu")]
    load = partial(data_files.load_scored, files[1])
    how: dict[str, Any] = {"at": {"1d": 86_400.0}, "chips": 1, "reads": 1}
    chosen = {}
    for feedback in ("silent", "biased"):
        record, _ = ageing.run(g, load, IDEAL, ageing.RunSettings(feedback=feedback, **how))
        chosen[feedback] = record["reference"]
        assert record["scores"]["programmed"]["1d"]["mean"] == record["reference"]
    assert chosen["silent"] != chosen["biased"]


def test_chorales_are_scored_by_their_likelihood() -> None:
    if not JSB.is_file():
        pytest.skip(f"needs the JSB chorales, looked for {JSB}")
    g = classifier(88, 88)
    settings = ageing.RunSettings(at={"1d": 86_400.0}, chips=2, reads=1)
    record, scores = ageing.run(g, lambda *s: data_files.load_scored(JSB, *s), PCM, settings)
    assert record["metric"].startswith("negative log-likelihood")
    assert record["data"] == "jsb"
    found = record["scores"]["programmed"]["1d"]
    assert found["worst"] == max(s.score for s in scores if s.case == "programmed")


def test_chorales_do_not_fit_another_graph() -> None:
    if not JSB.is_file():
        pytest.skip(f"needs the JSB chorales, looked for {JSB}")
    with pytest.raises(ValueError, match=r"chorales of 88 keys; the graph takes \(16,\)"):
        data_files.load_scored(JSB, (INPUTS,), (CLASSES,))
