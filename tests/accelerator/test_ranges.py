"""Ranges of converters from data, and what is said of those that saturate."""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip, Program
from snu_plugin.accelerator.periphery import Converter
from snu_plugin.accelerator.ranges import Magnitudes
from snu_plugin.compiler import compile, plan

draw = np.random.default_rng


def chain(**layers: nir.NIRNode) -> nir.NIRGraph:
    return nir.NIRGraph(layers, list(pairwise(layers)), type_check=False)


def layer(weight: np.ndarray) -> nir.NIRGraph:
    return chain(
        **{"in": nir.Input({"input": np.array([weight.shape[1]])})},
        fc=nir.Linear(weight),
        out=nir.Output({"output": np.array([len(weight)])}),
    )


def pooled() -> nir.NIRGraph:
    return chain(
        **{"in": nir.Input({"input": np.array([1, 4, 4])})},
        pool=nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        flat=nir.Flatten({"input": np.array([1, 2, 2])}, 0, 2),
        fc=nir.Linear(draw(0).normal(size=(6, 4))),
        out=nir.Output({"output": np.array([6])}),
    )


def spikes(*shape: int, rate: float = 0.4, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=Generator().manual_seed(seed)) < rate).float()


def made_of(program: Program, seed: int = 0) -> Accelerator:
    made = Accelerator(program, seed)
    made.program()
    return made


def lost(values: Tensor, end: float, bits: int) -> float:
    """Squared error of a converter that ends there, summed."""
    step, last = Converter.of(bits, end)
    return float(((values / step).round().clamp(-last, last) * step - values).square().sum())


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "even"])
def test_the_end_of_a_range_is_where_least_is_lost(bits: int, kind: str) -> None:
    z = torch.randn(20_000, generator=Generator().manual_seed(0), dtype=torch.float64)
    values = {
        "normal": z,
        "heavy": z * (0.8 * z.abs()).exp(),
        "sparse": z * (torch.arange(20_000) % 10 == 0),
        "even": (z / 3).erf(),
    }[kind]
    seen = Magnitudes()
    for first in range(0, len(values), 7_000):
        seen.add(values[first : first + 7_000])
    found = seen.best_end(bits)
    assert found is not None
    assert found <= float(values.abs().max())
    ends = values.abs().max() * torch.logspace(-2, 0, 200, dtype=torch.float64)
    best = min(lost(values, float(end), bits) for end in ends)
    assert lost(values, found, bits) < 1.1 * best


def test_where_nothing_was_met_there_is_no_range_of_its_own() -> None:
    seen = Magnitudes()
    seen.add(torch.zeros(5))
    assert seen.best_end(8) is None
    program = compile(layer(draw(0).normal(size=(4, 8))), PCM, dt=1.0, sample=torch.zeros(3, 2, 8))
    assert (program.ranges or {})["fc"] == (1.0, 10.0, 1.0)


def test_sums_of_spikes_are_not_clipped_where_data_set_the_range() -> None:
    x = spikes(20, 8, 1, 4, 4)
    program = compile(pooled(), PCM, dt=1.0, sample=x)
    bound = program.products["fc"].chip.dac_bound
    assert 3.8 < bound <= 4
    _, trace = made_of(program).run(x)
    assert trace.saturation["fc"].inputs < 0.01
    assert trace.saturation["fc"].outputs < 0.01
    with pytest.warns(UserWarning, match="more than 1% of the inputs of fc saturate.* dac_bound"):
        _, clipped = made_of(compile(pooled(), PCM, dt=1.0)).run(x)
    sums = x.view(20, 8, 2, 2, 2, 2).sum((3, 5))
    assert clipped.saturation["fc"].inputs == pytest.approx(
        float((sums > 1).float().mean()), rel=1e-6
    )


def test_the_sums_of_a_range_from_data_are_nearer_to_the_exact_ones() -> None:
    weight = draw(0).normal(size=(40, 200))
    x = spikes(20, 8, 200, rate=0.9)
    right = x @ torch.from_numpy(weight).float().T
    errors = []
    for sample in (None, spikes(5, 4, 200, rate=0.9, seed=1)):
        # Devices without error: what is left is that of the converters.
        chip = replace(PCM, device=None, wire_ohm=None, adc_bound=2.0)
        program = compile(layer(weight), chip, dt=1.0, sample=sample)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y, trace = made_of(program).run(x)
        errors.append(float((y - right).std() / right.std()))
    assert trace.saturation["fc"].outputs < 0.01
    assert errors[1] < 0.02 < 0.3 < errors[0]


def test_a_program_says_where_its_ranges_are_from_and_a_chip_keeps_them(tmp_path: Path) -> None:
    x = spikes(10, 4, 1, 4, 4)
    default, program = (compile(pooled(), PCM, dt=1.0, sample=s) for s in (None, x))
    assert "default ranges: fc dac_bound 1 adc_bound 10;" in str(default)
    assert "ranges from data: fc dac_bound" in str(program)
    assert not any("ranges" in note for note in compile(pooled(), IDEAL, dt=1.0).notes)
    made = made_of(program)
    made.save(tmp_path / "chip.npz")
    again = Accelerator.load(tmp_path / "chip.npz")
    assert str(again.layout) == str(program)
    assert again.layout.ranges == program.ranges
    assert torch.equal(again.run(x)[0], made.run(x)[0])


def test_ranges_from_the_same_sample_are_the_same_and_the_chip_is_not_touched() -> None:
    x = spikes(10, 4, 1, 4, 4)
    one, two = (compile(pooled(), PCM, dt=1.0, sample=x) for _ in range(2))
    assert one.ranges == two.ranges
    cells = [made_of(p).state.cells["fc"].g_us for p in (one, compile(pooled(), PCM, dt=1.0))]
    assert torch.equal(*cells)


def test_every_layer_has_a_range_of_its_own_also_in_a_loop() -> None:
    nodes = {
        "in": nir.Input({"input": np.array([10])}),
        "fc": nir.Linear(draw(0).normal(size=(12, 10))),
        "lif": nir.LIF(*(v * np.ones(12) for v in (4, 4, 0, 1, 0))),
        "back": nir.Linear(draw(1).normal(size=(12, 12))),
        "read": nir.Linear(draw(2).normal(size=(3, 12))),
        "out": nir.Output({"output": np.array([3])}),
    }
    edges = [
        ("in", "fc"),
        ("fc", "lif"),
        ("lif", "back"),
        ("back", "lif"),
        ("lif", "read"),
        ("read", "out"),
    ]
    program = compile(nir.NIRGraph(nodes, edges), PCM, dt=1.0, sample=spikes(30, 8, 10))
    ends = {name: op.chip.adc_bound for name, op in program.products.items()}
    assert set(ends) == {"fc", "back", "read"}
    assert len(set(ends.values())) == 3
    _, trace = made_of(program).run(spikes(30, 8, 10, seed=1))
    assert all(shares.outputs < 0.01 for shares in trace.saturation.values())


@pytest.mark.parametrize(
    "chip",
    [
        PCM,
        replace(PCM, adc_bound=0.3),
        replace(PCM, adc_bound=0.3, bound_management=True),
        replace(PCM, input_scaling="absmax", adc_bound=0.3),
        replace(PCM, skip_idle=False, dac_bound=0.1),
        replace(PCM, tile_rows=3, dac_bits=4, adc_bits=3),
        IDEAL,
    ],
)
@pytest.mark.filterwarnings("ignore:more than 1%")
def test_a_share_is_a_share(chip: Chip) -> None:
    x = 5 * torch.randn(8, 3, 9, generator=Generator().manual_seed(0))
    _, trace = made_of(compile(layer(draw(0).normal(size=(4, 9))), chip, dt=1.0)).run(x)
    for share in (trace.saturated, *trace.saturation["fc"]):
        assert 0 <= share <= 1
    assert trace.saturated > 0 or chip in (IDEAL, PCM)


def test_few_saturated_conversions_are_no_warning() -> None:
    x = torch.zeros(100, 8, 16)
    x[:, :, 0] = 0.5
    x[0, 0, 1] = 3.0
    made = made_of(compile(layer(draw(0).normal(size=(4, 16))), PCM, dt=1.0))
    _, trace = made.run(x)
    assert 0 < trace.saturation["fc"].inputs < 0.01
    assert not trace.warnings


def test_data_unlike_the_sample_are_told_to_set_the_ranges_again() -> None:
    x = spikes(20, 8, 1, 4, 4, rate=0.05)
    made = made_of(compile(pooled(), PCM, dt=1.0, sample=x))
    with pytest.warns(UserWarning, match="differ from the sample that set the ranges"):
        made.run(torch.ones(5, 2, 1, 4, 4))


@pytest.mark.parametrize("rate", [0.005, 0.05, 0.9])
def test_calibration_on_ranges_from_data_brings_the_products_nearer(rate: float) -> None:
    """Sparse data set short ranges, which a tenth of ones would leave."""
    weight = draw(0).normal(size=(50, 250))
    sample = spikes(40, 32, 250, rate=rate)
    x = spikes(40, 32, 250, rate=rate, seed=1)
    right = x @ torch.from_numpy(weight).float().T
    made = made_of(compile(layer(weight), PCM, dt=1.0, sample=sample))
    made.wait(30 * 86_400.0)

    def error() -> float:
        return float((made.run(x)[0] - right).square().mean())

    before = error()
    made.calibrate()
    assert error() < before
    assert float(made.registers["fc.gain"].mean()) == pytest.approx(1.80, rel=0.03)


def test_calibration_looks_at_no_probe_that_a_converter_clips() -> None:
    """All weights positive: probes with a tenth of ones add up beyond the default range."""
    weight = np.abs(draw(0).normal(size=(20, 250))) + 3
    chip = replace(PCM, drift=None, read_noise=None, programming_noise=None, wire_ohm=None)
    made = made_of(compile(layer(weight), replace(chip, adc_bound=18.0), dt=1.0))
    made.calibrate()
    torch.testing.assert_close(made.registers["fc.gain"], torch.ones(20), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("sample", "said"),
    [(torch.ones(3, 2, 5), r"it must be \(T, B, 4\)"), (torch.ones(0, 2, 4), "at least one step")],
)
def test_a_sample_that_the_graph_does_not_take_is_refused(sample: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compile(layer(np.ones((2, 4))), PCM, dt=1.0, sample=sample)


def test_a_plan_warns_of_what_may_be_clipped_and_with_a_sample_says_what_is() -> None:
    without = plan(pooled(), PCM, dt=1.0)
    assert "inputs of fc reach 4 and saturate at dac_bound 1" in str(without)
    assert without.to_dict()["saturation"] is None
    x = spikes(20, 8, 1, 4, 4)
    found = plan(pooled(), PCM, dt=1.0, sample=x)
    assert "ranges from data" in str(found)
    assert "inputs and outputs that saturate: fc 0.0" in str(found)
    assert found.to_dict()["warnings"] == []
    assert set(found.to_dict()["saturation"]["fc"]) == {"inputs", "outputs"}
    assert not plan(pooled(), replace(PCM, dac_bound=4.0), dt=1.0).warnings
    assert not plan(pooled(), IDEAL, dt=1.0).warnings


def test_a_plan_counts_what_data_drive_and_as_many_steps_as_they_have() -> None:
    x = spikes(20, 8, 1, 4, 4)
    found = plan(pooled(), PCM, dt=1.0, sample=x)
    chip = Accelerator(compile(pooled(), PCM, dt=1.0, sample=x))
    chip.program()
    assert found.cost is not None
    assert found.cost.total_nj == chip.run(x)[1].cost.total_nj
    assert (found.activity, found.steps) == (None, 20)
    assert "as the data drive it" in str(found)
    assert not any("given share of rows" in line for line in found.to_dict()["assumptions"])
    given = plan(pooled(), PCM, dt=1.0, sample=x, activity=0.5, steps=3)
    assert given.cost == plan(pooled(), PCM, dt=1.0, activity=0.5).cost
    assert (given.activity, given.steps) == (0.5, 3)
    assert plan(pooled(), PCM, dt=1.0).steps == 100


@pytest.mark.parametrize("size", [1e-6, 1e-3, 255.0, 1e6])
def test_in_which_units_inputs_come_makes_no_difference_to_what_they_lose(size: float) -> None:
    weight = draw(0).normal(0, 0.5, size=(20, 300))
    x = torch.rand(20, 4, 300, generator=Generator().manual_seed(0))
    right = x @ torch.from_numpy(weight).float().T
    lost = []
    for unit in (1.0, size):
        program = compile(layer(weight), PCM, dt=1.0, sample=x * unit)
        made = made_of(program)
        made.calibrate()
        lost.append(float((made.run(x * unit)[0] / unit - right).std() / right.std()))
        assert (program.ranges or {})["fc"].adc_bound < 30  # full pulses
    assert lost[1] == pytest.approx(lost[0], rel=0.05)
    assert lost[0] < 0.2


def test_a_spike_is_a_full_pulse_wherever_the_range_of_other_inputs_ends() -> None:
    chip = replace(PCM, device=None, read_noise=None, wire_ohm=None, adc_bits=None, dac_bound=0.5)
    made = made_of(compile(layer(np.ones((1, 1))), chip, dt=1.0))
    x = torch.cat((torch.ones(4000, 1, 1), torch.full((4000, 1, 1), 0.5)))
    noise = made.run(x)[0] - x
    assert float(noise[:4000].std()) == pytest.approx(0.04, rel=0.06)
    assert float(noise[4000:].std()) == pytest.approx(0.02, rel=0.06)
