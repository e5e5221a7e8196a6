"""Data of a graph: what scores it, and for tuning what it learns from and is chosen by.

Chorales are scored by likelihood, text by perplexity, the rest by accuracy.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin import archives, graph
from snu_plugin.tasks import chorales, penn_treebank
from snu_plugin.tasks.chorales import Batch, Chorales
from snu_plugin.training import summed_cross_entropy

Model = Callable[[Tensor], Tensor]
"""Inputs ``(T, B, ...)`` to outputs ``(T, B, ...)``."""

AT_ONCE = 500
"""Sequences that run side by side; more are run in turns."""
PASSAGES = 8
"""Passages of a text that run side by side: logits of 800 words among 10,000 take 32 MB."""
PIECES, SEQUENCES = 8, 32
"""Chorales and labelled sequences of a batch in tuning. Pieces: chosen on validation."""
SAMPLE = 64
"""Sequences that set the ranges of converters."""
DIVIDED = (0.6, 0.2, 0.2)
"""Shares to learn from, choose by and judge on where data come in one part. Ours."""


class ScoredData(ABC):
    """Inputs and what is expected of the outputs: a network is scored by them, or learns."""

    name: str
    """What the data are called."""
    metric: ClassVar[str]
    """What the score is, with its unit."""
    higher_is_better: ClassVar[bool] = False
    kind: ClassVar[str]
    """What there are several of."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def sample(self) -> Tensor:
        """Inputs ``(T, B, ...)`` without padding, to count what a run costs."""

    @abstractmethod
    def score(self, model: Model) -> float:
        """Return the score of what a model makes of the inputs."""

    def best(self, scores: list[float]) -> float:
        """Return the best of several scores."""
        return max(scores) if self.higher_is_better else min(scores)

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
    metric = "negative log-likelihood, nats per step, lower is better"
    kind = "chorales"

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def _all(self) -> Batch:
        return chorales.pad(self.pieces)

    @property
    def sample(self) -> Tensor:
        """The beginnings of all pieces, as long as the shortest."""
        return self._all.x[: int(self._all.mask.sum(0).min())]

    def score(self, model: Model) -> float:
        """Return the pooled likelihood; see ``tasks.chorales.nll``."""
        return float(self.loss(model(self._all.x), self._all))

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Yield the pieces, ``PIECES`` at a time."""
        for batch in chorales.batches(self.pieces, PIECES, generator):
            yield batch.x, batch

    def loss(self, output: Tensor, target: Batch, unit: float = 1.0) -> Tensor:
        """Return the likelihood; see ``tasks.chorales.nll``."""
        return chorales.nll(output / unit, target.target, target.mask)

    def soft_target(self, output: Tensor, target: Batch) -> Batch:
        """Return the odds that logits give."""
        return target._replace(target=output.sigmoid())


@dataclass(frozen=True)
class Accuracy(ScoredData):
    """Sequences of which each belongs to a class: the output that is largest, summed over time."""

    name: str
    x: Tensor
    """``(T, N, ...)``, float32; or bool, a quarter of that, of which models see floats."""
    labels: Tensor
    """``(N,)``, whole numbers from 0."""
    metric = "accuracy, share of sequences, higher is better"
    higher_is_better = True
    kind = "sequences"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sample(self) -> Tensor:
        """The first sequences."""
        return self.take(slice(AT_ONCE)).x

    def score(self, model: Model) -> float:
        """Return the share of sequences whose class has the largest sum of outputs."""
        right = 0
        for first in range(0, len(self), AT_ONCE):
            part = self.take(slice(first, first + AT_ONCE))
            guess = model(part.x).sum(0).flatten(1).argmax(1)
            right += int((guess == part.labels).sum())
        return right / len(self)

    def take(self, chosen: Tensor | slice) -> Accuracy:
        """Return the sequences of these numbers, as float32."""
        return replace(self, x=self.x[:, chosen].float(), labels=self.labels[chosen])

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the sequences, ``SEQUENCES`` at a time."""
        for chosen in torch.split(torch.randperm(len(self), generator=generator), SEQUENCES):
            part = self.take(chosen)
            yield part.x, part.labels

    def unit(self, model: Model) -> float:
        """Return the unit in which the model's outputs, summed over time, are best as logits.

        The temperature of Guo et al., ICML 2017, to a factor of 2: whatever loss a network was
        trained with, in this unit it is neither too sure of itself nor too unsure.
        """
        part = self.take(torch.arange(min(len(self), AT_ONCE)))
        output = model(part.x)
        spread = float(output.sum(0).std())
        units = [spread * 2.0**n for n in range(6, -7, -1)] if spread > 0 else [1.0]
        losses = [float(self.loss(output, part.labels, unit)) for unit in units]
        return units[losses.index(min(losses))]

    def loss(self, output: Tensor, target: Tensor, unit: float = 1.0) -> Tensor:
        """Return the cross-entropy of the outputs, summed over time, in nats."""
        return F.cross_entropy(output.sum(0).flatten(1) / unit, target)

    def soft_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the odds that outputs in the unit of the loss give."""
        return output.sum(0).flatten(1).softmax(1)


@dataclass(frozen=True)
class Perplexity(ScoredData):
    """Passages of a text, whose words are predicted from those before them in the passage."""

    name: str
    words: Tensor
    """``(T + 1, N)``, whole numbers from 0; the first of a passage is not predicted."""
    embedding: Tensor
    """``(vocabulary, features)``: what models see of each word."""
    metric = "perplexity, lower is better"
    kind = "passages"

    def __len__(self) -> int:
        return self.words.shape[1]

    @property
    def sample(self) -> Tensor:
        """The first passages."""
        return self.take(torch.arange(len(self))[:PASSAGES])[0]

    def score(self, model: Model) -> float:
        """Return the perplexity; every passage begins from a state of zero."""
        total = 0.0
        for chosen in torch.split(torch.arange(len(self)), PASSAGES):
            x, target = self.take(chosen)
            total += float(summed_cross_entropy(model(x), target))
        return penn_treebank.perplexity(total, self.words[1:].numel())

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

    def batches(self, generator: Generator) -> Iterator[tuple[Tensor, Any]]:
        """Yield what is learned from once, as inputs ``(T, B, ...)`` and targets."""
        return self.train.batches(generator)


def chorale_parts(data: Chorales) -> TuningData:
    """Return chorales to tune on: the splits they come with."""
    train, valid, test = (Likelihood(data.name, p) for p in (data.train, data.valid, data.test))
    return TuningData(train, valid, test)


def load_scored(
    path: str | Path, takes: tuple[int, ...], gives: tuple[int, ...], *, verify: bool = True
) -> ScoredData:
    """Read data for a graph with one Input and one Output.

    Args:
        path: ``JSB_Chorales.mat`` or another file of its format, whose test pieces are scored; or
            an ``.npz`` with ``x`` of shape ``(T, N, *takes)``, time first, and ``labels`` of shape
            ``(N,)``.
        takes: Shape of the graph's Input.
        gives: Shape of its Output.
        verify: Refuse a ``.mat`` whose checksum is not that of ``JSB_Chorales.mat``.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or data that do not fit the graph.
    """
    file = _data_file(path)
    if file.suffix == ".mat":
        data = _chorales(file, takes, gives, verify)
        return Likelihood(data.name, data.test)
    return _labelled(file, archives.read_arrays(file), "", takes, gives)


def load_inputs(path: str | Path) -> Tensor | nir.NIRGraphData:
    """Read inputs ``(T, N, ...)`` alone from data that ``load_scored`` takes, labelled or not.

    A ``.nir`` of data, as ``nir.write_data`` makes it, comes as it is. Warns where there are more
    than ``AT_ONCE`` sequences, of which the first are returned.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or inputs that are no numbers.
    """
    file = _data_file(path, ".nir")
    if file.suffix == ".nir":
        return graph.read_data(file)
    if file.suffix == ".mat":
        return chorales.pad(chorales.load(file, verify=False).test).x
    x = _inputs(file, archives.read_arrays(file), "x")
    if x.shape[1] > AT_ONCE:
        warnings.warn(
            f"{file} holds {x.shape[1]} sequences; the first {AT_ONCE} are taken", stacklevel=2
        )
    return x[:, :AT_ONCE]


def load_sample(path: str | Path, *, verify: bool = True) -> Tensor:
    """Read inputs ``(T, N, ...)`` that set the ranges of converters: what is tuned on, not judged.

    Of data that ``load_tuning`` takes the first ``SAMPLE`` of ``train_x``, or of ``x`` if that is
    all there is; of chorales those to learn from, as long as the shortest. Labels are not read.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or inputs that are no numbers.
    """
    file = _data_file(path, ".nir")
    if file.suffix == ".nir":
        sequences: Tensor = graph.read_data(file)
        return sequences[:, :SAMPLE]
    if file.suffix == ".mat":
        found = chorales.load(file, verify=verify)
        return Likelihood(found.name, found.train).sample
    arrays = archives.read_arrays(file)
    name = "train_x" if "train_x" in arrays else "x"
    return _inputs(file, arrays, name)[:, :SAMPLE]


def _inputs(file: Path, arrays: dict[str, Any], name: str) -> Tensor:
    """Return the inputs of that name, checked."""
    if name not in arrays:
        raise ValueError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; inputs (T, N, ...) must be named x"
        )
    x = arrays[name]
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise ValueError(
            f"{file}: {name} is {x.dtype} of shape {x.shape}; it must be numbers (T, N, ...)"
        )
    return torch.from_numpy(x.astype(np.float32))


def _data_file(path: str | Path, *more: str) -> Path:
    """Return the path of a file of data; raises for others, see ``load_scored``."""
    file = Path(path)
    also = "".join(f", or a {suffix} of data" for suffix in more)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give JSB_Chorales.mat or an .npz{also}")
    if file.suffix not in (".mat", ".npz", *more):
        raise ValueError(
            f"{file}: unknown kind of data; give a .mat of chorales, or an .npz with x and labels"
            f"{also}"
        )
    return file


def _chorales(file: Path, takes: tuple[int, ...], gives: tuple[int, ...], verify: bool) -> Chorales:
    """Return the chorales for a graph of their keys."""
    if takes != (chorales.KEYS,) or gives != (chorales.KEYS,):
        raise ValueError(
            f"{file} holds chorales of {chorales.KEYS} keys; the graph takes {takes} and gives "
            f"{gives}"
        )
    return chorales.load(file, verify=verify)


def _labelled(
    file: Path,
    arrays: dict[str, Any],
    part: str,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
) -> Accuracy:
    """Return the sequences ``<part>x`` with their ``<part>labels``, checked."""
    named, labelled = f"{part}x", f"{part}labels"
    if missing := {named, labelled} - set(arrays):
        raise ValueError(
            f"{file}: {named} and {labelled} must both be there; {' and '.join(sorted(missing))} "
            f"{'is' if len(missing) == 1 else 'are'} not"
        )
    x, labels = arrays[named], arrays[labelled]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(
            f"{file}: {labelled} are {labels.dtype} of shape {labels.shape}; give whole numbers "
            "(N,)"
        )
    wanted = ("T", str(len(labels)), *map(str, takes))
    if x.ndim < 2 or x.shape[1] != len(labels) or x.shape[2:] != takes or not len(x):
        turned = x.ndim > 1 and x.shape[0] == len(labels) and x.shape[2:] == takes
        hint = f"; time comes first: give {named}.swapaxes(0, 1)" if turned else ""
        raise ValueError(
            f"{file}: {named} has shape {x.shape}; it must be ({', '.join(wanted)}){hint}"
        )
    if x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        raise ValueError(f"{file}: {named} is {x.dtype}; it must be finite numbers")
    classes = math.prod(gives)
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{file}: {labelled} run from {labels.min()} to {labels.max()}; the graph has "
            f"{classes} outputs, so they must lie in [0, {classes - 1}]"
        )
    return Accuracy(
        file.name,
        torch.from_numpy(x.astype(np.float32)),
        torch.from_numpy(labels.astype(np.int64)),
    )


def load_tuning(
    path: str | Path,
    takes: tuple[int, ...],
    gives: tuple[int, ...],
    *,
    verify: bool = True,
    seed: int = 0,
) -> TuningData:
    """Read data to tune a graph on; arguments and errors as in ``load_scored``.

    An ``.npz`` may hold ``train_x`` and ``train_labels`` to learn from and ``valid_x`` and
    ``valid_labels`` to choose by, beside ``x`` and ``labels`` to judge on. Without ``valid_x``, as
    many of ``train_x`` choose, and are not learned from, as would of ``x``: without ``train_x``,
    ``x`` is divided at random, ``DIVIDED``, by ``seed``.
    """
    file = _data_file(path)
    if file.suffix == ".mat":
        return chorale_parts(_chorales(file, takes, gives, verify))
    arrays = archives.read_arrays(file)
    test = _labelled(file, arrays, "", takes, gives)
    if "train_x" not in arrays:
        return _divided(test, seed)
    train = _labelled(file, arrays, "train_", takes, gives)
    if "valid_x" in arrays:
        valid = _labelled(file, arrays, "valid_", takes, gives)
        return TuningData(train, valid, test)
    count = len(train.labels)
    chosen = round(DIVIDED[1] * count)
    if not chosen:
        return TuningData(train, None, test)
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    learned, valid = map(train.take, torch.split(order, [count - chosen, chosen]))
    return TuningData(learned, valid, test)


def _divided(data: Accuracy, seed: int) -> TuningData:
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
    return TuningData(train, valid, test, divided=True)
