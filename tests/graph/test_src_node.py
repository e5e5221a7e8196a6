"""What the SRC extension node promises: Spiking Recurrent Cells cross a file unchanged, or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.neuron import SRC, SRCConfig, src_step
from snu_plugin.training.networks import UnitNetwork, network

ODD = SRCConfig(
    gate="cur_hard", alpha=0.8, rho=2.5, z=0.1, r=2.2, r_s=-6.5, z_hyp=0.85, z_dep=0.05, bias=-5.0
)


def cells(sizes: tuple[int, ...] = (12, 9, 7, 4), config: SRCConfig | None = None) -> UnitNetwork:
    draw = Generator().manual_seed(3)
    net = network("src", sizes, config, readout=True, generator=draw)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("free_bias"):
                p.uniform_(-6, -4, generator=draw)
            if name.endswith("weights.weight"):
                p.abs_()
    return net


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=Generator().manual_seed(1)) < 0.3).float()


def node(**changes: Any) -> graph.SRC:
    return graph.SRC(**{"bias": np.array([-6.0, -5.0]), **changes})


def alone(given: nir.NIRNode) -> nir.NIRGraph:
    nodes = {
        "input": nir.Input(np.array([2])),
        "src": given,
        "output": nir.Output(np.array([2])),
    }
    return nir.NIRGraph(nodes, [("input", "src"), ("src", "output")], type_check=False)


@pytest.mark.parametrize("config", [None, ODD], ids=["published", "odd"])
def test_a_deep_network_computes_the_same_after_a_file(
    tmp_path: Path, config: SRCConfig | None
) -> None:
    net, x = cells(config=config), spikes(60, 3, 12)
    path = tmp_path / "src.nir"
    graph.write(path, graph.to_nir(net))
    again = graph.read(path)
    # Step by step, as the strict reference rounds its products.
    outputs, state = [], None
    for x_t in x:
        y, state = net(x_t[None], state)
        outputs.append(y)
    expected = torch.cat(outputs)
    assert expected.std() > 0.01
    assert torch.equal(graph.network(again)(x)[0], expected)
    for mine, kept in zip(net.layers, ("layers.0.unit", "layers.1.unit"), strict=True):
        bias = mine.get_parameter("unit.free_bias").detach().numpy()
        assert np.array_equal(again.nodes[kept].bias, bias)


def test_two_halves_of_the_strict_reference_equal_the_whole() -> None:
    net, x = graph.network(graph.to_nir(cells())), spikes(40, 2, 12)
    whole, _ = net(x)
    first, state = net(x[:13])
    assert torch.equal(torch.cat([first, net(x[13:], state)[0]]), whole)


def test_the_strict_reference_is_the_cell_step_by_step() -> None:
    net, x = graph.network(alone(node(gate="cur")), dtype=torch.float64), 3 * spikes(30, 2, 2)
    found, _ = net(x)
    state, bias = None, torch.tensor([-6.0, -5.0], dtype=torch.float64)
    for x_t, y_t in zip(x.double(), found, strict=True):
        y, state = src_step(x_t, state, SRCConfig(gate="cur"), bias=bias)
        torch.testing.assert_close(y_t, y)
    assert (found > 0.5).any()


def test_cells_run_inside_a_cycle() -> None:
    nodes = {
        "input": nir.Input(np.array([2])), "src": node(), "back": nir.Linear(np.eye(2)),
        "output": nir.Output(np.array([2])),
    }  # fmt: skip
    edges = [("input", "src"), ("src", "back"), ("back", "src"), ("src", "output")]
    y, _ = graph.network(nir.NIRGraph(nodes, edges, type_check=False))(3 * spikes(20, 2, 2))
    assert y.shape == (20, 2, 2)
    assert (y > 0.5).any()


def test_check_calls_the_node_exact_and_names_what_others_do_with_it() -> None:
    verdict = next(v for v in graph.check(alone(node())) if v.name == "src")
    assert verdict.verdict == "exact"
    assert verdict.reason == "the SRC extension node: other readers refuse it"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"gate": "next"}, "gate"),
        ({"rho": -1.0}, "rho"),
        ({"z_hyp": 1.5}, "z_hyp"),
        ({"version": 2}, "version"),
        ({"version": 1.5}, "version"),
        ({"bias": np.array([np.nan, 1.0])}, "bias"),
        ({"alpha": np.array([0.9, 0.8])}, "alpha"),
    ],
)
def test_settings_without_a_meaning_are_unsupported(changes: dict[str, object], field: str) -> None:
    broken = alone(node(**changes))
    verdict = next(v for v in graph.check(broken) if v.name == "src")
    assert (verdict.verdict, verdict.field) == ("unsupported", field)
    with pytest.raises(ValueError, match=rf"'src'.*{field}"):
        graph.network(broken)


def test_a_file_from_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "later.nir"
    nir.write(path, alone(node(version=2)))
    with pytest.raises(ValueError, match="'src': version is 2; this release knows version 1"):
        graph.network(graph.read(path))


def test_other_readers_refuse_the_node(tmp_path: Path) -> None:
    path = tmp_path / "src.nir"
    graph.write(path, alone(node()))
    with pytest.raises(AssertionError):
        nir.read(path)


def test_strict_export_refuses_the_cell() -> None:
    with pytest.raises(ValueError, match=r"layers\.0\.unit: .*SRC extension node"):
        graph.to_nir(cells(), strict=True)


def test_a_model_that_begins_with_cells_needs_no_sample() -> None:
    found = graph.to_nir(nn.Sequential(SRC((2, 3))))
    (name,) = [n for n, kind in found.nodes.items() if isinstance(kind, graph.SRC)]
    assert found.nodes[name].bias.shape == (2, 3)


def test_a_bias_above_the_limit_of_training_runs_as_it_is() -> None:
    y, _ = graph.network(alone(node(bias=np.array([2.0, -6.0]))))(torch.zeros(3, 1, 2))
    assert (y[:, 0, 0] > 0).any()


def test_cells_run_in_digital_on_an_ideal_chip() -> None:
    found, x = graph.to_nir(cells()), spikes(30, 2, 12)
    expected = graph.network(found)(x)[0]
    chip = Accelerator(compile(found, replace(IDEAL, tile_rows=64, tile_columns=64)))
    chip.program()
    torch.testing.assert_close(chip.run(x)[0], expected)
