"""What prepares a chip is judged, and taken back where it does harm; pulses begin with a few."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from aged_chips import aged, inputs, squared, task
from snu_plugin.accelerator import Accelerator, Board, adapter_of
from snu_plugin.hil import (
    Adapter,
    Correct,
    DigitalOnly,
    MixedPrecision,
    Prior,
    Recalibrate,
    Rewrite,
    fine_tune,
    prepared,
)
from snu_plugin.hil.budget import Metered
from snu_plugin.hil.rules import Preparation
from snu_plugin.hil.scores import Scores


@dataclass(frozen=True)
class Spoil:
    """Puts an adapter of noise beside every layer, or makes all gains larger."""

    adapters: bool

    def begin(self, board: Board) -> None:
        if not self.adapters:
            gains = {n: 3 * v for n, v in board.registers.items() if n.endswith(".gain")}
            board.set_registers(gains)
            return
        Adapter(rank=4, where="all").begin(board)
        draw = Generator().manual_seed(0)
        out = {n: v for n, v in board.registers.items() if n.endswith("adapter_out")}
        board.set_registers({n: torch.randn(v.shape, generator=draw) for n, v in out.items()})


def same(chip: Accelerator, registers: dict[str, Tensor]) -> bool:
    held = chip.registers
    return held.keys() == registers.keys() and all(
        torch.equal(value, held[name]) for name, value in registers.items()
    )


@pytest.mark.parametrize("way", [Spoil(False), Spoil(True)])
@pytest.mark.parametrize("held_before", [False, True])
def test_a_preparation_that_does_harm_is_taken_back(way: Preparation, held_before: bool) -> None:
    chip = aged()
    chip.calibrate()
    if held_before:
        Correct(rank=2).begin(chip)
    registers = dict(chip.registers)
    (found,) = prepared(chip, [way], task()[:3], lambda: squared)
    assert not found.kept
    assert same(chip, registers)
    assert found.before is not None
    assert found.after is not None
    assert found.after > found.before + (found.noise or 0)
    assert "taken back" in found.text()


def test_harm_within_the_noise_that_is_stated_is_not_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loss of 1 that becomes 1.15 or so, with a standard error of 0.1."""
    means = {"now": 1.0, "after": 1.15}

    def scores(self: Scores[Any], reads: int) -> Tensor:
        loss = means["now" if float(self.chip.registers["fc1.gain"][0]) == 1 else "after"]
        spread = 0.3 * torch.tensor([-1.0, 1.0] * 8, dtype=torch.float64)
        return (loss + (spread if loss > 1 else -spread)).expand(reads, -1).clone()

    monkeypatch.setattr(Scores, "of", scores)
    for after, kept in ((1.15, True), (1.5, False)):
        means["after"] = after
        (found,) = prepared(aged(), [Spoil(False)], task()[:1], lambda: squared)
        assert found.kept is kept
        assert found.noise == pytest.approx(2 * 0.6 / 15**0.5, rel=1e-6)
        assert kept == (after - 1 < (found.noise or 0.0))


def test_preparations_that_help_are_kept_and_each_is_told() -> None:
    chip = aged()
    ways: list[Preparation] = [Recalibrate(), Spoil(False), Correct(rank=8, sample=inputs())]
    found = prepared(chip, ways, task()[:3], lambda: squared)
    assert [one.kept for one in found] == [True, False, True]
    first, _, last = (one.before for one in found)
    assert found[2].after is not None
    assert first is not None
    assert last is not None
    assert found[2].after < last < first
    history = fine_tune(aged(), task()[:8], squared, [*ways, DigitalOnly()])
    assert [one.kept for one in history.prepared] == [True, False, True]
    assert str(history).count("prepared ") == 3


def test_what_nothing_judges_is_kept_and_said_to_be_judged_by_nothing() -> None:
    (found,) = prepared(aged(), [Spoil(False)], None, lambda: squared)
    assert found.kept
    assert found.text() == "Spoil(adapters=False), judged by nothing"


def test_a_preparation_that_fails_leaves_the_chip_as_it_was() -> None:
    class Fails:
        def begin(self, board: Board) -> None:
            Spoil(True).begin(board)
            raise KeyboardInterrupt

    chip = aged()
    registers = dict(chip.registers)
    with pytest.raises(KeyboardInterrupt):
        prepared(chip, [Fails()], task()[:1], lambda: squared)
    assert same(chip, registers)


def test_an_adapter_that_learned_nothing_is_taken_away() -> None:
    chip = aged()
    draw = Generator().manual_seed(0)
    noise = [(x, torch.randn(y.shape, generator=draw)) for x, y in task()[:5]]
    history = fine_tune(chip, noise, squared, [Adapter(where="all")], digital_lr=1e-7)
    assert "nothing helped" in history.note
    assert all(adapter_of(chip.registers, name) is None for name in chip.layout.products)


def test_adapters_that_made_up_for_devices_of_before_are_emptied_with_new_ones() -> None:
    chip = aged()
    chip.calibrate()
    Correct(rank=30, pause_s=0.0).begin(chip)
    assert any(bool(v.any()) for n, v in chip.registers.items() if n.endswith("adapter_out"))
    (found,) = prepared(chip, [Rewrite()], task()[:3], lambda: squared)
    assert found.written
    assert not any(bool(v.any()) for n, v in chip.registers.items() if n.endswith("adapter_out"))


def test_a_writing_that_does_harm_stops_while_it_is_small() -> None:
    draw = Generator().manual_seed(0)
    chip, whole = aged(), aged()
    for each in (chip, whole):
        each.calibrate()
    other = {n: w[torch.randperm(len(w), generator=draw)] for n, w in chip.read_weights().items()}
    (found,) = prepared(chip, [Rewrite(weights=other)], task()[:3], lambda: squared)
    (blind,) = prepared(whole, [Rewrite(weights=other)], None, lambda: squared)
    assert found.stopped
    assert found.before is not None
    assert found.after is not None
    assert found.after > found.before
    assert found.written < 0.15 * blind.written
    assert f"stopped after {found.written:,} pulses, which did harm" in found.text()
    (x, target), *_ = task()[3:]
    spoilt, stopped = (float(squared(c.run(x)[0], target)) for c in (whole, chip))
    assert stopped < 0.5 * spoilt


@pytest.mark.parametrize("worst", [None, 0.2])
def test_a_writing_that_helps_goes_on_to_its_end(worst: float | None) -> None:
    chip = aged()
    chip.calibrate()
    then = {name: cells.t_s.clone() for name, cells in chip.state.cells.items()}
    (found,) = prepared(chip, [Rewrite(worst=worst)], task()[:3], lambda: squared)
    assert found.kept
    assert not found.stopped
    cells = chip.state.cells
    written = sum(int((cells[name].t_s[0] != t_s[0]).sum()) for name, t_s in then.items())
    weights = sum(op.weight.numel() for op in chip.layout.products.values())
    assert 0.9 * (worst or 1.0) * weights <= written <= round((worst or 1.0) * weights) + 3


def test_how_many_devices_a_writing_may_write_is_said_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chip = aged()
    with caplog.at_level("INFO"):
        prepared(chip, [Rewrite(worst=0.1)], task()[:1], lambda: squared)
    devices = chip.layout.devices
    assert f"writes up to {round(0.1 * devices):,} of {devices:,} devices" in caplog.text
    assert f"looks after {round(0.001 * devices):,} and " in caplog.text


def test_an_update_spends_no_more_pulses_than_it_may_and_says_which() -> None:
    chip, draw = aged(), Generator().manual_seed(0)
    counts = {
        n: torch.randint(-3, 4, w.shape, generator=draw) for n, w in chip.read_weights().items()
    }
    asked = sum(int(count.abs().sum()) for count in counts.values())
    before = chip.pulses
    board = Metered(chip, 50, seed=0)
    given = board.spend(counts)
    assert chip.pulses - before == sum(int(c.abs().sum()) for c in given.values()) == 50 < asked
    assert all(
        bool(((c * counts[n] >= 0) & (c.abs() <= counts[n].abs())).all()) for n, c in given.items()
    )
    board.pulse(counts)  # nothing is left
    assert chip.pulses - before == 50
    free = Metered(chip, asked, seed=0).spend(counts)
    assert all(torch.equal(free[name], count) for name, count in counts.items())


def test_pulses_that_an_update_may_not_spend_are_still_wanted() -> None:
    chip, draw = aged(), Generator().manual_seed(0)
    rule = MixedPrecision(lr=1.0, eps_us=0.75)
    wanted = {n: torch.randn(w.shape, generator=draw) for n, w in chip.read_weights().items()}
    metered: Any = Metered(chip, 20, seed=0)
    memory = rule.update(metered, rule.start(chip), wanted)
    whole = rule.update(aged(), rule.start(chip), wanted)
    left = sum(int((memory.chi[n] != whole.chi[n]).sum()) for n in wanted)
    pulsed = sum(int((whole.chi[n] != -wanted[n]).sum()) for n in wanted)
    assert 0 < pulsed - 20 <= left <= pulsed


def test_what_one_chip_learned_is_given_to_others_of_the_same_network() -> None:
    """The targets lie half a gain and a bias away, which every chip needs alike."""
    ways = (Recalibrate(), Adapter(rank=2, where="all"), DigitalOnly())
    pairs = [(x, 0.5 * y + 1.0) for x, y in task()[:10]]
    history = fine_tune(aged(seed=0), pairs, squared, ways)
    assert history.note.startswith("kept")
    assert history.learnt is not None
    for seed in (1, 2):
        other = aged(seed=seed)
        other.calibrate()
        gains = other.registers["fc1.gain"]
        before = float(np.mean([float(squared(other.run(x)[0], y)) for x, y in pairs[:4]]))
        history.learnt.begin(other)
        after = float(np.mean([float(squared(other.run(x)[0], y)) for x, y in pairs[:4]]))
        assert after < 0.5 * before
        share = history.learnt.last["fc1.gain"] / history.learnt.first["fc1.gain"]
        assert torch.allclose(other.registers["fc1.gain"], gains * share)


def test_corrections_of_a_chips_own_devices_are_not_given_to_others() -> None:
    chip, other = aged(seed=0), aged(seed=1)
    Correct(rank=4).begin(chip)
    first = dict(chip.registers)
    Prior(first=first, last=first).begin(other)
    assert all(adapter_of(other.registers, name) is None for name in other.layout.products)


def test_what_another_network_learned_is_refused_and_changes_nothing() -> None:
    chip = aged()
    first = dict(chip.registers)
    prior = Prior(first={"fc9.gain": torch.ones(3)}, last={"fc9.gain": torch.ones(3)})
    with pytest.raises(ValueError, match=r"no fc9\.gain of"):
        prior.begin(chip)
    assert same(chip, first)


def test_without_a_rule_a_chip_that_nobody_calibrated_is_recalibrated_first() -> None:
    chip, calibrated = aged(), aged()
    calibrated.calibrate()
    *learned, (x, target) = task()
    before = float(squared(chip.run(x)[0], target))
    history = fine_tune(chip, learned[:8], squared)
    assert [done.way for done in history.prepared] == [repr(Recalibrate())]
    reached = float(squared(calibrated.run(x)[0], target))
    assert reached < 0.5 * before  # else nothing is shown
    assert float(squared(chip.run(x)[0], target)) < 1.1 * reached
