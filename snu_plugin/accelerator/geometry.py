"""What lies between a signal and a matrix: one product, several side by side, or a convolution.

And products that are rounded alike however many are made at once, and wherever they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.schedule import aligned

LEAST = 16
"""Rows of a product below which its rounding would depend on how many there are."""
EVEN = 4
"""Columns of whose multiples rows of a product have to be, lest it depend on where they lie."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What lies between a signal ``(T, B, ...)`` and a matrix ``(out, in)``.

    Rows of the crossbar are the ``in`` inputs, its columns the ``out`` outputs; the outputs divide
    into groups of equal size, each with inputs of its own. This one is a single matrix, used once
    a step: ``(T, B, in)`` to ``(T, B, out)``.
    """

    shape: tuple[int, ...]
    """Shape of the weights in the graph."""
    groups: int = 1
    """Matrices side by side."""
    positions: int = 1
    """Products per step: positions at which the same devices are used."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply as the strict reference does, to the last bit; ``weight`` is ``(out, in)``."""
        return F.linear(x, weight, bias)

    def rows(self, x: Tensor) -> Tensor:
        """Return what drives the rows: ``(T, B, ..., in)``, or ``(..., groups, in)`` if several."""
        return x

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs ``(T, B, positions, out)`` of the columns as the graph's signal."""
        return y.flatten(2)

    def outputs(self, signal: Tensor) -> Tensor:
        """Return the graph's signal as outputs ``(T, B, positions, out)``: undoes ``signal``."""
        return signal.flatten(2).unsqueeze(2)

    def columns(self, value: Tensor) -> Tensor:
        """Return one value per output, ``(out,)``, so that it broadcasts against the signal."""
        return value

    def driven(self, x: Tensor) -> Tensor:
        """Return how many rows are driven by a value other than 0, by vector.

        ``(T, B, ...)``, groups last if there are several.
        """
        return (self.rows(x) != 0).sum(-1)


@dataclass(frozen=True, kw_only=True)
class Stack(Geometry):
    """Several matrices, each with inputs of its own: ``(..., in)`` to ``(..., out)``."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``W x + b`` for every matrix."""
        y = torch.matmul(weight.reshape(self.shape), x.unsqueeze(-1)).squeeze(-1)
        return y if bias is None else y + bias.reshape(self.shape[:-1])

    def rows(self, x: Tensor) -> Tensor:
        """Return the inputs of each matrix."""
        rows = x.reshape(*x.shape[:2], self.groups, self.shape[-1])
        return rows if self.groups > 1 else rows.squeeze(-2)

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs, matrix by matrix."""
        return y.reshape(*y.shape[:2], *self.shape[:-1])

    def columns(self, value: Tensor) -> Tensor:
        """Return the values, matrix by matrix."""
        return value.reshape(self.shape[:-1])


@dataclass(frozen=True, kw_only=True)
class Convolution(Geometry):
    """One kernel for every position: ``(C, *spatial)`` to ``(out, *positions)``.

    The patches are cut out in digital, and the same devices multiply all of them, one after the
    other. ``shape`` is ``(out, C / groups, *kernel)``, in one or two dimensions.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...]
    """Zeros before and after each axis, last axis first, as ``F.pad`` takes them."""
    output: tuple[int, ...]
    """Positions along each axis."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution, plus a bias per channel."""
        convolve = F.conv1d if len(self.output) == 1 else F.conv2d
        y = convolve(
            self._padded(x.flatten(0, 1)),
            weight.reshape(self.shape),
            bias,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def rows(self, x: Tensor) -> Tensor:
        """Return the patch that each group of channels sees at each position."""
        steps, batch, axes = *x.shape[:2], len(self.output)
        patches = self._padded(x.flatten(0, 1))
        for axis, size in enumerate(self.shape[2:], 2):
            dilation = self.dilation[axis - 2]
            patches = patches.unfold(axis, dilation * (size - 1) + 1, self.stride[axis - 2])
            patches = patches[..., ::dilation]
        # (N, C, *output, *kernel), only now copied: each position with all of its inputs.
        by_group = patches.reshape(len(patches), self.groups, -1, *patches.shape[2:])
        rows = by_group.movedim((1, 2), (1 + axes, 2 + axes))
        inputs = (self.groups, -1) if self.groups > 1 else (-1,)
        return rows.reshape(steps, batch, self.positions, *inputs)

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs ``(T, B, positions, out)`` as an image, channels first."""
        return y.transpose(-1, -2).reshape(*y.shape[:2], self.shape[0], *self.output)

    def outputs(self, signal: Tensor) -> Tensor:
        """Return an image as the outputs ``(T, B, positions, out)``."""
        return signal.flatten(3).transpose(-1, -2)

    def columns(self, value: Tensor) -> Tensor:
        """Return one value per channel."""
        return value.reshape(-1, *[1] * len(self.output))

    def driven(self, x: Tensor) -> Tensor:
        """Return how many elements of each patch are not zero, ``(T, B, *positions, groups)``."""
        # Counted by a convolution with ones: all patches would take kernel times the memory.
        ones = replace(self, shape=(self.groups, *self.shape[1:]))
        driven = (x != 0).float()
        counts = ones.multiply(driven, driven.new_ones(ones.shape), None)
        return counts.round().long().movedim(2, -1)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads) if any(self.pads) else x


def each_step(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what is computed from ``x``, ``(T, ...)``, a step at a time: as the reference rounds.

    ``compute`` takes and gives ``(1, ...)``.
    """
    return torch.cat([compute(aligned(x[t : t + 1])) for t in range(len(x))])


def even(x: Tensor) -> Tensor:
    """Return ``x`` in one piece, its rows filled up with zeros to a multiple of ``EVEN``.

    Of other rows MKL adds the products on AMD processors in an order that depends on the place.
    """
    missing = -x.shape[-1] % EVEN
    return F.pad(x, (0, missing)) if missing else x.contiguous()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x Wᵀ``, ``(lanes, n, out)``, to the last bit the same whatever the lanes are.

    Both have ``even`` rows. Inputs ``(lanes, n, groups, in)`` meet a group of the outputs each.
    """
    rows, out = x.flatten(0, 1), len(weight)
    if (n := len(rows)) < LEAST:
        rows = F.pad(rows.flatten(1), (0, 0, 0, LEAST - n)).view(LEAST, *rows.shape[1:])
    if x.dim() == 4:
        parts = weight.reshape(x.shape[2], -1, weight.shape[1])
        y = torch.einsum("...gi,goi->...go", rows, parts).flatten(-2).contiguous()[:n]
    else:
        # A single output would be a product of vectors, which is rounded by another kernel.
        whole = F.pad(weight, (0, 0, 0, 1)) if out == 1 else weight
        y = torch.mm(rows, whole.T)
        y = y if y.shape == (n, out) else y[:n, :out].contiguous()
    return y.view(*x.shape[:2], -1)
