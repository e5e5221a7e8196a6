"""Online learning with the chip in the loop: the twin's gradient without its past."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import (
    DigitalOnly,
    MixedPrecision,
    Online,
    ProgramVerify,
    Rule,
    SignPulses,
    fine_tune,
)
from snu_plugin.hil.forward import forward, learn_through_time
from snu_plugin.neuron import SNUConfig, snu_step

DT = 2.0**-10


def draws(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-0.8, 0.8, shape).astype(np.float32)


def graph_of(neurons: nir.NIRNode, *, recurrent: bool = False) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([7])}),
        "fc1": nir.Affine(draws(9, 7), draws(9)),
        "snu": neurons,
        "fc2": nir.Affine(draws(5, 9, seed=1), np.zeros(5)),
        "out": nir.Output({"output": np.array([5])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    if recurrent:
        nodes["rec"] = nir.Linear(draws(9, 9, seed=2))
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), DT)


def units(*, soft: bool = False) -> nir.NIRNode:
    return encode_snu(SNUConfig(soft=soft), 0.6, np.full(9, 0.4), dt=DT)


def current_based() -> nir.NIRNode:
    ones = np.ones(9)
    return nir.CubaLIF(
        tau_mem=4 * DT * ones,
        tau_syn=3 * DT * ones,
        r=4 * ones,
        v_leak=0.1 * ones,
        v_threshold=0.4 * ones,
        v_reset=0.2 * ones,
        w_in=3 * ones,
    )


def images() -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([2, 6, 5])}),
        "conv": nir.Conv2d((6, 5), draws(4, 1, 3, 2), 1, 1, 1, 2, draws(4)),
        "snu": encode_snu(SNUConfig(), 0.6, np.full((4, 6, 6), 0.4), dt=DT),
        "flat": nir.Flatten({"input": np.array([4, 6, 6])}, 0, -1),
        "fc": nir.Affine(draws(5, 144, seed=1), np.zeros(5)),
        "out": nir.Output({"output": np.array([5])}),
    }
    edges = [("in", "conv"), ("conv", "snu"), ("snu", "flat"), ("flat", "fc"), ("fc", "out")]
    return stamp(nir.NIRGraph(nodes, edges, type_check=False), DT)


def chip_of(g: nir.NIRGraph, chip: Chip = IDEAL) -> Accelerator:
    made = Accelerator(compile(g, chip), 0)
    made.program()
    return made


def spikes(steps: int, batch: int, *shape: int) -> Tensor:
    return (torch.rand(steps, batch, *shape, generator=Generator().manual_seed(3)) < 0.5).float()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def assert_close(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        limit = 2e-5 * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=0, atol=limit, msg=name)


@pytest.mark.parametrize("steps", [1, 4, 11])
@pytest.mark.parametrize(
    "g",
    [graph_of(units()), graph_of(units(soft=True)), graph_of(current_based()), images()],
    ids=["SNU", "sSNU", "CubaLIF", "convolution"],
)
def test_the_gradient_of_one_layer_is_the_one_through_time(g: nir.NIRGraph, steps: int) -> None:
    x = spikes(11, 3, *g.nodes["in"].input_type["input"])
    target = torch.rand(11, 3, 5, generator=Generator().manual_seed(4))
    chip = chip_of(g)
    weights = chip.read_weights()
    shown = forward(chip, x, weights)
    loss = squared(shown.output, target)
    loss.backward()  # type: ignore[no-untyped-call]
    found = Online(steps=steps).learn(chip, x, target, squared, weights)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert_close(found.weights, {n: w.grad for n, w in shown.weights.items()})
    assert_close(
        found.registers,
        {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in shown.registers.items()},
    )


def test_recurrent_neurons_learn_by_e_prop() -> None:
    chip = chip_of(graph_of(units(), recurrent=True))
    weights = chip.read_weights()
    x, target = spikes(11, 3, 7), torch.rand(11, 3, 5, generator=Generator().manual_seed(4))
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    theta = chip.registers["snu.threshold"].clone().requires_grad_()
    state, outputs = None, []
    for x_t in x:
        y = torch.zeros(3, 9) if state is None else state.y.detach()
        drive = x_t @ leaves["fc1"].T + chip.registers["fc1.bias"] + y @ leaves["rec"].T
        y, state = snu_step(drive, state, SNUConfig(decay=0.6), threshold=theta)
        outputs.append(y @ leaves["fc2"].T)
    squared(torch.stack(outputs), target).backward()  # type: ignore[no-untyped-call]
    found = Online(steps=4).learn(chip, x, target, squared, weights)
    assert_close(found.weights, {name: leaf.grad for name, leaf in leaves.items()})
    assert_close({0: found.registers["snu.threshold"]}, {0: theta.grad})


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_chip_run_in_segments_gives_what_it_gives_at_once(recurrent: bool) -> None:
    chip = chip_of(graph_of(units(), recurrent=recurrent))
    x = spikes(11, 3, 7)
    whole = chip.run(x)[0]
    parts = [chip.run(x[:4])[0], chip.run(x[4:5], carry=True)[0], chip.run(x[5:], carry=True)[0]]
    assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(ValueError, match="left the neurons of 3 sequences, this one has 2"):
        chip.run(x[:, :2], carry=True)
    with pytest.raises(ValueError, match="no run left neurons to go on from"):
        chip_of(graph_of(units())).run(x, carry=True)


def test_what_lies_between_weights_and_neurons_is_refused() -> None:
    g = graph_of(units())
    g.nodes["scale"] = nir.Scale(2 * np.ones(9))
    edges = [e for e in g.edges if e != ("fc1", "snu")] + [("fc1", "scale"), ("scale", "snu")]
    chip = chip_of(stamp(nir.NIRGraph(g.nodes, edges), DT))
    x = spikes(4, 3, 7)
    with pytest.raises(ValueError, match="scale lies between the weights of fc1 and the neurons"):
        Online().learn(chip, x, torch.zeros(4, 3, 5), squared, chip.read_weights())


RULES = DigitalOnly(), MixedPrecision(lr=0.3), SignPulses(threshold=1e-3), ProgramVerify(lr=0.3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_every_rule_learns_online_what_it_learns_through_time(rule: Rule) -> None:
    """On a chip without noise, and with one layer of neurons, bit for bit but for rounding."""
    x = spikes(11, 8, 7)
    target = torch.rand(11, 8, 5, generator=Generator().manual_seed(4))
    ends = []
    for gradient in (None, Online(steps=3)):
        chip = chip_of(graph_of(units(soft=True)))
        history = fine_tune(chip, [(x, target)] * 5, squared, rule, hold_back=0, gradient=gradient)
        assert history[-1].loss < history[0].loss
        ends.append(dict(chip.registers) | chip.read_weights())
    assert_close(ends[1], ends[0])


def test_a_loss_that_is_a_sum_over_time_is_one_in_segments_too() -> None:
    chip = chip_of(graph_of(units(soft=True)))
    x, target = spikes(11, 8, 7), torch.zeros(11, 8, 5)
    weights = chip.read_weights()

    def summed(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum()

    whole = learn_through_time(chip, x, target, summed, weights)
    found = Online(steps=4, over_time="sum").learn(chip, x, target, summed, weights)
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert_close(found.weights, whole.weights)


def test_noise_of_a_chip_is_learned_from_online() -> None:
    chip = chip_of(graph_of(units(soft=True)), PCM)
    chip.wait(1e5)
    chip.calibrate()
    x, target = spikes(11, 8, 7), torch.full((11, 8, 5), 0.3)
    history = fine_tune(
        chip, [(x, target)] * 20, squared, digital_lr=3e-2, hold_back=0, gradient=Online(steps=2)
    )
    assert history[-1].loss < 0.7 * history[0].loss


def test_what_is_held_back_is_run_in_segments_too(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = chip_of(graph_of(units(soft=True)))
    batches = [(spikes(11, 8, 7), torch.full((11, 8, 5), 0.3)) for _ in range(3)]
    whole = fine_tune(chip, batches, squared).before
    lengths, run = set(), chip.run

    def counted(x: Tensor, **settings: Any) -> Any:
        lengths.add(len(x))
        return run(x, **settings)

    fresh = chip_of(graph_of(units(soft=True)))
    run = fresh.run
    monkeypatch.setattr(fresh, "run", counted)
    found = fine_tune(fresh, batches, squared, gradient=Online(steps=4)).before
    assert lengths == {4, 3}
    assert found == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("recurrent", [False, True])
def test_memory_does_not_grow_with_the_sequence(
    recurrent: bool, peak_bytes: Callable[[Callable[[], None]], int]
) -> None:
    chip = chip_of(graph_of(units(), recurrent=recurrent))
    weights = chip.read_weights()

    def learn(steps: int) -> None:
        x = torch.ones((), dtype=torch.bool).expand(steps, 2, 7)  # takes no memory itself
        Online(steps=10).learn(chip, x, torch.zeros(2, 5), squared, weights)

    assert peak_bytes(lambda: learn(80)) <= 1.2 * peak_bytes(lambda: learn(20))


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"steps": 0}, "steps is 0"), ({"over_time": "max"}, "over_time is 'max'")],
)
def test_settings_out_of_range_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Online(**settings)
