"""Passages of a text as data of a graph, scored by perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin.experiments.datasets import Judged, Model, ScoredData
from snu_plugin.hil import silent
from snu_plugin.tasks import penn_treebank
from snu_plugin.training import summed_cross_entropy

PASSAGES = 8
"""Passages of a text that run side by side: logits of 800 words among 10,000 take 32 MB."""


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
