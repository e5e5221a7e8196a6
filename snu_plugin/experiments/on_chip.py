"""A trained network's way onto a chip: written, aged, recalibrated, tuned in the loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from snu_plugin import graph
from snu_plugin.accelerator import Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.experiments import tuning
from snu_plugin.experiments.ageing import UNITS_S
from snu_plugin.experiments.jobs import ChoraleJob, DigitJob, Job
from snu_plugin.experiments.scored import Accuracy
from snu_plugin.experiments.taught import Classes, Pieces
from snu_plugin.hil import Loop

AGE_S = UNITS_S["y"]
"""Seconds from programming to recalibration and tuning."""
LEARNED_FROM, CHOSEN_BY = 4000, 1000
"""Training images that tuning learns from, the first, and that choose the pass, the last. Ours."""

STAGES = {
    "float": "the network, no chip",
    "programmed": "just written, when it can first be read",
    "aged": "a year later, left alone",
    "recalibrated": "then, digital gains of every column fitted anew",
    "tuned": "then, tuned in the loop",
}
"""What each number of ``follow`` means."""


def follow(
    one: Job, chip: Chip, seed: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Write a trained network to a chip and return its test score at every stage.

    Scores are those of the task; on the chip each is the mean of ``tuning.READS`` runs. Tuning is
    that of ``snu tune`` with its defaults; the pass that is kept is chosen on what validates.

    Args:
        one: Its network is trained.
        chip: The chip's settings.
        seed: Of the devices and of the order in which tuning sees the data.
        say: Told what is going on.

    Returns:
        The scores by the names in ``STAGES``.

    Raises:
        CannotMap: If the chip cannot hold the network.
        ValueError: If it cannot leave through NIR, or the task is not one of chips.
    """
    data, scale = _taught(one)
    g = graph.to_nir(one.network)
    loop = Loop(rule=tuning.rule("mixed"))
    found: dict[str, float] = {}
    with torch.no_grad():
        strict = graph.network(g)
        found["float"] = data.test.score(lambda x: strict(x)[0])
        made = Accelerator(compile(g, chip), seed)
        made.program()
        found["programmed"] = tuning.mean_score(made, data.test)
        made.wait(AGE_S - made.age_s)
        found["aged"] = tuning.mean_score(made, data.test)
        made.calibrate()
        found["recalibrated"] = tuning.mean_score(made, data.test)
    progress = tuning.begin(made, data, loop, seed)
    made = tuning.go_on(progress, data, loop, tuning.PASSES, say=say)
    with torch.no_grad():
        found["tuned"] = tuning.mean_score(made, data.test)
    return {stage: scale * score for stage, score in found.items()}


def _taught(one: Job) -> tuple[Pieces | Classes, float]:
    """Return what a network learned from in the form that tuning takes, and the score's factor."""
    if isinstance(one, ChoraleJob):
        return Pieces(one.data), 1.0
    if not isinstance(one, DigitJob):
        raise ValueError("only chorales and digits are followed on chips; leave out --chip")
    draw = Generator().manual_seed(one.seed)
    train, test = one.data.train, one.data.test
    kept = torch.arange(len(train.labels))
    parts = [train.take(kept[:LEARNED_FROM]), train.take(kept[-CHOSEN_BY:]), test]
    learned, chosen, judged = (
        Accuracy(one.data.name, one.coded(part.pixels, one.recipe.steps, draw).float(), part.labels)
        for part in parts
    )
    return Classes(learned, chosen, judged, divided=False), 100.0
