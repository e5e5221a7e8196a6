"""What everything costs, by what it was spent on: against calculations by hand."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import PCM, PCM_PULSED, Accelerator, Chip, expected_writing
from snu_plugin.compiler import compile

# By hand: 12.5 nJ for 256 x 256 pairs, 27 % array, 10 % inputs, 50 % outputs, 13 % digital.
CELL_NJ = 12.5 * 0.27 / 65_536
INPUT_NJ, OUTPUT_NJ, DIGITAL_NJ = 12.5 * 0.10 / 256, 12.5 * 0.50 / 256, 12.5 * 0.13 / 256
READ_NJ = 6.25 / 256


def chain(*named: tuple[str, nir.NIRNode]) -> nir.NIRGraph:
    return nir.NIRGraph(dict(named), list(pairwise(n for n, _ in named)), type_check=False)


def port(*shape: int) -> tuple[nir.NIRNode, nir.NIRNode]:
    return nir.Input({"input": np.array(shape)}), nir.Output({"output": np.array(shape)})


def chorales() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    lif = nir.LIF(*(v * np.ones(150) for v in (4, 4, 0, 1e9, 0)))
    return chain(
        ("in", port(88)[0]),
        ("fc1", nir.Linear(draw.normal(size=(150, 88)))),
        ("lif", lif),
        ("fc2", nir.Linear(draw.normal(size=(88, 150)))),
        ("out", port(88)[1]),
    )


def image() -> nir.NIRGraph:
    kernel = np.random.default_rng(0).normal(size=(4, 2, 3, 3))
    conv = nir.Conv2d(None, kernel, 1, 0, 1, 1, np.zeros(4))
    return chain(("in", port(2, 6, 6)[0]), ("conv", conv), ("out", port(4, 4, 4)[1]))


def wide() -> nir.NIRGraph:
    weight = np.random.default_rng(0).normal(size=(300, 400))
    return chain(("in", port(400)[0]), ("fc", nir.Linear(weight)), ("out", port(300)[1]))


def made_of(g: nir.NIRGraph, chip: Chip = PCM) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=1.0), 0)
    made.program()
    return made


def test_a_run_of_the_chorale_network_costs_what_its_spikes_drive() -> None:
    made = made_of(chorales())
    x = torch.zeros(10, 2, 88)
    x[:5, :, :7] = 1  # half of the steps are silent, no hidden unit ever fires
    _, trace = made.run(x)
    busy = 5 * 2
    array = busy * 7 * 150 * CELL_NJ
    converted = busy * 150
    expected = array + converted * (OUTPUT_NJ + DIGITAL_NJ)
    assert made.spent["run"].energy_nj == pytest.approx(expected)
    assert made.spent["run"].conversions == converted
    assert made.spent["run"].seconds == pytest.approx(20 * 2 * 133e-9)
    assert trace.cost.total_nj == pytest.approx(expected / 20)
    # Side by side: rows and columns in use, and whole tiles, at every step.
    used = 2 * 150 * 88 * CELL_NJ + 238 * INPUT_NJ + 238 * (OUTPUT_NJ + DIGITAL_NJ)
    assert trace.cost.used_nj == pytest.approx(used)
    assert trace.cost.dense_nj == pytest.approx(25.0)
    shown = trace.cost.to_dict(10)["energy_nj_per_step"]
    assert shown["leakage"] is None
    assert {"array", "converters", "digital", "total", "used_dense", "dense"} <= set(shown)


def test_a_run_of_a_convolution_costs_what_its_patches_drive() -> None:
    made = made_of(image())
    x = torch.zeros(1, 1, 2, 6, 6)
    x[..., 0, 2, 2] = 1  # lies in 9 of the 16 patches
    made.run(x)
    expected = 9 * 4 * CELL_NJ + 9 * 4 * (OUTPUT_NJ + DIGITAL_NJ)
    assert made.spent["run"].energy_nj == pytest.approx(expected)
    assert made.spent["run"].seconds == pytest.approx(16 * 133e-9)


def test_a_run_of_a_matrix_on_several_tiles_pays_the_inputs_of_each() -> None:
    made = made_of(wide())  # 2 rows of tiles of 200 inputs, 2 columns of 150 outputs
    made.run(torch.full((1, 3, 400), 0.5))
    outputs, inputs = 2 * 300, 2 * 400
    by_step = 400 * 300 * CELL_NJ + inputs * INPUT_NJ + outputs * (OUTPUT_NJ + DIGITAL_NJ)
    assert made.spent["run"].energy_nj == pytest.approx(3 * by_step)
    assert made.spent["run"].conversions == 3 * outputs


@pytest.mark.filterwarnings("ignore:more than 1%")
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_every_device_of_a_weight_is_paid(devices: int) -> None:
    made = made_of(wide(), replace(PCM, devices_per_weight=devices))
    _, trace = made.run(torch.ones(1, 1, 400))
    columns = 300 * devices + (2 if devices == 1 else 0)  # a reference column for each tile
    assert trace.cost.array_nj == pytest.approx(400 * columns / 2 * CELL_NJ)
    array = 4 * 65_536 * devices / 2 * CELL_NJ
    assert trace.cost.dense_array_nj == pytest.approx(array)
    assert trace.cost.dense_nj == pytest.approx(4 * 12.5 * 0.73 + array)
    made.read_weights()
    cells = 300 * 400 * devices + (2 * 400 if devices == 1 else 0)
    assert made.spent["read"].energy_nj == pytest.approx(cells * READ_NJ)


def test_reading_all_52_800_devices_takes_what_use_has_shown() -> None:
    made = made_of(chorales())
    made.read_weights()
    made.read_weights()
    read = made.spent["read"]
    assert (read.times, read.readings) == (2, 105_600)
    assert read.energy_nj == pytest.approx(2580, rel=0.01)  # 2.6 µJ for two
    assert read.seconds == pytest.approx(2 * 150 * 133e-9)


def test_writing_is_counted_where_the_model_pulses_and_else_said_to_be_estimated() -> None:
    counted, guessed = (made_of(wide(), chip) for chip in (PCM_PULSED, PCM))
    spent = counted.spent["program"]
    assert (spent.sets, spent.resets) == counted.worn
    assert not spent.estimated
    pulses = spent.sets + spent.resets
    energy = spent.sets * 4.5e-3 + spent.resets * 30e-3 + pulses * READ_NJ
    assert spent.energy_nj == pytest.approx(energy)
    assert guessed.spent["program"].estimated
    expected = expected_writing(guessed.layout)
    assert guessed.spent["program"].energy_nj == pytest.approx(expected.energy_nj)


def test_pulses_resets_and_probes_are_booked_apart(tmp_path: Path) -> None:
    made = made_of(wide())
    counts = torch.zeros(300, 400, dtype=torch.int32)
    counts[:2, :5] = 3
    made.pulse({"fc": counts})
    made.reset({"fc": counts > 0})
    assert made.spent["pulse"].energy_nj == pytest.approx(30 * 4.5e-3)
    assert made.spent["reset"].energy_nj == pytest.approx(20 * 30e-3)
    before = made.clock_s
    made.calibrate(probe_count=64, reads=2)
    took = made.spent["calibration"]
    assert took.conversions == 2 * 64 * 600
    assert took.energy_nj is not None
    assert took.energy_nj > took.conversions * (OUTPUT_NJ + DIGITAL_NJ)
    assert took.seconds == pytest.approx(made.clock_s - before)
    assert set(made.spent) == {"program", "pulse", "reset", "calibration"}
    made.save(tmp_path / "chip.npz")
    assert Accelerator.load(tmp_path / "chip.npz").spent == made.spent


def test_what_nobody_knows_is_none_and_never_0() -> None:
    made = made_of(wide())
    made.wait(10.0)
    assert made.spent["wait"].energy_nj is None
    assert made.spent["wait"].text() == "no energy known, 10 s"
    made.calibrate(method="ideal")
    made.calibrate()
    assert made.spent["calibration"].energy_nj is None
