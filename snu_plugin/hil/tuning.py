"""A tuning that looks back: step sizes by what they do, and nothing kept that does not help."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.hil.adapters import Prior
from snu_plugin.hil.budget import MORE, Worst, first_pulses, worst
from snu_plugin.hil.digital import Memory
from snu_plugin.hil.guard import Guard, Outcome
from snu_plugin.hil.loop import FIRST_STEP, Loop, NotFinite, TrainerState, UpdateRecord
from snu_plugin.hil.preparing import Prepared
from snu_plugin.hil.pulses import Accumulated
from snu_plugin.hil.rules import DigitalOnly, Rule
from snu_plugin.hil.scores import Scores
from snu_plugin.notebook import Shown, Table

Target = TypeVar("Target")

LARGER_STEPS, SMALLER_STEPS = (4e-2, 0.16), (2.5e-3, 6e-4, 1.5e-4, 4e-5)
"""Step sizes of the digital values that are tried beside ``FIRST_STEP``."""
TRIED = 4
"""Updates of a trial of a step size. Ours."""

LARGER, SMALLER = 1.25, 0.25
"""What a step is multiplied by after a look: better than ever, or worse beyond the noise. Ours."""


class History(Shown, list[UpdateRecord]):
    """A record of every update, and what became of the tuning."""

    loss: str = ""
    """What was minimised, in words."""
    step: float | None = None
    """The first step size of the digital values, given or chosen."""
    before: float | None = None
    """Loss on what was held back, before the first update; ``None`` where nothing was."""
    after: float | None = None
    """The same at the end, measured anew with the values that the chip kept."""
    noise: float | None = None
    """Two standard errors of the difference of the two: what cannot be told from nothing."""
    worst: Worst | None = None
    """The most that the rule could have spent, said before it began; ``None``: it cannot say."""
    prepared: Sequence[Prepared] = ()
    """What was done before the first update, and what became of it."""
    learnt: Prior | None = None
    """What the digital values of this chip learned, for others of the same network."""
    stopped: int | None = None
    """The update after which a rule spent no more pulses, since they did harm."""
    note: str = ""
    """What was kept, in a sentence."""

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return "\n".join(f"{head:11}{text}" for head, text in self._lines())

    def _table(self) -> Table:
        return Table("tuning in the loop", ("", ""), self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        """Return what became of the tuning, by head."""
        lines = [("updates", f"{len(self)}, {sum(record.pulses for record in self):,} pulses")]
        if self.loss:
            lines.append(("minimised", self.loss))
        lines += [("prepared", one.text()) for one in self.prepared]
        if self.before is not None and self.after is not None:
            doubt = "" if self.noise is None else f", told apart from {self.noise:.2g} on"
            lines.append(("held back", f"{self.before:.4g} before, {self.after:.4g} after{doubt}"))
        if self.stopped is not None:
            lines.append(("stopped", f"no more pulses after update {self.stopped}"))
        return lines + [("outcome", self.note)] * bool(self.note)


@dataclass
class Tuning(Generic[Target]):
    """One tuning of one chip: ``fine_tune`` and ``snu tune`` go through it update by update."""

    chip: Board
    loop: Loop
    loss: Callable[[Tensor, Target], Tensor]
    guard: Guard[Target] | None
    """What judges; ``None``: nothing does, and the last update is kept."""
    state: TrainerState
    history: History = field(default_factory=History)
    first: Mapping[str, Tensor] = field(default_factory=dict)
    """Digital values before the first update."""

    @classmethod
    def begin(
        cls,
        chip: Board,
        loop: Loop,
        loss: Callable[[Tensor, Target], Tensor],
        held: Sequence[tuple[Tensor, Target]] | None,
    ) -> Tuning[Target]:
        """Score the chip on what is ``held`` back, before the first update.

        Where something is, a rule may spend few pulses in each update at first; see ``look``.

        Raises:
            ValueError: If a loss is not finite, or the rule spends pulses that can only raise.
        """
        state, first = loop.start(chip), dict(chip.registers)
        guard = None if held is None else Guard(Scores(chip, held, loss, loop.gradient))
        if guard is not None and not isinstance(loop.rule, DigitalOnly):
            loop = replace(loop, most_pulses=first_pulses(chip))
        return cls(chip, loop, loss, guard, state, first=first)

    def worst(self, rule: Rule, updates: int, look_every: int) -> Worst | None:
        """Return the most that a rule may spend in so many updates, from the first on.

        See ``bounds.worst``; where nothing judges, no look bounds what an update spends.
        """
        if self.guard is None:
            return worst(self.chip, rule, updates, updates)
        return worst(self.chip, rule, updates, look_every, first_pulses(self.chip))

    def choose_step(self, batches: Sequence[tuple[Tensor, Target]]) -> None:
        """Choose the first step size by what a few updates of it do on what is held back.

        ``FIRST_STEP``, unless it does harm beyond the noise of the measurement: then the largest of
        the smaller ones that does not. Where it helps beyond the noise, larger ones are taken while
        they help more. A few updates say no more: many are worth taking that show no gain yet.
        Every trial begins from the digital values of now, which are back afterwards; no pulse is
        spent.
        """
        if self.guard is not None:
            size, found = FIRST_STEP, self._outcome(FIRST_STEP, batches)
            if found.harm > 0:
                for size in SMALLER_STEPS:
                    if self._outcome(size, batches).harm <= 0:
                        break
            elif found.help > 0:
                for larger in LARGER_STEPS:
                    outcome = self._outcome(larger, batches)
                    if not outcome.loss < found.loss:
                        break
                    size, found = larger, outcome
            self.loop = replace(self.loop, digital_lr=size)
        self.history.step = self.loop.digital_lr

    def _outcome(self, size: float, batches: Sequence[tuple[Tensor, Target]]) -> Outcome:
        """Return what a few updates of that size do, which are then taken back."""
        assert self.guard is not None
        loop = replace(self.loop, rule=DigitalOnly(), digital_lr=size)
        state = loop.start(self.chip)
        try:
            with warnings.catch_warnings():
                # A step that is too large may saturate converters, and is not taken.
                warnings.simplefilter("ignore")
                for x, target in batches[:TRIED]:
                    state, _ = loop.update(self.chip, state, x, target, self.loss)
                return self.guard.trial()
        except NotFinite:
            return Outcome(math.inf, math.inf, -math.inf)
        finally:
            self.guard.set_back()

    def update(self, x: Tensor, target: Target) -> UpdateRecord:
        """Learn from one batch.

        Where the steps before went so far that nothing is finite, the best digital values are back
        and it is learned from again, with a smaller step.

        Raises:
            NotFinite: If it is not the steps: also from the best values, or with nothing to judge.
        """
        try:
            self.state, record = self.loop.update(self.chip, self.state, x, target, self.loss)
        except NotFinite:
            if self.guard is None or not self.history:
                raise
            self._take_back()
            self.state, record = self.loop.update(self.chip, self.state, x, target, self.loss)
        self.history.append(record)
        return record

    def look(self) -> None:
        """Score the chip on what is held back; go back, and on with another step, as that says.

        An update may spend more pulses if one spent all that it may, and devices, with the first
        digital values, are no worse than before the first of them.
        """
        if self.guard is None:
            return
        found = self.guard.look()
        if not isinstance(self.loop.rule, DigitalOnly):
            wear = self.guard.wear()
            if found in ("worse", "worn") or wear > 1:  # standard error, as all harm is told
                # Pulses cannot be taken back: no more of them, the digital values make up for them.
                self.history.stopped = len(self.history)
                self.loop = replace(self.loop, rule=DigitalOnly())
                self.state = self.loop.start(self.chip)
                self.guard.begin_anew()
                return
            spent = max((r.pulses for r in self.history if not r.refreshed), default=0)
            most = self.loop.most_pulses
            if most is not None and wear <= 0 and spent >= most:
                self.loop = replace(self.loop, most_pulses=round(MORE * most))
        if found == "better":
            self.loop = replace(self.loop, digital_lr=LARGER * self.loop.digital_lr)
        elif found in ("back", "worse"):
            self._take_back()

    def _take_back(self) -> None:
        """Go on from the best digital values, with a smaller step."""
        assert self.guard is not None
        self.guard.set_back()
        self.loop = replace(self.loop, digital_lr=SMALLER * self.loop.digital_lr)
        self.state = self.state.at_rest()

    def settle(self) -> bool:
        """Leave the best digital values if they help beyond the noise, else the first; say which.

        Returns:
            Whether the chip is another than before.
        """
        kept = True
        if self.guard is not None:
            began, before, best, noise, kept, fell = self.guard.settle()
            self.history.before, self.history.after = before, best if kept else before
            self.history.noise = noise
            if kept:
                note = f"kept: {before:.4g} became {best:.4g} ± {noise:.2g} on what was held back"
            elif not self.guard.enough:
                note = (
                    "nothing was kept: too few answers are held back to tell a gain from luck; the "
                    "digital values of before are back"
                )
            elif fell:
                note = (
                    f"nothing helped: {before:.4g} on what was held back became {best:.4g}, but "
                    "outputs fit the targets of other sequences as well; the digital values of "
                    "before are back: check whether targets belong to their inputs"
                )
            else:
                note = (
                    f"nothing helped: {before:.4g} on what was held back did not fall by more than "
                    f"its noise, {noise:.2g}; the digital values of before are back"
                )
            if self._pulsed:
                note += f"; before the first pulse, which none can take back, it was {began:.4g}"
            self.history.note = note
        self.history.learnt = Prior(first=self.first, last=dict(self.chip.registers))
        return kept or self._pulsed

    @property
    def _pulsed(self) -> bool:
        return any(record.pulses for record in self.history)

    @classmethod
    def restored(
        cls,
        chip: Board,
        loop: Loop,
        loss: Callable[[Tensor, Target], Tensor],
        held: Sequence[tuple[Tensor, Target]] | None,
        saved: Mapping[str, Any],
        records: Iterable[UpdateRecord],
    ) -> Tuning[Target]:
        """Return a tuning that goes on as one that ``saved`` would have; arguments as for it."""
        history = History(records)
        history.stopped, history.step = saved["stopped"], saved["step"]
        rule = loop.rule if history.stopped is None else DigitalOnly()
        memory = saved["memory"]
        state = TrainerState(
            Accumulated(*memory) if isinstance(memory, list) else memory,
            Memory(*saved["moments"]),
            saved["weights"],
            saved["updates"],
        )
        guard = None
        if held is not None:
            guard = Guard(Scores(chip, held, loss, loop.gradient), saved["guard"])
        steps = {name: saved[name] for name in ("digital_lr", "most_pulses")}
        loop = replace(loop, rule=rule, **steps)
        return cls(chip, loop, loss, guard, state, history, saved["first"])

    def saved(self) -> dict[str, Any]:
        """Return what goes on beside chip and data, as tensors and plain values."""
        memory, moments, weights, updates = self.state
        return {
            "digital_lr": self.loop.digital_lr,
            "most_pulses": self.loop.most_pulses,
            "stopped": self.history.stopped,
            "step": self.history.step,
            "memory": list(memory) if isinstance(memory, tuple) else memory,
            "moments": list(moments),
            "weights": dict(weights),
            "updates": updates,
            "first": dict(self.first),
            "guard": None if self.guard is None else self.guard.saved(),
        }
