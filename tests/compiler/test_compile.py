"""Graphs laid out on chips, and graphs that no chip can hold."""

from dataclasses import replace
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.compiler import CannotMap, compile
from snu_plugin.compiler.lower import weight_per_us
from snu_plugin.compiler.tiling import spans, tiles


def matrix(*shape: int, node: str = "fc", seed: int = 0) -> nir.NIRGraph:
    weight = np.random.default_rng(seed).normal(size=shape)
    nodes = {
        "in": nir.Input({"input": np.array([shape[1]])}),
        node: nir.Linear(weight),
        "out": nir.Output({"output": np.array([shape[0]])}),
    }
    return nir.NIRGraph(nodes, [("in", node), (node, "out")])


def chorale_graph() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    one = np.ones(150)
    nodes = {
        "in": nir.Input({"input": np.array([88])}),
        "fc1": nir.Linear(draw.normal(size=(150, 88))),
        "lif": nir.LIF(tau=4 * one, r=4 * one, v_leak=0 * one, v_threshold=one, v_reset=0 * one),
        "fc2": nir.Affine(draw.normal(size=(88, 150)), draw.normal(size=88)),
        "out": nir.Output({"output": np.array([88])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc1"), ("fc1", "lif"), ("lif", "fc2"), ("fc2", "out")])


def test_the_published_network_takes_52800_devices_on_two_tiles() -> None:
    program = compile(chorale_graph(), PCM, dt=1.0)
    assert program.devices == 52_800
    assert len(program.tiles) == 2
    assert program.utilisation == pytest.approx(0.2, abs=0.002)
    four = compile(chorale_graph(), replace(PCM, devices_per_weight=4), dt=1.0)
    assert four.devices == 105_600
    assert four.utilisation == program.utilisation


def test_matrices_are_cut_into_the_fewest_even_parts() -> None:
    assert spans(256, 256) == ((0, 256),)
    assert spans(257, 256) == ((0, 128), (128, 257))
    assert len(tiles("fc", (600, 784), PCM)) == 3 * 4


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (1, 1), (256, 256)])
def test_tiles_cover_every_weight_once(rows: int, columns: int) -> None:
    covered = np.zeros((23, 19), dtype=int)
    for tile in tiles("fc", (23, 19), replace(PCM, tile_rows=rows, tile_columns=columns)):
        covered[slice(*tile.columns), slice(*tile.rows)] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
def test_the_largest_weight_of_each_group_takes_the_whole_range(scaling: str) -> None:
    chip = replace(PCM, tile_rows=7, tile_columns=5)
    weight = torch.randn(23, 19, generator=torch.Generator().manual_seed(0)).double()
    g = weight.abs() / weight_per_us(weight, chip, scaling)  # type: ignore[arg-type]
    assert float(g.max()) == pytest.approx(25.0)
    row_spans = spans(19, 7) if scaling != "layer" else ((0, 19),)
    column_spans = {
        "layer": ((0, 23),),
        "tile": spans(23, 5),
        "column": spans(23, 1),
    }[scaling]
    for top, bottom in column_spans:
        for first, end in row_spans:
            assert float(g[top:bottom, first:end].max()) == pytest.approx(25.0)


def test_groups_are_scaled_apart_where_tiles_are() -> None:
    weight = torch.tensor([[1.0, 1.0], [2.0, 1.0], [8.0, 4.0], [4.0, 1.0]], dtype=torch.float64)
    per_us = weight_per_us(weight, PCM, "tile", 2) * PCM.g_max_us
    assert per_us[:, 0].tolist() == [2.0, 2.0, 8.0, 8.0]
    assert (weight_per_us(weight, PCM, "layer", 2) * PCM.g_max_us == 8).all()


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
@pytest.mark.parametrize("nothing", [0.0, 1e-310, 1e-42])
def test_columns_and_tiles_of_zeros_take_the_scale_of_their_layer(
    scaling: Any, nothing: float
) -> None:
    chip = replace(PCM, tile_rows=7, tile_columns=5)
    weight = torch.randn(23, 19, generator=torch.Generator().manual_seed(0)).double()
    weight[3] = nothing  # a unit that was pruned
    weight[:, 12:] = nothing  # the third row of tiles: inputs that are not wired
    per_us = weight_per_us(weight, chip, scaling) * chip.span_us
    assert (per_us[:, 12:] == weight.abs().max()).all()
    if scaling == "column":
        assert (per_us[3] == weight.abs().max()).all()
        assert (per_us[2, :6] == weight[2, :6].abs().max()).all()


def test_a_small_column_keeps_a_scale_of_its_own() -> None:
    weight = torch.tensor([[1.0, 0.5], [1e-30, -5e-31]], dtype=torch.float64)
    per_us = weight_per_us(weight, PCM, "column") * PCM.span_us
    torch.testing.assert_close(
        per_us[1], torch.full((2,), 1e-30, dtype=torch.float64), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("scaling", ["layer", "tile", "column"])
def test_a_layer_of_zeros_adds_noise_that_is_lost_beside_any_other_value(scaling: Any) -> None:
    g = matrix(6, 9)
    g.nodes["fc"].weight[:] = 0
    chip = Accelerator(compile(g, PCM, scaling, dt=1.0), 0)
    chip.program()
    chip.wait(3600)
    chip.calibrate()
    one = torch.ones(4, 3, 9)
    assert torch.equal(1 + chip.run(one)[0], torch.ones(4, 3, 6))
    assert torch.equal(1 + chip.read_weights()["fc"], torch.ones(6, 9))
    assert float(np.abs(chip.to_nir().nodes["fc"].weight).max()) < 1e-18


def test_a_pair_holds_a_weight_on_the_device_of_its_sign() -> None:
    program = compile(matrix(4, 6), PCM)
    product = program.products["fc"]
    plus, minus = product.targets_us()
    assert not bool(((plus > 0) & (minus > 0)).any())
    torch.testing.assert_close((plus - minus) * product.weight_per_us, product.weight)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    g = matrix(300, 300)
    g.nodes["fc"].weight[0, :2] = 1e39
    g.nodes["scale"] = nir.Scale(np.full(300, -1e300))
    g.edges[1:] = [("fc", "scale"), ("scale", "out")]
    with pytest.raises(CannotMap) as error:
        compile(g, replace(PCM, tiles=3))
    said = " / ".join(error.value.reasons)
    assert "fc: 2 of 90000 values of weight are beyond 3.4e+38, the largest of float32" in said
    assert "scale: 300 of 300 values of scale are beyond" in said
    assert "4 tiles of 256 x 256 are needed (fc 4), PCM has 3" in said
    assert len(error.value.reasons) == 3
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused_with_the_node() -> None:
    g = matrix(4, 4)
    g.nodes["fc"].weight[0, :3] = np.nan
    with pytest.raises(ValueError, match="'fc': 3 of 16 values of weight are NaN or infinite"):
        compile(g, PCM)


def test_a_graph_without_weights_has_nothing_to_store() -> None:
    nodes = {
        "in": nir.Input({"input": np.array([3])}),
        "flat": nir.Scale(np.ones(3)),
        "out": nir.Output({"output": np.array([3])}),
    }
    g = nir.NIRGraph(nodes, [("in", "flat"), ("flat", "out")])
    with pytest.raises(CannotMap, match="nothing to put on devices"):
        compile(g, PCM)


def test_an_unknown_scaling_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match="layer, tile, column"):
        compile(matrix(3, 3), IDEAL, "row")  # type: ignore[arg-type]


def test_compiling_changes_neither_graph_nor_chip() -> None:
    g = matrix(5, 4)
    before = g.nodes["fc"].weight.copy()
    compile(g, PCM)
    assert set(g.nodes) == {"in", "fc", "out"}
    assert np.array_equal(g.nodes["fc"].weight, before)
