"""What a run and a writing cost: closed forms of what was counted."""

from dataclasses import replace
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.accelerator.devices.model import RESET_PJ, SET_PJ
from snu_plugin.accelerator.energy import (
    ARRAY_SHARE,
    CORE_MM2,
    DENSE_NJ,
    DIGITAL_SHARE,
    INPUT_SHARE,
    OUTPUT_SHARE,
    READ_PJ,
    dense_parts,
    expected_writing,
    first_writing,
    writing,
)
from snu_plugin.compiler import compile


def layer(inputs: int, outputs: int) -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Linear(draw.normal(size=(outputs, inputs))),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    return nir.NIRGraph(nodes, list(pairwise(nodes)))


def chip_of(inputs: int, outputs: int, chip: Chip = PCM) -> Accelerator:
    made = Accelerator(compile(layer(inputs, outputs), chip))
    made.program()
    return made


def test_the_split_of_the_anchor_is_whole() -> None:
    assert sum((ARRAY_SHARE, INPUT_SHARE, OUTPUT_SHARE, DIGITAL_SHARE)) == pytest.approx(1)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (128, 256), (512, 128)])
def test_a_tile_of_another_size_pays_for_its_lines_and_its_cells(rows: int, columns: int) -> None:
    chip = replace(PCM, tile_rows=rows, tile_columns=columns)
    _, trace = chip_of(rows, columns, chip).run(torch.full((2, 1, rows), 0.5))
    array = 12.5 * ARRAY_SHARE * rows * columns / 256**2
    lines = 12.5 / 256 * (INPUT_SHARE * rows + (OUTPUT_SHARE + DIGITAL_SHARE) * columns)
    assert trace.cost.dense_nj == pytest.approx(array + lines)
    assert trace.cost.used_nj == pytest.approx(trace.cost.dense_nj)
    assert trace.cost.total_nj == pytest.approx(trace.cost.dense_nj)


@pytest.mark.parametrize(
    ("inputs", "outputs", "tiles"), [(256, 256, 1), (512, 256, 2), (256, 512, 2)]
)
def test_dense_tiles_cost_the_anchor_each(inputs: int, outputs: int, tiles: int) -> None:
    _, trace = chip_of(inputs, outputs).run(torch.full((2, 1, inputs), 0.5))
    assert trace.cost.total_nj == pytest.approx(tiles * 12.5)
    assert trace.cost.dense_nj == pytest.approx(tiles * 12.5)
    assert trace.cost.parts_nj == pytest.approx(dense_parts(trace.cost.dense_nj))
    assert trace.cost.tops_per_w == pytest.approx(10.5, rel=0.002)
    assert trace.cost.area_mm2 == pytest.approx(tiles * CORE_MM2)


@pytest.mark.filterwarnings("ignore:more than 1%")
def test_an_area_and_a_time_are_those_that_were_published() -> None:
    operations = 2 * 256 * 256
    assert operations / 130e-9 / CORE_MM2 == pytest.approx(1.59e12, rel=1e-3)
    for step_ns in (133.0, 521.0):
        _, trace = chip_of(256, 256, replace(PCM, step_ns=step_ns)).run(torch.ones(1, 1, 256))
        assert trace.cost.latency_us == pytest.approx(step_ns * 1e-3)


def test_spikes_spare_the_array_and_the_input_converters_and_nothing_else() -> None:
    made = chip_of(100, 80)
    x = torch.zeros(4, 3, 100)
    x[..., :30] = 1
    _, trace = made.run(x)
    spent = trace.cost
    assert spent.array_nj == pytest.approx(30 * 80 / 256**2 * DENSE_NJ * ARRAY_SHARE)
    assert spent.converters_nj == pytest.approx(80 / 256 * DENSE_NJ * OUTPUT_SHARE)
    assert spent.digital_nj == pytest.approx(80 / 256 * DENSE_NJ * DIGITAL_SHARE)
    assert spent.operations == 2 * 100 * 80


def test_an_inference_is_its_steps() -> None:
    _, trace = chip_of(20, 10).run(torch.ones(7, 3, 20))
    step, whole = trace.cost, trace.inference
    assert whole.total_nj == pytest.approx(7 * step.total_nj)
    assert whole.dense_nj == pytest.approx(7 * step.dense_nj)
    assert whole.latency_us == pytest.approx(7 * step.latency_us)
    assert whole.area_mm2 == step.area_mm2
    assert whole.tops_per_w == pytest.approx(step.tops_per_w)


@pytest.mark.filterwarnings("ignore:more than 1%")
def test_a_repeated_product_is_paid_again() -> None:
    once = chip_of(40, 10, replace(PCM, adc_bound=0.5))
    again = chip_of(40, 10, replace(PCM, adc_bound=0.5, bound_management=True))
    spent = [chip.run(torch.ones(3, 2, 40))[1] for chip in (once, again)]
    repeats = spent[1].counts["fc"].repeats / 6
    assert repeats >= 1
    for part in ("converters_nj", "digital_nj", "latency_us"):
        first, second = (getattr(trace.cost, part) for trace in spent)
        assert second == pytest.approx(first * (1 + repeats))


def test_writing_is_what_its_pulses_and_readings_are() -> None:
    spent = writing(PCM, 1000, 200, 500)
    assert spent.energy_nj == pytest.approx(1e-3 * (1000 * SET_PJ + 200 * RESET_PJ + 500 * READ_PJ))
    assert spent.seconds == pytest.approx(1200 * 100e-9 + 500 * 133e-9)


def test_writing_by_pulses_is_counted_and_about_what_is_expected() -> None:
    made = chip_of(30, 20, PCM_PULSED)
    spent = first_writing(made.layout, *made.worn)
    assert (spent.sets, spent.resets) == made.worn
    assert spent.sets + spent.resets == made.pulses == spent.reads
    expected = expected_writing(made.layout)
    assert expected.resets == made.layout.devices < spent.resets
    assert 0.5 < spent.energy_nj / expected.energy_nj < 2


def test_writing_by_statistics_costs_what_is_expected() -> None:
    made = chip_of(30, 20, PCM)
    assert made.worn == (0, 0)
    assert first_writing(made.layout, *made.worn) == expected_writing(made.layout)


def test_linear_pulses_are_expected_in_whole_steps() -> None:
    layout = compile(layer(30, 20), replace(IDEAL, pulse_step_us=0.5))
    steps = sum(int((op.targets_us() / 0.5).round().sum()) for op in layout.products.values())
    assert expected_writing(layout).sets == steps


def test_every_assumption_is_in_the_output() -> None:
    _, trace = chip_of(4, 3).run(torch.ones(1, 1, 4))
    said = " ".join(trace.cost.assumptions)
    for word in ("12.5 nJ", "27%", "extrapolation", "0.634 mm²", "4.5 pJ a SET", "assumed"):
        assert word in said
