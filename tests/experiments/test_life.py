"""Chips looked after over years of use, as ``snu life`` does it."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from few import few_of
from snu_plugin import cli, graph
from snu_plugin.accelerator import PCM, Accelerator, dump_chip
from snu_plugin.compiler import compile
from snu_plugin.experiments import lives, ways
from snu_plugin.experiments.datasets import Sequences
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import Adapter, Every, Recalibrate, Rewrite, WhenWorse
from snu_plugin.neuron import SNUConfig

CLASSES, INPUTS, HIDDEN = 4, 12, 16


def network() -> nir.NIRGraph:
    """Each class is a group of inputs; the hidden units fire for groups, the outputs sum them."""
    draw = np.random.default_rng(0)
    unit = np.arange(HIDDEN) % CLASSES
    member = np.arange(INPUTS) % CLASSES == unit[:, None]
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(0.5 * member - 0.1 + 0.05 * draw.normal(size=(HIDDEN, INPUTS))),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(HIDDEN, 0.7), dt=2.0**-10),
        "fc2": nir.Linear(1.0 * (np.arange(CLASSES)[:, None] == unit) - 0.2),
        "out": nir.Output({"output": np.array([CLASSES])}),
    }
    return stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), 2.0**-10)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Write the network, and sequences to learn from, to choose by and to judge on."""
    graph.write(tmp_path / "graph.nir", network())
    draw = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    for part, count in (("train_", 64), ("valid_", 40), ("", 40)):
        labels = draw.integers(0, CLASSES, count)
        rate = np.where(np.arange(INPUTS) % CLASSES == labels[:, None], 0.5, 0.25)
        arrays |= {f"{part}x": draw.random((6, count, INPUTS)) < rate, f"{part}labels": labels}
    np.savez(tmp_path / "data.npz", **arrays)
    return str(tmp_path / "graph.nir"), str(tmp_path / "data.npz")


def lived(files: tuple[str, str], out: Path, *more: str) -> dict[str, Any]:
    """Return the record of a short life."""
    short = ["--for", "120d", "--every", "30d", "--chips", "2", "--reads", "1"]
    assert cli.main(["life", *files, *short, "--out", str(out), *more]) == 0
    record: dict[str, Any] = json.loads((out / "life.json").read_text())
    return record


def test_all_policies_meet_the_same_chips_and_pay_for_what_they_do(
    files: tuple[str, str], tmp_path: Path
) -> None:
    record = lived(files, tmp_path / "out", "--report", str(tmp_path / "life.html"))
    first = [
        [v["found"] for v in record["visits"] if v["policy"] == name and v["number"] <= 1]
        for name in ("none", "calibrate", "tune", "rewrite")
    ]
    assert first[0] == first[1] == first[2] == first[3]
    costs = record["costs"]
    assert {name: cost["upkeeps"] for name, cost in costs.items()} == {
        "none": 0, "calibrate": 4, "tune": 4, "rewrite": 4,
    }  # fmt: skip
    assert costs["none"]["energy_nj"] == costs["none"]["pulses"] == 0
    assert costs["calibrate"]["pulses"] == costs["tune"]["pulses"] == 0
    assert 0 < costs["calibrate"]["energy_nj"] < costs["tune"]["energy_nj"]
    assert costs["rewrite"]["pulses"] > record["devices"]
    ages = [v["age_s"] for v in record["visits"] if (v["policy"], v["chip"]) == ("none", 1)]
    np.testing.assert_allclose(ages[1:], 30 * 86_400.0 * np.arange(1, 5), rtol=1e-6)
    assert (tmp_path / "out" / "life.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "life.html").read_text()
    assert "data:image/png" in page
    assert "rewrite" in page
    assert not (tmp_path / "out" / "life.checkpoints").exists()


def test_upkeep_at_the_end_of_a_life_leaves_drifted_chips_better_than_no_upkeep(
    files: tuple[str, str], tmp_path: Path
) -> None:
    g, chip = graph.read(files[0]), Accelerator(compile(graph.read(files[0]), PCM), 0)
    chip.program()
    x = torch.rand(6, 200, INPUTS, generator=torch.Generator().manual_seed(0)).lt(0.3).float()
    wanted = graph.network(g)(x)[0].detach()

    def error() -> float:
        return float((chip.run(x)[0] - wanted).abs().mean())

    chip.wait(365 * 86_400.0)
    aged = error()
    for name, step in (("calibrate", "recalibrate"), ("rewrite", "rewrite")):
        assert ways.steps(name) == ways.steps(step)
    unread = Sequences("", torch.zeros(1, 1, INPUTS), torch.zeros(1, dtype=torch.int64))
    ways.look_after(chip, ways.steps("calibrate")[0], unread, x, torch.Generator())
    calibrated = error()
    ways.look_after(chip, ways.steps("rewrite")[0], unread, x, torch.Generator())
    assert error() < calibrated < aged


@pytest.mark.parametrize("jobs", few_of(["1", "2"], "1"))
def test_a_life_that_was_killed_goes_on_bit_for_bit(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    do = ("--do", "calibrate,tune", "--when", "0.001", "--for", "90d")
    whole = lived(files, tmp_path / "whole", *do)
    monkeypatch.setattr(lives, "EVERY_S", 0.0)
    true, seen = ways.look_after, []

    def killed(chip: Accelerator, step: ways.Step, *given: Any) -> None:
        seen.append(step.tunes)
        if sum(seen) == 2:
            raise KeyboardInterrupt
        true(chip, step, *given)

    with monkeypatch.context() as patch:
        patch.setattr(ways, "look_after", killed)
        with pytest.raises(AssertionError):
            lived(files, tmp_path / "cut", *do)
    left = sorted(f.name for f in (tmp_path / "cut" / "life.checkpoints").iterdir())
    assert "tune-0.checkpoint" in left  # whose third upkeep it was depends on what was due
    (tmp_path / "cut" / "life.checkpoints" / ".new-of-a-dead-process").mkdir()
    again = lived(files, tmp_path / "cut", *do, "--resume", "--jobs", jobs)
    assert again["visits"] == whole["visits"]
    assert not (tmp_path / "cut" / "life.checkpoints").exists()


def test_nothing_to_resume_is_refused(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["life", *files, "--out", str(out), "--resume"]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--do", "none,pray"), "no upkeep is called 'pray'"),
        (("--do", "calibrate@1h"), "calibrate@1h is more often than visits"),
        (("--do", "calibrate@soon"), "age 'soon' is not a number with a unit"),
        (("--do", "digital+adapter"), "an update rule comes last"),
        (("--do", "adapter:0"), "rank of adapter is 0"),
        (("--for", "1d"), "has no visit"),
        (("--every", "1s"), "first read 20 s after programming"),
        (("--every", "1d,2d"), "every is '1d,2d'"),
        (("--when", "-1"), "when is -1.0"),
        (("--chips", "0"), "chips is 0"),
    ],
)
def test_what_no_life_can_be_made_of_is_one_clear_line(
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, str],
    said: str,
) -> None:
    assert cli.main(["life", *files, "--out", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_chip_that_is_looked_after_when_worse_gets_less_than_one_at_every_visit(
    files: tuple[str, str], tmp_path: Path
) -> None:
    record = lived(files, tmp_path / "out", "--do", "calibrate", "--when", "0.05")
    done = [v["done"] for v in record["visits"] if v["chip"] == 0]
    assert done[1]
    assert not all(done[1:])
    off = [v["off"] for v in record["visits"] if v["chip"] == 0]
    assert off[0] is None
    assert off[1] > 0.05


def test_upkeep_of_several_periods_comes_when_each_is_due(
    files: tuple[str, str], tmp_path: Path
) -> None:
    do = "calibrate@60d+adapter:2+digital@90d"
    record = lived(files, tmp_path / "out", "--do", f"none,{do},calibrate@60d")
    done = {
        name: [v["done"] for v in record["visits"] if (v["policy"], v["chip"]) == (name, 0)]
        for name in (do, "calibrate@60d")
    }
    assert done["calibrate@60d"] == [False, False, True, False, True]
    assert done[do] == [False, False, True, True, True]
    costs = record["costs"]
    assert costs[do]["pulses"] == 0
    assert costs[do]["energy_nj"] > 2 * costs["calibrate@60d"]["energy_nj"] > 0
    first = {v["found"] for v in record["visits"] if (v["chip"], v["number"]) == (0, 2)}
    assert len(first) == 1


def test_periods_go_for_the_names_before_them() -> None:
    once = ways.steps("recalibrate+adapter:4@30d+rewrite:0.1@1y+tune")
    assert [step.period_s for step in once] == [30 * 86_400.0, 365 * 86_400.0, 0.0]
    assert list(once[0].ways) == [Recalibrate(), Adapter(rank=4)]
    assert list(once[1].ways) == [Rewrite(worst=0.1)]
    assert [step.tunes for step in once] == [False, False, True]


def test_a_schedule_sees_drift_without_labels_and_nothing_on_a_chip_that_stays() -> None:
    probes = (torch.rand(6, 16, INPUTS, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    schedule = WhenWorse(by=0.05)
    for settings, due in ((PCM, True), (replace(PCM, drift=None, read_noise=None), False)):
        chip = Accelerator(compile(network(), settings), 0)
        chip.program()
        before = schedule.start(chip, probes)
        assert not schedule.look(chip, probes, before).due
        chip.wait(30 * 86_400.0)
        assert schedule.look(chip, probes, before).due == due
        assert Every().look(chip, probes, Every().start(chip, probes)).due


def test_devices_stick_and_stop_at_their_rates_wherever_waits_end() -> None:
    settings = replace(PCM, sticking=0.1, stopping=0.3)
    made = []
    for waits in (1, 8):
        chip = Accelerator(compile(network(), settings), 0)
        chip.program()
        for _ in range(waits):
            chip.wait(2 * 365 * 86_400.0 / waits)
        made.append(chip)
    once, often = (chip.state.cells["fc1"] for chip in made)
    assert torch.equal(once.stuck, often.stuck)
    torch.testing.assert_close(once.g_us, often.g_us)
    share = float(once.stuck.double().mean())
    count = once.stuck.numel()
    expected = 1 - np.exp(-0.4 * 2)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    floor = made[0].state.models["fc1"].response.floor_us
    stopped = once.stuck & (once.g_us == floor)
    assert abs(float(stopped.sum() / once.stuck.sum()) - 0.75) < 4 * np.sqrt(0.19 / count / share)


def test_devices_that_stopped_are_written_in_vain_and_a_saved_chip_knows_the_next(
    tmp_path: Path,
) -> None:
    chip = Accelerator(compile(network(), replace(PCM, stopping=0.3)), 0)
    chip.program()
    chip.wait(365 * 86_400.0)
    before = chip.state.cells["fc1"]
    weights = {name: op.weight.float() for name, op in chip.layout.products.items()}
    chip.write(weights)
    after = chip.state.cells["fc1"]
    assert bool(before.stuck.any())
    assert torch.equal(after.stuck, before.stuck)
    assert torch.equal(after.g_us[before.stuck], before.g_us[before.stuck])
    chip.program()
    assert torch.equal(chip.state.cells["fc1"].stuck, before.stuck)
    chip.save(tmp_path / "chip.npz")
    other = Accelerator.load(tmp_path / "chip.npz")
    for one in (chip, other):
        one.wait(365 * 86_400.0)
    assert other.stuck == chip.stuck
    assert sum(chip.stuck.values()) > int(before.stuck.sum())


def test_failures_of_devices_are_counted_at_every_visit(
    files: tuple[str, str], tmp_path: Path
) -> None:
    dump_chip(replace(PCM, name="own", sticking=0.5), tmp_path / "own.toml")
    chip = ("--chip", str(tmp_path / "own.toml"), "--do", "none")
    record = lived(files, tmp_path / "out", *chip)
    stuck = [v["stuck"] for v in record["visits"] if v["chip"] == 0]
    assert stuck[0] == 0 < stuck[1] < stuck[4]
