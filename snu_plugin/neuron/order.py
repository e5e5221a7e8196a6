"""Sequences whose steps lie in memory in another order than that of their axes.

Neurons side by side do the same, whatever their order. So a sequence of images that are channels
last is run as it lies, and what comes out lies likewise.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Order(NamedTuple):
    """The order of axes in memory."""

    axes: tuple[int, ...]
    """Axes of a sequence ``(T, B, ...)``, what is farthest apart first; the first is time."""

    @staticmethod
    def of(x: Tensor) -> Order | None:
        """Return the order of ``x``, ``None`` if it is that of its axes or if there are gaps.

        >>> import torch
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
