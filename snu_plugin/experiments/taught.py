"""Data that a chip is tuned on: parts to learn from, to choose by and to judge on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin.experiments.scored import (
    AT_ONCE,
    PASSAGES,
    Accuracy,
    Likelihood,
    Model,
    Perplexity,
    Scored,
    arrays_of,
    known,
    labelled,
    split_chorales,
)
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Batch, Chorales

PIECES, SEQUENCES = 8, 32
"""Chorales and labelled sequences of a batch in tuning. Pieces: chosen on validation."""
DIVIDED = (0.6, 0.2, 0.2)
"""Shares to learn from, choose by and judge on where data come in one part. Ours."""


class Taught(Protocol):
    """Data that a chip is tuned on: parts to learn from, to choose by and to judge on."""

    @property
    def valid(self) -> Scored | None:
        """What chooses the pass that is kept, if there is such a part."""

    @property
    def test(self) -> Scored:
        """What judges, and is not looked at otherwise."""

    @property
    def note(self) -> str:
        """Sizes of the parts, and how they came about."""

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield what is learned from once, as inputs ``(T, B, ...)`` and targets."""

    def unit(self, model: Model) -> float:
        """Return the unit in which the loss takes outputs such as the model's."""

    def loss(self, output: Tensor, target: Any, unit: float = 1.0) -> Tensor:
        """Return the loss of outputs ``(T, B, ...)``, in nats."""


@dataclass(frozen=True)
class Pieces:
    """Chorales to tune on: the splits they come with."""

    data: Chorales

    @property
    def valid(self) -> Likelihood:
        """The validation pieces."""
        return Likelihood(self.data.name, chorales.pad(self.data.valid))

    @property
    def test(self) -> Likelihood:
        """The test pieces."""
        return Likelihood(self.data.name, chorales.pad(self.data.test))

    @property
    def note(self) -> str:
        """The splits and their sizes."""
        return "{} chorales to learn from, {} to choose by, {} to judge on".format(*self.data.sizes)

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the training pieces, ``PIECES`` at a time."""
        for batch in chorales.batches(self.data.train, PIECES, generator):
            yield batch.x, batch

    def unit(self, model: Model) -> float:
        """Return 1: the outputs are logits."""
        return 1.0

    def loss(self, output: Tensor, target: Batch, unit: float = 1.0) -> Tensor:
        """Return the likelihood; see ``tasks.chorales.nll``."""
        return chorales.nll(output / unit, target.target, target.mask)

    def soft_target(self, output: Tensor, target: Batch) -> Batch:
        """Return the odds that logits give, in place of the truth."""
        return target._replace(target=output.sigmoid())


@dataclass(frozen=True)
class Classes:
    """Labelled sequences to tune on."""

    train: Accuracy
    valid: Accuracy | None
    test: Accuracy
    divided: bool
    """Whether the parts were drawn from data that came in one."""

    @property
    def note(self) -> str:
        """The sizes of the parts."""
        chosen = "none" if self.valid is None else len(self.valid.labels)
        drawn = "; drawn from x by the seed, as there is no train_x" if self.divided else ""
        return (
            f"{len(self.train.labels)} sequences to learn from, {chosen} to choose by, "
            f"{len(self.test.labels)} to judge on{drawn}"
        )

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the sequences, ``SEQUENCES`` at a time."""
        order = torch.randperm(len(self.train.labels), generator=generator)
        for chosen in torch.split(order, SEQUENCES):
            part = self.train.take(chosen)
            yield part.x, part.labels

    def unit(self, model: Model) -> float:
        """Return the unit in which the model's outputs, summed over time, are best as logits.

        The temperature of Guo et al., ICML 2017, to a factor of 2: whatever loss a network was
        trained with, in this unit it is neither too sure of itself nor too unsure.
        """
        part = self.train.take(torch.arange(min(len(self.train.labels), AT_ONCE)))
        output = model(part.x)
        spread = float(output.sum(0).std())
        units = [spread * 2.0**n for n in range(6, -7, -1)] if spread > 0 else [1.0]
        losses = [float(self.loss(output, part.labels, unit)) for unit in units]
        return units[losses.index(min(losses))]

    def loss(self, output: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
        """Return the cross-entropy of the outputs, summed over time, in nats."""
        return F.cross_entropy(output.sum(0).flatten(1) / unit, target)

    def soft_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the odds that outputs in the unit of the loss give, in place of the truth."""
        return output.sum(0).flatten(1).softmax(1)


@dataclass(frozen=True)
class Passages:
    """Passages of a text to tune on."""

    train: Perplexity
    valid: Perplexity
    test: Perplexity

    @property
    def note(self) -> str:
        """The sizes of the parts."""
        learned, chosen, judged = (
            f"{part.words.shape[1]} of {len(part.words) - 1} words"
            for part in (self.train, self.valid, self.test)
        )
        return f"passages: {learned} to learn from, {chosen} to choose by, {judged} to judge on"

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the passages, ``PASSAGES`` at a time, with the words to predict."""
        order = torch.randperm(self.train.words.shape[1], generator=generator)
        for chosen in torch.split(order, PASSAGES):
            yield self.train.take(chosen)

    def unit(self, model: Model) -> float:
        """Return 1: the outputs are logits."""
        return 1.0

    def loss(self, output: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
        """Return the cross-entropy a word in nats; of words, or of odds for every word."""
        return F.cross_entropy((output / unit).flatten(0, 1), target.flatten(0, 1))

    def soft_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the odds that logits give, in place of the truth."""
        return output.softmax(-1)


def teach(
    path: str | Path,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    *,
    verify: bool = True,
    seed: int = 0,
) -> Pieces | Classes:
    """Read data to tune a graph on; arguments and errors as in ``load``.

    An ``.npz`` may hold ``train_x`` and ``train_labels`` to learn from and ``valid_x`` and
    ``valid_labels`` to choose by, beside ``x`` and ``labels`` to judge on. Without ``valid_x``, as
    many of ``train_x`` choose, and are not learned from, as would of ``x``: without ``train_x``,
    ``x`` is divided at random, ``DIVIDED``, by ``seed``.
    """
    file = known(path)
    if file.suffix == ".mat":
        return Pieces(split_chorales(file, takes, gives, verify))
    arrays = arrays_of(file)
    test = labelled(file, arrays, "", takes, gives)
    if "train_x" not in arrays:
        return _divided(test, seed)
    train = labelled(file, arrays, "train_", takes, gives)
    if "valid_x" in arrays:
        valid = labelled(file, arrays, "valid_", takes, gives)
        return Classes(train, valid, test, divided=False)
    count = len(train.labels)
    chosen = round(DIVIDED[1] * count)
    if not chosen:
        return Classes(train, None, test, divided=False)
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    learned, valid = map(train.take, torch.split(order, [count - chosen, chosen]))
    return Classes(learned, valid, test, divided=False)


def _divided(data: Accuracy, seed: int) -> Classes:
    count = len(data.labels)
    sizes = [max(1, round(share * count)) for share in DIVIDED[1:]]
    if count < 5:
        raise ValueError(
            f"{data.name} holds {count} sequences and no train_x; give train_x and train_labels, "
            "or at least 5 sequences to divide"
        )
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    train, valid, test = (
        data.take(part) for part in torch.split(order, [count - sum(sizes), *sizes])
    )
    return Classes(train, valid, test, divided=True)
