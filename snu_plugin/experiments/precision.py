"""How a trained network does with weights of few levels, or written to devices."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.experiments.jobs import DigitJob, Job

CHIPS = 3
"""Chips that the score on devices is the mean of."""
SHARES = torch.linspace(1.0, 0.2, 33)
"""Ranges that are tried, as shares of the largest weight of a row."""
WRITTEN = "pcm"
"""What the score on devices is called."""


def sweep(one: Job, bits: Sequence[int], seed: int) -> dict[str, float]:
    """Return the test score of a trained network by bits of its weights, and on PCM.

    Matrices, kernels and the embedding of words are quantised after training; biases and
    thresholds, which a chip keeps in digital, stay as they are. ``pcm``: every weight is a pair of
    the devices of ``PCM``, read back once at the age at which they can first be read; mean of
    ``CHIPS`` chips. Digits are shown for as many steps as in training, however long the task's own
    test is.

    Args:
        one: Its network is trained; it is left as it was.
        bits: As in ``quantised``.
        seed: Of the devices.

    Returns:
        ``float``, each of ``bits`` and ``pcm``, with the score ``result()["test"]`` of such a job.
    """
    one = _short(one)
    found = {"float": one.result()["test"]}
    for each in bits:
        with _replaced(one.network) as matrices:
            for weight in matrices:
                weight.copy_(quantised(weight, each))
            found[str(each)] = one.result()["test"]
    scores = []
    for chip in range(CHIPS):
        with _replaced(one.network) as matrices:
            for number, weight in enumerate(matrices):
                weight.copy_(written(weight, seed=(seed * CHIPS + chip) * len(matrices) + number))
            scores.append(one.result()["test"])
    return found | {WRITTEN: statistics.fmean(scores)}


def _short(one: Job) -> Job:
    """Return the same job with a test as long as its training: a sweep takes it many times."""
    if not isinstance(one, DigitJob):
        return one
    short = copy.copy(one)
    short.recipe = replace(one.recipe, test_steps=0)
    return short


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Return weights rounded to ``2^bits - 1`` levels, ``k step`` with ``|k| < 2^(bits-1)``.

    Every row has a step of its own, the one of ``SHARES`` with the least squared error: what lies
    beyond the outermost level takes it.

    Args:
        weight: ``(out, ...)``.
        bits: From 2 to 16.

    Raises:
        ValueError: For bits out of range.

    >>> quantised(torch.tensor([[-1.0, 0.1, 0.9]]), 2)
    tensor([[-0.9500,  0.0000,  0.9500]])
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits is {bits}; it must lie between 2 and 16")
    outermost = 2 ** (bits - 1) - 1
    rows = weight.flatten(1)
    best = torch.zeros_like(rows)
    least = torch.full_like(rows[:, :1], torch.inf)
    for share in SHARES.tolist():
        step = rows.abs().amax(1, keepdim=True).clamp_min(1e-30) * share / outermost
        rounded = (rows / step).round().clamp(-outermost, outermost) * step
        error = (rounded - rows).square().sum(1, keepdim=True)
        best = torch.where(error < least, rounded, best)
        least = torch.minimum(error, least)
    return best.view_as(weight)


def written(weight: Tensor, *, seed: int) -> Tensor:
    """Return weights as pairs of PCM devices hold them, read once when they can first be read.

    Args:
        weight: ``(out, ...)``; each row takes the whole range of conductances.
        seed: Of the devices.
    """
    matrix = weight.detach().flatten(1).numpy().astype(np.float64)
    inputs, outputs = np.array([matrix.shape[1]]), np.array([matrix.shape[0]])
    g = nir.NIRGraph(
        nodes={
            "input": nir.Input({"input": inputs}),
            "weight": nir.Linear(matrix),
            "output": nir.Output({"output": outputs}),
        },
        edges=[("input", "weight"), ("weight", "output")],
    )
    chip = Accelerator(compile(g, PCM, dt=1.0), seed)
    chip.program()
    return chip.read_weights()["weight"].to(weight).view_as(weight)


@contextmanager
def _replaced(network: nn.Module) -> Iterator[Sequence[Tensor]]:
    """Hand out the matrices and kernels of a network, and put them back as they were."""
    matrices = [p for p in network.parameters() if p.dim() > 1]
    kept = [p.detach().clone() for p in matrices]
    with torch.no_grad():
        try:
            yield matrices
        finally:
            for p, before in zip(matrices, kept, strict=True):
                p.copy_(before)
