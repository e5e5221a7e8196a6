"""Fine-tuning with the chip in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator.board import Board
from snu_plugin.hil.forward import Pass, forward
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
        ValueError: If the loss is not finite; the chip stays as the last update left it.
    """
    rule = rule or MixedPrecision()
    refresh = refresh or Refresh()
    memory = rule.start(chip)
    digital = _Adam(digital_lr)
    history: list[Record] = []
    weights = chip.read_weights()
    for n, (x, target) in enumerate(batches):
        if n % read_every == 0:
            weights = chip.read_weights()
        before = chip.pulses
        shown = forward(chip, x, weights)
        value = loss(shown.output, target)
        if not bool(value.isfinite()):
            raise ValueError(
                f"the loss of batch {n} is {float(value.detach())}; check data and loss"
            )
        value.backward()  # type: ignore[no-untyped-call]
        memory = rule.update(chip, memory, _gradients(shown))
        if digital_lr:
            chip.set_registers(digital.step(shown))
        refreshed = refresh.apply(chip) if (n + 1) % refresh.every == 0 else 0
        chip.wait(host_s)
        record = Record(
            float(value.detach()),
            chip.pulses - before,
            refreshed,
            shown.trace.saturated,
            chip.clock_s,
        )
        history.append(record)
        if seen is not None:
            seen(record)
    chip.remember()
    return history


def _gradients(shown: Pass) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in shown.weights.items()
    }


class _Adam:
    """Adam on digital registers that live on the chip (Kingma and Ba 2015, usual constants)."""

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.values: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Adam | None = None

    def step(self, shown: Pass) -> dict[str, Tensor]:
        """Return the registers after one step along the gradients of ``shown``."""
        if self.optimizer is None:
            self.values = {n: v.detach().clone() for n, v in shown.registers.items()}
            self.optimizer = torch.optim.Adam(self.values.values(), lr=self.lr)
        for name, value in self.values.items():
            value.grad = shown.registers[name].grad
        self.optimizer.step()
        return {name: value.clone() for name, value in self.values.items()}
