"""The published tasks as trainings: what a batch is, what it costs, how the outcome is judged."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.experiments.recipes import Recipe
from snu_plugin.tasks import chorales, digits
from snu_plugin.tasks.chorales import Batch, Chorales
from snu_plugin.tasks.digits import Digits, Images
from snu_plugin.training.networks import Network, class_readout, layer, leaky_sum, network

EVALUATED = 500
"""Images that are evaluated at once."""

READOUT_DECAY = 0.99
"""Of the SRC's read-out; best as measured with the released weights."""


class Job(Protocol):
    """One training of one network on one task."""

    network: Network
    generator: Generator
    """Source of the weights, then of the order and of the spikes in training."""
    spikes_per: str
    """What spikes are counted over."""

    def batches(self) -> Iterable[Any]:
        """Return what is seen in one pass."""

    def loss(self, batch: Any) -> Tensor:
        """Return the training loss of a batch."""

    def score(self) -> float | None:
        """Return the validation score, lower is better; ``None``: nothing is held out."""

    def result(self) -> dict[str, float]:
        """Return the numbers of the test set: ``test`` and what else there is."""


class ChoraleJob:
    """Predict the next chord of a chorale from all chords before it."""

    spikes_per = "step"

    def __init__(self, recipe: Recipe, data: Chorales, seed: int) -> None:
        self.recipe, self.data = recipe, data
        self.generator = Generator().manual_seed(seed)
        self.network = network(
            recipe.unit, recipe.sizes, recipe.config, readout=True, generator=self.generator
        )
        self._valid = chorales.pad(data.valid)

    def batches(self) -> Iterable[Batch]:
        order = self.generator if self.recipe.shuffle else None
        return chorales.batches(self.data.train, self.recipe.batch, order)

    def loss(self, batch: Batch) -> Tensor:
        logits, _ = self.network(batch.x)
        return chorales.nll(logits, batch.target, batch.mask) / chorales.KEYS

    def score(self) -> float:
        return float(chorales.nll(self.network(self._valid.x)[0], *self._valid[1:]))

    def result(self) -> dict[str, float]:
        x, target, mask = chorales.pad(self.data.test)
        with torch.no_grad():
            hidden = _after_units(self.network, x)[0]
            logits, _ = self.network(x)
        found = {
            "test": float(chorales.nll(logits, target, mask)),
            "test_per_piece": float(chorales.nll(logits, target, mask, average="piece")),
        }
        if self.recipe.unit == "snu":
            found["spikes"] = float(hidden[mask].sum(-1).mean())
        return found


class DigitJob:
    """Classify rate-coded images."""

    spikes_per = "image"

    def __init__(self, recipe: Recipe, data: Digits, seed: int) -> None:
        self.recipe, self.data, self.seed = recipe, data, seed
        self.generator = draw = Generator().manual_seed(seed)
        if recipe.unit == "src":
            inputs, units, classes = recipe.sizes
            cells = layer("src", inputs, units, generator=draw)
            self.network = Network([cells], class_readout(classes, units))
            weights = self.network.get_parameter("layers.0.weights.weight")
            nn.init.kaiming_uniform_(weights, a=5**0.5, generator=draw)
        else:
            self.network = network(recipe.unit, recipe.sizes, recipe.config, generator=draw)

    def batches(self) -> Iterable[Images]:
        return digits.shuffled(self.data.train, self.recipe.batch, self.generator)

    def loss(self, batch: Images) -> Tensor:
        answer = self._answer(self._coded(batch, self.generator))
        if self.recipe.unit == "src":
            return F.cross_entropy(answer, batch.labels)
        return F.mse_loss(answer, F.one_hot(batch.labels, answer.shape[-1]).to(answer.dtype))

    def score(self) -> None:
        """Hold nothing out: the published recipe trains on all of train for a fixed time."""

    def result(self) -> dict[str, float]:
        right, spikes = 0, 0.0
        draw = Generator().manual_seed(self.seed)
        test = self.data.test
        with torch.no_grad():
            for start in range(0, len(test.labels), EVALUATED):
                part = test.take(slice(start, start + EVALUATED))
                x = self._coded(part, draw)
                right += int((self._answer(x).argmax(-1) == part.labels).sum())
                if self.recipe.unit == "snu":
                    spikes += sum(float(y.sum()) for y in _after_units(self.network, x))
        found = {"test": 100 * right / len(test.labels)}
        if self.recipe.unit == "snu":
            found["spikes"] = spikes / len(test.labels)
        return found

    def _coded(self, images: Images, generator: Generator) -> Tensor:
        r = self.recipe
        flat = images.pixels.flatten(1)
        return digits.rate_code(flat, r.steps, gain=r.gain, silent=r.silent, generator=generator)

    def _answer(self, x: Tensor) -> Tensor:
        y, _ = self.network(x)
        return leaky_sum(y, READOUT_DECAY) if self.recipe.unit == "src" else y.mean(0)


def load(task: str, path: str | PathLike[str], *, verify: bool = True) -> Chorales | Digits:
    """Load the data of a task and refuse those of another.

    Raises:
        ValueError: If ``path`` holds another data set of the family.
    """
    if task == "jsb":
        return chorales.load(path, verify=verify)
    data = digits.load(path, verify=verify)
    if data.name not in (task, "other"):
        raise ValueError(f"{path} holds {data.name}, not {task}; give the folder of {task}")
    return data


def job(recipe: Recipe, data: Chorales | Digits, seed: int) -> Job:
    """Return the training of ``recipe`` on ``data``, with weights drawn from ``seed``."""
    if isinstance(data, Chorales):
        return ChoraleJob(recipe, data, seed)
    return DigitJob(recipe, data, seed)


def _after_units(net: Network, x: Tensor) -> list[Tensor]:
    """Return the outputs of each layer of units."""
    outputs = []
    for each in net.layers:
        x, _ = each(x)
        outputs.append(x)
    return outputs
