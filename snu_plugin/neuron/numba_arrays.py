"""Tensors as compiled loops take them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.numba_threads import threads


def address(tensor: Tensor | None) -> int | None:
    """Return where the numbers of a contiguous tensor are, which has to be kept alive."""
    return None if tensor is None else tensor.data_ptr()


def periodic(constant: Tensor | None) -> tuple[int, int] | None:
    """Return where the values of ``constant`` are and how many, which has to be kept alive."""
    return None if constant is None else (constant.data_ptr(), constant.numel())


class Sums:
    """The gradient of a constant, summed over time and over all columns that share a value.

    ``place`` is where the kernels add to it, each part of the columns to values of its own.
    """

    def __init__(self, constant: Tensor | None, x: Tensor) -> None:
        """Take a constant in the form of ``repeated``, ``None`` if no gradient is asked for."""
        self._dtype = x.dtype
        self._sums: Tensor | None = None
        self.place: tuple[int, int] | None = None
        if constant is not None:
            parts = threads(x.numel())
            self._parts = () if parts == 1 else (parts,)
            self._sums = torch.zeros((*self._parts, *constant.shape), dtype=torch.float64)
            self.place = self._sums.data_ptr(), constant.numel()

    def total(self) -> Tensor:
        """Return the gradient, empty where it was not asked for."""
        if self._sums is None:
            return torch.empty(0, dtype=self._dtype)
        return (self._sums.sum(0) if self._parts else self._sums).to(self._dtype)


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
