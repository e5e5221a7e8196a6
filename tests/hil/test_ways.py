"""Ways to change a chip, as values: recalibrated, adapted, written again, pulsed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from aged_chips import YEAR_S, aged, inputs, network, squared, task
from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Board
from snu_plugin.compiler import compile
from snu_plugin.hil import (
    Adapter,
    DigitalOnly,
    MixedPrecision,
    ProgramVerify,
    Recalibrate,
    Rewrite,
    Rule,
    SignPulses,
    StochasticPulses,
    ThinnedPulses,
    fine_tune,
    first_pulses,
    worst,
)
from snu_plugin.hil.adapters import readout


def error(chip: Accelerator) -> float:
    """How far the chip is from the float network."""
    x = inputs(99)
    wanted = graph.network(network(), dtype=torch.float32)(x)[0].detach()
    return float(np.mean([float((chip.run(x)[0] - wanted).square().mean()) for _ in range(4)]))


def test_recalibrating_is_calibrating() -> None:
    one, other = aged(), aged()
    one.calibrate()
    Recalibrate().begin(other)
    for name, value in one.registers.items():
        assert torch.equal(value, other.registers[name])


def test_the_readout_is_what_reaches_an_output_without_another_product() -> None:
    assert readout(aged(IDEAL)) == ["fc2"]


def test_an_adapter_begins_without_effect_and_its_first_values_follow_the_seed() -> None:
    made, same, other, plain = aged(), aged(), aged(), aged()
    Adapter(rank=4).begin(made)
    Adapter(rank=4).begin(same)
    Adapter(rank=4, seed=1).begin(other)
    x = inputs()
    assert torch.equal(made.run(x)[0], plain.run(x)[0])
    first = made.registers["fc2.adapter_in"]
    assert first.shape == (4, 30)
    assert torch.equal(first, same.registers["fc2.adapter_in"])
    assert not torch.equal(first, other.registers["fc2.adapter_in"])
    assert not any("fc1.adapter" in name for name in made.registers)


def test_adapters_go_where_they_are_asked_to_and_no_wider_than_a_matrix() -> None:
    made = aged()
    Adapter(rank=25, where="all").begin(made)
    ranks = {n: len(made.registers[f"{n}.adapter_in"]) for n in made.layout.products}
    assert ranks == {"fc1": 20, "rec": 25, "fc2": 6}
    named = aged()
    Adapter(where=["rec"]).begin(named)
    assert [name for name in named.registers if "adapter" in name] == [
        "rec.adapter_in",
        "rec.adapter_out",
    ]


def test_an_adapter_that_has_learnt_is_kept() -> None:
    made = aged()
    Adapter(rank=4).begin(made)
    made.set_registers({"fc2.adapter_out": torch.ones(6, 4)})
    Adapter(rank=4, seed=3).begin(made)
    assert bool((made.registers["fc2.adapter_out"] == 1).all())


def test_an_adapter_that_cannot_be_leaves_the_chip_as_it_was() -> None:
    made = aged()
    before = set(made.registers)
    with pytest.raises(ValueError, match="no node 'snu' with weights"):
        Adapter(where=["fc1", "snu"]).begin(made)
    assert set(made.registers) == before
    with pytest.raises(ValueError, match="'readout', 'all' or a list"):
        Adapter(where="fc1")


def test_tuning_trains_an_adapter_and_writes_no_device() -> None:
    made = aged()
    Recalibrate().begin(made)
    Adapter(rank=6).begin(made)
    pulses, before = made.pulses, error(made)
    fine_tune(made, task(), squared, hold_back=0)
    assert made.pulses == pulses
    assert bool(made.registers["fc2.adapter_out"].any())
    assert error(made) < 0.9 * before


def test_rewriting_all_undoes_a_year() -> None:
    recalibrated, made = aged(), aged()
    Recalibrate().begin(recalibrated)
    before = made.pulses
    Rewrite().begin(made)
    assert made.pulses - before > 2 * (20 * 30 + 30 * 30 + 30 * 6)
    assert made.spent["write"].energy_nj > 0  # type: ignore[operator]
    assert error(made) < 0.7 * error(recalibrated)


@pytest.mark.parametrize("worst_share", [None, 0.2])
def test_rewriting_leaves_outliers_in_digital(worst_share: float | None) -> None:
    g = network()
    g.nodes["fc1"].weight[3, 5] = 9.0
    made = Accelerator(compile(g, PCM, outliers=0.01), 0)
    made.program()
    made.wait(YEAR_S)
    Rewrite(worst=worst_share).begin(made)
    seen = torch.stack([made.read_weights()["fc1"] for _ in range(8)]).mean(0)
    expected = torch.from_numpy(g.nodes["fc1"].weight).float()
    assert float((seen - expected).abs().max()) < 0.4
    assert float(seen[3, 5]) == pytest.approx(9.0, abs=0.2)


def test_rewriting_the_worst_touches_their_devices_alone() -> None:
    made = aged()
    written = {name: cells.t_s.clone() for name, cells in made.state.cells.items()}
    Rewrite(worst=0.1).begin(made)
    renewed = sum(
        int((cells.t_s != written[name]).any(0).sum()) for name, cells in made.state.cells.items()
    )
    weights = sum(op.weight.numel() for op in made.layout.products.values())
    assert renewed == round(0.1 * weights)


def test_rewriting_takes_the_weights_that_are_given() -> None:
    made = aged(IDEAL, age_s=0.0)
    halved = {"fc1": torch.from_numpy(network().nodes["fc1"].weight).float() / 2}
    Rewrite(weights=halved).begin(made)
    seen = made.read_weights()
    torch.testing.assert_close(seen["fc1"], halved["fc1"])
    torch.testing.assert_close(seen["fc2"], torch.from_numpy(network().nodes["fc2"].weight).float())
    with pytest.raises(ValueError, match="weights holds fc9"):
        Rewrite(weights={"fc9": torch.zeros(1)}).begin(made)


def test_ways_are_values() -> None:
    assert Adapter(rank=4) == Adapter(rank=4) != Adapter(rank=5)
    assert Rewrite(worst=0.5) != Rewrite()
    for wrong in (0.0, 1.5, -1.0):
        with pytest.raises(ValueError, match="worst is"):
            Rewrite(worst=wrong)


def test_stochastic_pulses_move_weights_by_the_gradient_on_average() -> None:
    made = aged(IDEAL, age_s=0.0)
    rule = StochasticPulses(lr=1.0)
    before = made.read_weights()
    draw = Generator().manual_seed(0)
    # A fraction of a pulse at every update.
    wanted = {n: -2e-4 * torch.randn(w.shape, generator=draw) for n, w in before.items()}
    memory = rule.start(made)
    for _ in range(200):
        memory = rule.update(made, memory, wanted)
    assert int(memory["updates"]) == 200
    after = made.read_weights()
    moved = torch.cat([(after[n] - before[n]).flatten() for n in before])
    due = torch.cat([-200 * wanted[n].flatten() for n in before])
    # What 1,680 weights of a pulse or two show of the slope has a standard error of 0.02.
    assert float((moved * due).sum() / due.square().sum()) == pytest.approx(1.0, abs=0.08)


def test_thinned_pulses_move_the_share_with_the_largest_gradients() -> None:
    made = aged(IDEAL, age_s=0.0)
    before, weights = made.pulses, made.read_weights()
    gradients = {
        n: torch.randn(w.shape, generator=Generator().manual_seed(1)) for n, w in weights.items()
    }
    ThinnedPulses(share=0.01).update(made, {}, gradients)
    assert made.pulses - before == 6 + 9 + 2  # of 600, 900 and 180 weights
    for name, after in made.read_weights().items():
        moved = after - weights[name]
        assert bool((moved * gradients[name] <= 0).all())
        chosen = gradients[name].abs()[moved != 0]
        assert float(chosen.min()) > float(gradients[name].abs()[moved == 0].max())


RULES = (
    MixedPrecision(lr=1e9),
    MixedPrecision(lr=1e9, evidence=0.1),
    SignPulses(),
    StochasticPulses(lr=1e9),
    ThinnedPulses(share=0.25),
    ProgramVerify(lr=1e9),
)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_rule_spends_more_pulses_than_it_says_beforehand(rule: Rule) -> None:
    board, draw = aged(), Generator().manual_seed(0)
    said = worst(board, rule, 1)
    assert said is not None
    weights = board.read_weights()
    memory = rule.start(board)
    before = board.pulses
    rule.update(
        board, memory, {n: torch.randn(w.shape, generator=draw) for n, w in weights.items()}
    )
    assert 0 < board.pulses - before <= said.pulses == said.until_look
    more = worst(board, rule, 7, 2)
    assert more is not None
    assert (more.pulses, more.until_look) == (7 * said.pulses, 2 * said.pulses)
    assert more.energy_nj == pytest.approx(7 * said.energy_nj)
    assert more.wear == pytest.approx(7 * said.wear)
    assert f"{said.pulses:,} pulses" in said.text()


def test_a_rule_without_pulses_costs_none_and_one_of_others_is_not_guessed() -> None:
    board = aged()
    assert worst(board, DigitalOnly(), 9) == (0, 0, 0.0, 0.0)

    class Foreign:
        def start(self, board: Board) -> None: ...

        def update(self, board: Board, memory: Any, gradients: Any) -> None: ...

    assert worst(board, Foreign(), 9) is None


def test_a_history_says_what_its_rule_could_have_spent_at_most() -> None:
    board, rule, draw = aged(), MixedPrecision(lr=1e9), Generator().manual_seed(0)
    pairs = [(inputs(n), torch.rand(8, 16, 6, generator=draw)) for n in range(5)]
    history = fine_tune(board, pairs, "regression", rule)
    assert history.worst == worst(board, rule, 4, 1, first_pulses(board))
    free = worst(board, rule, 4)
    assert history.worst is not None
    assert free is not None
    assert history.worst.pulses < free.pulses
    assert sum(record.pulses - record.refreshed for record in history) <= history.worst.pulses
    assert fine_tune(aged(), pairs, "regression").worst == (0, 0, 0.0, 0.0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.NAdam])
def test_any_optimiser_of_torch_says_which_change_of_the_weights_is_wanted(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    """What is accumulated is the path that the optimiser takes, less the pulses spent on it."""
    board, draw = aged(), Generator().manual_seed(0)
    rule = MixedPrecision(lr=1e-3, eps_us=1e6, optimizer=optimizer)
    memory, shapes = rule.start(board), board.read_weights()
    paths = {n: torch.nn.Parameter(torch.zeros_like(w)) for n, w in shapes.items()}
    stepper = optimizer(list(paths.values()), lr=1e-3)
    for _ in range(3):
        gradients = {n: torch.randn(w.shape, generator=draw) for n, w in shapes.items()}
        memory = rule.update(board, memory, gradients)
        for name, path in paths.items():
            path.grad = gradients[name]
        stepper.step()
    for name, path in paths.items():
        torch.testing.assert_close(memory.chi[name], path.detach(), rtol=1e-4, atol=1e-8)
