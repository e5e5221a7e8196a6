"""A chip tuned in the loop, pass by pass: ``snu tune``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator
from snu_plugin.experiments.scored import Scored
from snu_plugin.experiments.taught import Taught
from snu_plugin.hil import (
    DigitalOnly,
    Loop,
    MixedPrecision,
    ProgramVerify,
    Rule,
    SignPulses,
    TrainerState,
    UpdateRecord,
)

PASSES = 8
"""Times that tuning sees what it learns from. Chosen on the validation chorales."""
READS = 3
"""Runs that a score is the mean of; each meets other slow read noise."""
RULE = MixedPrecision(lr=3.0, evidence=5.0)
"""Chosen on the validation chorales, where it is 0.01 nats better than no pulses at all; the plain
rule is worse than none, since a pulse is about as noisy as it is large."""
RULES = {
    "digital": "no pulse: gains, biases and thresholds alone, which can be set back",
    "mixed": "add up gradients in digital and pulse where they agree (Nandakumar et al. 2020)",
    "pulses": "one pulse against the sign of every large gradient (srnn-pcm)",
    "verify": "follow digital copies of the weights, reading before every pulse",
}
"""What each rule does."""


def rule(name: str, lr: float | None = None) -> Rule:
    """Return an update rule by name.

    Args:
        name: One of ``RULES``.
        lr: Weight per unit of gradient; for ``pulses`` the least gradient that causes a pulse; of
            no meaning for ``digital``. ``None``: 3, 0.1 and 0.03; in tuning chorales and digits
            about a gradient in a thousand is larger than 0.03.

    Raises:
        LookupError: For another name.
        ValueError: For an ``lr`` that is not positive.
    """
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"lr is {lr}; it must be a positive number")
    if name == "digital":
        if lr is not None:
            raise ValueError(f"lr is {lr}; the rule 'digital' takes none, give digital-lr instead")
        return DigitalOnly()
    if name == "mixed":
        return MixedPrecision(lr=lr or RULE.lr, evidence=RULE.evidence)
    if name == "pulses":
        return SignPulses(threshold=lr or 0.03)
    if name == "verify":
        return ProgramVerify(lr=lr or 0.1)
    raise LookupError(f"no rule {name!r}; give {', '.join(RULES)}")


class Pass(NamedTuple):
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
class Progress:
    """How far the tuning of a chip has come."""

    chip: Accelerator
    course: TrainerState
    generator: Generator
    """Of the order of the data."""
    passes: list[Pass] = field(default_factory=list)
    history: list[UpdateRecord] = field(default_factory=list)
    """What every update did."""
    kept: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))
    """The chip after the pass that is kept, as ``frozen`` gives it."""
    unit: float = 1.0
    """In which the loss takes the outputs; found on the calibrated chip, then kept."""


def begin(chip: Accelerator, data: Taught, loop: Loop, seed: int) -> Progress:
    """Take a programmed, calibrated chip and score it before the first pass."""
    generator = Generator().manual_seed(seed)
    progress = Progress(chip, loop.start(chip), generator)
    progress.unit = data.unit(lambda x: chip.run(x)[0])
    _finish(progress, data, [])
    return progress


def go_on(
    progress: Progress,
    data: Taught,
    loop: Loop,
    passes: int,
    *,
    seen: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Accelerator:
    """Tune until there were ``passes`` passes; return the chip after the one that is kept.

    That is the best on the part to choose by, the calibrated chip before the first pass included;
    without such a part the last one. The modelled chip is put back to what it was after that pass;
    a real one would stop there. It remembers its weights for ``calibrate``.

    Args:
        progress: From ``begin``; is moved on.
        data: What is learned from and chosen by.
        loop: How; the same in every part of a tuning.
        passes: In all.
        seen: Called after every pass, e.g. to leave a checkpoint.
        say: Called with a sentence after every update.
    """
    while len(progress.passes) <= passes:
        number = len(progress.passes)
        records = []
        step = _step_back(progress, data, loop)
        for x, target in data.batches(progress.generator):
            progress.course, record = step.update(
                progress.chip, progress.course, x, target, partial(data.loss, unit=progress.unit)
            )
            records.append(record)
            say(f"pass {number} of {passes}, batch {len(records)}: loss {record.loss:.4g}")
        _finish(progress, data, records)
        seen(progress)
    chip = thawed(progress.kept)
    chip.remember()
    return chip


def _step_back(progress: Progress, data: Taught, loop: Loop) -> Loop:
    """Return the loop of the next pass; after one that made things worse, from the best again.

    Then the chip has the digital values of the pass that is kept, and steps are smaller for every
    such pass so far. Devices cannot be set back.
    """
    if data.valid is None or not isinstance(loop.rule, DigitalOnly):
        return loop
    done = progress.passes
    worse = sum(kept(done[: n + 1], data) is not one for n, one in enumerate(done))
    if kept(done, data) is not done[-1]:
        progress.chip.set_registers(thawed(progress.kept).registers)
        progress.course = progress.course.at_rest(progress.chip)
    return loop.slower(worse)


def kept(passes: list[Pass], data: Taught) -> Pass:
    """Return the pass that is kept: the first of the best, or the last where nothing chooses."""
    if data.valid is None:
        return passes[-1]
    best = data.valid.best([p.score for p in passes if p.score is not None])
    return next(p for p in passes if p.score == best)


def mean_score(chip: Accelerator, data: Scored) -> float:
    """Return the mean score of ``READS`` runs on the chip, which age it by their length."""
    return sum(data.score(lambda x: chip.run(x)[0]) for _ in range(READS)) / READS


def frozen(chip: Accelerator) -> Tensor:
    """Return a chip's whole state as bytes, uint8; ``thawed`` brings it back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chip.npz"
        chip.save(path)
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def thawed(state: Tensor) -> Accelerator:
    """Return a chip in a state that ``frozen`` gave, random streams included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chip.npz"
        path.write_bytes(state.numpy().tobytes())
        return Accelerator.load(path)


def copy(chip: Accelerator) -> Accelerator:
    """Return a chip in the same state, random streams included."""
    return thawed(frozen(chip))


def _finish(progress: Progress, data: Taught, records: list[UpdateRecord]) -> None:
    """Score the chip after a pass and keep it if it is the best so far."""
    chip, count = progress.chip, len(records)
    done = Pass(
        len(progress.passes),
        sum(r.loss for r in records) / count if count else None,
        None if data.valid is None else mean_score(chip, data.valid),
        sum(r.pulses for r in progress.history) + sum(r.pulses for r in records),
        sum(r.refreshed for r in records),
        sum(r.saturated for r in records) / max(count, 1),
        chip.clock_s,
    )
    progress.history += records
    progress.passes.append(done)
    if kept(progress.passes, data) is done:
        progress.kept = frozen(chip)
