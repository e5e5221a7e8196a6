"""How chips are looked after over years, as text: ``calibrate@30d+adapter+digital@1y``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Accelerator
from snu_plugin.accepted import hint
from snu_plugin.experiments.datasets import ScoredData, TuningData
from snu_plugin.experiments.passes import fitted, judges
from snu_plugin.experiments.settings import one_age
from snu_plugin.experiments.ways import NAMED, ways
from snu_plugin.hil import Rule, Way, drop_idle, fine_tune, in_turn, prepared, shown_inputs

NOTHING = "none"
SHORT = {"calibrate": "recalibrate", "tune": "recalibrate+digital"}
"""Names besides those of ``ways.NAMED``."""
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
