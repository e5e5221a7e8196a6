"""One update of a chip in the loop: run, gradient, pulses, digital values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import LBFGS, Adam

from snu_plugin.accelerator import Board
from snu_plugin.accepted import COUNT, LEVEL, shown
from snu_plugin.hil import digital
from snu_plugin.hil.budget import Metered
from snu_plugin.hil.digital import OptimizerFactory
from snu_plugin.hil.forward import learn_through_time
from snu_plugin.hil.online import Online
from snu_plugin.hil.rewriting import Refresh
from snu_plugin.hil.rules import DigitalOnly, Rule

Target = TypeVar("Target")

FIRST_STEP = 1e-2
"""Step size of the digital values, in shares of their size, where nothing chooses it."""
READ_EVERY = 8
"""Updates from one reading of the weights to the next where no rule pulses. Ours: such devices only
drift, the reading serves the twin's gradient alone, and it is most of what tuning costs."""


class NotFinite(ValueError):
    """A loss, or a step of the digital values, that is not finite."""


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
    moments: digital.Memory
    """Of the steps of the digital values."""
    weights: Mapping[str, Tensor]
    """The last reading of the weights."""
    updates: int
    """Done so far."""

    def at_rest(self) -> TrainerState:
        """Return the same without what the optimiser remembers, as after values were set back."""
        return self._replace(moments=self.moments._replace(state={}))


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a chip is tuned, one update after the other; see ``fine_tune``."""

    rule: Rule = field(default_factory=DigitalOnly)
    """How gradients become pulses."""
    digital_lr: float = FIRST_STEP
    """Step size of gains, biases and thresholds, in shares of their size; 0 keeps them."""
    optimizer: OptimizerFactory = Adam
    """What steps them."""
    refresh: Refresh = field(default_factory=Refresh)
    """When worn pairs are written again."""
    read_every: int | None = None
    """Updates from one reading of the weights to the next; ``None``: 1 where the rule pulses, else
    ``READ_EVERY``."""
    host_s: float = 0.05
    """Seconds the host takes for one update."""
    most_pulses: int | None = None
    """SET pulses of an update at most, drawn from those that the rule asks for; ``None``: all."""
    gradient: Online | None = None
    """How the twin's gradient is computed; ``None`` propagates back through time."""

    def __post_init__(self) -> None:
        LEVEL.check("digital_lr", self.digital_lr)
        COUNT.check("read_every", self.reads_after)
        LEVEL.check("host_s", self.host_s)
        if not callable(self.optimizer):
            raise TypeError(
                f"optimizer is {shown(self.optimizer)}; give a class of torch.optim, such as "
                "torch.optim.Adam, or a partial of one"
            )
        if getattr(self.optimizer, "func", self.optimizer) is LBFGS:
            raise TypeError(
                "optimizer is LBFGS, which runs a batch several times in a step; give one that "
                "steps by a gradient, such as torch.optim.Adam"
            )
        if not isinstance(self.gradient, Online | None):
            raise TypeError(
                f"gradient is {shown(self.gradient)}; give None, through time, or Online()"
            )
        if not isinstance(self.refresh, Refresh):
            raise TypeError(f"refresh is {shown(self.refresh)}; give a Refresh(...), or None")

    @property
    def reads_after(self) -> int:
        """Updates from one reading of the weights to the next."""
        if self.read_every is None:
            return READ_EVERY if isinstance(self.rule, DigitalOnly) else 1
        return self.read_every

    def start(self, chip: Board) -> TrainerState:
        """Return what the host knows before the first update; raises as ``check``."""
        self.check(chip)
        return TrainerState(self.rule.start(chip), digital.NOTHING, {}, 0)

    def check(self, chip: Board) -> None:
        """Raise where the rule cannot be used on the chip.

        Raises:
            ValueError: For a chip whose weights are one device each, which no pulse can lower; for
                one on a GPU, beside which the host's twin does not run; for one of several inputs
                or outputs.
        """
        layout = chip.layout
        if len(layout.inputs) != 1 or len(layout.outputs) != 1:
            raise ValueError(
                f"the chip has the inputs {', '.join(layout.inputs)} and the outputs "
                f"{', '.join(layout.outputs)}; tuning in the loop needs a graph with one of each"
            )
        if (device := layout.device).type != "cpu":
            raise ValueError(
                f"the chip is on {device}; fine-tuning runs on the processor, call chip.to('cpu')"
            )
        single = [op.chip.name for op in layout.products.values() if op.layout.references]
        if single and not isinstance(self.rule, DigitalOnly):
            raise ValueError(
                f"{single[0]} has one device per weight, which pulses can only raise; "
                "a rule with pulses needs devices_per_weight of at least 2"
            )

    @torch.enable_grad()
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
            NotFinite: If the loss is not, or a digital value would not be; the chip stays as the
                last update left it.
        """
        memory, moments, weights, number = state
        if number % self.reads_after == 0:
            weights = chip.read_weights()
        before = chip.pulses
        pulses = not isinstance(self.rule, DigitalOnly)
        if self.gradient is None:
            learnt = learn_through_time(chip, x, target, loss, weights, learn_weights=pulses)
        else:
            learnt = self.gradient.learn(chip, x, target, loss, weights)
        if not math.isfinite(learnt.loss):
            raise NotFinite(
                f"the loss of update {number + 1} is {learnt.loss}; check data and loss"
            )
        moved: dict[str, Tensor] = {}
        if self.digital_lr:
            moved, moments = digital.step(
                chip, learnt.registers, weights, moments, self.digital_lr, self.optimizer
            )
            for name, value in moved.items():
                if not bool(value.isfinite().all()):
                    raise NotFinite(
                        f"{name} would not be finite after update {number + 1}; take a smaller "
                        f"digital_lr than {self.digital_lr:.3g}"
                    )
        spent_on: Any = chip
        if self.most_pulses is not None:
            spent_on = Metered(chip, self.most_pulses, number)
        memory = self.rule.update(spent_on, memory, learnt.weights)
        if moved:
            chip.set_registers(moved)
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
