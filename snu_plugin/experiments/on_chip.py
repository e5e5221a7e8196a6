"""A trained network's way onto a chip: written, aged, recalibrated, tuned in the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from snu_plugin import graph
from snu_plugin.accelerator import Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.experiments import tuning
from snu_plugin.experiments.ageing import UNITS_S
from snu_plugin.experiments.events import EventJob
from snu_plugin.experiments.jobs import ChoraleJob, DigitJob, Job
from snu_plugin.experiments.language import LanguageJob
from snu_plugin.experiments.scored import Accuracy, Model, Perplexity, Scored
from snu_plugin.experiments.taught import Classes, Passages, Pieces
from snu_plugin.hil import Loop

AGE_S = UNITS_S["y"]
"""Seconds from programming to recalibration and tuning."""
LEARNED_FROM, CHOSEN_BY = 4000, 5000
"""Training images that tuning learns from, the first, and that choose the pass, the last; of
recordings, of those learned from and of those held out, as far as there are so many. Ours; of 1000
images the scores of passes differed by chance as much as by what tuning did."""

PASSAGE = 100
"""Words of a passage of text. Each begins from a state of zero, also in ``float``: all stages are
judged alike, somewhat worse than one running text is."""
WORDS = 32_000, 8_000, 20_000
"""Words of train that are learned from, of valid that choose the pass and of test that judge, as
far as there are so many: whole passages, spread evenly. Ours; a text often changes as it goes on.
"""

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

    data: Pieces | Classes | Passages
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
        seen: Iterator[tuple[Tensor, Any]] = self.data.batches(generator)
        for x, target in seen:
            with torch.no_grad():
                said = self.data.soft_target(self.network(x) / unit, target)
            yield x, said

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
    held-out recordings, validation text; where none are held out, the last pass is kept. Of a text
    ``WORDS`` count, in passages of ``PASSAGE``; what stands for a word is looked up in digital.

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
    model, data, scale = _taught(one)
    g = graph.to_nir(model, data.test.sample[:, :1])
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


def _taught(one: Job) -> tuple[nn.Module, Pieces | Classes | Passages, float]:
    """Return what goes onto the chip, what tuning takes as data, and the score's factor."""
    if isinstance(one, ChoraleJob):
        return one.network, Pieces(one.data), 1.0
    if isinstance(one, DigitJob):
        return one.network, _pictures(one), 100.0
    if isinstance(one, EventJob):
        return one.network, _recordings(one), 100.0
    if isinstance(one, LanguageJob):
        return one.network.without_embedding(), _passages(one), 1.0
    raise ValueError(
        "only chorales, digits, recordings of events and texts are followed on chips; "
        "leave out --chip"
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


def _passages(one: LanguageJob) -> Passages:
    data, embedding = one.data, one.network.embedding.weight.detach()
    learned, chosen, judged = (
        Perplexity(data.name, passages(tokens, most), embedding)
        for tokens, most in zip((data.train, data.valid, data.test), WORDS, strict=True)
    )
    return Passages(learned, chosen, judged)


def passages(tokens: Tensor, most: int) -> Tensor:
    """Cut a text into passages ``(PASSAGE + 1, N)`` and take some, spread evenly over it.

    The last word of a passage is the first of the next: all words but the first can be predicted.
    What fills no passage is dropped; a text shorter than one is one.
    """
    steps = min(PASSAGE, len(tokens) - 1)
    whole = tokens.unfold(0, steps + 1, steps).t()
    count = min(max(1, most // steps), whole.shape[1])
    return whole[:, torch.arange(count) * whole.shape[1] // count]
