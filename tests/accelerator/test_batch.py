"""Several chips as one batch: each is, bit by bit, the chip of its seed alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import (
    HERMES,
    IDEAL,
    PCM,
    PCM_PULSED,
    Accelerator,
    Batch,
    Chip,
    noise,
    periphery,
)
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10
SEEDS = (3, 0, 7)
EVERYTHING = replace(
    PCM,
    devices_per_weight=4,
    stuck_at_random=0.05,
    voltage_offset=0.01,
    adc_gain_spread=0.02,
    adc_offset_spread=0.1,
    output_nonlinearity=0.5,
    input_scaling="absmax",
    tile_rows=7,
)


def network(recurrent: bool, soft: bool = False) -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([11])}),
        "fc1": nir.Affine(draw.normal(0, 0.6, (9, 11)), draw.normal(0, 0.1, 9)),
        "snu": encode_snu(SNUConfig(soft=soft), 0.7, draw.uniform(0.5, 1.2, 9), dt=DT),
        "fc2": nir.Linear(draw.normal(0, 0.6, (5, 9))),
        "out": nir.Output({"output": np.array([5])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    if recurrent:
        nodes["rec"] = nir.Linear(draw.normal(0, 0.5, (9, 9)))
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), DT)


def images() -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(4, 1, 3, 3))
    nodes = {
        "in": nir.Input({"input": np.array([2, 6, 6])}),
        "conv": nir.Conv2d((6, 6), kernel, 1, 1, 1, 2, draw.normal(size=4)),
        "snu": encode_snu(SNUConfig(), 0.7, np.full((4, 6, 6), 0.8), dt=DT),
        "out": nir.Output({"output": np.array([4, 6, 6])}),
    }
    edges = [("in", "conv"), ("conv", "snu"), ("snu", "out")]
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def values(*shape: int) -> Tensor:
    x = torch.rand(shape, generator=Generator().manual_seed(0))
    x[::2] = (x[::2] < 0.3).float()
    return x


def live(chip: Any, x: Tensor) -> list[Any]:
    """Everything that a host can do, in turn; returns what it saw."""
    chip.program()
    first = next(iter(chip.layout.products))
    counts = torch.ones(chip.layout.products[first].weight.shape, dtype=torch.int32)
    seen = [chip.run(x, record=True)]
    chip.wait(1e5)
    chip.remember(2)
    chip.pulse({first: counts})
    chip.wait(1e3)
    chip.calibrate("tile")
    seen += [chip.run(x, step_by_step=True), chip.read_weights(), chip.read_conductances()]
    chip.reset({first: counts == 1})
    chip.calibrate(method="mean")
    return [*seen, chip.run(x), chip.registers]


def same(whole: Any, alone: Any, n: int) -> None:
    """What chip ``n`` of a batch showed is what it shows alone."""
    if isinstance(alone, Tensor):
        assert torch.equal(whole[n], alone)
    elif isinstance(alone, dict):
        for name, value in alone.items():
            assert torch.equal(whole[name][n], value), name
    else:
        (out, traces), (expected, trace) = whole, alone
        assert torch.equal(out[n], expected)
        assert traces[n].counts == trace.counts
        assert traces[n].cost == trace.cost
        assert traces[n].spikes_per_step == trace.spikes_per_step
        assert traces[n].seconds == trace.seconds
        assert traces[n].products.keys() == trace.products.keys()
        for name, product in trace.products.items():
            assert torch.equal(traces[n].products[name], product)


CASES: dict[str, tuple[nir.NIRGraph, Chip]] = {
    "PCM": (network(False), PCM),
    "recurrent PCM": (network(True), PCM),
    "sSNU on PCM": (network(True, soft=True), PCM),
    "pulsed": (network(True), PCM_PULSED),
    "HERMES": (network(False), HERMES),
    "ideal": (network(True), IDEAL),
    "every effect": (network(True), EVERYTHING),
    "bound management": (network(True), replace(PCM, bound_management=True, adc_bound=0.5)),
    "images": (images(), PCM),
}


@pytest.mark.parametrize("case", CASES)
def test_each_chip_of_a_batch_is_the_chip_of_its_seed(case: str) -> None:
    g, chip = CASES[case]
    program = compile(g, chip)
    x = values(6, 2, *program.shapes["in"])
    batch = Batch(program, SEEDS)
    shown = live(batch, x)
    for n, seed in enumerate(SEEDS):
        alone = Accelerator(program, seed)
        for whole, own in zip(shown, live(alone, x), strict=True):
            same(whole, own, n)
        assert float(batch.clocks_s[n]) == batch[n].clock_s == alone.clock_s
        assert float(batch.ages_s[n]) == alone.age_s
        assert batch[n].pulses == alone.pulses


@pytest.mark.parametrize("rows", [0, 1])
def test_a_chip_without_noise_of_its_own_does_not_move_that_of_another(rows: int) -> None:
    """Chips whose devices happen to be at 0 draw no read noise; the others must not notice."""
    g = network(True)
    g.nodes["rec"].weight[rows:] = 0
    program = compile(g, replace(PCM, programming_noise=3.0, output_noise=None))
    batch, x = Batch(program, SEEDS), values(4, 1, 11)
    batch.program()
    for n, seed in enumerate(SEEDS):
        batch[n]._cells["rec"].g_us[:] *= n  # the first of the batch has no conductance left
        alone = Accelerator(program, seed)
        alone.program()
        alone._cells["rec"].g_us[:] *= n
        batch.wait(0)
    found, _ = batch.run(x)
    for n, seed in enumerate(SEEDS):
        alone = Accelerator(program, seed)
        alone.program()
        alone._cells["rec"].g_us[:] *= n
        assert torch.equal(found[n], alone.run(x)[0])


@pytest.mark.parametrize("case", ["recurrent PCM", "every effect", "bound management", "images"])
def test_a_chip_gives_the_same_numbers_without_numba(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    g, chip = CASES[case]
    program = compile(g, chip)
    x = values(6, 2, *program.shapes["in"])
    fused = live(Batch(program, SEEDS[:1]), x)
    for module in (periphery, noise):
        monkeypatch.setattr(module, "fastest", lambda: periphery)
    for whole, own in zip(fused, live(Accelerator(program, SEEDS[0]), x), strict=True):
        same(whole, own, 0)


def test_chips_take_values_of_their_own_or_the_same() -> None:
    batch = Batch(compile(network(False), IDEAL), SEEDS)
    batch.program()
    before = batch.read_conductances()["fc2"]
    counts = torch.zeros(3, 5, 9, dtype=torch.int32)
    counts[1] = 1
    batch.reset({"fc2": torch.ones(5, 9, dtype=torch.bool)})
    batch.pulse({"fc2": counts})
    after = batch.read_conductances()["fc2"]
    assert not torch.equal(after[0], before[0])
    assert after.amax((1, 2, 3)).tolist() == [0.0, 0.75, 0.0]
    batch.set_registers({"snu.threshold": torch.arange(1.0, 4.0)[:, None].expand(3, 9)})
    x = torch.full((5, 1, 11), 0.7)
    out, traces = batch.run(x)
    for n, chip in enumerate(batch):
        assert torch.equal(out[n], chip.run(x)[0])
    assert len({trace.spikes_per_step["snu"] for trace in traces}) > 1
    batch.wait(torch.tensor([1.0, 2.0, 3.0]))
    assert (batch.clocks_s[2] - batch.clocks_s[0]) == pytest.approx(2.0, abs=1e-3)


def test_a_saved_batch_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    batch = Batch(compile(network(True), PCM), SEEDS)
    x = values(5, 2, 11)
    live(batch, x)
    batch.save(tmp_path / "chips.npz")
    again = Batch.load(tmp_path / "chips.npz")
    assert torch.equal(again.run(x)[0], batch.run(x)[0])
    assert torch.equal(again.clocks_s, batch.clocks_s)
    with pytest.raises(ValueError, match=r"holds 3 chips; read it with Batch\.load"):
        Accelerator.load(tmp_path / "chips.npz")


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_a_batch_needs_chips_that_differ(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give one or more, all different"):
        Batch(compile(network(False), IDEAL), seeds)


@pytest.mark.parametrize("seed", [-1, 0.5, (0, 1)])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a whole number of at least 0 \(several chips"):
        Accelerator(compile(network(False), IDEAL), seed)


def test_a_wrong_shape_is_refused_before_any_chip_is_touched() -> None:
    batch = Batch(compile(network(False), IDEAL), SEEDS)
    batch.program()
    with pytest.raises(ValueError, match=r"no crossbar fc2 of shape \(2, 5, 9\)"):
        batch.pulse({"fc2": torch.ones(2, 5, 9)})
    assert [chip.pulses for chip in batch] == [0, 0, 0]
