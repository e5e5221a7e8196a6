"""Tensors as compiled loops take them: addresses and places for sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.numba_scan.jit import threads

SHORT = 64
"""Numbers side by side from which on adding them takes no longer for being few."""


def address(tensor: Tensor | None) -> int:
    """Return where the numbers of a contiguous tensor are, which has to be kept alive, or 0."""
    return 0 if tensor is None else tensor.data_ptr()


def step_address(sequence: Tensor | None, t: int) -> int:
    """Return where step ``t`` of a contiguous sequence is, or 0 where there is none."""
    if sequence is None:
        return 0
    return sequence.data_ptr() + t * sequence.stride(0) * sequence.itemsize


def periodic(constant: Tensor | None) -> tuple[int, int]:
    """Return where the values of ``constant`` are and how many; (0, 1) if there are none."""
    return (0, 1) if constant is None else (constant.data_ptr(), constant.numel())


class Sums:
    """The gradient of a constant, summed over time and over all columns that share a value.

    Each part of the columns adds to float64 numbers of its own, so that into how many it was cut
    changes nothing; short periods are kept several at a time.
    """

    def __init__(self, constant: Tensor | None, x: Tensor, once: bool = True) -> None:
        """Take a constant in the form of ``repeated``, ``None`` if no gradient is asked for.

        ``x`` is what one call of a kernel takes; unless each part is one call alone, not ``once``.
        """
        self._like, self._place = x, (0, 1, 1, 0)
        if constant is None:
            return
        parts, period = threads(x.numel()), max(constant.numel(), 1)
        repeats = max(SHORT // period, 1)
        self._sums = x.new_zeros(parts * repeats * period, dtype=torch.float64)
        self._total = torch.zeros_like(constant)  # without a step no kernel fills it
        end = 0 if parts > 1 or not once else self._total.data_ptr()
        self._place = self._sums.data_ptr(), repeats * period, period, end

    def place(self) -> tuple[int, int, int, int]:
        """Return where a kernel adds, how many numbers a part has, their period, where they end.

        The first is 0 if they are not asked for, the last if torch has to add them up.
        """
        return self._place

    def total(self) -> Tensor:
        """Return the gradient, empty where it was not asked for."""
        if not self._place[0]:
            return self._like.new_empty(0)
        if not self._place[3]:
            self._total.copy_(self._sums.view(-1, *self._total.shape).sum(0))
        return self._total


def flat(tensor: Tensor) -> Any:
    """Return ``(T, B, ..., features)`` as an array ``(T, neurons)``, a copy if not contiguous."""
    array = tensor.contiguous().numpy(force=True)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def row(tensor: Tensor, step: Tensor) -> Any:
    """Return what broadcasts to one step as an array ``(neurons,)``, a copy if it has to be."""
    return tensor.expand(step.shape).contiguous().numpy(force=True).reshape(-1)


def scalar(value: float, like: Tensor) -> Any:
    """Return a number in the precision of ``like``."""
    return np.float32(value) if like.dtype == torch.float32 else np.float64(value)
