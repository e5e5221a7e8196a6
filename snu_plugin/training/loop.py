"""The training loop: it keeps the best pass, and goes on where it was interrupted."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from snu_plugin.training.checkpoint import load_checkpoint, save_checkpoint

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
    """What one pass over the data gave."""

    number: int
    """From 1."""
    loss: float
    """Mean training loss over its batches, taken while training."""
    score: float | None
    """Validation score, lower is better; ``None`` where nothing is held out."""


@dataclass
class TrainingState:
    """How far a training has come."""

    epochs: list[Epoch] = field(default_factory=list)
    seconds: float = 0.0
    """Spent in training and validation."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Parameters of the epoch with the lowest score, or of the last one."""

    @property
    def best_epoch(self) -> Epoch:
        """The epoch whose parameters are ``best``."""
        scored = [e for e in self.epochs if e.score is not None]
        return min(scored, key=lambda e: e.score or 0.0) if scored else self.epochs[-1]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    batches: Callable[[], Iterable[Item]],
    loss: Callable[[Item], Tensor],
    score: Callable[[], float | None] = lambda: None,
    lr_factor: Callable[[float], float] | None = None,
    robustness: Robustness | None = None,
    generator: Generator,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_batch: Callable[[float], None] = lambda gone: None,
) -> TrainingState:
    """Train, and leave in ``model`` the parameters of the best epoch (without a score: the last).

    Args:
        model: Any module; its matrices are the parameters of two or more axes.
        optimizer: Holds its parameters.
        epochs: Passes in all, those of an interrupted run included; at least 1.
        batches: Gives what is seen in one epoch, in its order.
        loss: A scalar of one batch.
        score: Validation score, lower is better; called in eval mode, without gradient. ``None``:
            nothing is held out.
        lr_factor: What multiplies the optimiser's learning rates, given the epochs gone so far, a
            fraction of the current one included; ``None`` leaves them alone.
        robustness: Limits and noise of the weights; ``None`` is plain training.
        generator: The only source of randomness in ``batches``, ``loss`` and the noise; its state
            is kept.
        checkpoint: File that holds the state after each epoch; ``None`` keeps none.
        resume: Take up what ``checkpoint`` holds, if it exists. Then the outcome is bit for bit
            that of a run without interruption.
        settings: JSON values that must be the same when a run is taken up.
        on_epoch: Called after every epoch.
        on_batch: Called before every batch with the epochs gone so far, as ``lr_factor`` is.

    Raises:
        ValueError: If ``epochs`` is too small, the loss stops being finite, or ``checkpoint`` is
            damaged or belongs to other settings.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    robustness = robustness or Robustness()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rates = [group["lr"] for group in optimizer.param_groups]

    def before(gone: float) -> None:
        if lr_factor is not None:
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * lr_factor(gone)
        on_batch(gone)
        optimizer.zero_grad(set_to_none=True)

    state = TrainingState()
    if resume and checkpoint is not None and checkpoint.exists():
        kept = load_checkpoint(checkpoint, settings or {})
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        generator.set_state(kept["generator"])
        done = [Epoch(*values) for values in kept["passes"]]
        state = TrainingState(done, kept["seconds"], kept["best"])
    if len(state.epochs) > epochs:
        raise ValueError(
            f"{checkpoint} holds {len(state.epochs)} epochs, more than the {epochs} asked for"
        )
    while len(state.epochs) < epochs:
        began = time.perf_counter()
        number = len(state.epochs) + 1
        model.train()
        losses = []
        items = list(batches())
        for i, batch in enumerate(items):
            before(number - 1 + i / len(items))
            with _noisy(matrices, robustness, generator):
                value = loss(batch)
                value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _clip(matrices, robustness.weight_limit)
            losses.append(value.detach())
        if not losses:
            raise ValueError("there is nothing to train on; give at least one batch")
        mean = float(torch.stack(losses).double().mean())
        if not math.isfinite(mean):
            raise ValueError(f"the training loss of epoch {number} is {mean}; lower lr")
        model.eval()
        with torch.no_grad():
            epoch = Epoch(number, mean, score())
        state.epochs.append(epoch)
        if state.best_epoch is epoch:
            state.best = copy.deepcopy(model.state_dict())
        state.seconds += time.perf_counter() - began
        if checkpoint is not None:
            content = {
                "passes": [tuple(e) for e in state.epochs],
                "seconds": state.seconds,
                "best": state.best,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
            }
            save_checkpoint(checkpoint, content, settings or {})
        on_epoch(epoch)
    model.load_state_dict(state.best)
    model.eval()
    return state


@torch.no_grad()
def _clip(matrices: Sequence[Tensor], limit: float | None) -> None:
    if limit is not None:
        for w in matrices:
            w.clamp_(-limit, limit)


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
