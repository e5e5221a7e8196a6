"""Fine-tuning with the chip in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.hil import adam
from snu_plugin.hil.adam import Moments
from snu_plugin.hil.forward import forward
from snu_plugin.hil.update import MixedPrecision, Refresh, Rule

Target = TypeVar("Target")


@dataclass(frozen=True)
class Record:
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


class Course(NamedTuple):
    """Where a tuning stands, besides the chip: what the host keeps from update to update."""

    memory: Any
    """Of the rule: tensors by name, or a tuple of such."""
    moments: Moments
    """Of the steps of the digital values."""
    weights: Mapping[str, Tensor]
    """The last reading of the weights."""
    updates: int
    """Done so far."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a chip is tuned, one update after the other; see ``fine_tune``."""

    rule: Rule = field(default_factory=MixedPrecision)
    """How gradients become pulses."""
    digital_lr: float = 1e-2
    """Step size of gains, biases and thresholds; 0 keeps them as they are."""
    refresh: Refresh = field(default_factory=Refresh)
    """When worn pairs are written again."""
    read_every: int = 1
    """Updates from one reading of the weights to the next."""
    host_s: float = 0.05
    """Seconds the host takes for one update."""

    def start(self, chip: Board) -> Course:
        """Return what the host knows before the first update.

        Raises:
            ValueError: For a chip whose weights are one device each, which no pulse can lower.
        """
        if chip.layout.chip.has_reference:
            raise ValueError(
                f"{chip.layout.chip.name} has one device per weight, which pulses can only raise; "
                "tuning needs devices_per_weight of at least 2"
            )
        return Course(self.rule.start(chip), adam.rest(chip.registers), {}, 0)

    def update(
        self,
        chip: Board,
        course: Course,
        x: Tensor,
        target: Target,
        loss: Callable[[Tensor, Target], Tensor],
    ) -> tuple[Course, Record]:
        """Run one batch on the chip, pulse its devices and move its digital values.

        Raises:
            ValueError: If the loss is not finite; the chip stays as the last update left it.
        """
        memory, moments, weights, number = course
        if number % self.read_every == 0:
            weights = chip.read_weights()
        before = chip.pulses
        shown = forward(chip, x, weights)
        value = loss(shown.output, target)
        if not bool(value.isfinite()):
            raise ValueError(
                f"the loss of batch {number} is {float(value.detach())}; check data and loss"
            )
        value.backward()  # type: ignore[no-untyped-call]
        memory = self.rule.update(chip, memory, _gradients(shown.weights))
        if self.digital_lr:
            values = {name: leaf.detach() for name, leaf in shown.registers.items()}
            moved, moments = adam.step(
                values, _gradients(shown.registers), moments, self.digital_lr
            )
            chip.set_registers(moved)
        due = (number + 1) % self.refresh.every == 0
        refreshed = self.refresh.apply(chip) if due else 0
        chip.wait(self.host_s)
        record = Record(
            float(value.detach()),
            chip.pulses - before,
            refreshed,
            shown.trace.saturated,
            chip.clock_s,
        )
        return Course(memory, moments, weights, number + 1), record


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
    seen: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Train a network where it stands: on the devices of a programmed, aged chip.

    Every batch runs on the chip; the gradient comes from a twin that multiplies by weights read
    back with noise (``forward``); ``rule`` turns it into SET pulses on the same devices. Gains,
    biases and thresholds are digital and follow their gradients with Adam. Weights are never
    assigned. Time advances with every run, reading and pulse, and by ``host_s`` per update.
    Start from a calibrated chip. At the end the chip remembers its new weights for ``calibrate``.
    A tuning that must be taken up again after an interruption uses ``Loop`` step by step.

    Args:
        chip: The chip, or a board that offers the same operations.
        batches: Pairs of input ``(T, B, ...)`` and whatever ``loss`` takes as target.
        loss: ``loss(output, target)``, a scalar; ``output`` is what the chip measured.
        rule: How gradients become pulses; ``None`` is ``MixedPrecision()``.
        digital_lr: Step size of gains, biases and thresholds; 0 keeps them as they are.
        refresh: When worn pairs are written again; ``None`` is ``Refresh()``.
        read_every: Updates from one reading of the weights to the next.
        host_s: Seconds the host takes for one update.
        seen: Called with every record, e.g. to show progress.

    Returns:
        A record of every update.

    Raises:
        ValueError: If the loss is not finite, the chip stays as the last update left it; or if its
            weights are one device each.
    """
    loop = Loop(
        rule=rule or MixedPrecision(),
        digital_lr=digital_lr,
        refresh=refresh or Refresh(),
        read_every=read_every,
        host_s=host_s,
    )
    course = loop.start(chip)
    history: list[Record] = []
    for x, target in batches:
        course, record = loop.update(chip, course, x, target, loss)
        history.append(record)
        if seen is not None:
            seen(record)
    chip.remember()
    return history


def _gradients(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
