"""A trained network's way onto a chip: written, aged, recalibrated, tuned in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from snu_plugin import graph
from snu_plugin.accelerator import Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.experiments import tuning
from snu_plugin.experiments.ageing import UNITS_S
from snu_plugin.experiments.events import EventJob
from snu_plugin.experiments.jobs import ChoraleJob, DigitJob, Job
from snu_plugin.experiments.scored import Accuracy, Model, Scored
from snu_plugin.experiments.taught import Classes, Pieces
from snu_plugin.hil import Loop

AGE_S = UNITS_S["y"]
"""Seconds from programming to recalibration and tuning."""
LEARNED_FROM, CHOSEN_BY = 4000, 5000
"""Training images that tuning learns from, the first, and that choose the pass, the last; of
recordings, of those learned from and of those held out, as far as there are so many. Ours; of 1000
images the scores of passes differed by chance as much as by what tuning did."""

LR = 1.0
"""Weight per unit of gradient. Chosen on the validation chorales with the deep network, where 3,
the default of ``snu tune``, pulses earlier than the gain is worth the pulses' noise."""

STAGES = {
    "float": "the network, no chip",
    "programmed": "just written, when it can first be read",
    "aged": "a year later, left alone",
    "recalibrated": "then, digital gains of every column fitted anew",
    "tuned": "then, tuned in the loop",
}
"""What each number of ``follow`` means."""


@dataclass(frozen=True)
class Echo:
    """Data of which a chip learns what the network on it makes of them, not what is true.

    Hinton, Vinyals, Dean 2015. A network knows what it learned from far better than anything else;
    the truth about the same data would have the chip learn them by heart, not mend its devices.
    """

    data: Pieces | Classes
    network: Model
    """The network as it was before it came onto the chip."""

    @property
    def valid(self) -> Scored | None:
        """What chooses the pass, by the truth."""
        return self.data.valid

    @property
    def test(self) -> Scored:
        """What judges, by the truth."""
        return self.data.test

    @property
    def note(self) -> str:
        """The sizes of the parts."""
        return self.data.note

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield what is learned from once, with the network's odds as targets."""
        with torch.no_grad():
            unit = self.data.unit(self.network)
        for x, target in self.data.batches(generator):
            with torch.no_grad():
                y = self.network(x) / unit
            if isinstance(target, Tensor):
                yield x, y.sum(0).flatten(1).softmax(1)
            else:
                yield x, target._replace(target=y.sigmoid())

    def unit(self, model: Model) -> float:
        """Return the unit of the model's outputs, found with the truth."""
        return self.data.unit(model)

    def loss(self, output: Tensor, target: Any, unit: float = 1.0) -> Tensor:
        """Return the cross-entropy with the network's odds, in nats."""
        return self.data.loss(output, target, unit)


def follow(
    one: Job, chip: Chip, seed: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Write a trained network to a chip and return its test score at every stage.

    Scores are those of the task; on the chip each is the mean of ``tuning.READS`` runs. Tuning is
    that of ``snu tune`` but for ``LR``, towards what the network says (``Echo``); the pass that is
    kept, or none, is chosen on what validates: validation chorales, the last training images,
    held-out recordings; where none are held out, the last pass is kept.

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
    g = graph.to_nir(one.network, data.test.sample[:, :1])
    loop = Loop(rule=tuning.rule("mixed", LR))
    found: dict[str, float] = {}
    strict = graph.network(g)

    def network(x: Tensor) -> Tensor:
        return strict(x)[0]  # type: ignore[no-any-return]

    with torch.no_grad():
        found["float"] = data.test.score(network)
        made = Accelerator(compile(g, chip), seed)
        made.program()
        found["programmed"] = tuning.mean_score(made, data.test)
        made.wait(AGE_S - made.age_s)
        found["aged"] = tuning.mean_score(made, data.test)
        made.calibrate()
        found["recalibrated"] = tuning.mean_score(made, data.test)
    echo = Echo(data, network)
    progress = tuning.begin(made, echo, loop, seed)
    made = tuning.go_on(progress, echo, loop, tuning.PASSES, say=say)
    with torch.no_grad():
        found["tuned"] = tuning.mean_score(made, data.test)
    return {stage: scale * score for stage, score in found.items()}


def _taught(one: Job) -> tuple[Pieces | Classes, float]:
    """Return what a network learned from in the form that tuning takes, and the score's factor."""
    if isinstance(one, ChoraleJob):
        return Pieces(one.data), 1.0
    if isinstance(one, DigitJob):
        return _pictures(one), 100.0
    if isinstance(one, EventJob):
        return _recordings(one), 100.0
    raise ValueError(
        "only chorales, digits and recordings of events are followed on chips; leave out --chip"
    )


def _pictures(one: DigitJob) -> Classes:
    draw = Generator().manual_seed(one.seed)
    train, test = one.data.train, one.data.test
    kept = torch.arange(len(train.labels))
    parts = [train.take(kept[:LEARNED_FROM]), train.take(kept[-CHOSEN_BY:]), test]
    learned, chosen, judged = (
        Accuracy(one.data.name, one.coded(part.pixels, one.recipe.steps, draw), part.labels)
        for part in parts
    )
    return Classes(learned, chosen, judged, divided=False)


def _recordings(one: EventJob) -> Classes:
    name = one.data.name
    learned, chosen, judged = one.parts(LEARNED_FROM, CHOSEN_BY)
    valid = None if chosen is None else Accuracy(name, *chosen)
    return Classes(Accuracy(name, *learned), valid, Accuracy(name, *judged), divided=False)
