"""Fine-tuning with the chip in the loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.hil.forward import learn_through_time
from snu_plugin.hil.guard import Guard
from snu_plugin.hil.guard import hold_back as divide
from snu_plugin.hil.online import Online
from snu_plugin.hil.update import DigitalOnly, Refresh, Rule

Target = TypeVar("Target")

LOOKS, LOOKS_AT_PULSES = 8, 32
"""Times that a tuning is looked at on what is held back; more often where pulses are spent, since
these cannot be taken back."""

SMALLER = 0.25
"""What a step of the digital values that made things worse is multiplied by."""

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""The constants of Adam."""


class Moments(NamedTuple):
    """What Adam remembers: running means of gradients and of their squares, by name."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    steps: int


def no_moments(values: Mapping[str, Tensor]) -> Moments:
    """Return the moments before the first step."""
    zeros = {name: torch.zeros_like(value) for name, value in values.items()}
    return Moments(zeros, zeros, 0)


def adam_step(
    values: Mapping[str, Tensor], gradients: Mapping[str, Tensor], moments: Moments, lr: float
) -> tuple[dict[str, Tensor], Moments]:
    """Return the values after one step of size ``lr``, and the moments after it.

    Adam: Kingma and Ba, ICLR 2015, algorithm 1.
    """
    steps = moments.steps + 1
    first = {n: m.lerp(gradients[n], 1 - BETA_1) for n, m in moments.first.items()}
    second = {
        n: v.mul(BETA_2).addcmul(gradients[n], gradients[n], value=1 - BETA_2)
        for n, v in moments.second.items()
    }
    size, width = lr / (1 - BETA_1**steps), (1 - BETA_2**steps) ** 0.5
    moved = {
        name: value.addcdiv(first[name], second[name].sqrt() / width + EPSILON, value=-size)
        for name, value in values.items()
    }
    return moved, Moments(first, second, steps)


@dataclass(frozen=True)
class UpdateRecord:
    """What one update did."""

    loss: float
    pulses: int
    """SET pulses of this update, refresh included."""
    refreshed: int
    """Pairs that were RESET and written again."""
    saturated: float
    """Share of conversions at the end of the range."""
    clock_s: float
    """The chip's clock after the update."""


class TrainerState(NamedTuple):
    """Where a tuning stands, besides the chip: what the host keeps from update to update."""

    memory: Any
    """Of the rule: tensors by name, or a tuple of such."""
    moments: Moments
    """Of the steps of the digital values."""
    weights: Mapping[str, Tensor]
    """The last reading of the weights."""
    updates: int
    """Done so far."""

    def at_rest(self, chip: Board) -> TrainerState:
        """Return the same without what Adam remembers, as after the values were set back."""
        return self._replace(moments=no_moments(chip.registers))


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a chip is tuned, one update after the other; see ``fine_tune``."""

    rule: Rule = field(default_factory=DigitalOnly)
    """How gradients become pulses."""
    digital_lr: float = 1e-2
    """Step size of gains, biases and thresholds; 0 keeps them as they are."""
    refresh: Refresh = field(default_factory=Refresh)
    """When worn pairs are written again."""
    read_every: int = 1
    """Updates from one reading of the weights to the next."""
    host_s: float = 0.05
    """Seconds the host takes for one update."""
    gradient: Online | None = None
    """How the twin's gradient is computed; ``None`` propagates back through time."""

    def start(self, chip: Board) -> TrainerState:
        """Return what the host knows before the first update.

        Raises:
            ValueError: For a chip whose weights are one device each, which no pulse can lower.
        """
        single = [op.chip.name for op in chip.layout.products.values() if op.layout.references]
        if single and not isinstance(self.rule, DigitalOnly):
            raise ValueError(
                f"{single[0]} has one device per weight, which pulses can only raise; "
                "a rule with pulses needs devices_per_weight of at least 2"
            )
        return TrainerState(self.rule.start(chip), no_moments(chip.registers), {}, 0)

    def slower(self, times: int = 1) -> Loop:
        """Return the same with steps of the digital values that are smaller by ``SMALLER``."""
        return replace(self, digital_lr=SMALLER**times * self.digital_lr)

    def update(
        self,
        chip: Board,
        state: TrainerState,
        x: Tensor,
        target: Target,
        loss: Callable[[Tensor, Target], Tensor],
    ) -> tuple[TrainerState, UpdateRecord]:
        """Run one batch on the chip, pulse its devices and move its digital values.

        Raises:
            ValueError: If the loss is not finite; the chip stays as the last update left it.
        """
        memory, moments, weights, number = state
        if number % self.read_every == 0:
            weights = chip.read_weights()
        before = chip.pulses
        learn = learn_through_time if self.gradient is None else self.gradient.learn
        learnt = learn(chip, x, target, loss, weights)
        if not math.isfinite(learnt.loss):
            raise ValueError(f"the loss of batch {number} is {learnt.loss}; check data and loss")
        memory = self.rule.update(chip, memory, learnt.weights)
        if self.digital_lr:
            moved, moments = adam_step(chip.registers, learnt.registers, moments, self.digital_lr)
            chip.set_registers(moved)
        pulses = not isinstance(self.rule, DigitalOnly)
        due = pulses and (number + 1) % self.refresh.every == 0
        refreshed = self.refresh.apply(chip) if due else 0
        chip.wait(self.host_s)
        record = UpdateRecord(
            learnt.loss,
            chip.pulses - before,
            refreshed,
            learnt.saturated,
            chip.clock_s,
        )
        return TrainerState(memory, moments, weights, number + 1), record


class History(list[UpdateRecord]):
    """A record of every update, and what became of the tuning."""

    before: float | None = None
    """Loss on what was held back, before the first update; ``None`` where nothing was."""
    after: float | None = None
    """The same at the end, measured anew with the values that the chip kept."""
    stopped: int | None = None
    """The update after which a rule spent no more pulses, since they did harm."""
    note: str = ""
    """What was kept, in a sentence."""


def fine_tune(
    chip: Board,
    batches: Iterable[tuple[Tensor, Target]],
    loss: Callable[[Tensor, Target], Tensor],
    rule: Rule | None = None,
    *,
    digital_lr: float = 1e-2,
    refresh: Refresh | None = None,
    read_every: int = 1,
    host_s: float = 0.05,
    hold_back: float = 0.2,
    gradient: Online | None = None,
    seen: Callable[[UpdateRecord], None] | None = None,
) -> History:
    """Train a network where it stands: on the devices of a programmed, aged chip.

    Every batch runs on the chip; the gradient comes from a twin that multiplies by weights read
    back with noise (``forward``); ``rule`` turns it into SET pulses on the same devices. Gains,
    biases and thresholds are digital and follow their gradients with Adam. Weights are never
    assigned. Time advances with every run, reading and pulse, and by ``host_s`` per update.
    Start from a calibrated chip. At the end the chip remembers its new weights for ``calibrate``.
    A tuning that must be taken up again after an interruption uses ``Loop`` step by step.

    It does not end worse than it began, as far as the batches that are held back can tell: they are
    run before, on the way and at the end, each several times, for the noise of the measurement. A
    step that made them worse is taken back and made smaller; what does not help by more than that
    noise is not kept. Pulses cannot be taken back: once the loss is worse than before, a rule
    spends no more of them, and the digital values alone make up for what they did. Neither the
    scale of the loss matters nor whether it is a sum or a mean.

    Args:
        chip: The chip, or a board that offers the same operations.
        batches: Pairs of input ``(T, B, ...)`` and whatever ``loss`` takes as target.
        loss: ``loss(output, target)``, a scalar; ``output`` is what the chip measured.
        rule: How gradients become pulses; ``None`` is ``DigitalOnly()``, which spends none.
        digital_lr: Step size of gains, biases and thresholds; 0 keeps them as they are.
        refresh: When worn pairs are written again; ``None`` is ``Refresh()``, without pulses never.
        read_every: Updates from one reading of the weights to the next.
        host_s: Seconds the host takes for one update.
        hold_back: Share of the distinct batches that judge and are not learned from, at least one
            (of the sequences, where all batches are one); 0 judges by nothing and keeps what the
            last update left.
        gradient: ``None`` propagates the loss back through time, which keeps all steps of a batch;
            ``Online()`` learns as the sequence goes by, in memory that does not grow with it.
        seen: Called with every record, e.g. to show progress.

    Returns:
        A record of every update, with the loss before and after on what was held back.

    Raises:
        ValueError: If a loss is not finite, the chip stays as the last update left it; or if its
            weights are one device each and the rule spends pulses.
    """
    rule = DigitalOnly() if rule is None else rule
    loop = Loop(
        rule=rule,
        digital_lr=digital_lr,
        refresh=refresh or Refresh(),
        read_every=read_every,
        host_s=host_s,
        gradient=gradient,
    )
    history, guard = History(), None
    every = last = 0
    if hold_back:
        held, batches = divide(batches, hold_back)
        if held[0] is batches[0]:
            warnings.warn(
                "all batches are one that cannot be divided: it is learned from and judged by, so "
                "that what is kept may not help with other data; give two or more",
                stacklevel=2,
            )
        guard = Guard(chip, held, loss, gradient)
        looks = LOOKS if isinstance(rule, DigitalOnly) else LOOKS_AT_PULSES
        every, last = math.ceil(len(batches) / looks), len(batches)
    state = loop.start(chip)
    for number, (x, target) in enumerate(batches, 1):
        state, record = loop.update(chip, state, x, target, loss)
        history.append(record)
        if seen is not None:
            seen(record)
        if guard is None or (number % every and number != last):
            continue
        found = guard.look()
        if found == "worse" and not isinstance(loop.rule, DigitalOnly):
            history.stopped = number
            loop = replace(loop, rule=DigitalOnly())
            state = loop.start(chip)
            guard.begin_anew()
        elif found in ("back", "worse"):
            loop, state = loop.slower(), state.at_rest(chip)
    if guard is not None:
        history.before, best, kept = guard.settle()
        history.after = best if kept else history.before
        history.note = (
            f"kept: {history.before:.4g} became {history.after:.4g} on what was held back"
            if kept
            else f"nothing helped beyond the noise: the digital values of before are back, "
            f"{history.before:.4g} on what was held back"
        )
    chip.remember()
    return history
