"""A training of a network on a published task: what a batch is, what it costs, how it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Generator, Tensor, nn

from snu_plugin.experiments.paper.recipes import Recipe


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
