"""Passes over data that tune a chip, with what is needed to go on after any of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator
from snu_plugin.experiments.chip_life import chip_bytes, chip_from_bytes
from snu_plugin.experiments.datasets import Judged, ScoredData, TuningData
from snu_plugin.experiments.runs import Say
from snu_plugin.hil import (
    LOOKS_AT_PULSES,
    TRIED,
    DigitalOnly,
    Loop,
    Prepared,
    Rule,
    Tuning,
    UpdateRecord,
    Worst,
)
from snu_plugin.training import load_checkpoint, save_checkpoint

PASSES = 8
"""Times that tuning sees what it learns from. Chosen on the validation chorales."""
JUDGES = 512
"""Sequences of the part to choose by that judge, at most: each look runs them several times."""
LOOKS_IN_PASS = LOOKS_AT_PULSES // PASSES
"""Looks in a pass of a rule with pulses, which cannot be taken back."""
READS = 3
"""Runs that a score is the mean of; each meets other slow read noise."""


class TuningPass(NamedTuple):
    """What one pass over the data gave."""

    number: int
    """From 1; 0 is the calibrated chip before the first."""
    loss: float | None
    """Mean loss that the chip showed while it was tuned."""
    score: float | None
    """Of the part to choose by, mean of ``READS`` runs."""
    pulses: int
    """SET and RESET pulses so far."""
    refreshed: int
    """Pairs written again in this pass."""
    saturated: float
    """Share of conversions at the end of the range, mean."""
    clock_s: float
    """The chip's clock afterwards."""


@dataclass
class TuningState:
    """How far the tuning of a chip has come."""

    tuning: Tuning[Any]
    generator: Generator
    """Of the order of the data."""
    passes: list[TuningPass] = field(default_factory=list)
    kept: int = 0
    """The pass whose digital values are kept."""
    unit: float = 1.0
    """In which the loss takes the outputs; found on the calibrated chip, then kept."""
    untuned: dict[str, Judged] = field(default_factory=dict)
    """What the chip came to before the first pass, where it was judged."""
    prepared: list[Prepared] = field(default_factory=list)
    """What was done to it before the first pass."""

    @property
    def chip(self) -> Accelerator:
        """The chip that is tuned."""
        assert isinstance(self.tuning.chip, Accelerator)
        return self.tuning.chip

    @property
    def history(self) -> list[UpdateRecord]:
        """What every update did."""
        return self.tuning.history

    def save(self, file: Path, settings: Mapping[str, Any]) -> None:
        """Leave a checkpoint; ``load`` takes it up."""
        content = {
            "before": {case: tuple(value) for case, value in self.untuned.items()},
            "prepared": [tuple(one) for one in self.prepared],
            "chip": chip_bytes(self.chip),
            "kept": self.kept,
            "unit": self.unit,
            "tuning": self.tuning.saved(),
            "generator": self.generator.get_state(),
            "passes": [tuple(p) for p in self.passes],
            "history": [tuple(asdict(r).values()) for r in self.history],
        }
        save_checkpoint(file, content, settings)

    @classmethod
    def load(
        cls, file: Path, settings: Mapping[str, Any], data: TuningData, loop: Loop
    ) -> TuningState:
        """Return what ``save`` left; raises as ``load_checkpoint`` does."""
        found = load_checkpoint(file, settings)
        generator, unit = Generator(), found["unit"]
        generator.set_state(found["generator"])
        tuning = Tuning.restored(
            chip_from_bytes(found["chip"]),
            loop,
            partial(data.train.loss, unit=unit),
            judges(data),
            found["tuning"],
            (UpdateRecord(*values) for values in found["history"]),
        )
        return cls(
            tuning=tuning,
            generator=generator,
            passes=[TuningPass(*values) for values in found["passes"]],
            kept=found["kept"],
            unit=unit,
            untuned={case: Judged(*value) for case, value in found["before"].items()},
            prepared=[Prepared(*one) for one in found["prepared"]],
        )


def judges(data: TuningData) -> list[tuple[Tensor, Any]] | None:
    """Return batches of the part to choose by, ``JUDGES`` sequences at most; without it none."""
    if data.valid is None:
        return None
    held, count = [], 0
    for x, target in data.valid.batches(Generator().manual_seed(0)):
        held.append((x, target))
        count += x.shape[1]
        if count >= JUDGES:
            break
    return held


def fitted(chip: Accelerator, data: ScoredData) -> partial[Tensor]:
    """Return the loss in the unit that suits the chip as it is, by these data."""
    return partial(data.loss, unit=data.unit(lambda x: chip.run(x)[0]))


def begin(
    chip: Accelerator, data: TuningData, loop: Loop, seed: int, *, choose_step: bool = False
) -> TuningState:
    """Take a programmed, calibrated chip, score it, and choose a step size if that is asked."""
    loss = fitted(chip, data.train)
    tuning = Tuning.begin(chip, loop, loss, judges(data))
    state = TuningState(tuning, Generator().manual_seed(seed), unit=loss.keywords["unit"])
    _finish(state, data, 0)
    if choose_step:
        tuning.choose_step(list(islice(data.batches(Generator().manual_seed(seed)), TRIED)))
    return state


def most_spent(state: TuningState, rule: Rule, passes: int, batches: int) -> Worst | None:
    """Return the most that a rule may spend in so many passes over so many batches each."""
    return state.tuning.worst(rule, passes * batches, math.ceil(batches / LOOKS_IN_PASS))


def run_passes(
    state: TuningState,
    data: TuningData,
    passes: int,
    *,
    on_pass: Callable[[TuningState], None] = lambda state: None,
    progress: Say = lambda text: None,
) -> Accelerator:
    """Tune until there were ``passes`` passes; return the chip as it is left.

    With the digital values that were best on the part to choose by, if they help there beyond the
    noise of the measurement, else those of before; without such a part those of the last pass. It
    remembers its weights for ``calibrate`` where it is another than before.

    Args:
        state: From ``begin``; is moved on.
        data: What is learned from and chosen by.
        passes: In all.
        on_pass: Called after every pass, e.g. to leave a checkpoint.
        progress: Called with a sentence after every update.
    """
    tuning = state.tuning
    while len(state.passes) <= passes:
        number, first = len(state.passes), len(state.history)
        batches = list(data.batches(state.generator))
        pulses = not isinstance(tuning.loop.rule, DigitalOnly)
        looks = LOOKS_IN_PASS if pulses else 1
        every = math.ceil(len(batches) / looks)
        if pulses and number == 1:
            bound = most_spent(state, tuning.loop.rule, passes, len(batches))
            if bound is not None:
                progress(bound.text())
        for at, (x, target) in enumerate(batches, 1):
            record = tuning.update(x, target)
            progress(f"pass {number} of {passes}, batch {at}: loss {record.loss:.4g}")
            if at % every == 0 or at == len(batches):
                tuning.look()
                if tuning.guard is None or tuning.guard.best_look == tuning.guard.looks:
                    state.kept = number
        _finish(state, data, first)
        on_pass(state)
    changed = tuning.settle()
    if tuning.guard is not None and tuning.history.after == tuning.history.before:
        state.kept = 0
    if changed:
        state.chip.remember()
    return state.chip


@torch.no_grad()
def judged(chip: Accelerator, data: ScoredData, reads: int = READS) -> Judged:
    """Return the mean of some runs on the chip, which age it by their length."""
    found = [data.judge(lambda x: chip.run(x)[0]) for _ in range(reads)]
    scores, silent = zip(*found, strict=True)
    return Judged(sum(scores) / reads, sum(silent) / reads)


def mean_score(chip: Accelerator, data: ScoredData, reads: int = READS) -> float:
    """Return the mean score alone; see ``judged``."""
    return judged(chip, data, reads).score


def tuned(chip: Accelerator, data: TuningData, seed: int) -> TuningState:
    """Tune a calibrated chip as ``snu tune`` does by default."""
    state = begin(chip, data, Loop(), seed, choose_step=True)
    run_passes(state, data, PASSES)
    return state


def _finish(state: TuningState, data: TuningData, first: int) -> None:
    """Score the chip after a pass, whose records begin at ``first``."""
    records = state.history[first:]
    count = len(records)
    state.passes.append(
        TuningPass(
            len(state.passes),
            sum(r.loss for r in records) / count if count else None,
            None if data.valid is None else mean_score(state.chip, data.valid),
            sum(r.pulses for r in state.history),
            sum(r.refreshed for r in records),
            sum(r.saturated for r in records) / max(count, 1),
            state.chip.clock_s,
        )
    )
