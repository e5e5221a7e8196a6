"""Public NIR graphs behave as their README says (reference/nir_graphs)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from snu_plugin.graph import declared, discretise, network, read

FOLDER = Path(__file__).parents[3] / "shared" / "reference" / "nir_graphs"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is missing")


def spikes(y: torch.Tensor) -> list[int]:
    return y.flatten().nonzero().flatten().tolist()


def test_lif_norse_follows_its_trace() -> None:
    trace = np.loadtxt(FOLDER / "lif_traces" / "lif_norse.csv", delimiter=",")
    net = network(read(FOLDER / "lif_norse.nir"), dt=1e-4, dtype=torch.float64)
    x = torch.tensor(trace[:, 0]).reshape(-1, 1, 1)
    y, _ = net(x)
    assert spikes(y) == np.flatnonzero(trace[:, 2]).tolist() == [460, 510, 710, 760]
    membranes, state = [], None
    for x_t in x:
        _, state = net(x_t[None], state)
        membranes.append(state.nodes["1"].v.item())
    assert np.abs(np.array(membranes) - trace[:, 1]).max() < 3e-8


@pytest.mark.parametrize(
    "tool",
    ["exact", "nengo", "snntorch", "spinnaker2"],
)
def test_lif_norse_fires_where_other_tools_do(tool: str) -> None:
    trace = np.loadtxt(FOLDER / "lif_traces" / f"lif_{tool}.csv", delimiter=",")
    net = network(read(FOLDER / "lif_norse.nir"), dt=1e-4)
    y, _ = net(torch.tensor(trace[:, 0] != 0).reshape(-1, 1, 1))
    assert spikes(y) == [460, 510, 710, 760]


@pytest.mark.parametrize(
    ("dt", "expected"), [(1e-4, [178, 357, 536, 715, 894]), (1e-3, [17, 35, 53, 71, 89])]
)
def test_two_lif_neurons_start_at_zero_and_fire_by_themselves(
    dt: float, expected: list[int]
) -> None:
    net = network(read(FOLDER / "two_lif_neurons.nir"), dt=dt, dtype=torch.float64)
    values, _ = net.run(torch.zeros(round(0.1 / dt), 1, 1))
    assert spikes(values["lif1"]) == expected
    assert not values["lif2"].any()


def test_the_feedback_graph_runs_on_its_own() -> None:
    net = network(read(FOLDER / "feedback_graph.nir"), dt=1e-3, dtype=torch.float64)
    with torch.no_grad():
        values, _ = net.run(torch.zeros(100, 1, 3))
    fired = values["state"].sum((1, 2))
    assert fired[:10].tolist() == [0, 0, 0, 0, 11, 107, 126, 135, 114, 108]
    assert fired.sum() == 10227
    torch.testing.assert_close(
        values["output_probe"].sum((0, 1)),
        torch.tensor([-0.0055551, 0.0117609, 0.0104553]).double(),
        atol=1e-7,
        rtol=0,
    )


def test_the_convolutional_graph_counts_the_published_spikes() -> None:
    graph = read(FOLDER / "conv_if_sumpool.nir")
    x = torch.tensor(np.random.default_rng(0).random((20, 1, 2, 12, 12)) < 0.3)
    for given in ({"dt": 1.0}, {"reading": "step"}):
        values, _ = network(graph, dtype=torch.float64, **given).run(x)
        assert [int(values[name].sum()) for name in ("if1", "if2", "if3")] == [1030, 550, 81]
        assert values["output"].sum((0, 1)).tolist() == [3, 8, 12, 13, 6, 8, 14, 4, 2, 11]


def test_the_batch_survives_a_flatten() -> None:
    net = network(read(FOLDER / "conv_if_sumpool.nir"), dt=1.0)
    x = (torch.rand(5, 4, 2, 12, 12, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    together, _ = net(x)
    apart = torch.cat([net(x[:, b : b + 1])[0] for b in range(4)], 1)
    assert together.shape == (5, 4, 10)
    assert torch.equal(together, apart)


def test_an_output_of_the_wrong_shape_is_repaired_and_said() -> None:
    graph = read(FOLDER / "lif_rockpool.nir")
    assert declared(graph)["repaired"] == ["Output 'output' has shape (1, 1, 1); it is given (1,)"]
    assert tuple(graph.nodes["output"].output_type["output"]) == (1,)
    assert discretise(graph, dt=1e-4).shapes["output"] == (1,)


def test_transposed_weights_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'input' .* gives \(128,\), but node 'linear' .* \(64,\)"
    ):
        read(FOLDER / "spyx_shd.nir")


def test_fields_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"node '1' \(LIF\).*tau \(1,\), r \(\), v_leak \(\)"):
        read(FOLDER / "lif_norse_mixed_shapes.nir")


@pytest.mark.parametrize(
    ("name", "node"),
    [("lif_norse", "1"), ("two_lif_neurons", "lif1"), ("conv_if_sumpool", "if1")],
)
def test_a_dt_that_the_file_does_not_tell_is_asked_for(name: str, node: str) -> None:
    with pytest.raises(ValueError, match=f"dt is not declared.*{node}.*give dt"):
        discretise(read(FOLDER / f"{name}.nir"))
