"""Ways to change a chip by name, as commands take them: ``recalibrate,adapter:8,digital``.

Also how it is looked after over years, with periods: ``calibrate@30d+adapter+digital@1y``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator
from snu_plugin.accepted import COUNT, POSITIVE, SHARE, Accepted, hint
from snu_plugin.experiments.datasets import ScoredData, TuningData
from snu_plugin.experiments.passes import fitted, judges
from snu_plugin.experiments.settings import one_age
from snu_plugin.hil import (
    Adapter,
    Correct,
    DigitalOnly,
    MixedPrecision,
    ProgramVerify,
    Recalibrate,
    Rewrite,
    Rule,
    SignPulses,
    StochasticPulses,
    ThinnedPulses,
    Way,
    drop_idle,
    fine_tune,
    in_turn,
    prepared,
    shown_inputs,
)

MIXED = MixedPrecision(lr=3.0, evidence=5.0)
"""Chosen on the validation chorales, where it is 0.01 nats better than no pulses at all; the plain
rule is worse than none, since a pulse is about as noisy as it is large."""


class Named(NamedTuple):
    """A way that a name stands for."""

    make: Callable[..., Way]
    """Returns the way, by default or with its number."""
    takes: tuple[str, Accepted] | None = None
    """What the number behind the name is, and may be; ``None``: there is none."""
    argument: str = ""
    """How ``make`` calls that number, where it is otherwise."""


RANK, RATE = ("rank", COUNT), ("lr", POSITIVE)
PULSES = partial(SignPulses, threshold=0.03)
"""In tuning chorales and digits about a gradient in a thousand is larger."""

NAMED: Mapping[str, Named] = {
    "recalibrate": Named(Recalibrate),
    "rewrite": Named(Rewrite, ("worst", SHARE)),
    "adapter": Named(Adapter, RANK),
    "adapters": Named(partial(Adapter, where="all"), RANK),
    "correct": Named(Correct, RANK),
    "digital": Named(DigitalOnly),
    "mixed": Named(partial(replace, MIXED), RATE),
    "pulses": Named(PULSES, RATE, "threshold"),
    "stochastic": Named(StochasticPulses, RATE),
    "thinned": Named(ThinnedPulses, ("share", SHARE)),
    "verify": Named(ProgramVerify, RATE),
}
"""Preparations, then update rules, by name."""


def way(text: str, number: float | None = None) -> Way:
    """Return a way by its name, such as ``"adapter"`` or ``"adapter:4"``.

    Args:
        text: A name of ``NAMED``, with a number behind a colon where it takes one.
        number: That number where the text has none.

    Raises:
        LookupError: For a name that nothing has.
        ValueError: For a number that the way does not take.
    """
    name, colon, behind = text.strip().partition(":")
    if name not in NAMED:
        raise LookupError(
            f"no way {name!r} to change a chip; give {', '.join(NAMED)}{hint(name, NAMED)}"
        )
    make, takes, argument = NAMED[name]
    if colon:
        try:
            number = float(behind)
        except ValueError:
            said = f", its {takes[0]}" if takes else ", or no colon"
            raise ValueError(f"{text.strip()} needs a number behind the colon{said}") from None
    if number is None:
        return make()
    if takes is None:
        raise ValueError(f"{name!r} takes no number; {number:g} was given, leave it out")
    called, accepted = takes
    whole = int(number) if float(number).is_integer() else number
    accepted.check(f"{called} of {name}", whole)
    return make(**{argument or called: whole if accepted is COUNT else number})


def ways(text: str, lr: float | None = None) -> list[Way]:
    """Return a sequence of ways, such as ``"recalibrate,adapter:8,digital"``.

    Args:
        text: Names, separated by commas or plus signs: preparations, then at most one update rule.
        lr: Number of the update rule, if it has none behind its name.

    Raises:
        LookupError: For a name that nothing has.
        TypeError: For names in another order.
        ValueError: For a number that is not taken.

    >>> ways("recalibrate,adapter:4")
    [Recalibrate(), Adapter(rank=4, where='readout', seed=0)]
    """
    names = re.split("[+,]", text)
    found = [way(name) for name in names]
    if lr is not None:
        POSITIVE.check("lr", lr)
        if not isinstance(found[-1], Rule):
            raise ValueError(f"lr is {lr:g} and {names[-1].strip()!r} takes none; leave it out")
        found[-1] = way(names[-1], None if ":" in names[-1] else lr)
    in_turn(found)
    return found


NOTHING = "none"
SHORT = {"calibrate": "recalibrate", "tune": "recalibrate+digital"}
"""Names besides those of ``NAMED``."""
SAYS = {
    NOTHING: "written once, then left alone",
    "calibrate": "the digital gain of every column fitted anew, without labels",
    "tune": "recalibrated, then tuned in the loop: one pass over what there is to learn from",
    "rewrite": "every weight written again in a closed loop, then recalibrated",
}
"""What the simplest ones do."""


class Step(NamedTuple):
    """What is done to a chip at a visit, one after the other."""

    ways: Sequence[Way]
    period_s: float
    """Least time from one time to the next; 0: at every visit."""

    @property
    def tunes(self) -> bool:
        """Whether it learns from data."""
        return isinstance(self.ways[-1], Rule)


def steps(text: str) -> list[Step]:
    """Return what is done to a chip, in its order; nothing for ``"none"``.

    Args:
        text: Names as ``--rule`` takes them, or of ``SHORT``, joined by plus signs; ``@1y`` says
            how often the names before it come, back to the last such period; without: always.

    Raises:
        LookupError: For a name that nothing has.
        TypeError: For an update rule that is not the last of its step.
        ValueError: For a number or period that is none.

    >>> [(len(step.ways), step.period_s) for step in steps("calibrate@30d+adapter+digital@1y")]
    [(1, 2592000.0), (2, 31536000.0)]
    """
    if text == NOTHING:
        return []
    found: list[Step] = []
    names: list[str] = []
    for part in text.split("+"):
        name, at, period = part.strip().partition("@")
        if name not in SHORT and name.partition(":")[0] not in NAMED:
            known = (NOTHING, *SHORT, *NAMED)
            raise LookupError(
                f"no upkeep is called {name!r}; give {', '.join(known)}{hint(name, known)}"
            )
        names.append(SHORT.get(name, name))
        if at:
            found.append(Step(ways("+".join(names)), one_age(period, f"period of {name}")))
            names = []
    return found + ([Step(ways("+".join(names)), 0.0)] if names else [])


def says(text: str) -> str:
    """Return what is done, in words."""
    return SAYS.get(text, "at visits, in this order: " + text.replace("+", ", "))


@torch.enable_grad()
def look_after(
    chip: Accelerator,
    step: Step,
    data: ScoredData | TuningData,
    probes: Tensor,
    generator: Generator,
) -> None:
    """Do one step to a chip; tuning is one pass over what there is to learn from.

    What prepares a tuning is judged by the part to choose by, as in ``snu tune``; a step without
    tuning needs no labels, and nothing judges it.

    Args:
        chip: The chip.
        step: What is done.
        data: What tuning learns from.
        probes: Inputs ``(T, B, ...)`` that the network meets, without labels.
        generator: Of the order of the data.

    Raises:
        TypeError: If the step tunes and the data have no part to learn from.
    """
    preparations, rule = in_turn(step.ways)
    ways, first = [shown_inputs(way, probes) for way in preparations], dict(chip.registers)
    if not step.tunes:
        for way in ways:
            way.begin(chip)
        return
    if not isinstance(data, TuningData):
        raise TypeError("tuning needs data with parts to learn from; see load_tuning")
    prepared(chip, ways, judges(data), partial(fitted, chip, data.valid or data.train))
    fine_tune(chip, list(data.batches(generator)), fitted(chip, data.train), rule)
    drop_idle(chip, first)
