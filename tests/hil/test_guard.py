"""Tuning with the defaults never ends worse, whatever the loss, the data and the devices are."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Board, Chip
from snu_plugin.compiler import compile
from snu_plugin.hil import (
    DigitalOnly,
    MixedPrecision,
    SignPulses,
    UpdateRecord,
    budget,
    fine_tune,
    trainer,
)
from snu_plugin.hil.guard import Guard, _helps, _most_gain, exchanged, hold_back
from snu_plugin.hil.scores import Scores, influences

INPUTS, CLASSES = 24, 4
CENTRES = torch.rand(CLASSES, INPUTS, generator=Generator().manual_seed(9))


def network(leak: bool = True) -> nir.NIRGraph:
    """A read-out that was fitted to ``batch`` without training: rows are the centres' logits."""
    n, dt = 16, 2.0**-10
    draw = np.random.default_rng(1)
    hidden = draw.normal(0, 0.4, (n, INPUTS))
    drive = torch.cat([batch(40, seed)[0] for seed in range(3)], 1)
    labels = torch.cat([batch(40, seed)[1] for seed in range(3)])
    rates = (drive.mean(0).numpy() @ hidden.T) / (2 if leak else 8)
    wanted = np.eye(CLASSES)[labels.numpy()]
    readout, *_ = np.linalg.lstsq(np.maximum(rates, 0), wanted, rcond=None)
    zero = np.zeros(n)
    tau = np.full(n, 3 * dt)
    neuron = (
        nir.LIF(tau=tau, r=tau / dt, v_leak=zero, v_threshold=np.full(n, 0.5), v_reset=zero)
        if leak
        else nir.IF(r=np.full(n, 1 / dt), v_threshold=np.full(n, 2.0), v_reset=zero)
    )
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(hidden),
        "unit": neuron,
        "fc2": nir.Affine(readout.T, np.zeros(CLASSES)),
        "out": nir.Output({"output": np.array([CLASSES])}),
    }
    edges = [("in", "fc1"), ("fc1", "unit"), ("unit", "fc2"), ("fc2", "out")]
    return nir.NIRGraph(nodes, edges)


def batch(count: int, seed: int, steps: int = 10) -> tuple[Tensor, Tensor]:
    draw = Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    drawn = torch.rand((steps, count, INPUTS), generator=draw)
    return (drawn < 0.1 + 0.4 * CENTRES[labels]).float(), labels


def summed(output: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(output.sum(0), labels, reduction="sum")


def thousandfold(output: Tensor, labels: Tensor) -> Tensor:
    return 1000 * cross_entropy(output.mean(0), labels)


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0, age_s: float = 30 * 86_400) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=2.0**-10), seed)
    made.program()
    made.wait(age_s)
    made.calibrate()
    return made


@torch.no_grad()
def unseen(chip: Accelerator, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """Mean loss of a sequence that nothing was tuned on, and its standard error."""
    losses = [
        float(loss(chip.run(x)[0], y)) / len(y)
        for x, y in (batch(100, seed) for seed in range(1000, 1008))
    ]
    return float(np.mean(losses)), float(np.std(losses)) / len(losses) ** 0.5


@pytest.mark.parametrize("loss", [summed, thousandfold])
@pytest.mark.parametrize("chip", [PCM, IDEAL], ids=["pcm", "ideal"])
@pytest.mark.parametrize("leak", [True, False])
@pytest.mark.covering(2)
def test_the_defaults_never_end_worse(
    loss: Callable[[Tensor, Tensor], Tensor], chip: Chip, leak: bool
) -> None:
    made = chip_of(network(leak), chip)
    before, noise = unseen(made, loss)
    history = fine_tune(made, [batch(30, seed) for seed in range(10, 22)], loss)
    after, _ = unseen(made, loss)
    assert after < before + 2 * noise
    assert history.after is not None
    assert history.before is not None
    assert history.after <= history.before


def test_labels_drawn_at_random_leave_the_chip_as_it_was() -> None:
    made = chip_of(network(), PCM)
    registers = dict(made.registers)
    draw = Generator().manual_seed(3)
    batches = [
        (batch(30, seed)[0], torch.randint(CLASSES, (30,), generator=draw))
        for seed in range(10, 18)
    ]

    def mean(output: Tensor, labels: Tensor) -> Tensor:  # already as unsure as can be: all is noise
        return cross_entropy(0.01 * output.mean(0), labels)

    history = fine_tune(made, batches, mean, DigitalOnly(), digital_lr=1e-4)
    assert history.note.startswith("nothing helped")
    assert all(torch.equal(made.registers[name], value) for name, value in registers.items())


@pytest.mark.parametrize("seed", [0, 51])
def test_a_sure_network_does_not_learn_to_be_unsure_from_labels_drawn_at_random(seed: int) -> None:
    """The loss falls to a tenth, also on what is held back: outputs near zero are the best answer.

    By seed 51 they fit these labels better than those of others, by two standard errors.
    """
    made = chip_of(network(), IDEAL, age_s=0)
    registers = dict(made.registers)
    draw = Generator().manual_seed(seed)
    batches = [
        (batch(30, seed)[0], torch.randint(CLASSES, (30,), generator=draw))
        for seed in range(10, 22)
    ]
    history = fine_tune(made, batches, lambda y, labels: cross_entropy(40 * y.mean(0), labels))
    assert "outputs fit the targets of other sequences as well" in history.note
    assert all(torch.equal(made.registers[name], value) for name, value in registers.items())


def test_a_step_that_is_far_too_large_is_taken_back() -> None:
    made = chip_of(network(), IDEAL, age_s=0)
    before, noise = unseen(made, summed)
    fine_tune(made, [batch(30, seed) for seed in range(10, 22)], summed, digital_lr=10.0)
    assert unseen(made, summed)[0] < before + 2 * noise


def test_steps_that_lead_to_what_is_not_finite_are_taken_back() -> None:
    """Gains of nearly nothing give gradients that are no numbers."""
    made = chip_of(network(), IDEAL, age_s=0)
    batches = [batch(30, seed) for seed in range(10, 22)]
    history = fine_tune(made, batches, summed, digital_lr=1.0)
    assert len(history) == 10
    assert all(bool(value.isfinite().all()) for value in made.registers.values())
    with pytest.raises(ValueError, match=r"would not be finite after update .*smaller digital_lr"):
        fine_tune(chip_of(network(), IDEAL, age_s=0), batches, summed, digital_lr=1.0, hold_back=0)


def test_a_gain_that_is_the_work_of_a_few_sequences_is_not_kept() -> None:
    lost, won = torch.tensor([[0.1] * 9 + [60.0]]), torch.tensor([[0.2] * 9 + [1.0]])
    assert not _helps(lost, won)
    assert not _helps(torch.tensor([[0.1] * 7 + [20.0, 0.1, 9.0]]), torch.full((1, 10), 0.2))
    assert _helps(torch.tensor([[0.3] * 9 + [0.1]]), won.clamp(max=0.2))


def test_a_gain_far_beyond_the_noise_is_kept_though_half_of_the_sequences_lose_a_little() -> None:
    before, after = torch.tensor([[0.1] * 5 + [2.0, 3.0] * 3]), torch.tensor([[0.2] * 11])
    assert _helps(before, after)
    assert not _most_gain(before, after)


def test_a_gain_between_the_two_bounds_is_kept_where_most_sequences_share_it() -> None:
    few = torch.tensor([[-0.12] * 7 + [1.0] * 4])
    most = torch.tensor([[0.3, 0.2, 0.4, 0.3, 0.2, 0.3, -0.8, 0.3, 0.2, 0.3, 0.4]])
    for gain in (few, most):
        share = float(gain.mean() / (gain.std() / gain.shape[1] ** 0.5))
        assert 1.5 < share < 2
    assert _helps(most, torch.zeros_like(most))
    assert not _helps(few, torch.zeros_like(few))


def test_a_rule_with_pulses_stops_once_it_does_harm() -> None:
    made = chip_of(network(), PCM)
    seen: list[UpdateRecord] = []
    rule = SignPulses(threshold=0.0)
    batches = [batch(30, seed) for seed in range(10, 42)]
    history = fine_tune(made, batches, summed, rule, seen=seen.append)
    assert history.stopped is not None
    pulses = [record.pulses for record in history]
    assert pulses[0] == 1  # of 448 weights, which would all be pulsed
    assert all(b <= 2 * a for a, b in pairwise(pulses))
    assert not any(pulses[history.stopped :])
    assert sum(pulses) < 448 / 2  # less than half of what one update would have spent
    assert "before the first pulse, which none can take back, it was" in history.note


def test_pulses_are_judged_with_the_first_digital_values() -> None:
    """Those of now may make up for pulses, and are not always kept."""
    made = chip_of(network(), PCM)
    guard = Guard(Scores(made, [batch(40, seed) for seed in range(3)], summed))
    assert guard.wear() == 0
    now = {name: 0.5 * value for name, value in made.registers.items()}
    made.set_registers(now)
    assert guard.wear() == 0  # nothing was pulsed
    made.pulse({name: torch.full(w.shape, 9) for name, w in made.read_weights().items()})
    assert guard.wear() > 2
    assert all(torch.equal(made.registers[name], value) for name, value in now.items())
    assert guard.wear() == 0  # nothing since


class LateHarm:
    """Pulses every device in its ninth update, and before then none."""

    def start(self, board: Board) -> int:
        return 0

    def update(self, board: Board, memory: int, gradients: Mapping[str, Tensor]) -> int:
        if memory == 8:
            board.pulse({name: torch.full(g.shape, 9) for name, g in gradients.items()})
        return memory + 1


def test_harm_of_the_last_update_is_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "FIRST_SHARE", 9.0)  # all pulses from the first update on
    monkeypatch.setattr(trainer, "LOOKS_AT_PULSES", 8)  # after every second update, and the last
    # Without noise, by which a look before it may see harm where there is none.
    made = chip_of(network(), replace(PCM, read_noise=None, output_noise=None))
    batches = [batch(16, seed) for seed in range(11)]  # 2 are held back
    history = fine_tune(made, batches, summed, LateHarm(), digital_lr=0)
    assert (len(history), history.stopped) == (9, 9)


def test_what_judges_is_never_learned_from() -> None:
    batches = [batch(5, seed) for seed in range(10)]
    held, learned = hold_back(batches * 3, 0.25)
    assert [x for x, _ in held] == [x for x, _ in batches[:2]]
    assert [x for x, _ in learned] == [x for x, _ in batches[2:] * 3]
    with pytest.raises(ValueError, match="batches holds none; give at least one pair"):
        hold_back([], 0.2)


def test_of_one_batch_alone_some_sequences_judge() -> None:
    x, labels = batch(20, 1)
    (held,), learned = hold_back([(x, labels)] * 4, 0.2)
    assert torch.equal(torch.cat((held[0], learned[0][0]), 1), x)
    assert torch.equal(torch.cat((held[1], learned[0][1])), labels)
    assert (len(held[1]), len(learned)) == (8, 4)


def test_of_batches_of_one_sequence_so_many_judge_that_a_gain_can_be_told_from_luck() -> None:
    held, learned = hold_back([batch(1, seed) for seed in range(20)], 0.2)
    assert (len(held), len(learned)) == (8, 12)
    held, learned = hold_back([batch(1, seed) for seed in range(5)], 0.2)
    assert (len(held), len(learned)) == (2, 3)


@pytest.mark.parametrize("count", [1, 5])
def test_a_few_sequences_are_said_to_be_too_few_and_change_nothing(count: int) -> None:
    made = chip_of(network(), PCM)
    registers, spent = dict(made.registers), made.pulses
    batches = [batch(1, seed) for seed in range(count)] * 4
    with pytest.warns(UserWarning, match=r"answers can be held back, too few .*without pulses"):
        history = fine_tune(made, batches, summed, MixedPrecision())
    assert history.note.startswith("nothing was kept: too few answers")
    assert all(torch.equal(made.registers[name], value) for name, value in registers.items())
    assert made.pulses == spent


def test_one_batch_that_cannot_be_divided_is_said_to_judge_itself() -> None:
    made = chip_of(network(), PCM)
    x, labels = batch(30, 1)
    with pytest.warns(UserWarning, match="it is learned from and judged by"):
        fine_tune(made, [(x, {"labels": labels})] * 4, lambda y, of: summed(y, of["labels"]))


@pytest.mark.parametrize("size", [1, 30])
def test_batches_of_one_sequence_teach_no_more_than_others_by_labels_drawn_at_random(
    size: int,
) -> None:
    """Of batches of one, targets of others are those of other batches."""
    made = chip_of(network(), IDEAL, 1, age_s=0)
    registers = dict(made.registers)
    draw = Generator().manual_seed(1)
    batches = [
        (batch(size, 100 + seed)[0], torch.randint(CLASSES, (size,), generator=draw))
        for seed in range(50 if size == 1 else 12)
    ]
    history = fine_tune(made, batches * 4, lambda y, labels: cross_entropy(20 * y.mean(0), labels))
    assert "outputs fit the targets of other sequences as well" in history.note
    assert all(torch.equal(made.registers[name], value) for name, value in registers.items())


def test_everybody_is_given_the_target_of_another_sequence_of_any_batch() -> None:
    draw = Generator().manual_seed(0)
    x, steps = torch.zeros(5, 1, 3), torch.arange(5)[:, None]
    pairs = [(x, torch.tensor([label])) for label in range(6)]
    mixed = exchanged(pairs, draw)
    assert sorted(int(y) for _, y in mixed) == list(range(6))
    assert all(int(y) != label for label, (_, y) in enumerate(mixed))
    # Nobody else has five steps: its own come at other times.
    several = [(x, steps), (x[:4].expand(4, 2, 3), torch.stack([torch.zeros(4), torch.ones(4)], 1))]
    (_, moved), (_, swapped) = exchanged(several, draw)
    assert sorted(moved[:, 0].tolist()) == list(range(5))
    assert not torch.equal(moved, steps)
    assert torch.equal(swapped, several[1][1].flip(1))
    (_, alone) = exchanged([(x, torch.tensor([3]))], draw)[0]
    assert int(alone) == 3


def test_a_loss_that_takes_whole_batches_alone_is_judged_by_them() -> None:
    def whole(output: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(output.sum(0).reshape(30, CLASSES), labels)

    made = chip_of(network(), PCM)
    assert fine_tune(made, [batch(30, seed) for seed in range(5)], whole).before is not None


def compared(output: Tensor, labels: Tensor) -> Tensor:
    """Sequences of one class should give outputs that are alike: a loss of pairs of sequences."""
    other = ~torch.eye(len(labels), dtype=torch.bool)
    same = (labels[:, None] == labels) & other
    odds = (output.mean(0) @ output.mean(0).T).masked_fill(~other, -1e9).log_softmax(1)
    return -(odds * same).sum() / same.sum().clamp_min(1)


def test_a_loss_of_pairs_is_judged_by_what_it_is_of_a_whole_batch() -> None:
    """Single sequences have no pair, and a loss of 0."""
    made = chip_of(network(), PCM)
    history = fine_tune(made, [batch(16, seed) for seed in range(8)], compared)
    assert history.before is not None
    assert history.before > 0.5


def test_losses_that_do_not_add_up_are_divided_by_what_they_are_without_each_part() -> None:
    draw = Generator().manual_seed(0)
    output, labels = torch.rand((5, 60, CLASSES), generator=draw), batch(60, 3)[1]
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0])

    def divided(loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[str, Tensor, float]:
        scores = Scores(chip, [], loss)
        parts = scores._losses(output, output, labels)
        return str(scores.taken), torch.stack(parts), float(loss(output, labels))

    chip = chip_of(network(), IDEAL, age_s=0)
    taken, parts, whole = divided(summed)
    assert (taken, len(parts)) == ("own", 20)
    assert float(parts.sum()) == pytest.approx(whole)
    for loss in (compared, lambda y, of: cross_entropy(y.sum(0), of, weight)):
        taken, parts, whole = divided(loss)
        assert (taken, len(parts)) == ("influence", 20)
        assert float(parts.mean()) == pytest.approx(whole, rel=1e-4)
    taken, parts, _ = divided(lambda y, of: cross_entropy(y.sum(0).reshape(60, -1), of))
    assert (taken, len(parts)) == ("whole", 1)


def test_influences_on_a_mean_are_what_is_averaged() -> None:
    values = torch.rand(20, generator=Generator().manual_seed(0)).double()
    found = torch.stack(influences(lambda at: values[at].mean(), torch.arange(20)))
    assert torch.allclose(found, values)


def test_frames_of_any_type_tune_alike() -> None:
    def tuned(to: torch.dtype) -> dict[str, Tensor]:
        made = chip_of(network(), PCM)
        batches = [(x.to(to), y) for x, y in (batch(20, seed) for seed in range(2))]
        fine_tune(made, batches, summed)
        return dict(made.registers)

    expected = tuned(torch.float32)
    for kind in (torch.int16, torch.bool, torch.float64):
        assert all(torch.equal(value, expected[name]) for name, value in tuned(kind).items()), kind


def test_a_chip_of_one_device_a_weight_tunes_its_digital_values_only() -> None:
    made = chip_of(network(), replace(PCM, devices_per_weight=1))
    history = fine_tune(made, [batch(30, seed) for seed in range(4)], summed)
    assert not sum(record.pulses for record in history)
    with pytest.raises(ValueError, match="a rule with pulses needs devices_per_weight"):
        fine_tune(made, [batch(30, 1)], summed, MixedPrecision(), hold_back=0)


def test_the_default_rule_spends_no_pulse() -> None:
    made = chip_of(network(), PCM)
    spent = made.pulses
    fine_tune(made, [batch(30, seed) for seed in range(4)], summed, DigitalOnly())
    assert made.pulses == spent


def test_a_lucky_look_does_not_take_back_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """What seems worse than the best is compared with the best as they score on devices of now."""
    made = chip_of(network(), PCM)
    scores = iter([1.0, 0.7, 0.9, 0.9, 0.99, 0.9, 1.2, 0.9, 1.3, 1.3])
    monkeypatch.setattr(Scores, "of", lambda *_, **how: torch.full((3, 8), next(scores)))
    guard = Guard(Scores(made, [batch(8, 1)], summed))
    found = []
    for number in range(1, 6):
        made.set_registers({"fc1.gain": torch.full((16,), float(number))})
        found.append((guard.look(), float(made.registers["fc1.gain"][0])))
    assert found == [("better", 1), ("the same", 2), ("back", 1), ("worse", 1), ("worn", 5)]


class MadeUpFor:
    """A chip that each pulse makes worse, which its bias may make up for, and its losses."""

    def __init__(self) -> None:
        self.chip, self.taken, self.pulses = self, None, 0
        self.held = [(torch.zeros(1, 20, 1), torch.zeros(20))]
        self.registers = {"bias": torch.zeros(1)}

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        self.registers = dict(values)

    def of(self, reads: int, **_: Any) -> Tensor:
        loss = 1.0 + 0.1 * self.pulses - float(self.registers["bias"])
        draw = Generator().manual_seed(self.pulses)
        return loss + 0.01 * torch.randn(reads, 20, generator=draw, dtype=torch.float64)


def test_pulses_are_judged_by_the_digital_values_that_a_tuning_falls_back_on() -> None:
    made: Any = MadeUpFor()
    guard = Guard(made)
    made.pulses, made.registers = 5, {"bias": torch.full((1,), 0.6)}
    assert guard.trial().help > 0  # the chip as it is, is better
    assert guard.wear() > 10
    assert float(made.registers["bias"]) == pytest.approx(0.6)
    assert guard.wear() == 0.0  # no pulse since
