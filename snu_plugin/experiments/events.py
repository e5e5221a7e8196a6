"""Digits seen by an event camera as a training: frames of events, classified over time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin.experiments.recipe import Recipe
from snu_plugin.neuron import SRCConfig
from snu_plugin.tasks import nmnist
from snu_plugin.tasks.nmnist import NMNIST, Recordings
from snu_plugin.training import leaky_sum, network, src_classifier

STEP_US = 10_000
"""Microseconds a frame lasts; three saccades of about 100 ms give 30 frames."""
READOUT_DECAY = 0.99
"""Of the SRC's read-out; best as measured with the released weights."""


class Part(NamedTuple):
    """Some recordings as frames."""

    x: Tensor
    """1 where a pixel saw anything, ``(T, B, 2312)``, float32 or bool."""
    labels: Tensor


class EventJob:
    """Classify recordings of Neuromorphic MNIST by outputs summed over time.

    The last tenth of train is held out and chooses the epoch.
    """

    spikes_per = "recording"

    def __init__(self, recipe: Recipe, data: NMNIST, seed: int) -> None:
        self.recipe, self.data = recipe, data
        self.generator = draw = Generator().manual_seed(seed)
        if recipe.unit == "src":
            self.network = src_classifier(
                recipe.sizes, SRCConfig(gate=recipe.gate), learn_readout=recipe.learn_readout,
                generator=draw,
            )  # fmt: skip
        else:
            self.network = network(recipe.kind, recipe.sizes, recipe.config, generator=draw)
        count = len(data.train)
        self._learned_from = torch.arange(count - count // 10)
        self._held_out = torch.arange(count - count // 10, count)

    def parts(self, learned: int, chosen: int) -> tuple[Part, Part | None, Part]:
        """Return what is learned from, what chooses and what judges, with frames as bool.

        Args:
            learned: How many of the recordings learned from, at most; the first.
            chosen: How many of those held out, at most; the last. ``None``, where none are.
        """
        train, test = self.data.train, self.data.test
        held_out = self._held_out[-chosen:]
        return (
            self._part(train, self._learned_from[:learned], torch.bool),
            self._part(train, held_out, torch.bool) if len(held_out) else None,
            self._part(test, torch.arange(len(test)), torch.bool),
        )

    def batches(self) -> Iterable[Tensor]:
        """Return which recordings are seen together, in an order of their own for every pass."""
        order = torch.randperm(len(self._learned_from), generator=self.generator)
        return torch.split(self._learned_from[order], self.recipe.batch)

    def loss(self, batch: Tensor) -> Tensor:
        """Return the cross-entropy of the summed outputs."""
        part = self._part(self.data.train, batch)
        evidence = self._evidence(self.network(part.x)[0])
        return F.cross_entropy(evidence / self.recipe.temperature, part.labels)

    def score(self) -> float | None:
        """Return the share of held-out recordings that are taken for another class, in %."""
        if not len(self._held_out):
            return None
        return 100 - self._right(self.data.train, self._held_out)[0]

    def result(self) -> dict[str, float]:
        """Return the test accuracy in %, and how many recordings it was learned and judged on."""
        test, outputs = self._right(self.data.test, torch.arange(len(self.data.test)))
        sizes = {
            "train_recordings": len(self._learned_from),
            "test_recordings": len(self.data.test),
        }
        return {"test": test, **sizes} | ({"spikes": outputs} if self.recipe.unit == "snu" else {})

    @torch.no_grad()
    def _right(self, recordings: Recordings, which: Tensor) -> tuple[float, float]:
        right, outputs = 0, 0.0
        for chosen in torch.split(which, self.recipe.batch):
            x, labels = self._part(recordings, chosen)
            layers, _ = self.network.through(x)
            outputs += sum(float(y.sum()) for y in layers)
            y = layers[-1] if self.network.readout is None else self.network.readout(layers[-1])
            right += int((self._evidence(y).argmax(-1) == labels).sum())
        return 100 * right / len(which), outputs / len(which)

    def _part(
        self, recordings: Recordings, which: Tensor, dtype: torch.dtype = torch.float32
    ) -> Part:
        seen = [
            nmnist.frames(recordings[i], self.recipe.steps, STEP_US).flatten(1).to(dtype)
            for i in which.tolist()
        ]
        return Part(torch.stack(seen, 1), recordings.labels[which])

    def _evidence(self, y: Tensor) -> Tensor:
        return leaky_sum(y, READOUT_DECAY) if self.recipe.unit == "src" else y.sum(0)
