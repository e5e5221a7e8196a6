"""Tensors as compiled loops take them: addresses, places for sums, memory in huge pages."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.numba_scan.jit import threads

LARGE = 2**22
"""Bytes from which on a tensor surely holds a whole huge page, which begins where it likes."""

SHORT = 64
"""Numbers side by side from which on adding them takes no longer for being few."""


def address(tensor: Tensor | None) -> int:
    """Return where the numbers of a contiguous tensor are, which has to be kept alive, or 0."""
    return 0 if tensor is None else tensor.data_ptr()


def periodic(constant: Tensor | None) -> tuple[int, int]:
    """Return where the values of ``constant`` are and how many; (0, 1) if there are none."""
    return (0, 1) if constant is None else (constant.data_ptr(), constant.numel())


class Sums:
    """The gradient of a constant, summed over time and over all columns that share a value.

    Each part of the columns adds to float64 numbers of its own, so that into how many it was cut
    changes nothing; short periods are kept several at a time.
    """

    def __init__(self, constant: Tensor | None, x: Tensor) -> None:
        """Take a constant in the form of ``repeated``, ``None`` if no gradient is asked for.

        ``x`` is what one call of a kernel takes.
        """
        self._like, self._place = x, (0, 1, 1, 0)
        if constant is None:
            return
        parts, period = threads(x.numel()), max(constant.numel(), 1)
        repeats = max(SHORT // period, 1)
        make = x.new_empty if parts == 1 else x.new_zeros  # a team may be smaller than asked for
        self._sums = make((parts * repeats, period), dtype=torch.float64)
        self._total = torch.empty_like(constant)
        end = 0 if parts > 1 else self._total.data_ptr()
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
            self._total.copy_(self._sums.sum(0).view_as(self._total))
        return self._total


def new(tensor: Tensor) -> Tensor:
    """Return ``tensor``, contiguous, new and on a processor, after asking for huge pages.

    Linux hands out memory by pages of 4 kB, each when it is written to for the first time. That
    takes longer than the update of the thousand neurons whose numbers it holds. Where the system
    has huge pages for those who ask (``/sys/kernel/mm/transparent_hugepage/enabled``), 512 pages
    come at once.
    """
    if tensor.nbytes >= LARGE and (advise := _madvise()) is not None:
        page = mmap.PAGESIZE
        first = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        advise(first, stop - first, mmap.MADV_HUGEPAGE)  # advice: whether it is taken is no matter
    return tensor


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found


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
