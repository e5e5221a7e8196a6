"""How tensors lie in memory: steps in another order than that of their axes; huge pages.

Neurons side by side do the same, whatever their order. So a sequence of images that are channels
last is run as it lies, and what comes out lies likewise.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LARGE = 2**22
"""Bytes from which on a tensor surely holds a whole huge page, which begins where it likes."""


class Order(NamedTuple):
    """The order of axes in memory."""

    axes: tuple[int, ...]
    """Axes of a sequence ``(T, B, ...)``, what is farthest apart first; the first is time."""

    @staticmethod
    def of(x: Tensor) -> Order | None:
        """Return the order of ``x``, ``None`` if it is that of its axes or if there are gaps.

        >>> images = torch.zeros(5, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        >>> Order.of(images.view(5, 1, 3, 8, 8)).axes
        (0, 1, 3, 4, 2)
        """
        if x.is_contiguous():
            return None
        # An axis of one lies anywhere, whatever its stride says.
        strides = [
            stride if size > 1 else x.numel()
            for size, stride in zip(x.shape, x.stride(), strict=True)
        ]
        axes = 0, *sorted(range(1, x.dim()), key=lambda n: strides[n], reverse=True)
        return Order(axes) if x.permute(axes).is_contiguous() else None

    def lay(self, x: Tensor) -> Tensor:
        """Return a sequence with its axes as they lie."""
        return x.permute(self.axes)

    def lay_step(self, constant: Tensor) -> Tensor:
        """Return what broadcasts to a step, so that it broadcasts to a step as it lies."""
        if constant.dim() == 0:
            return constant
        missing = len(self.axes) - 1 - constant.dim()
        whole = constant.reshape((1,) * missing + constant.shape)
        return whole.permute([axis - 1 for axis in self.axes[1:]])

    def stand(self, y: Tensor) -> Tensor:
        """Return a sequence with its axes as they stood."""
        return y.permute([self.axes.index(n) for n in range(len(self.axes))])

    def stand_step(self, state: Tensor) -> Tensor:
        """Return a step with its axes as they stood."""
        return self.stand(state[None])[0]


def channels_last(x: Tensor) -> bool:
    """Tell whether the channels of each place of images lie side by side, places in order."""
    return x.dim() == 4 and x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last)


def order_of(*images: Tensor) -> torch.memory_format:
    """Return the order in memory of what is made of images: channels last if those of any are."""
    return torch.channels_last if any(map(channels_last, images)) else torch.contiguous_format


def laid_channels_last(x: Tensor) -> Tensor:
    """Return images channels last, a copy unless they are."""
    if x.shape[1] == 1:  # which torch takes for both, by its strides for one of them
        return x.contiguous().squeeze(1).unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def paged(tensor: Tensor) -> Tensor:
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
