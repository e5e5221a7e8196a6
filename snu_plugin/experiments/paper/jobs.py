"""The published tasks as trainings, and which of them data and a recipe are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.experiments.paper.classifiers import DigitJob, EventJob, PerceptronJob
from snu_plugin.experiments.paper.recipes import Recipe
from snu_plugin.experiments.paper.training_job import Job
from snu_plugin.tasks import chorales, digits, nmnist, penn_treebank
from snu_plugin.tasks.chorales import Chorales
from snu_plugin.tasks.digits import Digits
from snu_plugin.tasks.nmnist import NMNIST
from snu_plugin.tasks.penn_treebank import Text, Window
from snu_plugin.training import (
    LanguageModel,
    UnitNetwork,
    detached,
    network,
    online,
    skipping,
    spread_decays,
    summed_cross_entropy,
)

Data = Chorales | Digits | NMNIST | Text

WORDS_AT_ONCE = 500
"""Words of the test text that are run at once; the state is carried, so it changes nothing."""


class ChoraleJob(Job):
    """Predict the next chord of a chorale from all chords before it."""

    spikes_per = "step"
    network: UnitNetwork

    def __init__(self, recipe: Recipe, data: Chorales, seed: int) -> None:
        super().__init__(recipe, seed)
        self.data = data
        about = (recipe.kind, recipe.sizes, recipe.config)
        if recipe.skip:
            self.network = skipping(*about, dropout=recipe.dropout, generator=self.generator)
        else:
            self.network = network(
                *about, readout=True, recurrent=recipe.recurrent, generator=self.generator
            )
        if recipe.memory is not None:
            spread_decays(self.network, *recipe.memory)
        self._valid = chorales.pad(data.valid)

    def batches(self) -> Iterator[chorales.Batch]:
        order = self.generator if self.recipe.shuffle else None
        return chorales.batches(self.data.train, self.recipe.batch, order)

    def loss(self, batch: chorales.Batch) -> Tensor:
        if self.recipe.online:
            return self._online(batch)
        mean = chorales.nll(self.network(batch.x)[0], batch.target, batch.mask)
        return mean * batch.mask.sum() if self.recipe.summed else mean / chorales.KEYS

    def _online(self, batch: chorales.Batch) -> Tensor:
        """Return the loss of a piece, all but its last segment propagated back already."""
        whole = 1 if self.recipe.summed else batch.mask.sum() * chorales.KEYS
        state, total = None, torch.zeros(())
        parts = list(zip(*(torch.split(v, self.recipe.online) for v in batch), strict=True))
        for number, (x, target, mask) in enumerate(parts, 1):
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            logits, state = online(self.network, x, state, last=number == len(parts))
            total = total.detach() + chorales.nll(logits, target, mask) * mask.sum() / whole
        return total

    def score(self) -> float:
        return float(chorales.nll(self.network(self._valid.x)[0], *self._valid[1:]))

    @torch.no_grad()
    def result(self) -> dict[str, float]:
        x, target, mask = chorales.pad(self.data.test)
        logits, _ = self.network(x)
        found = {
            "test": float(chorales.nll(logits, target, mask)),
            "test_per_piece": float(chorales.nll(logits, target, mask, average="piece")),
        }
        if self.recipe.unit == "snu":
            layers, _ = self.network.through(x)
            found["spikes"] = sum(float(y[mask].sum(-1).mean()) for y in layers)
        return found

    def leaves(self) -> tuple[nn.Module, Tensor]:
        return self.network, chorales.pad(self.data.test).x[:, :2]


class LanguageJob(Job):
    """Predict the next word of a text from all words before it.

    As in tensorflow/models ``ptb_word_lm``: streams side by side are cut into windows, the state
    is carried from one to the next, is zero where the text begins, and the gradient ends where the
    window does. The cost is the cross-entropy summed over a window, averaged over the streams.
    """

    spikes_per = "word"
    network: LanguageModel

    def __init__(self, recipe: Recipe, data: Text, seed: int) -> None:
        super().__init__(recipe, seed)
        if recipe.language is None:
            raise ValueError(f"the recipe {recipe.name} is not for text")
        self.data, self.settings = data, recipe.language
        self.network = LanguageModel(
            recipe.kind, len(data.vocabulary), recipe.sizes, recipe.config, self.settings,
            generator=self.generator,
        )  # fmt: skip
        if recipe.memory is not None:
            spread_decays(self.network, *recipe.memory)
        self._state: tuple[Any, ...] | None = None

    def batches(self) -> Sequence[Window]:
        """Return the windows of the training text, whose first meets a state of zero."""
        self._state = None
        return list(penn_treebank.windows(self.data.train, self.recipe.batch, self.settings.window))

    def loss(self, batch: Window) -> Tensor:
        """Return the cost of a window that follows the one before it."""
        logits, state = self.network(batch.x, self._state)
        self._state = detached(state)
        return summed_cross_entropy(logits, batch.target) / batch.x.shape[1]

    def score(self) -> float:
        """Return the validation perplexity, in streams and windows as in training."""
        return self._perplexity(self.data.valid, self.recipe.batch, self.settings.window)[0]

    def result(self) -> dict[str, float]:
        """Return the test perplexity, every word but the first scored once in one stream."""
        self.network.eval()
        perplexity, spikes = self._perplexity(self.data.test, 1, WORDS_AT_ONCE, rest=True)
        return {"test": perplexity} | ({"spikes": spikes} if self.recipe.unit == "snu" else {})

    @torch.no_grad()
    def leaves(self) -> tuple[nn.Module, Tensor]:
        """Return all behind the embedding, which is a table and no layer of NIR, and vectors."""
        words = self.data.test[: 2 * self.settings.window].view(2, -1).t()
        return self.network.without_embedding(), self.network.embedding(words)

    @torch.no_grad()
    def _perplexity(
        self, tokens: Tensor, batch: int, window: int, *, rest: bool = False
    ) -> tuple[float, float]:
        """Return the perplexity of a text, and the outputs of all units summed, a word."""
        total, outputs, words, state = 0.0, 0.0, 0, None
        for part in penn_treebank.windows(tokens, batch, window, rest=rest):
            logits, layers, state = self.network.through(part.x, state)
            total += float(summed_cross_entropy(logits, part.target))
            outputs += sum(float(y.sum()) for y in layers)
            words += part.target.numel()
        return penn_treebank.perplexity(total, words), outputs / words


def load(task: str, path: str | PathLike[str], *, verify: bool = True) -> Data:
    """Load the data of a task and refuse those of another.

    Raises:
        ValueError: If ``path`` holds another data set of the family.
    """
    if task == "jsb":
        return chorales.load(path, verify=verify)
    if task == "ptb":
        return penn_treebank.load(path)
    if task == "nmnist":
        return nmnist.load(path, verify=verify)
    data = digits.load(path, verify=verify)
    if data.name not in (task, "other"):
        raise ValueError(f"{path} holds {data.name}, not {task}; give the folder of {task}")
    return data


def job(recipe: Recipe, data: Data, seed: int) -> Job:
    """Return the training of ``recipe`` on ``data``, with weights drawn from ``seed``."""
    if isinstance(data, Chorales):
        return ChoraleJob(recipe, data, seed)
    if isinstance(data, Text):
        return LanguageJob(recipe, data, seed)
    if isinstance(data, NMNIST):
        return EventJob(recipe, data, seed)
    return (PerceptronJob if recipe.unit == "relu" else DigitJob)(recipe, data, seed)
