"""A training on a published task: batches, loss, score; also by chips that the network meets."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

from snu_plugin.accelerator import PCM
from snu_plugin.experiments.paper.recipes import Recipe
from snu_plugin.hil import hardware_aware

RISE = 0.3
"""Share of the training in which the noise rises to that of the chip."""
LIMIT = 0.45
"""Magnitude to which weights are clipped: the largest weight of a column takes the whole range of
its devices, and their noise is a share of that range. On chorales, trained with other noise of the
same size, limits of 1, 0.45 and 0.3 left the recalibrated chip 0.10, 0.06 and 0.05 nats behind its
network a day after writing (2 chips), whose own score they cost 0, 0.02 and 0.09."""
SAMPLE = 4
"""Batches that set the ranges of the converters, anew at every epoch."""
CHIPS = 3
"""Chips that the validation score of an epoch is the mean of."""
APART = 1 << 20
"""Chips of one epoch at most, so that an epoch's are the same whether the run was interrupted."""


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


class Met(NamedTuple):
    """How a training meets chips."""

    on_batch: Callable[[float], None]
    """Called before every batch with the epochs gone so far."""
    score: Callable[[], float | None]
    """The validation score on chips, lower is better."""


@contextmanager
def meeting_chips(one: Job, epochs: int, seed: int) -> Iterator[Met]:
    """Train a network as chips of ``PCM`` run it, each batch on another one; all ours.

    Programming noise, read noise and the periphery are in every product; converters have the ranges
    that data give them. Noise rises from nothing to the chip's own. An epoch is judged on chips
    that no batch saw. Behind the block the network computes what it is.
    """

    def loudness(progress: float) -> float:
        return min(1.0, progress / RISE)

    with hardware_aware(
        one.network, PCM, noise=loudness, seed=seed, limit=LIMIT, store_limit=True, in_eval=True
    ) as chips:

        def on_batch(gone: float) -> None:
            if gone == int(gone):
                chips.go_on_from(int(gone) * APART)
                # As loud as the epoch before was judged, also where training is taken up.
                chips.step(min(1.0, gone))
                sample = list(islice(one.batches(), SAMPLE))
                chips.set_ranges(lambda: [one.loss(batch) for batch in sample])
            chips.step(gone / epochs)

        def score() -> float | None:
            chips.step(1.0)  # as loud as chips are, however far training has come
            found = [one.score() for _ in range(CHIPS)]
            known = [value for value in found if value is not None]
            return statistics.fmean(known) if known else None

        yield Met(on_batch, score)
