"""Tensors as compiled loops take them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.numba_scan.threads import threads


def address(tensor: Tensor | None) -> int | None:
    """Return where the numbers of a contiguous tensor are, which has to be kept alive."""
    return None if tensor is None else tensor.data_ptr()


def periodic(constant: Tensor | None) -> tuple[int, int] | None:
    """Return where the values of ``constant`` are and how many, which has to be kept alive."""
    return None if constant is None else (constant.data_ptr(), constant.numel())


class Sums:
    """The gradient of a constant, summed over time and over all columns that share a value.

    Each part of the columns has a row of sums, in each of ``calls`` of a kernel; several rows are
    float64, so that into how many it was cut changes nothing.
    """

    def __init__(self, constant: Tensor | None, x: Tensor, calls: int = 1) -> None:
        """Take a constant in the form of ``repeated``, ``None`` if no gradient is asked for.

        ``x`` is what one call takes.
        """
        self._dtype = x.dtype
        self._size = 0 if constant is None else constant.numel()
        self._parts = threads(x.numel())
        self._wide = self._parts * calls != 1
        shape = (0,) if constant is None else constant.shape
        if self._wide:  # zeros: a team may be smaller than asked for
            self._sums = x.new_zeros((self._parts * calls, *shape), dtype=torch.float64)
        else:
            self._sums = x.new_empty(shape)

    def place(self, call: int = 0) -> tuple[int, int, int] | None:
        """Return where a kernel puts its sums, how many they are and whether they are float64.

        ``None`` if they are not asked for.
        """
        if not self._size:
            return None
        first = call * self._parts * self._size
        start = self._sums.data_ptr() + first * self._sums.element_size()
        return start, self._size, int(self._wide)

    def total(self) -> Tensor:
        """Return the gradient, empty where it was not asked for."""
        return self._sums.sum(0).to(self._dtype) if self._wide else self._sums


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
