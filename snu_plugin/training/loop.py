"""A training loop that keeps the parameters of the best validation score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What training does so that the weights survive devices of limited range and precision."""

    weight_limit: float | None = None
    """Weights of matrices are clipped to ± this after every step. Outliers waste the range of
    conductances that the other weights of a column could use."""
    weight_noise: float = 0.0
    """Standard deviation of noise added to the weights of matrices for each batch, as a share of
    ``weight_limit`` (or of 1); the gradient passes straight through."""


class Epoch(NamedTuple):
    """What one epoch of training gave."""

    number: int
    """From 1."""
    loss: float
    """Mean training loss over its batches."""
    score: float
    """Validation score, lower is better."""


def train(
    model: nn.Module,
    items: Sequence[Item],
    loss: Callable[[nn.Module, Item], Tensor],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    score: Callable[[nn.Module], float],
    generator: Generator,
    robustness: Robustness | None = None,
    seen: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train, and leave in ``model`` the parameters of the epoch with the lowest score.

    Args:
        model: Any module; its matrices are the parameters of two or more axes.
        items: What ``loss`` takes; reshuffled every epoch.
        loss: ``loss(model, item)``, a scalar.
        optimizer: Holds the parameters of ``model``.
        epochs: How often all items are seen; at least 1.
        score: Validation score, lower is better; called without gradient, in eval mode.
        generator: Source of the order of items and of the weight noise.
        robustness: Limits and noise of the weights; ``None`` is plain training.
        seen: Called after every epoch, e.g. to show progress.

    Returns:
        What every epoch gave.

    Raises:
        ValueError: If ``epochs`` is below 1, or the loss stops being finite.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    robustness = robustness or Robustness()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    history: list[Epoch] = []
    best = copy.deepcopy(model.state_dict())
    for number in range(1, epochs + 1):
        model.train()
        total = torch.zeros(())
        for at in torch.randperm(len(items), generator=generator).tolist():
            optimizer.zero_grad(set_to_none=True)
            with _noisy(matrices, robustness, generator):
                value = loss(model, items[at])
                value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _clip(matrices, robustness)
            total += value.detach()
        if not bool(total.isfinite()):
            raise ValueError(f"the training loss of epoch {number} is {float(total)}; lower lr")
        model.eval()
        with torch.no_grad():
            epoch = Epoch(number, float(total) / len(items), score(model))
        if not history or epoch.score < min(e.score for e in history):
            best = copy.deepcopy(model.state_dict())
        history.append(epoch)
        if seen is not None:
            seen(epoch)
    model.load_state_dict(best)
    return history


@contextmanager
def _noisy(
    matrices: Sequence[Tensor], robustness: Robustness, generator: Generator
) -> Iterator[None]:
    """Add noise to the weights inside the block and take it away again, exactly."""
    if not robustness.weight_noise:
        yield
        return
    clean = [w.detach().clone() for w in matrices]
    sigma = robustness.weight_noise * (robustness.weight_limit or 1.0)
    with torch.no_grad():
        for w in matrices:
            w += sigma * torch.randn(w.shape, generator=generator)
    try:
        yield
    finally:
        with torch.no_grad():
            for w, kept in zip(matrices, clean, strict=True):
                w.copy_(kept)


def _clip(matrices: Sequence[Tensor], robustness: Robustness) -> None:
    if robustness.weight_limit is not None:
        with torch.no_grad():
            for w in matrices:
                w.clamp_(-robustness.weight_limit, robustness.weight_limit)
