"""The life of a chip: written, aged, recalibrated, and tuned in the loop at every age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator, Program, Trace
from snu_plugin.experiments.music import score
from snu_plugin.experiments.taught import Pieces
from snu_plugin.experiments.tuning import PASSES, READS, RULE, copy
from snu_plugin.hil import Rule, UpdateRecord, fine_tune
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Batch, Chorales

AGES_S = {"20s": 20.0, "1h": 3600.0, "1d": 86_400.0, "30d": 30 * 86_400.0, "1y": 365 * 86_400.0}
"""Times since programming at which the chip is looked at, s."""

CASES = {
    "programmed": "written once, then left alone",
    "compensated": "digital gains of every column fitted anew at that age",
    "tuned": "a copy of the chip tuned at that age from the recalibrated state, measured at once",
}
"""What each row of the scores means."""


@dataclass(frozen=True)
class Life:
    """Scores by case and age, and the chip that was tuned last."""

    scores: dict[str, dict[str, float]]
    """Test likelihood, nats per step: case, then age."""
    untuned: Accelerator
    """The chip at its last age, recalibrated, before tuning."""
    tuned: Accelerator
    """The chip tuned at its last age."""
    history: list[UpdateRecord]
    """What each update of the last tuning did."""


def likelihood(chip: Accelerator, batch: Batch, reads: int = READS) -> float:
    """Return the mean negative log-likelihood over several runs, nats per step."""
    return sum(score(lambda x: play(chip, x), batch) for _ in range(reads)) / reads


def play(chip: Accelerator, x: Tensor) -> Tensor:
    """Return the logits that the chip gives for ``(T, B, 88)``."""
    logits: Tensor = chip.run(x)[0]
    return logits


def live(
    program: Program,
    data: Chorales,
    seed: int,
    *,
    rule: Rule = RULE,
    seen: Callable[[str], None] | None = None,
) -> Life:
    """Write a chip and follow it to a year; at each age a copy of it is recalibrated and tuned.

    Args:
        program: The network laid out for the chip.
        data: Test pieces are scored, training pieces tune.
        seed: Of the chip and of the order of the training pieces.
        rule: How gradients become pulses.
        seen: Called with the name of every age that is done.
    """
    test = chorales.pad(data.test)
    chip = Accelerator(program, seed)
    chip.program()
    scores: dict[str, dict[str, float]] = {case: {} for case in CASES}
    untuned = tuned = chip
    history: list[UpdateRecord] = []
    for name, age in AGES_S.items():
        chip.wait(max(0.0, age - chip.age_s))
        scores["programmed"][name] = likelihood(chip, test)
        untuned, tuned = copy(chip), copy(chip)
        untuned.calibrate()
        scores["compensated"][name] = likelihood(untuned, test)
        history = tune(tuned, data, seed, rule)
        scores["tuned"][name] = likelihood(tuned, test)
        if seen is not None:
            seen(name)
    return Life(scores, untuned, tuned, history)


def tune(chip: Accelerator, data: Chorales, seed: int, rule: Rule = RULE) -> list[UpdateRecord]:
    """Recalibrate the chip and tune it on the training pieces, in the loop."""
    chip.calibrate()
    pieces, order = Pieces(data), Generator().manual_seed(seed)
    passes = (pieces.batches(order) for _ in range(PASSES))
    return fine_tune(chip, chain.from_iterable(passes), pieces.loss, rule, hold_back=0)


def cost_of(chip: Accelerator, data: Chorales) -> Trace:
    """Run the beginnings of the test pieces, all of one length, and return the trace."""
    length = min(len(piece) for piece in data.test)
    _, trace = chip.run(chorales.pad([piece[:length] for piece in data.test]).x)
    return trace
