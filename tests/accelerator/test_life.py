"""All that a host can do with a chip, in turn: the same chip shows the same, bit by bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from small_chips import EVERYTHING
from snu_plugin.accelerator import (
    HERMES,
    IDEAL,
    PCM,
    PCM_PULSED,
    Accelerator,
    Chip,
    crossbar,
    noise,
    normal_numbers,
    periphery,
)
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10


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


def same(first: Any, second: Any) -> None:
    """Both chips showed the same."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
    else:
        (out, trace), (expected, other) = first, second
        assert torch.equal(out, expected)
        assert trace.counts == other.counts
        assert trace.cost == other.cost
        assert trace.seconds == other.seconds


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


@pytest.mark.parametrize("case", ["recurrent PCM", "every effect", "bound management", "images"])
def test_a_chip_gives_the_same_numbers_without_numba(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    g, chip = CASES[case]
    program = compile(g, chip)
    x = values(6, 2, *program.shapes["in"])
    fused = live(Accelerator(program, 3), x)
    monkeypatch.setattr(crossbar, "fastest", lambda _: periphery)
    monkeypatch.setattr(noise, "fused", lambda: normal_numbers)
    for whole, own in zip(fused, live(Accelerator(program, 3), x), strict=True):
        same(whole, own)


@pytest.mark.parametrize("case", CASES)
def test_a_chip_taken_up_in_its_middle_goes_on_as_if_it_had_never_stopped(
    case: str, tmp_path: Path
) -> None:
    g, chip = CASES[case]
    made = Accelerator(compile(g, chip), 3)
    x = values(6, 2, *made.layout.shapes["in"])
    live(made, x)
    made.save(tmp_path / "chip.npz")
    for whole, own in zip(
        live(made, x), live(Accelerator.load(tmp_path / "chip.npz"), x), strict=True
    ):
        same(whole, own)


@pytest.mark.parametrize("seed", [-1, 0.5, (0, 1)])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="it must be a whole number of at least 0"):
        Accelerator(compile(network(False), IDEAL), seed)
