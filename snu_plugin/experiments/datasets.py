"""Data of a graph: what scores it, and for tuning what it learns from and is chosen by.

Chorales are scored by likelihood, text by perplexity, the rest by accuracy or as is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.hil import (
    METRICS,
    Described,
    Loss,
    Metric,
    Teacher,
    loss_of,
    metric_of,
    silent,
    temperature,
)
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Batch, Chorales

Model = Callable[[Tensor], Tensor]
"""Inputs ``(T, B, ...)`` to outputs ``(T, B, ...)``."""

AT_ONCE = 500
"""Sequences that run side by side; more are run in turns."""
PIECES, SEQUENCES = 8, 32
"""Chorales and labelled sequences of a batch in tuning. Pieces: chosen on validation."""
SAMPLE = 64
"""Sequences that set the ranges of converters."""


class Judged(NamedTuple):
    """What a run of data came to."""

    score: float
    silent: float
    """Sequences on which all outputs were 0 at every step; a mean where it is of several runs."""


class ScoredData(ABC):
    """Inputs and what is expected of the outputs: a network is scored by them, or learns."""

    name: str
    """What the data are called."""
    kind: ClassVar[str]
    """What there are several of."""

    @property
    def test(self) -> ScoredData:
        """What judges: all of it; of ``TuningData`` a part."""
        return self

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """Inputs ``(T, B, ...)`` without padding, to count what a run costs."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the score is, with its unit."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return False

    @property
    @abstractmethod
    def loss_says(self) -> str:
        """What is minimised in tuning."""

    @abstractmethod
    def judge(self, model: Model) -> Judged:
        """Return the score of what a model makes of the inputs, and where it was silent."""

    def score(self, model: Model) -> float:
        """Return the score alone."""
        return self.judge(model).score

    def worst(self, scores: list[float]) -> float:
        """Return the worst of several scores."""
        return min(scores) if self.higher_is_better else max(scores)

    @abstractmethod
    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield everything once, as inputs ``(T, B, ...)`` and targets, in a drawn order."""

    def unit(self, model: Model) -> float:
        """Return the unit in which the loss takes outputs such as the model's; logits: 1."""
        return 1.0

    @abstractmethod
    def loss(self, output: Tensor, target: Any, unit: float = 1.0) -> Tensor:
        """Return the loss of outputs ``(T, B, ...)``, in nats."""

    @abstractmethod
    def soft_target(self, output: Tensor, target: Any) -> Any:
        """Return the odds that outputs in the unit of the loss give, in place of the truth."""


@dataclass(frozen=True)
class Likelihood(ScoredData):
    """Chorales, every chord predicted from those before it."""

    name: str
    pieces: Sequence[Tensor]
    """Rolls ``(T, 88)``; see ``tasks.chorales``."""
    teacher: Teacher | None = None
    """Whose odds are learned from, in place of the chords."""
    kind = "chorales"
    metric = "negative log-likelihood, nats per step, lower is better"
    loss_says = "negative log-likelihood of the next chord"

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def _all(self) -> Batch:
        return chorales.pad(self.pieces)

    @property
    def sample(self) -> Tensor:
        """The beginnings of all pieces, as long as the shortest."""
        return self._all.x[: int(self._all.mask.sum(0).min())]

    def judge(self, model: Model) -> Judged:
        """Return the pooled likelihood; see ``tasks.chorales.nll``."""
        output = model(self._all.x)
        return Judged(float(self.loss(output, self._all)), int(silent(output).sum()))

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the pieces, ``PIECES`` at a time."""
        for batch in chorales.batches(self.pieces, PIECES, generator):
            taught = self.teacher and self.soft_target(self.teacher(batch.x), batch)
            yield batch.x, taught or batch

    def loss(self, output: Tensor, target: Batch, unit: float = 1.0) -> Tensor:
        """Return the likelihood; see ``tasks.chorales.nll``."""
        return chorales.nll(output / unit, target.target, target.mask)

    def soft_target(self, output: Tensor, target: Batch) -> Batch:
        """Return the odds that logits give."""
        return target._replace(target=output.sigmoid())


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What sequences teach and are judged by, where it is not what their labels suggest."""

    loss: str | Loss | None = None
    """A name of ``hil.LOSSES`` or a function, as ``fine_tune`` takes it."""
    metric: str | Metric | None = None
    """A name of ``hil.METRICS``, or a ``Metric``; ``None``: that of the loss's name, or labels'."""
    teacher: Teacher | None = None
    """Gives the targets that are learned from, and judges where there are no labels."""


LABELS = Judging()
"""By the labels."""
NUMBERS = ("regression", "likelihood")
"""Losses and metrics that compare every output with a number."""


@dataclass(frozen=True)
class Sequences(ScoredData):
    """Sequences that each belong to a class, or with a number for each output at each step.

    By default a class is that of the output with the largest sum over time. A sequence on which
    all outputs are silent has none: it is counted, and wrong.
    """

    name: str
    x: Tensor
    """``(T, N, ...)``, float32; or bool, a quarter of that, of which models see floats."""
    labels: Tensor | None
    """``(N,)``, whole numbers from 0; or ``(T, N, ...)`` as the outputs; ``None``: a teacher's."""
    by: Judging = LABELS
    kind = "sequences"

    def __post_init__(self) -> None:
        if self.labels is None:
            if self.by.teacher is None:
                raise ValueError(f"{self.name} holds no labels; give them, or a teacher")
            return
        if self.by.teacher is None:
            _ = self.learns  # refuses what is no loss
            self._check("loss", self.by.loss)
        if self.by.metric != "teacher":
            self._check("metric", self.by.metric)
        elif self.by.teacher is None:
            raise ValueError("metric is 'teacher' and there is none; give a teacher")

    def _check(self, what: str, name: object) -> None:
        """Refuse a name of what is for numbers where there are classes, and the reverse."""
        assert self.labels is not None
        numbers = self.labels.dim() > 1
        if isinstance(name, str) and (name in NUMBERS) != numbers:
            labels, fit = "classes", "another"
            if numbers:
                labels, fit = "numbers for every output", f"one of {', '.join(NUMBERS)}"
            raise ValueError(f"{what} is {name!r} and labels are {labels}; give {fit}")
        kind, _, count = str(name).partition(":")
        most = int(self.labels.max())
        if kind == "population" and count.isdigit() and most >= int(count):
            raise ValueError(
                f"{what} is {name!r} and labels run to {most}; give at least {most + 1} classes"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as what it was made of: what is derived may not be pickled."""
        return Sequences, (self.name, self.x, self.labels, self.by)

    def __len__(self) -> int:
        return self.x.shape[1]

    @property
    def sample(self) -> Tensor:
        """The first sequences."""
        return self.take(slice(AT_ONCE)).x

    @cached_property
    def judged(self) -> Metric:
        """What the score is."""
        if self.by.metric is not None:
            return metric_of(self.by.metric)
        if self.labels is None:
            return METRICS["teacher"]
        named = self.by.loss if isinstance(self.by.loss, str) else ""
        if named and (named in NUMBERS) == (self.labels.dim() > 1):
            return metric_of(named)
        return METRICS["rate" if self.labels.dim() == 1 else "regression"]

    @cached_property
    def learns(self) -> Described:
        """The loss, and what it is."""
        return loss_of(self.by.loss, self.labels, self.by.teacher is not None)

    @property
    def metric(self) -> str:
        """What the score is, with its unit."""
        return self.judged.says

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return self.judged.higher_is_better

    @property
    def loss_says(self) -> str:
        """What is minimised in tuning."""
        return self.learns.says

    def judge(self, model: Model) -> Judged:
        """Return the mean score of the sequences, ``AT_ONCE`` at a time."""
        total, without = 0.0, 0
        by_teacher = self.labels is None or self.by.metric == "teacher"
        for first in range(0, len(self), AT_ONCE):
            part = self.take(slice(first, first + AT_ONCE))
            output = model(part.x)
            target = part.taught if by_teacher else part.labels
            total += float(self.judged.of(output, target).sum())
            without += int(silent(output).sum())
        return Judged(total / len(self), without)

    @property
    def taught(self) -> Tensor:
        """What the teacher says of the sequences."""
        assert self.by.teacher is not None
        return self.by.teacher(self.x)

    def take(self, chosen: Tensor | slice) -> Sequences:
        """Return the sequences of these numbers, as float32."""
        labels = self.labels
        if labels is not None:
            labels = labels[chosen] if labels.dim() == 1 else labels[:, chosen]
        return replace(self, x=self.x[:, chosen].float(), labels=labels)

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the sequences, ``SEQUENCES`` at a time."""
        for chosen in torch.split(torch.randperm(len(self), generator=generator), SEQUENCES):
            part = self.take(chosen)
            target = part.labels if self.by.teacher is None else part.taught
            assert target is not None
            yield part.x, target

    def unit(self, model: Model) -> float:
        """Return the unit in which the model's outputs are best as logits; see ``temperature``.

        1 where the loss takes them for something else, or a teacher's are of the same unit.
        """
        if not self.learns.logits or self.labels is None:
            return 1.0
        part = self.take(slice(AT_ONCE))
        return temperature(self.learns.function, model(part.x), part.labels)

    def loss(self, output: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
        """Return the loss; classes: the cross-entropy of the outputs summed over time, in nats."""
        return self.learns.function(output / unit, target)

    def soft_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the odds that outputs in the unit of the loss give."""
        return output.sum(0).flatten(1).softmax(1)


@dataclass(frozen=True)
class TuningData:
    """Data that a chip is tuned on: parts to learn from, to choose by and to judge on."""

    train: ScoredData
    valid: ScoredData | None
    """What chooses the pass that is kept, if there is such a part."""
    test: ScoredData
    """What judges, and is not looked at otherwise."""
    divided: bool = False
    """Whether the parts were drawn from data that came in one."""

    @property
    def note(self) -> str:
        """Sizes of the parts, and how they came about."""
        chosen = "none" if self.valid is None else len(self.valid)
        drawn = "; drawn from x by the seed, as there is no train_x" if self.divided else ""
        return (
            f"{len(self.train)} {self.train.kind} to learn from, {chosen} to choose by, "
            f"{len(self.test)} to judge on{drawn}"
        )

    @property
    def metric(self) -> str:
        """What judges, with its unit."""
        return self.test.metric

    @property
    def loss_says(self) -> str:
        """What is minimised."""
        return self.train.loss_says

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield what is learned from once, as inputs ``(T, B, ...)`` and targets."""
        return self.train.batches(generator)


def chorale_parts(data: Chorales, by: Judging = LABELS) -> TuningData:
    """Return chorales to tune on: the splits they come with.

    Raises:
        ValueError: For another loss or metric than ``"likelihood"``, which they have.
    """
    for what, given in (("loss", by.loss), ("metric", by.metric)):
        if given not in (None, "likelihood"):
            raise ValueError(f"{what} is {given!r}; chorales have a likelihood, leave it out")
    splits = (data.train, data.valid, data.test)
    train, valid, test = (Likelihood(data.name, pieces, by.teacher) for pieces in splits)
    return TuningData(train, valid, test)
