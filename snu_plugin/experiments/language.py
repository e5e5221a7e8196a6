"""The word task as a training: streams of text side by side, states carried on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin.experiments.recipe import Recipe
from snu_plugin.tasks import penn_treebank
from snu_plugin.tasks.penn_treebank import Text, Window
from snu_plugin.training import LanguageModel, detached, spread_decays

AT_ONCE = 500
"""Words of the test text that are run at once; the state is carried, so it changes nothing."""


class LanguageJob:
    """Predict the next word of a text from all words before it.

    As in tensorflow/models ``ptb_word_lm``: streams side by side are cut into windows, the state
    is carried from one to the next, is zero where the text begins, and the gradient ends where the
    window does. The cost is the cross-entropy summed over a window, averaged over the streams.
    """

    spikes_per = "word"

    def __init__(self, recipe: Recipe, data: Text, seed: int) -> None:
        if recipe.language is None:
            raise ValueError(f"the recipe {recipe.name} is not for text")
        self.recipe, self.data, self.settings = recipe, data, recipe.language
        self.generator = Generator().manual_seed(seed)
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
        return cross_entropy(logits, batch.target) / batch.x.shape[1]

    def score(self) -> float:
        """Return the validation perplexity, in streams and windows as in training."""
        return self._perplexity(self.data.valid, self.recipe.batch, self.settings.window)[0]

    def result(self) -> dict[str, float]:
        """Return the test perplexity, every word but the first scored once in one stream."""
        self.network.eval()
        perplexity, spikes = self._perplexity(self.data.test, 1, AT_ONCE, rest=True)
        return {"test": perplexity} | ({"spikes": spikes} if self.recipe.unit == "snu" else {})

    @torch.no_grad()
    def _perplexity(
        self, tokens: Tensor, batch: int, window: int, *, rest: bool = False
    ) -> tuple[float, float]:
        """Return the perplexity of a text, and the outputs of all units summed, a word."""
        total, outputs, words, state = 0.0, 0.0, 0, None
        for part in penn_treebank.windows(tokens, batch, window, rest=rest):
            logits, layers, state = self.network.through(part.x, state)
            total += float(cross_entropy(logits, part.target))
            outputs += sum(float(y.sum()) for y in layers)
            words += part.target.numel()
        return penn_treebank.perplexity(total, words), outputs / words


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy summed over all words, nats."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
