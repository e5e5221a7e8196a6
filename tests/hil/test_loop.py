"""The chip in the loop: measured values, the twin's gradients, pulses on the same devices."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Board, Chip, device_model
from snu_plugin.accelerator.devices import pulses
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import (
    DigitalOnly,
    Loop,
    MixedPrecision,
    ProgramVerify,
    Refresh,
    Rule,
    SignPulses,
    digital,
    fine_tune,
)
from snu_plugin.hil.forward import Learnt, forward, learn_through_time
from snu_plugin.hil.pulses import expected, steps
from snu_plugin.neuron import SNUConfig

INPUTS, HIDDEN, OUTPUTS = 10, 14, 6


def network(*, recurrent: bool = False, seed: int = 0, soft: bool = False) -> nir.NIRGraph:
    draw = np.random.default_rng(seed)
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(draw.uniform(-0.8, 0.8, (HIDDEN, INPUTS)).astype(np.float32)),
        "snu": encode_snu(SNUConfig(soft=soft), 0.6, np.full(HIDDEN, 0.5), dt=2.0**-10),
        "fc2": nir.Affine(
            draw.uniform(-0.8, 0.8, (OUTPUTS, HIDDEN)).astype(np.float32), np.zeros(OUTPUTS)
        ),
        "out": nir.Output({"output": np.array([OUTPUTS])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    if recurrent:
        nodes["rec"] = nir.Linear(draw.uniform(-0.5, 0.5, (HIDDEN, HIDDEN)).astype(np.float32))
        edges += [("snu", "rec"), ("rec", "snu")]
    return stamp(nir.NIRGraph(nodes, edges), 2.0**-10)


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip), seed)
    made.program()
    return made


def spikes(steps: int, batch: int, seed: int = 0) -> Tensor:
    drawn = torch.rand(steps, batch, INPUTS, generator=Generator().manual_seed(seed))
    return (drawn < 0.4).float()


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def task(g: nir.NIRGraph, count: int, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Inputs with what the float network answers."""
    net = graph.network(g)
    return [((x := spikes(12, 8, seed + n)), net(x)[0].detach()) for n in range(count)]


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_value_in_the_loop_is_exactly_the_chips(
    tmp_path: Path, recurrent: bool, soft: bool
) -> None:
    made = chip_of(network(recurrent=recurrent, soft=soft), PCM)
    made.wait(1e4)
    weights = made.read_weights()
    made.save(tmp_path / "chip.npz")
    x = spikes(15, 4)
    expected, _ = Accelerator.load(tmp_path / "chip.npz").run(x)
    shown = forward(made, x, weights)
    assert torch.equal(shown.output.detach(), expected)


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_gradient_in_the_loop_is_exactly_the_twins(recurrent: bool) -> None:
    g = network(recurrent=recurrent)
    made = chip_of(g, IDEAL)
    (x, target), *_ = task(network(recurrent=recurrent, seed=9), 1)
    shown = forward(made, x, made.read_weights())
    squared(shown.output, target).backward()  # type: ignore[no-untyped-call]
    net = graph.network(g)
    squared(net(x)[0], target).backward()  # type: ignore[no-untyped-call]
    for name in made.layout.products:
        torch.testing.assert_close(shown.weights[name].grad, net.node(name).weight.grad)
    torch.testing.assert_close(shown.registers["fc2.bias"].grad, net.node("fc2").bias.grad)
    threshold = shown.registers["snu.threshold"].grad
    assert threshold is not None
    assert bool(threshold.any())


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_digital_values_learn_the_same_whether_weights_learn_beside_them(
    recurrent: bool, outliers: float
) -> None:
    program = compile(network(recurrent=recurrent), PCM, outliers=outliers)
    (x, target), *_ = task(network(recurrent=recurrent, seed=9), 1)

    def learnt(learn_weights: bool) -> Learnt:
        made = Accelerator(program, 0)
        made.program()
        read = made.read_weights()
        return learn_through_time(made, x, target, squared, read, learn_weights=learn_weights)

    alone, beside = learnt(False), learnt(True)
    assert alone.loss == beside.loss
    assert not alone.weights
    assert bool(alone.registers["fc1.gain"].any())
    torch.testing.assert_close(dict(alone.registers), dict(beside.registers))


def test_the_gradient_of_a_gain_is_that_of_scaling_the_weights() -> None:
    made = chip_of(network(soft=True), IDEAL)
    (x, target), *_ = task(network(seed=9), 1)
    shown = forward(made, x, made.read_weights())
    squared(shown.output, target).backward()  # type: ignore[no-untyped-call]
    for name, w in shown.weights.items():
        assert w.grad is not None
        expected = (w.grad * w).sum(1)
        found = shown.registers[f"{name}.gain"].grad
        torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-4)


def test_mixed_precision_transfers_exactly_the_whole_steps() -> None:
    made = chip_of(network(), replace(IDEAL, pulse_step_us=0.5))
    eps = steps(made)
    rule = MixedPrecision(lr=0.3)
    memory = rule.start(made)
    chi = {name: torch.zeros_like(e) for name, e in eps.items()}
    generator = Generator().manual_seed(4)
    count = 0
    for _ in range(6):
        gradients = {n: torch.randn(e.shape, generator=generator) * 0.2 for n, e in eps.items()}
        memory = rule.update(made, memory, gradients)
        for name in chi:
            chi[name] -= 0.3 * gradients[name]
            n = torch.trunc(chi[name] / eps[name])
            chi[name] -= n * eps[name]
            count += int(n.abs().sum())
    assert made.pulses == count > 0
    for name in chi:
        torch.testing.assert_close(memory.chi[name], chi[name])
        assert bool((memory.chi[name].abs() < eps[name]).all())


def test_a_pulse_waits_until_it_is_expected_to_lower_the_error() -> None:
    made = chip_of(network(), replace(PCM, read_noise=None))
    made.wait(1e4)
    wanted = {n: torch.ones(op.weight.shape) for n, op in made.layout.products.items()}
    credit = expected(made, wanted)
    for name, g in made.read_conductances().items():
        per_us = made.layout.products[name].weight_per_us * 25 / 12
        mean, sigma = pulses.step(g[0] * 12 / 25, pulses.pulses_to_reach(g[0] * 12 / 25) + 1)
        torch.testing.assert_close(credit[name].step, (mean.clamp_min(1e-3) * per_us).float())
        # Error before, and expected square after one pulse, both at the least worthwhile change.
        least = credit[name].least / per_us
        usual = mean > 1e-3
        after = (least - mean).square() + sigma.square()
        assert bool((after <= least.square() * 1.0001)[usual].all())
        assert bool((credit[name].least >= credit[name].step).all())


def test_pulses_that_need_evidence_ignore_gradients_that_disagree() -> None:
    made = chip_of(network(), replace(IDEAL, pulse_step_us=0.01))
    rule = MixedPrecision(lr=1.0, evidence=3.0)
    memory = rule.start(made)
    noise = Generator().manual_seed(0)
    before = made.read_weights()["fc1"]
    for _ in range(16):
        gradients = {n: torch.randn(chi.shape, generator=noise) for n, chi in memory.chi.items()}
        gradients["fc1"][0, 0] = -1.0
        memory = rule.update(made, memory, gradients)
    moved = made.read_weights()["fc1"] - before
    assert float(moved[0, 0]) > 0
    assert int((moved != 0).sum()) <= 4
    assert float(memory.power["fc1"][0, 0]) < 16


def test_with_ideal_devices_and_small_steps_the_loop_is_plain_gradient_descent() -> None:
    # A silent input and a silent unit carry weights of 2, so that the others, scaled with them,
    # stay in the middle of the range of the devices.
    g = network()
    g.nodes["fc1"].weight[:, 0] = 2.0
    g.nodes["fc2"].weight[:, 0] = 2.0
    g.nodes["snu"].v_threshold[0] = 1e6
    made = Accelerator(compile(g, replace(IDEAL, pulse_step_us=1e-6)))
    made.program()
    batches = [(x, y) for x, y in task(network(seed=5), 20)]
    for x, _ in batches:
        x[..., 0] = 0
    fine_tune(made, batches, squared, MixedPrecision(lr=0.02), digital_lr=0, hold_back=0)
    net = graph.network(g)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for x, target in batches:
        optimizer.zero_grad()
        squared(net(x)[0], target).backward()  # type: ignore[no-untyped-call]
        for name in ("fc1", "fc2"):  # the loop kept biases as they are
            bias = getattr(net.node(name), "bias", None)
            if bias is not None:
                bias.grad = None
        optimizer.step()
    for name, seen in made.read_weights().items():
        expected = net.get_parameter(f"nodes.{net.names.index(name)}.weight").detach()
        torch.testing.assert_close(seen, expected, atol=2e-5, rtol=0)
        moved = expected - torch.from_numpy(g.nodes[name].weight)
        assert float(moved.abs().max()) > 1e-3


class OnlyTheBoard:
    """Lets through what a real board offers and nothing else."""

    allowed = frozenset(
        name for name in vars(Board) if not name.startswith("_") or name == "__init__"
    )

    def __init__(self, chip: Accelerator) -> None:
        self.chip = chip

    def __getattr__(self, name: str) -> Any:
        if name not in self.allowed:
            raise AttributeError(f"a real board has no {name}")
        return getattr(self.chip, name)


@pytest.mark.parametrize("rule", [MixedPrecision(), SignPulses(threshold=0.01), ProgramVerify()])
def test_tuning_needs_nothing_that_a_real_board_does_not_offer(rule: Rule) -> None:
    made = chip_of(network(), PCM)
    history = fine_tune(
        OnlyTheBoard(made),
        task(network(), 4),
        squared,
        rule,
        refresh=Refresh(every=2),
    )
    assert len(history) == 3  # one of four is held back


def test_the_modelled_chip_is_a_board() -> None:
    board: Board = chip_of(network(), IDEAL)
    assert board.layout.devices == 2 * HIDDEN * (INPUTS + OUTPUTS)


@pytest.mark.parametrize("chip", [PCM, PCM_PULSED])
def test_tuning_wins_back_what_ageing_lost(chip: Chip) -> None:
    g = network(soft=True)
    made = chip_of(g, chip, 2)
    made.wait(30 * 86_400.0)
    x, target = task(g, 1, seed=99)[0]
    aged = float(squared(made.run(x)[0], target))
    made.calibrate()
    clock = made.clock_s
    history = fine_tune(made, task(g, 80), squared, MixedPrecision(lr=0.05), hold_back=0)
    tuned = np.mean([float(squared(made.run(x)[0], target)) for _ in range(5)])
    assert tuned < 0.35 * aged
    assert history[-1].clock_s > clock + 80 * 0.05
    assert made.pulses >= sum(record.pulses for record in history)


def test_the_tuned_weights_are_what_calibration_returns_to_later() -> None:
    made = chip_of(network(), PCM, 1)
    fine_tune(made, task(network(seed=3), 40), squared, MixedPrecision(lr=0.5), hold_back=0)
    seen = torch.stack([made.read_weights()["fc2"] for _ in range(32)]).mean(0)
    made.wait(30 * 86_400.0)
    made.calibrate()
    later = torch.stack([made.read_weights()["fc2"] for _ in range(32)]).mean(0)
    slope = float((later * seen).sum() / seen.square().sum())
    assert slope == pytest.approx(1, abs=0.05)


def test_worn_pairs_are_written_again_and_others_left_alone() -> None:
    made = chip_of(network(), replace(PCM, read_noise=None, programming_noise=None), 1)
    many = torch.zeros(HIDDEN, INPUTS, dtype=torch.int32)
    many[0, :] = 25
    made.pulse({"fc1": many})
    made.pulse({"fc1": -many})
    before = made.state.cells["fc1"]
    difference = (made.read_conductances()["fc1"][0] - made.read_conductances()["fc1"][1])[0]
    count = Refresh().apply(made)
    worn = made.state.cells["fc1"].resets.sum(0) > 0
    assert count == int(worn.sum()) > 0
    assert not bool(worn[1:].any())
    after = made.read_conductances()["fc1"]
    assert float(after[:, worn].amax(0).mean()) < float(before.g_us[:, worn].amax(0).mean()) / 2
    rewritten = (after[0] - after[1])[0][worn[0]]
    assert float((rewritten - difference[worn[0]]).abs().mean()) < 1.5
    assert torch.equal(made.state.cells["fc1"].g_us[:, ~worn], before.g_us[:, ~worn])


@pytest.mark.parametrize("devices", [2, 4, 6, 8])
@pytest.mark.parametrize("significance", [1.0, 2.5])
def test_refreshes_keep_the_weights_however_many_and_whatever_the_devices_of_a_weight(
    devices: int, significance: float
) -> None:
    chip = replace(IDEAL, devices_per_weight=devices, significance=significance, pulse_step_us=0.07)
    made = chip_of(network(), replace(chip, tile_rows=6))
    made.set_registers({"fc1.gain": torch.linspace(0.5, 2, HIDDEN)})
    wear(made, 200)
    before = made.read_weights()["fc1"]
    for _ in range(10):
        assert Refresh(above=0.3, difference=2.0).apply(made) > 0.9 * before.numel()
        assert float(made.read_conductances()["fc1"].amin(0).max()) < 0.1  # nothing in common left
        torch.testing.assert_close(made.read_weights()["fc1"], before, rtol=1e-5, atol=1e-6)
        wear_evenly(made)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_refresh_errs_as_programming_does(devices: int) -> None:
    chip = replace(PCM, devices_per_weight=devices, read_noise=None, drift=None)
    made = chip_of(network(), chip)
    wear(made, 25)
    g = made.read_conductances()["fc1"]
    assert Refresh(above=0.3, difference=2.0).apply(made) > 0
    after = made.read_conductances()["fc1"]
    worn = made.state.cells["fc1"].resets.sum(0) > 0
    moved = ((after[0] - after[1]) - (g[0] - g[1]))[worn]
    # Every device errs by 0.26 to 1.1 µS and counts 1 / n of its polarity.
    most = 1.1 * (2 / chip.per_polarity) ** 0.5
    assert 0.1 < float(moved.std()) < most


def wear(made: Accelerator, count: int) -> None:
    """Pulse both polarities of all devices of fc1 alike, each in its turn."""
    for sign in (1, -1):
        for _ in range(made.layout.chip.per_polarity):
            made.pulse({"fc1": torch.full((HIDDEN, INPUTS), sign * count, dtype=torch.int32)})


def wear_evenly(made: Accelerator) -> None:
    """Raise both polarities of all devices of fc1 by as much, below their end."""
    cells = made.state.cells["fc1"]
    made.state.cells["fc1"] = cells._replace(g_us=cells.g_us + 8.0)


def test_a_refresh_leaves_single_devices_alone() -> None:
    made = chip_of(network(), replace(IDEAL, devices_per_weight=1))
    before = made.read_weights()
    assert Refresh(above=0.1, difference=2.0).apply(made) == 0
    assert made.pulses == 0
    assert all(torch.equal(made.read_weights()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("devices", "significance"), [(1, 1.0), (2, 1.0), (4, 1.0), (4, 3.0), (6, 2.0), (8, 1.0)]
)
def test_a_pulse_moves_a_weight_by_its_credit_whatever_the_number_of_devices(
    devices: int, significance: float
) -> None:
    chip = replace(
        IDEAL,
        devices_per_weight=devices,
        significance=significance,
        pulse_step_us=0.01,
        tile_rows=6,
    )
    g = network()
    g.nodes["fc1"].weight[:, 0] = 2.0  # leaves the others room
    made = chip_of(g, chip)
    registers = made.registers
    made.set_registers(
        {"fc1.gain": torch.full((HIDDEN,), 1.5), "fc1.tile_gain": registers["fc1.tile_gain"] * 0.8}
    )
    credit, before = steps(made)["fc1"], made.read_weights()["fc1"]
    turns = chip.per_polarity
    for _ in range(turns):
        made.pulse({"fc1": torch.ones(HIDDEN, INPUTS, dtype=torch.int32)})
    moved = (made.read_weights()["fc1"] - before)[:, 1:]
    # Devices that are full already do not move.
    free = moved > 0.9 * turns * credit[:, 1:]
    assert float(free.float().mean()) > 0.5
    torch.testing.assert_close(moved[free], turns * credit[:, 1:][free], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("devices", [2, 4, 6, 8])
@pytest.mark.parametrize("kind", ["mixed", "verify"])
def test_a_rule_moves_weights_as_far_as_it_is_asked_whatever_the_number_of_devices(
    devices: int, kind: str
) -> None:
    rule: Rule = MixedPrecision(lr=0.1) if kind == "mixed" else ProgramVerify(lr=0.1, most=100)
    g = network()
    g.nodes["fc1"].weight[:, 0] = 8.0  # leaves the first device of every other weight room
    chip = replace(IDEAL, devices_per_weight=devices, pulse_step_us=0.01)
    made = chip_of(g, chip)
    memory, before = rule.start(made), made.read_weights()["fc1"]
    gradient = torch.randn(HIDDEN, INPUTS, generator=Generator().manual_seed(0)) * 0.1
    gradient[:, 0] = 0
    asked = {n: torch.zeros(op.geometry.shape) for n, op in made.layout.products.items()}
    for _ in range(4 * chip.per_polarity):
        memory = rule.update(made, memory, asked | {"fc1": gradient})
    wanted = -0.1 * 4 * chip.per_polarity * gradient
    moved = made.read_weights()["fc1"] - before
    slope = float((moved * wanted).sum() / wanted.square().sum())
    assert slope == pytest.approx(1, abs=0.1)


def test_sign_pulses_move_every_weight_by_one_credit_whatever_the_number_of_devices() -> None:
    for devices in (2, 4, 6, 8):
        g = network()
        g.nodes["fc1"].weight[:, 0] = 2.0
        made = chip_of(g, replace(IDEAL, devices_per_weight=devices, pulse_step_us=0.01))
        before, credit = made.read_weights()["fc1"], steps(made)["fc1"]
        gradient = torch.ones(HIDDEN, INPUTS)
        gradient[:, 0] = 0
        for _ in range(devices // 2):
            SignPulses().update(made, {}, {"fc1": gradient})
        moved = (before - made.read_weights()["fc1"])[:, 1:] / credit[:, 1:]
        assert float(moved.median()) == pytest.approx(devices // 2, rel=1e-3)


@pytest.mark.parametrize("chip", [replace(IDEAL, pulse_step_us=0.5), PCM])
def test_no_device_gets_more_pulses_than_fill_it(chip: Chip) -> None:
    g = network()
    g.nodes["fc1"].weight[0] *= 1e-30
    made = chip_of(g, chip)
    rule = MixedPrecision(lr=1.0)
    gradients = {n: torch.ones(op.geometry.shape) for n, op in made.layout.products.items()}
    before = made.state.cells["fc1"].sets
    rule.update(made, rule.start(made), gradients)
    given = made.state.cells["fc1"].sets - before
    assert 0 < int(given[1, 0].min()) <= int(given.max()) <= 60
    assert int(given[0, 0].max()) == 0


def test_a_pulse_is_credited_in_proportion_to_the_devices() -> None:
    assert device_model(PCM).response.credit_us == pytest.approx(0.75 * 25 / 12)
    assert device_model(PCM_PULSED).response.credit_us == 0.75
    assert device_model(replace(IDEAL, pulse_step_us=0.1)).response.credit_us == 0.1


def test_quick_pulses_one_by_one_are_worth_as_much_as_at_once() -> None:
    """A device reads high shortly after a pulse; the next pulse must not write that for good."""
    chip = replace(PCM_PULSED, programming_noise=None, read_noise=None)
    ends = []
    for rounds in ((5,), (1, 1, 1, 1, 1)):
        made = chip_of(network(), chip)
        weight = made.layout.products["fc1"].weight
        made.reset({"fc1": torch.ones(weight.shape)})
        for count in rounds:
            made.wait(0.05)
            made.pulse({"fc1": torch.full(weight.shape, count, dtype=torch.int32)})
        made.wait(pulses.T0_S)
        ends.append(made.read_conductances()["fc1"][0])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9), torch.optim.RMSprop]
)
def test_digital_values_step_as_the_optimiser_steps_in_their_units(optimizer: Any) -> None:
    made, weights = chip_of(network(), IDEAL), chip_of(network(), IDEAL).read_weights()
    units, memory = digital.sizes(made, weights), digital.NOTHING
    held = {name: torch.nn.Parameter(v / units[name]) for name, v in made.registers.items()}
    stepper = optimizer(list(held.values()), lr=0.03)
    draw = Generator().manual_seed(0)
    for _ in range(5):
        gradients = {n: torch.randn(v.shape, generator=draw) for n, v in made.registers.items()}
        moved, memory = digital.step(made, gradients, weights, memory, 0.03, optimizer)
        made.set_registers(moved)
        for name, parameter in held.items():
            parameter.grad = gradients[name] * units[name] / memory.scale
        stepper.step()
    for name, value in made.registers.items():
        torch.testing.assert_close(value, held[name].detach() * units[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_a_loss_that_is_larger_by_a_factor_leads_to_the_same_digital_values(optimizer: Any) -> None:
    ends = []
    for factor in (1.0, 1024.0):

        def loss(output: Tensor, target: Tensor, by: float = factor) -> Tensor:
            return by * squared(output, target)

        made = chip_of(network(), PCM)
        fine_tune(made, task(network(seed=2), 5), loss, optimizer=optimizer)
        ends.append(dict(made.registers))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-5)


def test_preparations_come_first_and_one_rule_last() -> None:
    done = []

    class Noted:
        def begin(self, board: Board) -> None:
            done.append(board.pulses)

    made, before = chip_of(network(), PCM), DigitalOnly()
    fine_tune(made, task(network(), 3), squared, [Noted(), Noted(), SignPulses(threshold=0.01)])
    assert len(done) == 2
    assert made.pulses > done[0]
    with pytest.raises(TypeError, match=r"in place 1 of 2; .*an update rule comes last"):
        fine_tune(made, task(network(), 3), squared, [before, Noted()])
    with pytest.raises(TypeError, match="holds the text 'digital'; give a value"):
        fine_tune(made, task(network(), 3), squared, ["digital"])  # type: ignore[list-item]


def test_a_teacher_needs_no_labels() -> None:
    wrong, right = network(), network(seed=2)
    made = chip_of(wrong, IDEAL)
    history = fine_tune(made, [x for x, _ in task(wrong, 12)], teacher=right)
    assert history.loss == "distance to the teacher's outputs, in shares of their power"
    assert history.before is not None
    assert history.after is not None
    assert history.after < history.before
    made = chip_of(right, IDEAL)
    before = dict(made.registers)
    history = fine_tune(made, [x for x, _ in task(wrong, 6)], teacher=right)
    assert history.note.startswith("nothing helped")
    assert all(torch.equal(made.registers[name], value) for name, value in before.items())


def test_ctrl_c_leaves_the_best_digital_values_found() -> None:
    made = chip_of(network(), PCM)
    before = dict(made.registers)

    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(made, task(network(seed=2), 4), squared, DigitalOnly(), seen=stop)
    assert all(torch.equal(made.registers[name], value) for name, value in before.items())


def test_a_chip_that_cannot_lower_a_weight_is_refused() -> None:
    made = chip_of(network(), replace(IDEAL, name="single", devices_per_weight=1))
    with pytest.raises(ValueError, match="single has one device per weight"):
        fine_tune(made, task(network(), 1), squared, MixedPrecision())


def test_a_tuning_tells_what_is_going_on_and_counts_its_updates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heard: list[str] = []
    batches = task(network(seed=2), 4)
    quiet = fine_tune(chip_of(network(), IDEAL), batches, squared)
    assert not capsys.readouterr().err
    history = fine_tune(chip_of(network(), IDEAL), batches, squared, progress=heard.append)
    assert history == quiet
    counted = [text for text in heard if " of 3 updates, loss " in text]
    assert [text.split()[0] for text in counted] == ["1", "2", "3"]
    assert heard.index(counted[0]) > 0
    fine_tune(chip_of(network(), IDEAL), batches, squared, progress=True)
    shown = capsys.readouterr().err
    assert "3 of 3 updates" in shown
    assert "to go" in shown


def test_sign_pulses_go_against_the_gradient() -> None:
    made = chip_of(network(), replace(IDEAL, pulse_step_us=0.01))
    before = made.read_weights()["fc1"]
    gradient = torch.zeros(HIDDEN, INPUTS)
    gradient[0, 0], gradient[1, 1], gradient[2, 2] = 1.0, -1.0, 0.2
    SignPulses(threshold=0.5).update(made, {}, {"fc1": gradient})
    moved = made.read_weights()["fc1"] - before
    assert float(moved[0, 0]) < 0
    assert float(moved[1, 1]) > 0
    assert int((moved != 0).sum()) == 2


def test_a_loss_that_is_not_finite_stops_before_the_devices_are_touched() -> None:
    made = chip_of(network(), PCM)
    given = made.pulses
    for hold_back, message in ((0, "loss of update 1 is nan"), (0.5, "held back is nan")):
        with pytest.raises(ValueError, match=message):
            fine_tune(
                made,
                task(network(), 4),
                lambda y, _: y.sum() * torch.nan,
                MixedPrecision(),
                hold_back=hold_back,
            )
    assert made.pulses == given


def test_the_same_seed_tunes_to_the_same_chip() -> None:
    weights = []
    for _ in range(2):
        made = chip_of(network(), PCM, 7)
        fine_tune(made, task(network(seed=2), 6), squared, MixedPrecision(lr=0.5))
        weights.append(made.read_weights()["fc1"])
    assert torch.equal(*weights)


@pytest.mark.parametrize(("every", "readings"), [(None, 2), (1, 9), (3, 3)])
def test_weights_that_no_rule_pulses_are_read_once_in_eight_updates(
    every: int | None, readings: int
) -> None:
    made, loop = chip_of(network(), PCM), Loop(read_every=every)
    state = loop.start(made)
    for x, target in task(network(seed=9), 9):
        state, _ = loop.update(made, state, x, target, squared)
    assert made.spent["read"].times == readings
    assert Loop(rule=MixedPrecision()).reads_after == 1
