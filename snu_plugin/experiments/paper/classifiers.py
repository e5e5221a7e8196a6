"""Trainings of networks that tell images, or recordings of events, apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.experiments.paper.recipes import Recipe
from snu_plugin.experiments.paper.training_job import Job
from snu_plugin.neuron import SRCConfig
from snu_plugin.tasks import digits, nmnist
from snu_plugin.tasks.digits import Digits, Images
from snu_plugin.tasks.nmnist import NMNIST, Recordings
from snu_plugin.training import (
    Dropout,
    UnitNetwork,
    convolutional,
    layer,
    leaky_sum,
    network,
    src_classifier,
)

STEPS_AT_ONCE = 10_000
"""Images times steps that are evaluated at once."""
IMAGES_AT_ONCE = 2000
"""The same of images without time."""
FRAME_US = 10_000
"""Microseconds a frame of events lasts; three saccades of about 100 ms give 30 frames."""
READOUT_DECAY = 0.99
"""Of the SRC's read-out; best as measured with the released weights."""


class Correct(NamedTuple):
    """How a classifier did on a part of the data."""

    percent: float
    """Right guesses, %."""
    spikes: float
    """Outputs of all units summed, a sequence."""
    hidden_spikes: float
    """The same without those of the last layer."""


class Classifier(Job):
    """Tell classes apart by outputs summed over time; those of SRC are summed with a leak."""

    network: UnitNetwork

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__(recipe, seed)
        if recipe.unit == "src":
            self.network = src_classifier(
                recipe.sizes, SRCConfig(gate=recipe.gate), learn_readout=recipe.learn_readout,
                generator=self.generator,
            )  # fmt: skip
        elif recipe.convolutions:
            self.network = convolutional(
                recipe.kind, (1, digits.SIDE), recipe.convolutions, recipe.sizes[1:],
                recipe.config, generator=self.generator,
            )  # fmt: skip
        elif recipe.inhibition is not None and recipe.config is not None:
            inputs, units, classes = recipe.sizes
            inhibited = replace(recipe.config, lateral_inhibition=recipe.inhibition)
            hidden = layer(recipe.kind, inputs, units, inhibited, generator=self.generator)
            last = layer(recipe.kind, units, classes, recipe.config, generator=self.generator)
            self.network = UnitNetwork([hidden, last])
        else:
            sizes, config = recipe.sizes, recipe.config
            self.network = network(recipe.kind, sizes, config, generator=self.generator)

    def evidence(self, y: Tensor) -> Tensor:
        """Return what each class has gathered over time."""
        return leaky_sum(y, READOUT_DECAY) if self.recipe.unit == "src" else y.sum(0)

    def cross_entropy(self, y: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the summed outputs."""
        return F.cross_entropy(self.evidence(y) / self.recipe.temperature, labels)

    @torch.no_grad()
    def judge(self, parts: Iterable[tuple[Tensor, Tensor]]) -> Correct:
        """Return how the network does on some sequences, given with their labels."""
        right, count, outputs, hidden = 0, 0, 0.0, 0.0
        for x, labels in parts:
            layers, _ = self.network.through(x)
            sums = [float(y.sum()) for y in layers]
            outputs += sum(sums)
            hidden += sum(sums[:-1])
            y = layers[-1] if self.network.readout is None else self.network.readout(layers[-1])
            right += int((self.evidence(y).argmax(-1) == labels).sum())
            count += len(labels)
        return Correct(100 * right / count, outputs / count, hidden / count)


class DigitJob(Classifier):
    """Classify rate-coded images."""

    spikes_per = "image"

    def __init__(self, recipe: Recipe, data: Digits, seed: int) -> None:
        super().__init__(recipe, seed)
        self.data = data
        self._train, self._valid = data.train, None
        if recipe.held_out:
            self._train, self._valid = data.hold_out(recipe.held_out)

    def batches(self) -> list[Images]:
        return digits.shuffled(self._train, self.recipe.batch, self.generator)

    def loss(self, batch: Images) -> Tensor:
        pixels = batch.pixels
        if self.recipe.mirrored:
            pixels = digits.mirrored(pixels, generator=self.generator)
        if self.recipe.elastic is not None:
            alpha, sigma = self.recipe.elastic
            pixels = digits.elastic(pixels, alpha=alpha, sigma=sigma, generator=self.generator)
        y, _ = self.network(self.coded(pixels, self.recipe.steps, self.generator))
        if self.recipe.loss == "cross_entropy":
            return self.cross_entropy(y, batch.labels)
        return F.mse_loss(y.mean(0), F.one_hot(batch.labels, y.shape[-1]).to(y.dtype))

    def score(self) -> float | None:
        """Return the share of held-out images that are taken for another class, in %."""
        if self._valid is None:
            return None
        return 100 - self.correct(self._valid, self.recipe.steps).percent

    def result(self) -> dict[str, float]:
        """Return the test accuracy, the steps of the test, and spikes.

        Units without a leak may lose track in a longer test: then it lasts as long as training.
        """
        r = self.recipe
        steps, valid = r.test_steps or r.steps, self._valid
        if r.test_steps and valid is not None:
            tried = (r.test_steps, r.steps)
            steps = max(tried, key=lambda steps: self.correct(valid, steps).percent)
        test, spikes, hidden = self.correct(self.data.test, steps)
        counted = {"spikes": spikes, "hidden_spikes": hidden}
        return {"test": test, "test_steps": steps} | (counted if r.unit == "snu" else {})

    def leaves(self) -> tuple[nn.Module, Tensor]:
        draw = Generator().manual_seed(self.seed)
        pixels = self.data.test.pixels[:2]
        return self.network, self.coded(pixels, self.recipe.steps, draw).float()

    def correct(self, images: Images, steps: int) -> Correct:
        """Return how the network does on images shown for so many steps."""
        return self.judge(self.shown(images, steps))

    def shown(self, images: Images, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images as spikes ``(steps, B, ...)``, coded from the seed alone, and labels."""
        draw, at_once = Generator().manual_seed(self.seed), max(1, STEPS_AT_ONCE // steps)
        for start in range(0, len(images.labels), at_once):
            part = images.take(slice(start, start + at_once))
            yield self.coded(part.pixels, steps, draw), part.labels

    def coded(self, pixels: Tensor, steps: int, generator: Generator) -> Tensor:
        """Return images as spikes over time, as the network takes them."""
        r = self.recipe
        events = not r.convolutions and r.unit in ("snu", "ssnu", "src")
        x = digits.rate_code(
            pixels, steps, gain=r.gain, silent=r.silent,
            dtype=torch.bool if events else torch.float32, generator=generator,
        )  # fmt: skip
        return x.unsqueeze(2) if r.convolutions else x.flatten(2)


class EventJob(Classifier):
    """Classify recordings of Neuromorphic MNIST; the last tenth of train is held out."""

    spikes_per = "recording"

    def __init__(self, recipe: Recipe, data: NMNIST, seed: int) -> None:
        super().__init__(recipe, seed)
        self.data = data
        count = len(data.train)
        self._learned_from = torch.arange(count - count // 10)
        self._held_out = torch.arange(count - count // 10, count)

    def parts(
        self, learned: int, chosen: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor]]:
        """Return what is learned from, what chooses and what judges: frames as bool, and labels.

        Args:
            learned: How many of the recordings learned from, at most; the first.
            chosen: How many of those held out, at most; the last. ``None``, where none are.
        """
        train, test = self.data.train, self.data.test
        held_out = self._held_out[-chosen:]
        return (
            self._frames(train, self._learned_from[:learned], torch.bool),
            self._frames(train, held_out, torch.bool) if len(held_out) else None,
            self._frames(test, torch.arange(len(test)), torch.bool),
        )

    def batches(self) -> Sequence[Tensor]:
        """Return which recordings are seen together, in an order of their own for every pass."""
        order = torch.randperm(len(self._learned_from), generator=self.generator)
        return torch.split(self._learned_from[order], self.recipe.batch)

    def loss(self, batch: Tensor) -> Tensor:
        x, labels = self._frames(self.data.train, batch)
        return self.cross_entropy(self.network(x)[0], labels)

    def score(self) -> float | None:
        """Return the share of held-out recordings that are taken for another class, in %."""
        if not len(self._held_out):
            return None
        return 100 - self._correct(self.data.train, self._held_out).percent

    def result(self) -> dict[str, float]:
        """Return the test accuracy in %, and how many recordings it was learned and judged on."""
        found = self._correct(self.data.test, torch.arange(len(self.data.test)))
        sizes = {
            "train_recordings": len(self._learned_from),
            "test_recordings": len(self.data.test),
        }
        spikes = {"spikes": found.spikes} if self.recipe.unit == "snu" else {}
        return {"test": found.percent, **sizes, **spikes}

    def leaves(self) -> tuple[nn.Module, Tensor]:
        return self.network, self._frames(self.data.test, torch.arange(2))[0]

    def shown(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test recordings as frames ``(steps, B, 2312)``, and labels."""
        return self._parts(self.data.test, torch.arange(len(self.data.test)))

    def _correct(self, recordings: Recordings, which: Tensor) -> Correct:
        return self.judge(self._parts(recordings, which))

    def _parts(self, recordings: Recordings, which: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return (self._frames(recordings, part) for part in torch.split(which, self.recipe.batch))

    def _frames(
        self, recordings: Recordings, which: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return frames ``(T, B, 2312)``, 1 where a pixel saw anything, and labels."""
        frames = [
            nmnist.frames(recordings[i], self.recipe.steps, FRAME_US).flatten(1).to(dtype)
            for i in which.tolist()
        ]
        return torch.stack(frames, 1), recordings.labels[which]


class PerceptronJob(Job):
    """Classify images with rectified units, as IBM/GRAPES d5fa3e2 does; nothing is held out.

    No biases, weights uniform in ± sqrt(6 / inputs), dropout after the hidden layers, softmax and
    cross-entropy, pixels / 255.
    """

    spikes_per = "image"

    def __init__(self, recipe: Recipe, data: Digits, seed: int) -> None:
        super().__init__(recipe, seed)
        self.data = data
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(recipe.sizes):
            linear = nn.Linear(inputs, outputs, bias=False)
            bound = math.sqrt(6 / inputs)
            nn.init.uniform_(linear.weight, -bound, bound, generator=self.generator)
            layers += [linear, nn.ReLU(), Dropout(recipe.dropout, self.generator)]
        self.network = nn.Sequential(*layers[:-2])

    def batches(self) -> list[Images]:
        return digits.shuffled(self.data.train, self.recipe.batch, self.generator)

    def loss(self, batch: Images) -> Tensor:
        return F.cross_entropy(self._logits(batch), batch.labels)

    @torch.no_grad()
    def result(self) -> dict[str, float]:
        """Return the test accuracy, %."""
        self.network.eval()
        test, right = self.data.test, 0
        for start in range(0, len(test.labels), IMAGES_AT_ONCE):
            part = test.take(slice(start, start + IMAGES_AT_ONCE))
            right += int((self._logits(part).argmax(1) == part.labels).sum())
        return {"test": 100 * right / len(test.labels)}

    def _logits(self, images: Images) -> Tensor:
        logits: Tensor = self.network(images.pixels.flatten(1).float() / 255)
        return logits
