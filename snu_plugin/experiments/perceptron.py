"""The network that GRAPES was published with: rectified units, images as they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.experiments.recipe import Recipe
from snu_plugin.tasks import digits
from snu_plugin.tasks.digits import Digits, Images
from snu_plugin.training import Dropout

EVALUATED = 2000
"""Images that are evaluated at once."""


class PerceptronJob:
    """Classify images with rectified units, as IBM/GRAPES d5fa3e2 does.

    No biases, weights uniform in ± sqrt(6 / inputs), dropout after the hidden layers, softmax and
    cross-entropy, pixels / 255.
    """

    spikes_per = "image"

    def __init__(self, recipe: Recipe, data: Digits, seed: int) -> None:
        self.recipe, self.data = recipe, data
        self.generator = Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(recipe.sizes):
            linear = nn.Linear(inputs, outputs, bias=False)
            bound = math.sqrt(6 / inputs)
            nn.init.uniform_(linear.weight, -bound, bound, generator=self.generator)
            layers += [linear, nn.ReLU(), Dropout(recipe.dropout, self.generator)]
        self.network = nn.Sequential(*layers[:-2])

    def batches(self) -> Iterable[Images]:
        """Return the training images in an order of their own for every pass."""
        return digits.shuffled(self.data.train, self.recipe.batch, self.generator)

    def loss(self, batch: Images) -> Tensor:
        """Return the cross-entropy of a batch."""
        return F.cross_entropy(self._logits(batch), batch.labels)

    def score(self) -> None:
        """Hold nothing out: the published run judges after a fixed time."""

    def result(self) -> dict[str, float]:
        """Return the test accuracy, %."""
        self.network.eval()
        test, right = self.data.test, 0
        with torch.no_grad():
            for start in range(0, len(test.labels), EVALUATED):
                part = test.take(slice(start, start + EVALUATED))
                right += int((self._logits(part).argmax(1) == part.labels).sum())
        return {"test": 100 * right / len(test.labels)}

    def _logits(self, images: Images) -> Tensor:
        logits: Tensor = self.network(images.pixels.flatten(1).float() / 255)
        return logits
