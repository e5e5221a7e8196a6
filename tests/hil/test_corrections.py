"""Digital corrections beside layers, from read-back alone: no training, no label, no pulse."""

from dataclasses import replace
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from small_graphs import DT, layered
from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip, adapter_of
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import Correct, DigitalOnly, Recalibrate, fine_tune, shown_inputs
from snu_plugin.hil.adapters import confirmed
from snu_plugin.hil.forward import input_moments
from snu_plugin.neuron import SNUConfig

WRITTEN = replace(PCM, output_noise=None, adc_bits=None, dac_bits=None, wire_ohm=None)
"""Devices alone."""


def images() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([2, 7, 5])}),
        "conv": nir.Conv2d(None, draw.normal(0, 0.5, (4, 2, 3, 3)), (2, 1), (1, 0), 1, 1, None),
        "snu": encode_snu(SNUConfig(), 0.6, np.full((4, 4, 3), 0.5), dt=DT),
        "flat": nir.Flatten({"input": None}, 0, 2),
        "fc": nir.Linear(draw.normal(0, 0.3, (3, 48))),
        "out": nir.Output({"output": np.array([3])}),
    }
    edges = [("in", "conv"), ("conv", "snu"), ("snu", "flat"), ("flat", "fc"), ("fc", "out")]
    nodes["conv"].bias = np.zeros(4)
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip), seed)
    made.program()
    return made


def spikes(chip: Accelerator, steps: int = 12, batch: int = 3) -> Tensor:
    (name,) = chip.layout.inputs
    shape = (steps, batch, *chip.layout.shapes[name])
    return (torch.rand(shape, generator=Generator().manual_seed(7)) < 0.4).float()


def off(chip: Accelerator, x: Tensor) -> float:
    """By how much the crossbars' products differ from the weights', a share of their size."""
    apart, size = 0.0, 0.0
    _, trace = chip.run(x, record=True)
    x = x.flatten(2)
    for name, op in chip.layout.products.items():
        if op.weight.shape[1] == x.shape[-1]:
            right = x @ op.whole.float().T
            apart += float((trace.products[name].flatten(2) - right).square().sum())
            size += float(right.square().sum())
    return float((apart / size) ** 0.5)


@pytest.mark.parametrize("recurrent", [False, True])
def test_what_devices_lack_is_added_without_training(recurrent: bool) -> None:
    left = []
    for seed in range(4):  # of eight chips .51 to .74 were left
        chip = chip_of(layered(recurrent=recurrent), WRITTEN, seed)
        chip.wait(86_400.0)
        chip.calibrate()
        x, pulses = spikes(chip, 30, 20), chip.pulses
        before = off(chip, x)
        Correct(rank=8, sample=spikes(chip, 12, 8)).begin(chip)
        left.append(off(chip, x) / before)
        assert chip.pulses == pulses
    assert max(left) < 0.85
    assert sum(left) / 4 < 0.7


@pytest.mark.parametrize(("pause_s", "most"), [(None, 0.95), (60.0, 1.05)])
def test_a_chip_written_seconds_ago_is_corrected(pause_s: float | None, most: float) -> None:
    """In a quarter of an hour its devices drift by a sixth, which gains make up for.

    Left of what six chips were off: .71 to .92, and with a minute between readings .83 to 1.10 of
    what it was a quarter of an hour before; recalibrated then .68 to .78, and .73 to .95.
    """
    for seed in range(4):
        chip = chip_of(layered(), WRITTEN, seed)
        chip.calibrate()
        x = spikes(chip, 30, 20)
        before = off(chip, x)
        Correct(rank=8, sample=spikes(chip, 12, 8), pause_s=pause_s).begin(chip)
        assert chip.age_s < (25 if pause_s is None else 1000)
        assert off(chip, x) < most * before
        chip.calibrate()
        assert off(chip, x) < most * before


def test_a_correction_of_full_rank_without_read_noise_makes_devices_exact() -> None:
    chip = chip_of(layered(), replace(WRITTEN, read_noise=None))
    chip.wait(86_400.0)
    chip.calibrate(probe_count=2**16)
    assert off(chip, spikes(chip)) > 0.05
    Correct(rank=100, reads=2, pause_s=0.0).begin(chip)
    assert off(chip, spikes(chip)) < 1e-3  # by the draw of the probes
    assert len(chip.registers["fc2.adapter_in"]) == 6  # the smaller side of the matrix


def test_what_gains_make_up_for_beside_the_devices_is_not_corrected() -> None:
    """Readings do not show by how much the output converters of columns differ."""
    uneven = replace(WRITTEN, adc_gain_spread=0.1)
    exact = replace(uneven, programming_noise=None, drift=None, read_noise=None)
    for devices, most in ((uneven, 0.8), (exact, 1e-3)):
        chip = chip_of(layered(), devices)
        chip.wait(86_400.0)
        x, apart = spikes(chip, 30, 20), off(chip, spikes(chip, 30, 20))
        chip.calibrate()
        before = off(chip, x)
        Correct(rank=8, sample=spikes(chip, 12, 8)).begin(chip)
        assert off(chip, x) < most * max(before, 0.5 * apart)


def test_exact_devices_are_not_corrected() -> None:
    chip = chip_of(layered(), IDEAL)
    x = spikes(chip)
    right, _ = chip.run(x)
    Correct(sample=x).begin(chip)
    torch.testing.assert_close(chip.run(x)[0], right)


def test_noise_of_readings_is_not_added() -> None:
    """Half of the readings know nothing of the noise of the other half."""
    draw = Generator().manual_seed(0)
    one, other = (torch.randn(40, 30, generator=draw).double() for _ in range(2))
    into, out = confirmed(one, other, None, 8)
    assert float((out @ into).square().sum()) < 0.02 * float(one.square().sum())
    alone = torch.linalg.svdvals(one)[:8].square().sum()
    assert float(alone) > 0.4 * float(one.square().sum())


def test_the_error_that_two_measurements_share_is_found() -> None:
    draw = Generator().manual_seed(0)
    sides = (torch.randn(shape, generator=draw).double() for shape in ((40, 3), (3, 30)))
    error = next(sides) @ next(sides)
    moment = torch.diag(torch.linspace(0, 1, 30, dtype=torch.float64))
    for weighed in (None, moment):
        into, out = confirmed(error, error, weighed, 3)
        torch.testing.assert_close(out @ into, error)


def test_inputs_that_come_more_often_count_for_more() -> None:
    draw = Generator().manual_seed(0)
    error = torch.randn(20, 30, generator=draw).double()
    power = torch.full((30,), 1e-3, dtype=torch.float64)
    power[:5] = 1.0
    left = []
    for moment in (None, torch.diag(power)):
        into, out = confirmed(error, error, moment, 5)
        rest = (error - out @ into)[:, :5]
        left.append(float(rest.square().sum() / error[:, :5].square().sum()))
    assert left[0] > 0.2
    assert left[1] < 0.05


@pytest.mark.parametrize("g", [layered(recurrent=True), images()], ids=["back", "images"])
def test_moments_are_those_of_what_crossbars_are_given(g: object) -> None:
    chip = chip_of(g, IDEAL)
    x = spikes(chip)
    found = input_moments(chip, x)
    (name,) = (n for n in found if n in ("fc1", "conv"))
    rows = chip.layout.products[name].geometry.rows(x).flatten(0, -2).double()
    torch.testing.assert_close(found[name], rows.T @ rows / len(rows))
    assert set(found) == set(chip.layout.products)
    if "rec" in found:  # what it is given is given to fc2, too, a step later
        assert float((found["rec"] - found["fc2"]).abs().max()) <= 1 / len(x)


def test_a_correction_leaves_with_the_network_and_is_not_trained_away() -> None:
    chip = chip_of(layered(), PCM)
    chip.wait(86_400.0)
    x = spikes(chip, 12, 24)
    labels = torch.arange(24) % 6
    batches = [(x[:, part], labels[part]) for part in torch.arange(24).chunk(4)]
    fine_tune(chip, batches, rule=[Recalibrate(), Correct(rank=4)])
    assert bool(chip.registers["fc1.adapter_out"].any())
    back = chip.to_nir()
    assert {"fc1_adapter_in", "fc2_adapter_out"} <= set(back.nodes)
    assert graph.network(back, dtype=torch.float32)(x)[0].shape == (12, 24, 6)


def test_inputs_are_shown_to_who_asks_for_them_and_has_none() -> None:
    x, own = torch.zeros(2, 1, 10), torch.ones(2, 1, 10)
    assert shown_inputs(Correct(), x).sample is x
    assert shown_inputs(Correct(sample=own), x).sample is own
    assert shown_inputs(Recalibrate(), x) == Recalibrate()
    assert shown_inputs(DigitalOnly(), x) == DigitalOnly()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"reads": 1}, "half of the readings checks the other half"),
        ({"rank": 0}, "rank is 0; it must be a positive whole number"),
        ({"where": "fc1"}, "where is 'fc1'; give 'readout', 'all' or a list"),
        ({"pause_s": -1.0}, "pause_s is -1.0; it must be a number of at least 0"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(how: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Correct(**how)


def test_a_correction_of_an_unknown_node_or_of_other_inputs_leaves_the_chip_as_it_was() -> None:
    chip = chip_of(layered(), PCM)
    clock_s = chip.clock_s
    with pytest.raises(ValueError, match="no node 'fc9' with weights; the chip has fc1, fc2"):
        Correct(where=["fc1", "fc9"]).begin(chip)
    with pytest.raises(ValueError, match=r"input in has shape \(3, 10\); it must be"):
        Correct(sample=torch.zeros(3, 10)).begin(chip)
    assert adapter_of(chip.registers, "fc1") is None
    assert chip.clock_s == clock_s
    assert np.isfinite(chip.age_s)
