"""The published tasks as trainings: what a batch is, what it costs, how the outcome is judged."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.experiments.paper.recipes import Recipe
from snu_plugin.neuron import SRCConfig
from snu_plugin.tasks import chorales, digits, nmnist, penn_treebank
from snu_plugin.tasks.chorales import Chorales
from snu_plugin.tasks.digits import Digits, Images
from snu_plugin.tasks.nmnist import NMNIST, Recordings
from snu_plugin.tasks.penn_treebank import Text, Window
from snu_plugin.training import (
    Dropout,
    LanguageModel,
    UnitNetwork,
    convolutional,
    detached,
    layer,
    leaky_sum,
    network,
    online,
    skipping,
    spread_decays,
    src_classifier,
    summed_cross_entropy,
)

Data = Chorales | Digits | NMNIST | Text

STEPS_AT_ONCE = 10_000
"""Images times steps that are evaluated at once."""
IMAGES_AT_ONCE = 2000
"""The same of images without time."""
WORDS_AT_ONCE = 500
"""Words of the test text that are run at once; the state is carried, so it changes nothing."""
FRAME_US = 10_000
"""Microseconds a frame of events lasts; three saccades of about 100 ms give 30 frames."""
READOUT_DECAY = 0.99
"""Of the SRC's read-out; best as measured with the released weights."""


class Job(ABC):
    """One training of one network on one task."""

    spikes_per: str
    """What spikes are counted over."""
    network: Any
    """What is trained, a module."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.generator = Generator().manual_seed(seed)
        """Source of the weights, then of the order and of the spikes in training."""

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """Return what is seen in one pass."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the training loss of a batch."""

    def score(self) -> float | None:
        """Return the validation score, lower is better; ``None``: nothing is held out."""
        return None

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return the numbers of the test set: ``test`` and what else there is."""

    def leaves(self) -> tuple[nn.Module, Tensor]:
        """Return what of the network is a graph, and two sequences of the test set for it.

        Raises:
            ValueError: If the network knows no time.
        """
        raise ValueError(f"{self.recipe.unit} units know no time, which every graph has")


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
