"""``snu doctor`` as a user types it."""

import json
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin import cli, graph
from snu_plugin.experiments import doctor
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10


def write_graph(path: Path, weight: float) -> Path:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([6])}),
        "fc": nir.Linear(weight * draw.random((4, 6))),
        "snu": encode_snu(SNUConfig(), 0.8, np.ones(4), dt=DT),
        "out": nir.Output({"output": np.array([4])}),
    }
    edges = [("in", "fc"), ("fc", "snu"), ("snu", "out")]
    graph.write(path, stamp(nir.NIRGraph(nodes, edges), DT))
    return path


def write_data(path: Path) -> Path:
    np.savez(path, x=np.random.default_rng(0).random((20, 3, 6)) < 0.3)
    return path


def test_a_healthy_graph_exits_0_and_a_silent_one_1_with_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_data(tmp_path / "x.npz"))
    assert cli.main(["doctor", str(write_graph(tmp_path / "good.nir", 1.0)), data]) == 0
    assert capsys.readouterr().out.startswith("nothing found")
    assert cli.main(["doctor", str(write_graph(tmp_path / "mute.nir", 0.001)), data]) == 1
    out = capsys.readouterr().out
    assert out.startswith("snu: threshold out of reach: none of its 4 neurons fires")
    assert max(map(len, out.splitlines()[1:])) <= 80


def test_inputs_in_nirs_own_format_and_none_at_all_do_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = str(write_graph(tmp_path / "g.nir", 1.0))
    x = (torch.rand((20, 3, 6), generator=torch.Generator().manual_seed(0)) < 0.3).float()
    nir.write_data(tmp_path / "x.nir", graph.to_data({"in": x}, DT))
    assert cli.main(["doctor", g, str(tmp_path / "x.nir")]) == 0
    assert "20 steps of 3 sequences" in capsys.readouterr().out
    assert cli.main(["doctor", g]) == 0
    assert "seeded spikes" in capsys.readouterr().out


def test_a_chip_whose_converters_saturate_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "narrow.toml").write_text("adc_bits = 6\nadc_bound = 0.05\n")
    g, chip = str(write_graph(tmp_path / "g.nir", 1.0)), str(tmp_path / "narrow.toml")
    assert cli.main(["doctor", g, "--chip", chip, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert "saturated converter" in [finding["cause"] for finding in answer["findings"]]


def test_alone_it_looks_at_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["versions"]["torch"]
    assert answer["extras"]["numba"] == "installed"
    assert set(answer["caches"]) == {"simulators", "kernels"}
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("nothing found\nversions\n")


def test_a_host_that_does_not_load_and_a_cache_that_cannot_be_written_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"versions": {}, "implementations": {}, "simulators": {"norse": "it broke"}}
    monkeypatch.setattr(doctor, "installed", lambda: here)
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "norse: it broke"
    assert lines[1].startswith("cache of simulators: ")
    assert "cannot be written" in lines[1]
