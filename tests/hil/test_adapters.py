"""Digital low-rank adapters beside the crossbars of a chip."""

from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from small_graphs import DT, layered
from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import Online
from snu_plugin.hil.forward import forward, learn_through_time
from snu_plugin.neuron import SNUConfig


def convolutional(groups: int = 1) -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([2, 7, 5])}),
        "conv": nir.Conv2d(
            None,
            draw.normal(0, 0.5, (4, 2 // groups, 3, 3)),
            (2, 1),
            (1, 0),
            1,
            groups,
            draw.normal(0, 0.1, 4),
        ),
        "snu": encode_snu(SNUConfig(), 0.6, np.full((4, 4, 3), 0.5), dt=DT),
        "flat": nir.Flatten({"input": None}, 0, 2),
        "fc": nir.Linear(draw.normal(0, 0.3, (3, 48))),
        "out": nir.Output({"output": np.array([3])}),
    }
    edges = [("in", "conv"), ("conv", "snu"), ("snu", "flat"), ("flat", "fc"), ("fc", "out")]
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip), seed)
    made.program()
    return made


def adapted(g: nir.NIRGraph, chip: Chip, ranks: dict[str, int], seed: int = 0) -> Accelerator:
    """A chip with adapters of drawn values."""
    made = chip_of(g, chip, seed)
    draw = Generator().manual_seed(seed)
    for node, rank in ranks.items():
        made.set_adapter(node, rank)
    made.set_registers(
        {
            name: 0.3 * torch.randn(value.shape, generator=draw)
            for name, value in made.registers.items()
            if "adapter" in name
        }
    )
    return made


def spikes(chip: Accelerator, steps: int = 12, batch: int = 3) -> Tensor:
    (name,) = chip.layout.inputs
    shape = (steps, batch, *chip.layout.shapes[name])
    return (torch.rand(shape, generator=Generator().manual_seed(7)) < 0.4).float()


CASES = {
    "layers": (layered(), {"fc1": 3, "fc2": 2}),
    "recurrent": (layered(recurrent=True), {"fc2": 2, "fc1": 4}),
    "convolution": (convolutional(), {"conv": 3, "fc": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_graph_with_adapters_computes_what_the_ideal_chip_does(tmp_path: Path, case: str) -> None:
    g, ranks = CASES[case]
    made = adapted(g, IDEAL, ranks)
    graph.write(tmp_path / "tuned.nir", made.to_nir())
    back = graph.read(tmp_path / "tuned.nir")
    assert set(back.nodes) - set(g.nodes) == {
        f"{node}_adapter_{side}" for node in ranks for side in ("in", "out")
    }
    x = spikes(made)
    y, _ = made.run(x)
    assert torch.equal(graph.network(back, dtype=torch.float32)(x)[0], y)
    assert not torch.equal(chip_of(g, IDEAL).run(x)[0], y)


def test_a_recurrent_layer_takes_an_adapter_within_its_loop() -> None:
    made = adapted(layered(recurrent=True, soft=True), IDEAL, {"rec": 3})
    x = spikes(made)
    y, _ = made.run(x)
    torch.testing.assert_close(graph.network(made.to_nir())(x)[0], y)


def test_an_adapter_changes_nothing_until_it_has_values_and_when_it_is_gone() -> None:
    x = spikes(chip_of(layered(), PCM))
    plain, _ = chip_of(layered(), PCM).run(x)
    made = chip_of(layered(), PCM)
    made.set_adapter("fc2", 4)
    y, trace = made.run(x)
    assert torch.equal(y, plain)
    assert trace.cost.adapter_bytes == 4 * 4 * (6 + 14)
    gone = adapted(layered(), PCM, {"fc2": 4})
    gone.set_adapter("fc2", 0)
    assert "fc2.adapter_in" not in gone.registers
    y, trace = gone.run(x)
    assert torch.equal(y, plain)
    assert trace.cost.adapter_bytes == 0


def test_the_same_numbers_come_step_by_step() -> None:
    made, again = (adapted(layered(recurrent=True), PCM, {"fc1": 3, "rec": 2}) for _ in range(2))
    x = spikes(made)
    assert torch.equal(made.run(x)[0], again.run(x, step_by_step=True)[0])


@pytest.mark.parametrize("case", CASES)
def test_the_value_in_the_loop_is_the_chips_and_the_gradient_the_graphs(case: str) -> None:
    g, ranks = CASES[case]
    made = adapted(g, IDEAL, ranks)
    x = spikes(made)
    target = torch.randn(made.run(x)[0].shape, generator=Generator().manual_seed(1))
    shown = forward(made, x, made.read_weights())
    assert torch.equal(shown.output.detach(), made.run(x)[0])
    (shown.output - target).square().sum().backward()  # type: ignore[no-untyped-call]
    net = graph.network(made.to_nir(), dtype=torch.float32)
    (net(x)[0] - target).square().sum().backward()
    for node in ranks:
        for side in ("in", "out"):
            own = shown.registers[f"{node}.adapter_{side}"].grad
            expected = net.get_parameter(
                f"nodes.{net.names.index(f'{node}_adapter_{side}')}.weight"
            )
            assert own is not None
            assert expected.grad is not None
            torch.testing.assert_close(own, expected.grad.reshape(own.shape))


@pytest.mark.parametrize("case", ["layers", "convolution"])
def test_online_learning_finds_the_gradients_of_adapters(case: str) -> None:
    g, ranks = CASES[case]
    made = adapted(g, IDEAL, ranks)
    x, weights = spikes(made), made.read_weights()
    target = torch.randn(made.run(x)[0].shape, generator=Generator().manual_seed(1))

    def squared(output: Tensor, wanted: Tensor) -> Tensor:
        return (output - wanted).square().mean()

    whole = learn_through_time(made, x, target, squared, weights)
    online = Online(steps=len(x)).learn(made, x, target, squared, weights)
    for name, value in whole.registers.items():
        torch.testing.assert_close(online.registers[name], value)


@pytest.mark.parametrize("case", CASES)
def test_a_chip_file_carries_adapters(tmp_path: Path, case: str) -> None:
    made = adapted(*CASES[case][:1], PCM, CASES[case][1])
    made.save(tmp_path / "chip.npz")
    back = Accelerator.load(tmp_path / "chip.npz")
    assert made.registers.keys() == back.registers.keys()
    x = spikes(made)
    assert torch.equal(made.run(x)[0], back.run(x)[0])


def test_calibration_and_memory_concern_the_devices_alone() -> None:
    plain, made = chip_of(layered(), PCM), adapted(layered(), PCM, {"fc1": 3, "fc2": 2})
    for chip in (plain, made):
        chip.wait(86_400.0)
        chip.remember()
        chip.wait(86_400.0)
        chip.calibrate()
    for name, value in plain.registers.items():
        assert torch.equal(value, made.registers[name])


def test_operations_and_memory_of_an_adapter_are_counted() -> None:
    made = adapted(layered(), IDEAL, {"fc1": 3})
    x = spikes(made)
    _, trace = made.run(x)
    driven = int((x != 0).sum())
    lanes = x.shape[0] * x.shape[1]
    assert trace.cost.adapter_operations == pytest.approx((3 * driven + 3 * 14 * lanes) / lanes)
    assert trace.cost.adapter_bytes == 4 * 3 * (10 + 14)
    before = chip_of(layered(), IDEAL).run(x)[1].cost
    more = trace.cost.digital_nj - before.digital_nj
    assert more == pytest.approx(trace.cost.adapter_nj)
    assert trace.cost.adapter_nj > 0
    assert "digital adapters" in "\n".join(trace.cost.text(12))


def test_an_adapter_that_cannot_be_is_refused_and_changes_nothing() -> None:
    made = adapted(layered(), PCM, {"fc1": 3})
    before = made.registers
    for node, rank, words in (
        ("snu", 1, "no node 'snu' with weights"),
        ("fc1", 11, "from 1 to 10"),
        ("fc1", -1, "from 1 to 10"),
    ):
        with pytest.raises(ValueError, match=words):
            made.set_adapter(node, rank)
    assert all(torch.equal(value, made.registers[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="groups with inputs of their own"):
        chip_of(convolutional(2), PCM).set_adapter("conv", 1)


def test_programming_takes_adapters_away() -> None:
    made = adapted(layered(), replace(PCM, adc_bits=None), {"fc1": 3})
    made.program()
    assert "fc1.adapter_in" not in made.registers
