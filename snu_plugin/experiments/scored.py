"""Data of a graph: chorales scored by likelihood, text by perplexity, the rest by accuracy."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.tasks import chorales, penn_treebank
from snu_plugin.tasks.chorales import Batch, Chorales
from snu_plugin.training import summed_cross_entropy

Model = Callable[[Tensor], Tensor]
"""Inputs ``(T, B, ...)`` to outputs ``(T, B, ...)``."""

AT_ONCE = 500
"""Sequences that run side by side; more are run in turns."""
PASSAGES = 8
"""Passages of a text that run side by side: logits of 800 words among 10,000 take 32 MB."""


class Scored(Protocol):
    """Inputs and what is expected of the outputs."""

    @property
    def name(self) -> str:
        """What the data are called."""

    @property
    def metric(self) -> str:
        """What the score is, with its unit."""

    @property
    def sample(self) -> Tensor:
        """Inputs ``(T, B, ...)`` without padding, to count what a run costs."""

    def score(self, model: Model) -> float:
        """Return the score of what a model makes of the inputs."""

    def worst(self, scores: list[float]) -> float:
        """Return the worst of several scores."""

    def best(self, scores: list[float]) -> float:
        """Return the best of several scores."""


class _LowerIsBetter:
    """Of two scores the lower is the better."""

    def worst(self, scores: list[float]) -> float:
        """Return the largest."""
        return max(scores)

    def best(self, scores: list[float]) -> float:
        """Return the smallest."""
        return min(scores)


@dataclass(frozen=True)
class Likelihood(_LowerIsBetter):
    """Test chorales, every chord predicted from those before it."""

    name: str
    batch: Batch
    metric: str = "negative log-likelihood, nats per step, lower is better"

    @property
    def sample(self) -> Tensor:
        """The beginnings of all pieces, as long as the shortest."""
        return self.batch.x[: int(self.batch.mask.sum(0).min())]

    def score(self, model: Model) -> float:
        """Return the pooled likelihood; see ``tasks.chorales.nll``."""
        logits = model(self.batch.x)
        return float(chorales.nll(logits, self.batch.target, self.batch.mask))


@dataclass(frozen=True)
class Accuracy:
    """Sequences of which each belongs to a class: the output that is largest, summed over time."""

    name: str
    x: Tensor
    """``(T, N, ...)``, float32; or bool, a quarter of that, of which models see floats."""
    labels: Tensor
    """``(N,)``, whole numbers from 0."""
    metric: str = "accuracy, share of sequences, higher is better"

    @property
    def sample(self) -> Tensor:
        """The first sequences."""
        return self.take(slice(AT_ONCE)).x

    def score(self, model: Model) -> float:
        """Return the share of sequences whose class has the largest sum of outputs."""
        right = 0
        for first in range(0, len(self.labels), AT_ONCE):
            part = self.take(slice(first, first + AT_ONCE))
            guess = model(part.x).sum(0).flatten(1).argmax(1)
            right += int((guess == part.labels).sum())
        return right / len(self.labels)

    def worst(self, scores: list[float]) -> float:
        """Return the smallest."""
        return min(scores)

    def best(self, scores: list[float]) -> float:
        """Return the largest."""
        return max(scores)

    def take(self, chosen: Tensor | slice) -> Accuracy:
        """Return the sequences of these numbers, as float32."""
        return replace(self, x=self.x[:, chosen].float(), labels=self.labels[chosen])


@dataclass(frozen=True)
class Perplexity(_LowerIsBetter):
    """Passages of a text, whose words are predicted from those before them in the passage."""

    name: str
    words: Tensor
    """``(T + 1, N)``, whole numbers from 0; the first of a passage is not predicted."""
    embedding: Tensor
    """``(vocabulary, features)``: what models see of each word."""
    metric: str = "perplexity, lower is better"

    @property
    def sample(self) -> Tensor:
        """The first passages."""
        return self.take(torch.arange(self.words.shape[1])[:PASSAGES])[0]

    def score(self, model: Model) -> float:
        """Return the perplexity; every passage begins from a state of zero."""
        total = 0.0
        for chosen in torch.split(torch.arange(self.words.shape[1]), PASSAGES):
            x, target = self.take(chosen)
            total += float(summed_cross_entropy(model(x), target))
        return penn_treebank.perplexity(total, self.words[1:].numel())

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what models see of the passages of these numbers, and the words to predict."""
        part = self.words[:, chosen]
        return F.embedding(part[:-1], self.embedding), part[1:]


def load(
    path: str | Path, takes: tuple[int, ...], gives: tuple[int, ...], *, verify: bool = True
) -> Scored:
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
    file = known(path)
    if file.suffix == ".mat":
        data = split_chorales(file, takes, gives, verify)
        return Likelihood(data.name, chorales.pad(data.test))
    return labelled(file, arrays_of(file), "", takes, gives)


def inputs(path: str | Path) -> Tensor:
    """Read nothing but inputs ``(T, N, ...)`` from data that ``load`` takes; labels may be missing.

    Warns where there are more than ``AT_ONCE`` sequences, of which the first are returned.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: For another kind of file, or inputs that are no numbers.
    """
    file = known(path)
    if file.suffix == ".mat":
        return chorales.pad(chorales.load(file).test).x
    arrays = arrays_of(file)
    if "x" not in arrays:
        raise ValueError(
            f"{file} holds {', '.join(arrays) or 'nothing'}; inputs (T, N, ...) must be named x"
        )
    x = arrays["x"]
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise ValueError(
            f"{file}: x is {x.dtype} of shape {x.shape}; it must be numbers (T, N, ...)"
        )
    if x.shape[1] > AT_ONCE:
        warnings.warn(
            f"{file} holds {x.shape[1]} sequences; the first {AT_ONCE} are taken", stacklevel=2
        )
    return torch.from_numpy(x[:, :AT_ONCE].astype(np.float32))


def known(path: str | Path) -> Path:
    """Return the path of a file of data; raises for others, see ``load``."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give JSB_Chorales.mat or an .npz")
    if file.suffix not in (".mat", ".npz"):
        raise ValueError(
            f"{file}: unknown kind of data; give a .mat of chorales, or an .npz with x and labels"
        )
    return file


def split_chorales(
    file: Path, takes: tuple[int, ...], gives: tuple[int, ...], verify: bool
) -> Chorales:
    """Return the chorales for a graph of their keys."""
    if takes != (chorales.KEYS,) or gives != (chorales.KEYS,):
        raise ValueError(
            f"{file} holds chorales of {chorales.KEYS} keys; the graph takes {takes} and gives "
            f"{gives}"
        )
    return chorales.load(file, verify=verify)


def labelled(
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


def arrays_of(file: Path) -> dict[str, Any]:
    """Return the arrays of an ``.npz``; objects are refused."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: not an .npz of plain arrays, or damaged ({error})") from error
