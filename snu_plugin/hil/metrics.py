"""Scores by name, sequence by sequence, and which recordings a network has nothing to say about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.accepted import hint
from snu_plugin.hil.losses import population_sums, shaped_as, smoothed


class Metric(NamedTuple):
    """What a network is judged by."""

    says: str
    """What it is, with its unit and which way is better."""
    higher_is_better: bool
    of: Callable[[Tensor, Any], Tensor]
    """Outputs ``(T, B, ...)`` and targets to a score of each sequence, ``(B,)``. Targets shaped as
    the outputs are a teacher's, or numbers that the outputs should be."""


def silent(output: Tensor) -> Tensor:
    """Return which sequences of outputs ``(T, B, ...)`` are 0 at every step, ``(B,)``.

    Such a network names no class: the first of equal outputs is nobody's guess.

    >>> silent(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
    tensor([ True, False])
    """
    return ~(output != 0).flatten(2).any(2).any(0)


def _right(logits: Callable[[Tensor], Tensor], output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the largest logit is that of the class, 0 elsewhere.

    Logits that are all equal, as those of a silent network, name no class. The class of a teacher's
    outputs is the one that its own logits name.
    """
    wanted = target if target.dim() == 1 else logits(target).argmax(1)
    given = logits(output)
    told_apart = (given != given[:, :1]).any(1) | (given.shape[1] == 1)
    return ((given.argmax(1) == wanted) & told_apart).double()


def _sums(output: Tensor) -> Tensor:
    return output.sum(0).flatten(1)


def _last(output: Tensor) -> Tensor:
    return output[-1].flatten(1)


def _per_sequence(
    error: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor
) -> Tensor:
    return error(output, shaped_as(output, target)).flatten(2).double().mean((0, 2))


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


def _nats(output: Tensor, target: Tensor) -> Tensor:
    """Return the nats of each step: outputs side by side are summed, as keys of a chord are."""
    error = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    return error.flatten(2).sum(2, keepdim=True)


def _apart(output: Tensor, target: Tensor) -> Tensor:
    """Return ``distance`` of each sequence, in shares of the teacher's power over all of them."""
    output, target = smoothed(output, target)
    power = target.double().square().mean()
    return _per_sequence(_squared, output, target) / torch.where(power > 0, power, 1.0)


_SHARE = "accuracy, share of sequences, higher is better"

# Functions by name and partials of them, so that workers of any kind can be sent a metric.
METRICS: Mapping[str, Metric] = {
    **dict.fromkeys(("rate", "membrane", "count"), Metric(_SHARE, True, partial(_right, _sums))),
    "last": Metric(
        "accuracy at the last step, share of sequences, higher is better",
        True,
        partial(_right, _last),
    ),
    "regression": Metric(
        "mean squared error of the outputs, lower is better",
        False,
        partial(_per_sequence, _squared),
    ),
    "likelihood": Metric(
        "negative log-likelihood, nats per step, lower is better",
        False,
        partial(_per_sequence, _nats),
    ),
    "teacher": Metric(
        "distance to the teacher's outputs, share of their power, lower is better", False, _apart
    ),
}
"""What each name computes; ``population:10`` besides, for 10 classes. Names are those of
``LOSSES``, and ``teacher``, which needs one."""


def metric_of(metric: str | Metric | Callable[[Tensor, Any], Tensor]) -> Metric:
    """Return a metric by its name, or a function as one of which less is better.

    Args:
        metric: A name of ``METRICS``, ``population:CLASSES``; a ``Metric``; or a function of
            outputs ``(T, B, ...)`` and targets that returns a score of each sequence, ``(B,)``.

    Raises:
        LookupError: For a name that no metric has.
    """
    if isinstance(metric, Metric):
        return metric
    if not isinstance(metric, str):
        called = getattr(metric, "__name__", "the function given")
        return Metric(f"{called}, lower is better", False, metric)
    name, _, number = metric.partition(":")
    if name == "population" and number.isdigit():
        says = f"accuracy of populations that code {number} classes, share, higher is better"
        return Metric(says, True, partial(_right, partial(population_sums, number=int(number))))
    if metric not in METRICS:
        raise LookupError(
            f"no metric {metric!r}; give {', '.join(METRICS)}, or population:CLASSES"
            f"{hint(metric, METRICS)}"
        )
    return METRICS[metric]
