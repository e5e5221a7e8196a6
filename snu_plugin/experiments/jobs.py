"""The published tasks as trainings: what a batch is, what it costs, how the outcome is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.experiments.events import READOUT_DECAY, EventJob
from snu_plugin.experiments.language import LanguageJob
from snu_plugin.experiments.perceptron import PerceptronJob
from snu_plugin.experiments.recipe import Recipe
from snu_plugin.neuron import SRCConfig
from snu_plugin.tasks import chorales, digits, nmnist, penn_treebank
from snu_plugin.tasks.chorales import Batch, Chorales
from snu_plugin.tasks.digits import Digits, Images
from snu_plugin.tasks.nmnist import NMNIST
from snu_plugin.tasks.penn_treebank import Text
from snu_plugin.training import (
    Network,
    convolutional,
    layer,
    leaky_sum,
    network,
    skipping,
    spread_decays,
    src_classifier,
)

Data = Chorales | Digits | NMNIST | Text

EVALUATED = 10_000
"""Images times steps that are evaluated at once."""


class Job(Protocol):
    """One training of one network on one task."""

    generator: Generator
    """Source of the weights, then of the order and of the spikes in training."""
    spikes_per: str
    """What spikes are counted over."""

    @property
    def network(self) -> nn.Module:
        """What is trained."""

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
        self.network: Network = (
            skipping(
                recipe.kind, recipe.sizes, recipe.config, dropout=recipe.dropout,
                generator=self.generator,
            )
            if recipe.skip
            else network(
                recipe.kind, recipe.sizes, recipe.config, readout=True, generator=self.generator
            )
        )  # fmt: skip
        if recipe.memory is not None:
            spread_decays(self.network, *recipe.memory)
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
            logits, _ = self.network(x)
            layers = self.network.through(x)[0] if self.recipe.unit == "snu" else []
        found = {
            "test": float(chorales.nll(logits, target, mask)),
            "test_per_piece": float(chorales.nll(logits, target, mask, average="piece")),
        }
        if self.recipe.unit == "snu":
            found["spikes"] = sum(float(y[mask].sum(-1).mean()) for y in layers)
        return found


class DigitJob:
    """Classify rate-coded images."""

    spikes_per = "image"

    def __init__(self, recipe: Recipe, data: Digits, seed: int) -> None:
        self.recipe, self.data, self.seed = recipe, data, seed
        self.generator = draw = Generator().manual_seed(seed)
        if recipe.unit == "src":
            self.network = src_classifier(
                recipe.sizes, SRCConfig(gate=recipe.gate), learn_readout=recipe.learn_readout,
                generator=draw,
            )  # fmt: skip
        elif recipe.convolutions:
            self.network = convolutional(
                recipe.kind, (1, digits.SIDE), recipe.convolutions, recipe.sizes[1:],
                recipe.config, generator=draw,
            )  # fmt: skip
        elif recipe.inhibition is not None and recipe.config is not None:
            inputs, units, classes = recipe.sizes
            inhibited = replace(recipe.config, lateral_inhibition=recipe.inhibition)
            hidden = layer(recipe.kind, inputs, units, inhibited, generator=draw)
            last = layer(recipe.kind, units, classes, recipe.config, generator=draw)
            self.network = Network([hidden, last])
        else:
            self.network = network(recipe.kind, recipe.sizes, recipe.config, generator=draw)
        self._train: Images = data.train
        self._valid: Images | None = None
        if recipe.held_out:
            self._train, self._valid = data.hold_out(recipe.held_out)

    def batches(self) -> Iterable[Images]:
        return digits.shuffled(self._train, self.recipe.batch, self.generator)

    def loss(self, batch: Images) -> Tensor:
        y = self._outputs(self._distorted(batch.pixels), self.recipe.steps, self.generator)
        if self.recipe.loss == "cross_entropy":
            return F.cross_entropy(self._evidence(y) / self.recipe.temperature, batch.labels)
        return F.mse_loss(y.mean(0), F.one_hot(batch.labels, y.shape[-1]).to(y.dtype))

    def score(self) -> float | None:
        """Return the share of held-out images that are taken for another class, in %."""
        if self._valid is None:
            return None
        return 100 - self._right(self._valid, self.recipe.steps)[0]

    def result(self) -> dict[str, float]:
        steps = self._test_steps()
        test, spikes, hidden = self._right(self.data.test, steps)
        counted = {"spikes": spikes, "hidden_spikes": hidden}
        told = {"test": test, "test_steps": steps}
        return told | (counted if self.recipe.unit == "snu" else {})

    def _test_steps(self) -> int:
        """Return how long the test lasts: units without a leak may lose track in a longer one."""
        r = self.recipe
        if not r.test_steps or self._valid is None:
            return r.test_steps or r.steps
        valid = self._valid
        return max((r.test_steps, r.steps), key=lambda steps: self._right(valid, steps)[0])

    def _right(self, images: Images, steps: int) -> tuple[float, float, float]:
        """Return the accuracy in %, and the outputs of all and of hidden units summed, an image."""
        right, outputs, hidden = 0, 0.0, 0.0
        draw = Generator().manual_seed(self.seed)
        at_once = max(1, EVALUATED // steps)
        with torch.no_grad():
            for start in range(0, len(images.labels), at_once):
                part = images.take(slice(start, start + at_once))
                layers, _ = self.network.through(self.coded(part.pixels, steps, draw))
                sums = [float(y.sum()) for y in layers]
                outputs += sum(sums)
                hidden += sum(sums[:-1])
                y = layers[-1] if self.network.readout is None else self.network.readout(layers[-1])
                right += int((self._evidence(y).argmax(-1) == part.labels).sum())
        count = len(images.labels)
        return 100 * right / count, outputs / count, hidden / count

    def _distorted(self, pixels: Tensor) -> Tensor:
        if self.recipe.mirrored:
            pixels = digits.mirrored(pixels, generator=self.generator)
        if self.recipe.elastic is None:
            return pixels
        alpha, sigma = self.recipe.elastic
        return digits.elastic(pixels, alpha=alpha, sigma=sigma, generator=self.generator)

    def coded(self, pixels: Tensor, steps: int, generator: Generator) -> Tensor:
        """Return images as spikes over time, as the network takes them."""
        r = self.recipe
        events = not r.convolutions and r.unit in ("snu", "ssnu", "src")
        x = digits.rate_code(
            pixels, steps, gain=r.gain, silent=r.silent,
            dtype=torch.bool if events else torch.float32, generator=generator,
        )  # fmt: skip
        return x.unsqueeze(2) if r.convolutions else x.flatten(2)

    def _outputs(self, pixels: Tensor, steps: int, generator: Generator) -> Tensor:
        y: Tensor = self.network(self.coded(pixels, steps, generator))[0]
        return y

    def _evidence(self, y: Tensor) -> Tensor:
        """Return what each class has gathered over time."""
        return leaky_sum(y, READOUT_DECAY) if self.recipe.unit == "src" else y.sum(0)


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
    if recipe.unit == "relu":
        return PerceptronJob(recipe, data, seed)
    return DigitJob(recipe, data, seed)
