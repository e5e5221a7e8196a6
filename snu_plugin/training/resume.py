"""A training loop that can be interrupted after any epoch and taken up again."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from snu_plugin.training.checkpoint import load_checkpoint, save_checkpoint

Item = TypeVar("Item")


class Pass(NamedTuple):
    """What one pass over the data gave."""

    number: int
    """From 1."""
    loss: float
    """Mean training loss over its batches, taken while training."""
    score: float | None
    """Validation score, lower is better; ``None`` where nothing is held out."""


@dataclass
class Course:
    """How far a training has come."""

    passes: list[Pass] = field(default_factory=list)
    seconds: float = 0.0
    """Spent in training and validation."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Parameters of the pass with the lowest score, or of the last one."""

    @property
    def chosen(self) -> Pass:
        """The pass whose parameters are ``best``."""
        scored = [p for p in self.passes if p.score is not None]
        return min(scored, key=lambda p: p.score or 0.0) if scored else self.passes[-1]


def run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    *,
    batches: Callable[[], Iterable[Item]],
    loss: Callable[[Item], Tensor],
    score: Callable[[], float | None] = lambda: None,
    rate: Callable[[float], float] | None = None,
    generator: Generator,
    checkpoint: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    seen: Callable[[Pass], None] | None = None,
    begun: Callable[[float], None] | None = None,
) -> Course:
    """Train, and leave in ``model`` the parameters of the best pass (without a score: the last).

    Args:
        model: Any module.
        optimizer: Holds its parameters.
        epochs: Passes in all, those of an interrupted run included; at least 1.
        batches: Gives what is seen in one pass, in its order.
        loss: A scalar of one batch.
        score: Validation score, lower is better; called in eval mode, without gradient. ``None``:
            nothing is held out.
        rate: What multiplies the optimiser's learning rates, given the passes gone so far, a
            fraction of the current one included; ``None`` leaves them alone.
        generator: The only source of randomness in ``batches`` and ``loss``; its state is kept.
        checkpoint: File that holds the state after each pass; ``None`` keeps none.
        resume: Take up what ``checkpoint`` holds, if it exists. Then the outcome is bit for bit
            that of a run without interruption.
        settings: JSON values that must be the same when a run is taken up.
        seen: Called after every pass.
        begun: Called before every batch with the passes gone so far, as ``rate`` is.

    Raises:
        ValueError: If ``epochs`` is too small, the loss stops being finite, or ``checkpoint`` is
            damaged or belongs to other settings.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; it must be at least 1")
    course = Course()
    given = [group["lr"] for group in optimizer.param_groups]
    told = json.dumps(dict(settings or {}), sort_keys=True)
    if resume and checkpoint is not None and checkpoint.exists():
        course = _load(checkpoint, model, optimizer, generator, told)
    if len(course.passes) > epochs:
        raise ValueError(
            f"{checkpoint} holds {len(course.passes)} epochs, more than the {epochs} asked for"
        )
    while len(course.passes) < epochs:
        began = time.perf_counter()
        number = len(course.passes) + 1
        paced = _paced(optimizer, given, list(batches()), number - 1, rate, begun)
        mean = _train(model, optimizer, paced, loss)
        if not math.isfinite(mean):
            raise ValueError(f"the training loss of epoch {number} is {mean}; lower lr")
        model.eval()
        with torch.no_grad():
            new = Pass(number, mean, score())
        course.passes.append(new)
        if course.chosen is new:
            course.best = copy.deepcopy(model.state_dict())
        course.seconds += time.perf_counter() - began
        if checkpoint is not None:
            _save(checkpoint, course, model, optimizer, generator, told)
        if seen is not None:
            seen(new)
    model.load_state_dict(course.best)
    model.eval()
    return course


def _paced(
    optimizer: torch.optim.Optimizer,
    given: Sequence[float],
    batches: Sequence[Item],
    gone: int,
    rate: Callable[[float], float] | None,
    begun: Callable[[float], None] | None,
) -> Iterator[Item]:
    """Yield the batches of one pass, each after setting the learning rate that it is due."""
    for i, batch in enumerate(batches):
        now = gone + i / len(batches)
        if rate is not None:
            for group, lr in zip(optimizer.param_groups, given, strict=True):
                group["lr"] = lr * rate(now)
        if begun is not None:
            begun(now)
        yield batch


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Item],
    loss: Callable[[Item], Tensor],
) -> float:
    model.train()
    values = []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values.append(value.detach())
    if not values:
        raise ValueError("there is nothing to train on; give at least one batch")
    return float(torch.stack(values).double().mean())


def _save(
    file: Path,
    course: Course,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    told: str,
) -> None:
    content = {
        "settings": told,
        "passes": [tuple(p) for p in course.passes],
        "seconds": course.seconds,
        "best": course.best,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    save_checkpoint(file, content)


def _load(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    told: str,
) -> Course:
    content = load_checkpoint(file)
    found = content["settings"]
    if found != told:
        raise ValueError(
            f"{file} was left by a run with other settings: {_difference(found, told)}; "
            "repeat those, or start anew without resuming"
        )
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    generator.set_state(content["generator"])
    passes = [Pass(*values) for values in content["passes"]]
    return Course(passes, content["seconds"], content["best"])


def _difference(found: str, told: str) -> str:
    then, now = json.loads(found), json.loads(told)
    differing = [k for k in sorted(then | now) if then.get(k) != now.get(k)]
    return ", ".join(f"{k} was {then.get(k)!r}, is {now.get(k)!r}" for k in differing)
