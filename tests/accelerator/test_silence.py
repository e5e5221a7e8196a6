"""A tile that has nothing to do costs nothing and adds nothing."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import HERMES, IDEAL, PCM, PCM_PULSED, Accelerator, Chip, crossbar
from snu_plugin.compiler import compile, plan
from snu_plugin.neuron import spike_bits

SPREAD = replace(PCM, adc_offset_spread=0.3, voltage_offset=0.1, output_nonlinearity=0.5)


def layer(weight: np.ndarray) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([weight.shape[1]])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([len(weight)])}),
    }
    return nir.NIRGraph(nodes, list(pairwise(nodes)))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def made_of(g: nir.NIRGraph, chip: Chip = PCM) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=1.0), 0)
    made.program()
    return made


def spikes(*shape: int, rate: float = 0.3) -> Tensor:
    return (torch.rand(*shape, generator=Generator().manual_seed(0)) < rate).float()


@pytest.mark.parametrize(
    "chip",
    [PCM, HERMES, PCM_PULSED, SPREAD, replace(PCM, bound_management=True, adc_bound=0.5)],
    ids=["PCM", "HERMES", "PCM_PULSED", "spread", "managed"],
)
@pytest.mark.parametrize("graded", [False, True])
def test_nothing_comes_out_of_silence_beside_steps_that_are_driven(
    chip: Chip, graded: bool
) -> None:
    made = made_of(layer(normal(8, 16)), chip)
    x = spikes(40, 5, 16) * (0.7 if graded else 1)
    silent = torch.rand(40, 5, generator=Generator().manual_seed(1)) < 0.5
    x[silent] = 0
    y, trace = made.run(x)
    assert not y[silent].any()
    assert float((y[~silent] != 0).float().mean()) > 0.5
    assert trace.counts["fc"].conversions == 8 * int((x != 0).any(-1).sum())


def test_a_chip_that_skips_nothing_converts_every_step_and_makes_noise() -> None:
    made = made_of(layer(normal(8, 16)), replace(PCM, skip_idle=False))
    y, trace = made.run(torch.zeros(1000, 1, 16))
    assert 0.2 < float((y != 0).float().mean()) < 0.5
    assert trace.counts["fc"].conversions == 8 * 1000
    dense, quiet = trace.cost, made_of(layer(normal(8, 16))).run(torch.zeros(1000, 1, 16))[1].cost
    assert dense.total_nj > 0
    assert quiet.total_nj == 0
    assert quiet.dense_nj == dense.dense_nj


def test_driven_steps_are_the_same_whether_idle_ones_are_skipped_or_not() -> None:
    x = spikes(40, 5, 16, rate=0.05)
    skips, all_ = (
        made_of(layer(normal(8, 16)), chip).run(x)[0]
        for chip in (PCM, replace(PCM, skip_idle=False))
    )
    busy = (x != 0).any(-1)
    assert torch.equal(skips[busy], all_[busy])


def test_each_row_of_tiles_is_idle_by_itself() -> None:
    chip = replace(PCM, tile_rows=8)
    made = made_of(layer(normal(5, 16)), chip)
    x = spikes(30, 2, 16)
    x[:10, :, 8:] = 0
    x[10:20, :, :8] = 0
    _, trace = made.run(x)
    parts = x.view(30, 2, 2, 8)
    assert trace.counts["fc"].conversions == 5 * int((parts != 0).any(-1).sum())
    assert trace.counts["fc"].active_rows == int(x.sum())


@pytest.mark.filterwarnings("ignore:more than 1% of the outputs of fc saturate")
@pytest.mark.parametrize("skip_idle", [True, False])
def test_spikes_that_are_walked_give_and_count_what_their_product_does(
    skip_idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = replace(PCM, tile_rows=128, adc_bound=0.5, skip_idle=skip_idle)
    g, x = layer(normal(100, 256)), spikes(40, 32, 256, rate=0.05)
    x[:10, :, :128] = 0
    x[20:25] = 0
    walks: list[bool] = []

    def bits(lanes: Tensor, columns: int) -> Tensor | None:
        words = spike_bits(lanes, columns)
        walks.append(words is not None)
        return words

    monkeypatch.setattr(crossbar, "spike_bits", bits)
    y, walked = made_of(g, chip).run(x)
    assert all(walks)
    monkeypatch.setattr(crossbar, "spike_bits", lambda lanes, columns: None)
    expected, multiplied = made_of(g, chip).run(x)
    assert torch.equal(y, expected)
    assert walked.counts == multiplied.counts
    assert walked.counts["fc"].saturated > 0
    driven = (x.view(40, 32, 2, 128) != 0).any(-1)
    converted = int(driven.sum()) if skip_idle else driven.numel()
    assert walked.counts["fc"].conversions == 100 * converted


def convolution(groups: int) -> nir.NIRGraph:
    kernel = normal(6, 6 // groups, 3, 3)
    nodes = {
        "in": nir.Input({"input": np.array([6, 8, 8])}),
        "conv": nir.Conv2d(None, kernel, 1, 1, 1, groups, np.zeros(6)),
        "out": nir.Output({"output": np.array([6, 8, 8])}),
    }
    return nir.NIRGraph(nodes, list(pairwise(nodes)), type_check=False)


@pytest.mark.parametrize("chip", [IDEAL, PCM], ids=["IDEAL", "PCM"])
def test_every_vector_of_a_batch_counts_its_driven_rows(chip: Chip) -> None:
    x = spikes(3, 4, 5)
    count = made_of(layer(normal(2, 5)), chip).run(x)[1].counts["fc"]
    assert count.active_rows == int(x.sum())
    assert count.conversions == 2 * int(x.any(-1).sum())


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("ideal", [False, True])
def test_a_patch_without_a_spike_is_not_converted(groups: int, ideal: bool) -> None:
    chip = replace(PCM, device=None, wire_ohm=None, dac_bits=None, adc_bits=None, output_noise=None)
    made = made_of(convolution(groups), chip if ideal else PCM)
    x = torch.zeros(2, 1, 6, 8, 8)
    x[0, 0, 0, 2, 3] = x[1, 0, 5, 7, 7] = 1
    y, trace = made.run(x)
    width, count = 6 // groups, trace.counts["conv"]
    # A pixel inside lies in 9 patches, one in the corner in 4; of its own group alone.
    assert count.conversions == (9 + 4) * width
    assert count.active_rows == 9 + 4
    first = y[0, 0].clone()
    assert first[:width, 1:4, 2:5].any()
    first[:width, 1:4, 2:5] = 0
    assert not first.any()


def test_inputs_below_half_a_step_of_the_converter_drive_nothing() -> None:
    made = made_of(layer(normal(8, 16)))
    y, trace = made.run(torch.full((4, 1, 16), 0.3 / 127))
    assert not y.any()
    assert trace.counts["fc"].conversions == trace.counts["fc"].active_rows == 0


def test_columns_of_zeros_are_not_converted_until_a_pulse_moves_them(tmp_path: Path) -> None:
    weight = normal(8, 16)
    weight[3] = 0
    weight[5, :8] = 0
    made = made_of(layer(weight), replace(PCM, tile_rows=8))
    made.wait(1e4)
    made.calibrate()
    x = spikes(30, 4, 16)
    y, trace = made.run(x)
    assert not y[..., 3].any()
    parts = (x.view(30, 4, 2, 8) != 0).any(-1).sum((0, 1))
    assert trace.counts["fc"].conversions == int(6 * parts[0] + 7 * parts[1])
    assert float(made.registers["fc.gain"][3]) == 1
    counts = torch.zeros(8, 16, dtype=torch.int32)
    counts[3, 2] = 5
    made.pulse({"fc": counts})
    made.save(tmp_path / "chip.npz")
    for one in (made, Accelerator.load(tmp_path / "chip.npz")):
        assert one.run(x)[0][..., 3].any()
        assert float(one.state.holds["fc"].sum()) == 6 + 7 + 1


def test_the_plan_of_a_silent_network_is_one_that_costs_nothing() -> None:
    quiet = plan(layer(normal(8, 16)), PCM, dt=1.0, activity=0.0)
    dense = plan(layer(normal(8, 16)), replace(PCM, skip_idle=False), dt=1.0, activity=0.0)
    assert quiet.cost is not None
    assert dense.cost is not None
    assert quiet.cost.total_nj == 0 < dense.cost.total_nj
    half = plan(layer(normal(8, 2)), PCM, dt=1.0, activity=0.5)
    full = plan(layer(normal(8, 2)), PCM, dt=1.0, activity=1.0)
    assert half.cost is not None
    assert full.cost is not None
    assert half.cost.digital_nj == pytest.approx(0.75 * full.cost.digital_nj, rel=1e-3)
