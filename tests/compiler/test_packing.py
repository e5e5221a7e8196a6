"""Parts of matrices on tiles: nothing overlaps, nothing sticks out, small ones share."""

from dataclasses import replace
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip, Program, Tile
from snu_plugin.compiler import CannotMap, compile, plan
from snu_plugin.compiler.planning import spiking
from snu_plugin.compiler.tiling import Matrix, arrange, pack, tiles
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig


def layers(*sizes: int, seed: int = 0) -> nir.NIRGraph:
    """A chain of matrices with a Threshold after each."""
    draw = np.random.default_rng(seed)
    nodes = {"in": nir.Input({"input": np.array([sizes[0]])})}
    for n, (inputs, outputs) in enumerate(pairwise(sizes)):
        nodes[f"fc{n}"] = nir.Linear(draw.normal(size=(outputs, inputs)))
        nodes[f"step{n}"] = nir.Threshold(draw.normal(size=outputs))
    nodes["out"] = nir.Output({"output": np.array([sizes[-1]])})
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)))


def check(parts: tuple[Tile, ...], chip: Chip) -> None:
    """Every part lies within its tile and on cells of its own."""
    taken = np.zeros((1 + max(p.number for p in parts), chip.tile_rows, chip.tile_columns), int)
    for part in parts:
        height, width = part.rows[1] - part.rows[0], part.columns[1] - part.columns[0]
        assert part.row + height <= chip.tile_rows
        assert part.column + width <= chip.tile_columns
        taken[part.number, part.row : part.row + height, part.column : part.column + width] += 1
    assert taken.max() == 1
    assert taken.any((1, 2)).all()


matrices = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3)), min_size=1, max_size=8
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(matrices, st.integers(3, 12), st.integers(3, 12), st.sampled_from([1, 1000]))
def test_no_two_parts_share_a_cell(
    sizes: list[tuple[int, int, int]], rows: int, columns: int, available: int
) -> None:
    chip = replace(PCM, tile_rows=rows, tile_columns=columns, tiles=available)
    asked = [Matrix(f"n{k}", (o * g, i), g) for k, (o, i, g) in enumerate(sizes)]
    parts = arrange(asked, chip)
    check(parts, chip)
    assert parts == arrange(asked, chip)
    for matrix in asked:
        covered = np.zeros(matrix.shape, int)
        for part in parts:
            if part.node == matrix.node:
                covered[slice(*part.columns), slice(*part.rows)] += 1
        assert (covered == 1).all()


def test_nodes_have_tiles_of_their_own_while_there_are_enough() -> None:
    program = compile(layers(20, 30, 10, 5), PCM)
    assert program.tile_count == 3
    assert [t.number for t in program.tiles] == [0, 1, 2]


def test_small_layers_share_a_tile_where_tiles_are_scarce() -> None:
    g = layers(20, 30, 10, 5)
    program = compile(g, replace(PCM, tiles=1))
    assert program.tile_count == 1
    check(program.tiles, program.chip)
    cells = 20 * 30 + 30 * 10 + 10 * 5
    assert program.utilisation == pytest.approx(cells / 256**2)
    assert program.devices == 2 * cells


def test_a_shared_tile_computes_what_separate_tiles_do() -> None:
    g = layers(20, 30, 10, 5)
    x = (torch.rand(8, 3, 20, generator=Generator().manual_seed(0)) < 0.4).float()
    outputs = []
    for chip in (IDEAL, replace(IDEAL, tiles=1), PCM, replace(PCM, tiles=1)):
        made = Accelerator(compile(g, chip), 3)
        made.program()
        outputs.append(made.run(x)[0])
    assert torch.equal(outputs[0], graph.network(g)(x)[0].detach())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])


def test_the_published_network_fits_one_tile_if_there_is_only_one() -> None:
    program = compile(layers(88, 150, 88), replace(PCM, tiles=1))
    assert (program.devices, program.tile_count) == (52_800, 1)
    assert program.utilisation == pytest.approx(2 * 13_200 / 65_536)


def depthwise(channels: int) -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    conv = nir.Conv2d(
        None, draw.normal(size=(channels, 1, 3, 3)), 1, 0, 1, channels, np.zeros(channels)
    )
    nodes = {
        "in": nir.Input({"input": np.array([channels, 5, 5])}),
        "conv": conv,
        "out": nir.Output({"output": np.array([channels, 3, 3])}),
    }
    return nir.NIRGraph(nodes, [("in", "conv"), ("conv", "out")], type_check=False)


def test_the_groups_of_a_convolution_lie_side_by_side_and_take_turns() -> None:
    program = compile(depthwise(64), PCM)
    assert program.tile_count == 1
    assert len(program.tiles) == 64
    check(program.tiles, PCM)
    assert program.cycles == {"conv": 9 * 64}


def test_the_parts_of_a_large_matrix_work_at_the_same_time() -> None:
    program = compile(layers(600, 784), PCM)
    assert program.tile_count == 3 * 4
    assert program.cycles == {"fc0": 1}


def test_packing_wastes_little() -> None:
    parts = [p for k in range(64) for p in tiles(f"n{k}", (32, 32), PCM)]
    assert len({p.number for p in pack(parts, PCM)}) == 1


def test_too_many_small_layers_are_counted_as_packed() -> None:
    g = layers(*([200] * 4))
    with pytest.raises(CannotMap, match=r"3 tiles of 256 x 256 are needed \(fc0 1, fc1 1, fc2 1\)"):
        compile(g, replace(PCM, tiles=2))


def energy(program: Program, activity: float, g: nir.NIRGraph) -> float:
    planned = plan(g, program.chip, activity=activity)
    assert planned.cost is not None
    return planned.cost.total_nj


def test_the_plan_costs_what_a_run_of_that_activity_costs() -> None:
    g = layers(100, 80)
    made = Accelerator(compile(g, PCM), 0)
    made.program()
    x = torch.zeros(4, 5, 100)
    x[..., :30] = 1
    _, trace = made.run(x)
    assert energy(made.layout, 0.3, g) == pytest.approx(trace.cost.total_nj)
    assert energy(made.layout, 0.6, g) > trace.cost.total_nj


def test_a_plan_that_fails_names_every_reason() -> None:
    planned = plan(layers(300, 300), replace(PCM, tiles=3))
    assert not planned.fits
    assert planned.to_dict()["broken"] == list(planned.broken)
    assert "4 tiles" in str(planned)


def test_values_that_are_no_spikes_pass_input_converters() -> None:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([2, 4, 4])}),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flat": nir.Flatten({"input": None}, 0, 2),
        "fc": nir.Linear(draw.normal(size=(5, 8))),
        "out": nir.Output({"output": np.array([5])}),
    }
    names = list(nodes)
    pooled = nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)
    planned, plain = plan(pooled, PCM), plan(layers(8, 5), PCM)
    assert planned.cost is not None
    assert plain.cost is not None
    assert planned.cost.converters_nj > plain.cost.converters_nj
    assert planned.cost.array_nj == pytest.approx(plain.cost.array_nj)


def test_what_spiking_neurons_and_inputs_pass_on_counts_as_spikes() -> None:
    def unit(soft: bool) -> nir.NIRNode:
        return encode_snu(SNUConfig(soft=soft), 0.5, np.ones(4), dt=2.0**-10)

    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "soft": unit(soft=True),
        "scale": nir.Scale(np.full(4, 2.0)),
        "hard": unit(soft=False),
        "delay": nir.Delay(np.full(4, 2.0**-10)),
        "fc": nir.Linear(np.eye(4)),
        "out": nir.Output({"output": np.array([4])}),
    }
    g = stamp(nir.NIRGraph(nodes, list(pairwise(nodes))), 2.0**-10)
    assert spiking(graph.discretise(g)) == {"in", "hard", "delay"}


@pytest.mark.parametrize("activity", [-0.1, 1.1, float("nan")])
def test_an_activity_is_a_share(activity: float) -> None:
    with pytest.raises(ValueError, match="activity is"):
        plan(layers(3, 2), PCM, activity=activity)
