"""How an SNU is spelt in NIR."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin import SNUConfig, snu_scan
from snu_plugin.graph import SNU, declared, encode_snu, network, read, stamp, write
from snu_plugin.neuron.config import Activation

DT = 2.0**-10
DECAYS = [0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.77, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 2**-20]


def alone(node: nir.NIRNode, size: int) -> nir.NIRGraph:
    nodes = {
        "input": nir.Input(input_type={"input": np.array([size])}),
        "unit": node,
        "output": nir.Output(output_type={"output": np.array([size])}),
    }
    graph = nir.NIRGraph(nodes, [("input", "unit"), ("unit", "output")], {}, type_check=False)
    return stamp(graph, DT)


def drive(size: int, seed: int = 0) -> torch.Tensor:
    """Inputs on a grid, so that states land on thresholds."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 9, (40, 3, size), generator=random) / 8


@pytest.mark.parametrize("dt", [DT, 2.0**-13, 1.0, 1e-3, 1e-4])
def test_a_float32_decay_survives_exactly(dt: float) -> None:
    for decay in (float(np.float32(d)) for d in DECAYS):
        node = encode_snu(SNUConfig(), [decay], [1.0], dt=dt)
        assert isinstance(node, nir.LIF)
        assert 1 - dt / node.tau[0] == decay
        assert node.tau.dtype == node.r.dtype == np.float64


@pytest.mark.parametrize("decay", DECAYS)
def test_a_float64_decay_survives_to_the_last_place_of_one(decay: float) -> None:
    node = encode_snu(SNUConfig(), [decay], [1.0], dt=DT)
    assert abs(1 - DT / node.tau[0] - decay) <= (0 if decay >= 0.5 else 2**-53)


def test_every_float32_decay_comes_back_as_the_same_float32() -> None:
    decay = np.random.default_rng(0).random(100_000).astype(np.float32)
    node = encode_snu(SNUConfig(), decay, 1.0, dt=DT)
    back = 1 - DT / node.tau
    np.testing.assert_array_equal(back.astype(np.float32), decay)
    np.testing.assert_array_equal(back[decay >= 0.5], decay[decay >= 0.5])


def test_an_identity_snu_is_a_plain_lif() -> None:
    node = encode_snu(SNUConfig(), np.full(3, 0.8), np.array([0.5, 1, 2]), dt=DT)
    assert type(node) is nir.LIF
    np.testing.assert_array_equal(node.v_threshold, [0.5, 1, 2])
    np.testing.assert_array_equal(node.r, node.tau / DT)
    assert not node.v_leak.any()
    assert not node.v_reset.any()


@pytest.mark.parametrize("g", ["identity", "relu", "leaky_relu"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.75])
@pytest.mark.covering(2)
def test_every_unit_runs_through_a_file_as_the_reference_runs_it(
    tmp_path: Path, g: Activation, soft: bool, decay: float, threshold: float
) -> None:
    config = SNUConfig(g=g, soft=soft, slope=0.25)
    decays, thresholds = torch.full((4,), decay), torch.full((4,), threshold)
    write(tmp_path / "unit.nir", alone(encode_snu(config, decays, thresholds, dt=DT), 4))
    x = drive(4).double()
    expected, _ = snu_scan(
        x, config, decay=decays.double(), threshold=thresholds.double(), impl="reference"
    )
    y, _ = network(read(tmp_path / "unit.nir"), dtype=torch.float64)(x)
    if soft:  # fused sigmoids may round otherwise
        torch.testing.assert_close(y, expected, atol=1e-14, rtol=0)
    else:
        assert torch.equal(y, expected)


def test_a_recurrent_unit_runs_as_the_reference_runs_it() -> None:
    config = SNUConfig(g="relu")
    weight = torch.tensor([[0.5, -1, 0.25], [0, 0.5, 0.5], [-0.25, 0.75, 0]])
    node = encode_snu(config, 0.5, torch.ones(3), dt=DT, recurrent=weight)
    assert set(node.nodes) == {"input", "lif", "w_rec", "output"}
    expected, _ = snu_scan(drive(3), config, decay=torch.tensor(0.5), recurrent=weight)
    y, _ = network(alone(node, 3))(drive(3))
    assert torch.equal(y, expected)


def test_only_a_layer_that_never_forgets_at_all_is_an_if() -> None:
    assert type(encode_snu(SNUConfig(), [1.0, 1.0], 1.0, dt=DT)) is nir.IF
    mixed = encode_snu(SNUConfig(), [1.0, 0.5], 1.0, dt=DT)
    assert type(mixed) is nir.LIF
    assert (1 - DT / mixed.tau).tolist() == [1.0, 0.5]
    x = drive(2)
    expected, _ = snu_scan(x, decay=torch.tensor([1.0, 0.5]), threshold=torch.ones(2))
    assert torch.equal(network(alone(mixed, 2))(x)[0], expected)


@pytest.mark.parametrize(
    ("config", "decay", "threshold", "kind"),
    [
        (SNUConfig(g="relu"), 0.0, 0.5, nir.LIF),
        (SNUConfig(g="relu"), 0.0, -0.5, SNU),
        (SNUConfig(g="relu"), 0.5, 0.5, SNU),
        (SNUConfig(g="leaky_relu"), 0.0, 0.5, nir.LIF),
        (SNUConfig(g="leaky_relu", slope=1.0), 0.5, -0.5, nir.LIF),
        (SNUConfig(soft=True), 0.0, 0.5, SNU),
    ],
)
def test_what_standard_nir_can_say_leaves_as_standard_nir(
    config: SNUConfig, decay: float, threshold: float, kind: type
) -> None:
    assert type(encode_snu(config, [decay], [threshold], dt=DT)) is kind


def test_nir_itself_refuses_the_extension_node(tmp_path: Path) -> None:
    node = encode_snu(
        SNUConfig(soft=True, g="leaky_relu", slope=0.3), [0.1, 0.9], [1.0, 2.0], dt=DT
    )
    write(tmp_path / "soft.nir", alone(node, 2))
    with pytest.raises(AssertionError):
        nir.read(tmp_path / "soft.nir")
    back = read(tmp_path / "soft.nir").nodes["unit"]
    assert (back.g, back.slope, back.soft) == ("leaky_relu", 0.3, True)
    np.testing.assert_array_equal(back.decay, [0.1, 0.9])
    np.testing.assert_array_equal(back.threshold, [1.0, 2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1.2}, "decay is 1.2; it must lie in"),
        ({"decay": np.nan}, "decay is nan"),
        ({"threshold": np.inf}, "threshold holds NaN or infinity"),
        ({"threshold": np.ones(2), "decay": np.ones(3)}, "must broadcast"),
        ({"dt": 0.0}, "dt is 0.0; it must be a positive"),
        ({"dt": np.nan}, "dt is nan; it must be a positive"),
        ({"recurrent": np.ones((2, 3))}, r"recurrent has shape \(2, 3\); a layer of shape \(1,\)"),
        ({"recurrent": [[np.nan]]}, "recurrent holds NaN"),
        ({"config": SNUConfig(lateral_inhibition="sample")}, "lateral_inhibition is 'sample'"),
    ],
)
def test_what_cannot_be_encoded_is_refused(arguments: dict[str, object], message: str) -> None:
    given = {"config": SNUConfig(), "decay": 0.5, "threshold": 1.0, "dt": DT} | arguments
    with pytest.raises(ValueError, match=message):
        encode_snu(**given)  # type: ignore[arg-type]


def test_the_declaration_survives_a_file(tmp_path: Path) -> None:
    graph = stamp(alone(encode_snu(SNUConfig(), [0.5], [1.0], dt=1e-3), 1), 1e-3, by="a test")
    write(tmp_path / "unit.nir", graph)
    said = declared(read(tmp_path / "unit.nir"))
    assert said["dt"] == 1e-3
    assert said["by"] == "a test"


@pytest.mark.parametrize("text", ["{", "[1]", '{"dt": -1}', '{"dt": "x"}', '{"dt": null}', 7])
def test_a_spoilt_declaration_is_refused(text: object) -> None:
    graph = alone(encode_snu(SNUConfig(), [0.5], [1.0], dt=1e-3), 1)
    graph.metadata["snu"] = text
    with pytest.raises(ValueError, match=r"metadata 'snu' is|dt is"):
        declared(graph)


def test_a_graph_without_a_declaration_declares_nothing() -> None:
    graph = nir.NIRGraph.from_list(encode_snu(SNUConfig(), [0.5], [1.0], dt=1e-3))
    assert declared(graph) == {}
