"""What is done with a trained network beyond its test score: few bits, devices, life on a chip."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin import graph
from snu_plugin.accelerator import PCM, Accelerator, Chip
from snu_plugin.compiler import compile
from snu_plugin.durations import UNITS_S
from snu_plugin.experiments import passes
from snu_plugin.experiments.chip_life import chip_life, left_alone
from snu_plugin.experiments.datasets import (
    SAMPLE,
    Judged,
    Model,
    ScoredData,
    Sequences,
    TuningData,
    chorale_parts,
)
from snu_plugin.experiments.paper.classifiers import DigitJob, EventJob
from snu_plugin.experiments.paper.jobs import ChoraleJob, LanguageJob
from snu_plugin.experiments.paper.recipes import RECIPES
from snu_plugin.experiments.paper.training_job import Job
from snu_plugin.experiments.runs import Say
from snu_plugin.experiments.ways import MIXED
from snu_plugin.hil import Loop, silent
from snu_plugin.tasks import penn_treebank
from snu_plugin.training import summed_cross_entropy

CHIPS = 3
"""Chips that the score on devices is the mean of."""
SHARES = torch.linspace(1.0, 0.2, 33)
"""Ranges that are tried, as shares of the largest weight of a row."""
WRITTEN = "pcm"
"""What the score on devices is called."""

AGE_S = UNITS_S["y"]
"""Seconds from programming to recalibration and tuning."""
LEARNED_FROM, CHOSEN_BY = 4000, 5000
"""Training images that tuning learns from, the first, and that choose the pass, the last; of
recordings, of those learned from and of those held out, as far as there are so many. Ours; of 1000
images the scores of passes differed by chance as much as by what tuning did."""

PASSAGE = 100
"""Words of a passage of text. Each begins from a state of zero, also in ``float``: all stages are
judged alike, somewhat worse than one running text is."""
PASSAGES = 8
"""Passages of a text that run side by side: logits of 800 words among 10,000 take 32 MB."""
WORDS = 32_000, 8_000, 20_000
"""Words of train that are learned from, of valid that choose the pass and of test that judge, as
far as there are so many: whole passages, spread evenly. Ours; a text often changes as it goes on.
"""

LR = 1.0
"""Weight per unit of gradient. Chosen on the validation chorales with the deep network, where 3,
the default of ``snu tune``, pulses earlier than the gain is worth the pulses' noise."""

CHIP_UNITS = ("snu", "ssnu")
"""What a chip can hold and tune."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which further looks a trained network gets; none of them changes it."""

    bits: tuple[int, ...] = ()
    """Bits of the weights it is scored with besides, each from 2 to 16, and on PCM devices."""
    chip: Chip | None = None
    """The chip that it is followed on; ``None``: none."""

    def __post_init__(self) -> None:
        if any(not 2 <= each <= 16 for each in self.bits) or len(set(self.bits)) < len(self.bits):
            raise ValueError(
                f"bits are {', '.join(map(str, self.bits))}; give distinct numbers from 2 to 16"
            )

    @property
    def kinds(self) -> list[str]:
        """The looks by name, as in the name of the record."""
        return ["bits"] * bool(self.bits) + ["chip"] * (self.chip is not None)

    @property
    def options(self) -> list[str]:
        """How the command line asks for them."""
        bits = ["--bits", ",".join(map(str, self.bits))] if self.bits else []
        return bits + ([] if self.chip is None else ["--chip", self.chip.name])

    def check(self, task: str, unit: str) -> None:
        """Raise a ``ValueError`` where a chip is asked for something that it cannot hold."""
        if self.chip is not None and unit not in CHIP_UNITS:
            raise ValueError(
                f"{unit} on {task} cannot be followed on a chip; give one of "
                f"{', '.join(CHIP_UNITS)} on one of {', '.join(RECIPES)}, or leave out --chip"
            )

    def of(self, one: Job, seed: int, progress: Say) -> dict[str, dict[str, float]]:
        """Return the scores of a trained network by kind of look and its stages."""
        found = {}
        if self.bits:
            progress(f"weights of {', '.join(map(str, self.bits))} bits")
            found["bits"] = sweep(one, self.bits, seed)
        if self.chip is not None:
            found["chip"] = on_chip(one, self.chip, seed, progress)
        return found


def sweep(one: Job, bits: Sequence[int], seed: int) -> dict[str, float]:
    """Return the test score of a trained network by bits of its weights, and on PCM.

    Matrices, kernels and the embedding of words are quantised after training; biases and
    thresholds, which a chip keeps in digital, stay as they are. ``pcm``: every weight is a pair of
    the devices of ``PCM``, read back once at the age at which they can first be read; mean of
    ``CHIPS`` chips. Digits are shown for as many steps as in training, however long the task's own
    test is.

    Args:
        one: Its network is trained; it is left as it was.
        bits: As in ``quantised``.
        seed: Of the devices.

    Returns:
        ``float``, each of ``bits`` and ``pcm``, with the score ``result()["test"]`` of such a job.
    """
    if isinstance(one, DigitJob):
        one = copy.copy(one)
        one.recipe = replace(one.recipe, test_steps=0)
    found = {"float": one.result()["test"]}
    for each in bits:
        with _replaced(one.network) as matrices:
            for weight in matrices:
                weight.copy_(quantised(weight, each))
            found[str(each)] = one.result()["test"]
    scores = []
    for chip in range(CHIPS):
        with _replaced(one.network) as matrices:
            for number, weight in enumerate(matrices):
                weight.copy_(written(weight, seed=(seed * CHIPS + chip) * len(matrices) + number))
            scores.append(one.result()["test"])
    return found | {WRITTEN: statistics.fmean(scores)}


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Return weights rounded to ``2^bits - 1`` levels, ``k step`` with ``|k| < 2^(bits-1)``.

    Every row has a step of its own, the one of ``SHARES`` with the least squared error: what lies
    beyond the outermost level takes it.

    Args:
        weight: ``(out, ...)``.
        bits: From 2 to 16.

    Raises:
        ValueError: For bits out of range.

    >>> quantised(torch.tensor([[-1.0, 0.1, 0.9]]), 2)
    tensor([[-0.9500,  0.0000,  0.9500]])
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits is {bits}; it must lie between 2 and 16")
    outermost = 2 ** (bits - 1) - 1
    rows = weight.flatten(1)
    best = torch.zeros_like(rows)
    least = torch.full_like(rows[:, :1], torch.inf)
    for share in SHARES.tolist():
        step = rows.abs().amax(1, keepdim=True).clamp_min(1e-30) * share / outermost
        rounded = (rows / step).round().clamp(-outermost, outermost) * step
        error = (rounded - rows).square().sum(1, keepdim=True)
        best = torch.where(error < least, rounded, best)
        least = torch.minimum(error, least)
    return best.view_as(weight)


def written(weight: Tensor, *, seed: int) -> Tensor:
    """Return weights as pairs of PCM devices hold them, read once when they can first be read.

    Args:
        weight: ``(out, ...)``; each row takes the whole range of conductances.
        seed: Of the devices.
    """
    matrix = weight.detach().flatten(1).numpy().astype(np.float64)
    inputs, outputs = np.array([matrix.shape[1]]), np.array([matrix.shape[0]])
    g = nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": inputs}),
            "weight": nir.Linear(matrix),
            "output": nir.Output({"output": outputs}),
        },
        edges=[("input", "weight"), ("weight", "output")],
    )
    chip = Accelerator(compile(g, PCM, dt=1.0), seed)
    chip.program()
    return chip.read_weights()["weight"].to(weight).view_as(weight)


@contextmanager
def _replaced(network: nn.Module) -> Iterator[Sequence[Tensor]]:
    """Hand out the matrices and kernels of a network, and put them back as they were."""
    matrices = [p for p in network.parameters() if p.dim() > 1]
    kept = [p.detach().clone() for p in matrices]
    with torch.no_grad():
        try:
            yield matrices
        finally:
            for p, before in zip(matrices, kept, strict=True):
                p.copy_(before)


@dataclass(frozen=True, kw_only=True)
class Distillation(TuningData):
    """Data of which a chip learns what the network on it makes of them, not what is true.

    Hinton, Vinyals, Dean 2015. A network knows what it learned from far better than anything else;
    the truth about the same data would have the chip learn them by heart, not mend its devices.
    The truth still chooses and judges, and finds the unit of the loss.
    """

    network: Model
    """The network as it was before it came onto the chip."""

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield what is learned from once, with the network's odds as targets."""
        with torch.no_grad():
            unit = self.train.unit(self.network)
        for x, target in self.train.batches(generator):
            with torch.no_grad():
                odds = self.train.soft_target(self.network(x) / unit, target)
            yield x, odds


def on_chip(one: Job, chip: Chip, seed: int, progress: Say = lambda text: None) -> dict[str, float]:
    """Write a trained network to a chip and return its test score at every stage.

    Scores are those of the task; on the chip each is the mean of ``passes.READS`` runs. Tuning is
    that of ``snu tune`` but for ``LR``, towards what the network says (``Distillation``); the pass
    that is kept, or none, is chosen on what validates: validation chorales, the last training
    images, held-out recordings, validation text; where none are held out, the last. Of a text
    ``WORDS`` count, in passages of ``PASSAGE``; what stands for a word is looked up in digital.

    Args:
        one: Its network is trained.
        chip: The chip's settings.
        seed: Of the devices and of the order in which tuning sees the data.
        progress: Told what is going on.

    Returns:
        The scores by stage: ``float`` of the network without a chip; ``programmed``, when the chip
        can first be read; ``aged``, a year later, left alone; then ``recalibrated``, digital gains
        of every column fitted anew; then ``tuned`` in the loop.

    Raises:
        CannotMap: If the chip cannot hold the network.
        ValueError: If it cannot leave through NIR, or the task is not one of chips.
    """
    model, data, scale = _tuning_data(one)
    g = graph.to_nir(model, data.test.sample[:, :1])
    loop = Loop(rule=replace(MIXED, lr=LR))
    strict = graph.network(g)

    def network(x: Tensor) -> Tensor:
        return strict(x)[0]  # type: ignore[no-any-return]

    with torch.no_grad():
        found = {"float": data.test.score(network)}
    ages = {"programmed": None, "aged": AGE_S}
    program = compile(g, chip, sample=data.train.sample[:, :SAMPLE])
    for stage, _, made in chip_life(program, seed, ages, {"": left_alone}):
        found[stage] = passes.mean_score(made, data.test)
    made.calibrate()
    found["recalibrated"] = passes.mean_score(made, data.test)
    distilled = Distillation(data.train, data.valid, data.test, network=network)
    state = passes.begin(made, distilled, loop, seed, choose_step=True)
    made = passes.run_passes(state, distilled, passes.PASSES, progress=progress)
    found["tuned"] = passes.mean_score(made, data.test)
    return {stage: scale * score for stage, score in found.items()}


def _tuning_data(one: Job) -> tuple[nn.Module, TuningData, float]:
    """Return what goes onto the chip, what tuning takes as data, and the score's factor."""
    if isinstance(one, ChoraleJob):
        return one.network, chorale_parts(one.data), 1.0
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


def _pictures(one: DigitJob) -> TuningData:
    draw = Generator().manual_seed(one.seed)
    train, test = one.data.train, one.data.test
    kept = torch.arange(len(train.labels))
    parts = [train.take(kept[:LEARNED_FROM]), train.take(kept[-CHOSEN_BY:]), test]
    learned, chosen, judged = (
        Sequences(one.data.name, one.coded(part.pixels, one.recipe.steps, draw), part.labels)
        for part in parts
    )
    return TuningData(learned, chosen, judged)


def _recordings(one: EventJob) -> TuningData:
    name = one.data.name
    learned, chosen, judged = one.parts(LEARNED_FROM, CHOSEN_BY)
    valid = None if chosen is None else Sequences(name, *chosen)
    return TuningData(Sequences(name, *learned), valid, Sequences(name, *judged))


def _passages(one: LanguageJob) -> TuningData:
    data, embedding = one.data, one.network.embedding.weight.detach()
    learned, chosen, judged = (
        Perplexity(data.name, passages(tokens, most), embedding)
        for tokens, most in zip((data.train, data.valid, data.test), WORDS, strict=True)
    )
    return TuningData(learned, chosen, judged)


def passages(tokens: Tensor, most: int) -> Tensor:
    """Cut a text into passages ``(PASSAGE + 1, N)`` and take some, spread evenly over it.

    The last word of a passage is the first of the next: all words but the first can be predicted.
    What fills no passage is dropped; a text shorter than one is one.
    """
    steps = min(PASSAGE, len(tokens) - 1)
    whole = tokens.unfold(0, steps + 1, steps).t()
    count = min(max(1, most // steps), whole.shape[1])
    return whole[:, torch.arange(count) * whole.shape[1] // count]


@dataclass(frozen=True)
class Perplexity(ScoredData):
    """Passages of a text, whose words are predicted from those before them in the passage."""

    name: str
    words: Tensor
    """``(T + 1, N)``, whole numbers from 0; the first of a passage is not predicted."""
    embedding: Tensor
    """``(vocabulary, features)``: what models see of each word."""
    kind = "passages"
    metric = "perplexity, lower is better"
    loss_says = "cross-entropy of the next word"

    def __len__(self) -> int:
        return self.words.shape[1]

    @property
    def sample(self) -> Tensor:
        """The first passages."""
        return self.take(torch.arange(len(self))[:PASSAGES])[0]

    def judge(self, model: Model) -> Judged:
        """Return the perplexity; every passage begins from a state of zero."""
        total, without = 0.0, 0
        for chosen in torch.split(torch.arange(len(self)), PASSAGES):
            x, target = self.take(chosen)
            output = model(x)
            total += float(summed_cross_entropy(output, target))
            without += int(silent(output).sum())
        return Judged(penn_treebank.perplexity(total, self.words[1:].numel()), without)

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what models see of the passages of these numbers, and the words to predict."""
        part = self.words[:, chosen]
        return F.embedding(part[:-1], self.embedding), part[1:]

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the passages, ``PASSAGES`` at a time, with the words to predict."""
        for chosen in torch.split(torch.randperm(len(self), generator=generator), PASSAGES):
            yield self.take(chosen)

    def loss(self, output: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
        """Return the cross-entropy a word in nats; of words, or of odds for every word."""
        return F.cross_entropy((output / unit).flatten(0, 1), target.flatten(0, 1))

    def soft_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the odds that logits give."""
        return output.softmax(-1)
