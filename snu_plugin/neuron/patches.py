"""Where a convolution takes its inputs from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Pair = tuple[int, int]
"""Of rows, then of columns."""


class Patches(NamedTuple):
    """The inputs under the weights at each place of a convolution's result, in two axes.

    >>> Patches.of((1, 3, 8, 8), (4, 3, 3, 3), stride=(2, 2), padding=(1, 1)).places
    (4, 4)
    """

    images: int
    channels: int
    size: Pair
    """Of an image."""
    kernel: Pair
    stride: Pair
    padding: Pair
    """Zeros above and below, left and right of an image."""
    dilation: Pair
    places: Pair
    """Of the result."""
    groups: int

    @staticmethod
    def of(
        x: Sequence[int], weight: Sequence[int], stride: Pair = (1, 1), padding: Pair = (0, 0),
        dilation: Pair = (1, 1), groups: int = 1,
    ) -> Patches:  # fmt: skip
        """Return those of ``x``, shaped ``(images, channels, rows, columns)``.

        ``weight`` is shaped ``(outputs, channels // groups, rows, columns)``, all else is as in
        ``torch.nn.functional.conv2d``.
        """
        size, kernel = (x[2], x[3]), (weight[2], weight[3])
        rows, columns = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
        )
        return Patches(x[0], x[1], size, kernel, stride, padding, dilation, (rows, columns), groups)

    @property
    def how(self) -> tuple[Pair, Pair, Pair, int]:
        """Stride, padding, dilation and groups, as ``torch.nn.functional.conv2d`` takes them."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def inputs(self) -> int:
        """How many inputs a patch has in one group."""
        return math.prod(self.kernel) * self.channels // self.groups

    @property
    def rows(self) -> int:
        """How many places there are in all images."""
        return self.images * math.prod(self.places)


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
