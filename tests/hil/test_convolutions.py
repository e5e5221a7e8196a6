"""The loop around networks whose weights are kernels or stacks, not one matrix."""

from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import MixedPrecision, ProgramVerify, Refresh, Rule, SignPulses, fine_tune
from snu_plugin.hil.forward import forward
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10


def convolutional(*, loop: bool, soft: bool = False) -> nir.NIRGraph:
    draw = np.random.default_rng(0)
    unit = encode_snu(SNUConfig(soft=soft), 0.6, np.full((4, 5, 5), 0.5), dt=DT)
    bias = draw.normal(0, 0.1, 4)
    nodes = {
        "in": nir.Input({"input": np.array([2, 5, 5])}),
        "conv": nir.Conv2d(None, draw.normal(0, 0.5, (4, 1, 3, 3)), 1, 1, 1, 2, bias),
        "snu": unit,
        "flat": nir.Flatten({"input": None}, 0, 2),
        "fc": nir.Linear(draw.normal(0, 0.3, (3, 100))),
        "out": nir.Output({"output": np.array([3])}),
    }
    edges = [("in", "conv"), ("conv", "snu"), ("snu", "flat"), ("flat", "fc"), ("fc", "out")]
    if loop:
        nodes["rec"] = nir.Conv2d(
            None, draw.normal(0, 0.3, (4, 4, 3, 3)), 1, "same", 1, 1, np.zeros(4)
        )
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def chip_of(g: nir.NIRGraph, chip: Chip) -> Accelerator:
    made = Accelerator(compile(g, chip), 0)
    made.program()
    return made


def images(steps: int, batch: int, seed: int = 0) -> Tensor:
    drawn = torch.rand(steps, batch, 2, 5, 5, generator=Generator().manual_seed(seed))
    return (drawn < 0.4).float()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


@pytest.mark.parametrize("loop", [False, True])
def test_the_value_in_the_loop_is_exactly_the_chips(tmp_path: Path, loop: bool) -> None:
    made = chip_of(convolutional(loop=loop), PCM)
    weights = made.read_weights()
    made.save(tmp_path / "chip.npz")
    x = images(6, 3)
    expected, _ = Accelerator.load(tmp_path / "chip.npz").run(x)
    assert torch.equal(forward(made, x, weights).output.detach(), expected)


@pytest.mark.parametrize("loop", [False, True])
def test_the_gradient_in_the_loop_is_exactly_the_twins(loop: bool) -> None:
    g = convolutional(loop=loop)
    made = chip_of(g, IDEAL)
    x, target = images(6, 3), torch.randn(6, 3, 3, generator=Generator().manual_seed(1))
    shown = forward(made, x, made.read_weights())
    squared(shown.output, target).backward()  # type: ignore[no-untyped-call]
    net = graph.network(g)
    squared(net(x)[0], target).backward()  # type: ignore[no-untyped-call]
    for name in made.layout.products:
        torch.testing.assert_close(shown.weights[name].grad, net.node(name).weight.grad)
    torch.testing.assert_close(shown.registers["conv.bias"].grad, net.node("conv").bias.grad)
    gain, weight = shown.registers["conv.gain"].grad, shown.weights["conv"]
    assert gain is not None
    assert weight.grad is not None
    scaled = (weight.grad * weight.detach()).flatten(1).sum(1)
    torch.testing.assert_close(gain, scaled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", [MixedPrecision(lr=1.0), ProgramVerify(lr=1.0), SignPulses()])
def test_a_gradient_pulses_the_kernel_where_it_points(rule: Rule) -> None:
    made = chip_of(convolutional(loop=False), IDEAL)
    before = made.read_weights()["conv"]
    gradients = {name: torch.zeros_like(w) for name, w in made.read_weights().items()}
    # The smallest weights of two kernels: their devices have room in both directions.
    up, down = (divmod(int(before[channel].abs().argmin()), 3) for channel in (3, 0))
    gradients["conv"][(3, 0, *up)] = -1.0
    gradients["conv"][(0, 0, *down)] = 1.0
    rule.update(made, rule.start(made), gradients)
    moved = made.read_weights()["conv"] - before
    assert float(moved[(3, 0, *up)]) > 0 > float(moved[(0, 0, *down)])
    assert int((moved != 0).sum()) == 2


def test_tuning_wins_back_what_ageing_lost() -> None:
    g = convolutional(loop=False, soft=True)
    net = graph.network(g)
    made = chip_of(g, PCM)
    made.wait(30 * 86_400.0)
    batches = [((x := images(6, 8, seed)), net(x)[0].detach()) for seed in range(30)]
    x, target = images(6, 8, 99), net(images(6, 8, 99))[0].detach()
    aged = float(squared(made.run(x)[0], target))
    made.calibrate()
    rule, refresh = ProgramVerify(lr=0.8), Refresh(every=10)
    fine_tune(made, batches, squared, rule, refresh=refresh, hold_back=0)
    assert float(squared(made.run(x)[0], target)) < 0.5 * aged
    assert made.pulses > 0
