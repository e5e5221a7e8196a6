"""The same graph in every simulator: speed beside equality, and NeuroBench's measures."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin import cli, testing
from snu_plugin.bench import complexity, simulators
from snu_plugin.graph import write


@pytest.mark.slow
def test_speed_stands_beside_equality() -> None:
    pytest.importorskip("snntorch")
    g = testing.network("recurrent")
    answer = simulators.run(g, testing.spikes(g), seconds=1e-3, simulators=["snntorch"], threads=1)
    rows = {(row["simulator"], row["importer"]): row for row in answer["runs"]}
    ours = rows["snntorch", "plugin"]
    assert ours["status"] == "exact"
    low, median, high = ours["ms"]
    assert 0 < low <= median <= high
    assert ours["rounds"] == rows["strict reference", "reference"]["rounds"] >= 5
    assert rows["strict reference", "reference"]["ratio"] == 1
    told = simulators.text(json.loads(json.dumps(answer)))
    assert "30 steps, batch 3, 1 thread each" in told
    stock = rows["snntorch", "stock"]
    assert "ms" in stock or stock["message"] in told


def test_the_example_fires_and_has_a_loop() -> None:
    g = simulators.example()
    x = testing.spikes(g)
    assert 0.01 < testing.expected(g, x).mean() < 0.5
    assert ("loop", "hidden") in g.edges


def test_the_command_takes_a_graph_and_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = testing.network("feed-forward")
    write(tmp_path / "g.nir", g)
    np.savez(tmp_path / "wrong.npz", y=np.zeros(3))
    assert (
        cli.main(["bench", "simulators", str(tmp_path / "g.nir"), str(tmp_path / "wrong.npz")]) == 2
    )
    assert "holds y; inputs (T, B, ...) must be named x" in capsys.readouterr().err


def test_inputs_are_read_as_numbers_and_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 1, 3), dtype=bool))
    assert torch.equal(simulators.data(tmp_path / "x.npy"), torch.ones(2, 1, 3))
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad\.npy: not an \.npy of plain values"):
        simulators.data(tmp_path / "bad.npy")


def test_operations_are_the_pairs_of_spikes_and_weights() -> None:
    weight = np.array([[1.0, 0.0, -2.0], [0.5, 0.0, 0.0]])
    nodes = {
        "in": nir.Input({"input": np.array([3])}),
        "fc": nir.Affine(weight, np.ones(2)),
        "lif": nir.LIF(*(np.full(2, v) for v in (2.0, 2.0, 0.0, 100.0))),
        "out": nir.Output({"output": np.array([2])}),
    }
    g = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "lif"), ("lif", "out")])
    x = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    found = complexity.counted(g, x, dt=1.0)
    # Input 0 meets two weights, input 1 none, input 2 one; over two samples.
    assert found["effective_acs"] == (2 + 1 + 2) / 2
    assert found["effective_macs"] == 0
    assert found["dense"] == 2 * 6
    assert found["activation_sparsity"] == 1
    graded = complexity.counted(g, 0.5 * x, dt=1.0)
    assert (graded["effective_acs"], graded["effective_macs"]) == (0, 2.5)


@pytest.mark.parametrize("kind", ["feed-forward", "convolutional"])
def test_neurobench_counts_the_same(kind: str) -> None:
    pytest.importorskip("neurobench")
    g = testing.network(kind)
    x = testing.spikes(g)
    ours, library = complexity.counted(g, x), complexity.by_library(g, x)
    for name in ("activation_sparsity", "effective_acs", "effective_macs", "dense"):
        assert library[name] == pytest.approx(ours[name])
