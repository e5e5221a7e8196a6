"""How a matrix on devices meets a signal: once, side by side with others, or at every position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Geometry(Protocol):
    """What lies between a signal ``(T, B, ...)`` and a matrix ``(out, in)``.

    Rows of the crossbar are the ``in`` inputs, its columns the ``out`` outputs; the outputs divide
    into ``groups`` of equal size, each with inputs of its own.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights in the graph."""

    @property
    def groups(self) -> int:
        """Matrices side by side."""

    @property
    def positions(self) -> int:
        """Products per step: positions at which the same devices are used."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply as the strict reference does, to the last bit; ``weight`` is ``(out, in)``."""

    def rows(self, x: Tensor) -> Tensor:
        """Return what drives the rows: ``(T, B, ..., in)``, or ``(..., groups, in)`` if several."""

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs ``(T, B, positions, out)`` of the columns as the graph's signal."""

    def columns(self, value: Tensor) -> Tensor:
        """Return one value per output, ``(out,)``, so that it broadcasts against the signal."""

    def driven(self, x: Tensor) -> int:
        """Return how often a row is driven by a value other than 0."""


def dot(rows: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Multiply what drives the rows with a matrix ``(out, in)``; returns ``(..., out)``."""
    if groups == 1:
        return F.linear(rows, weight)
    parts = weight.reshape(groups, -1, weight.shape[1])
    return torch.einsum("...gi,goi->...go", rows, parts).flatten(-2).contiguous()


@dataclass(frozen=True)
class Plain:
    """One matrix, used once a step: ``(T, B, in)`` to ``(T, B, out)``."""

    shape: tuple[int, ...]
    groups = 1
    positions = 1

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``W x + b``."""
        return F.linear(x, weight, bias)

    def rows(self, x: Tensor) -> Tensor:
        """Return the inputs as they are."""
        return x

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs, ``(T, B, out)``."""
        return y.flatten(2)

    def columns(self, value: Tensor) -> Tensor:
        """Return the values as they are."""
        return value

    def driven(self, x: Tensor) -> int:
        """Return how many inputs are not zero."""
        return int((x != 0).sum())


@dataclass(frozen=True)
class Stack:
    """Several matrices, each with inputs of its own: ``(..., in)`` to ``(..., out)``."""

    shape: tuple[int, ...]
    positions = 1

    @property
    def groups(self) -> int:
        """Matrices in the stack."""
        return prod(self.shape[:-2])

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

    def driven(self, x: Tensor) -> int:
        """Return how many inputs are not zero."""
        return int((x != 0).sum())


@dataclass(frozen=True)
class Convolution:
    """One kernel for every position: ``(C, *spatial)`` to ``(out, *positions)``.

    The patches are cut out in digital, and the same devices multiply all of them, one after the
    other. ``shape`` is ``(out, C / groups, *kernel)``, in one or two dimensions.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[int, ...]
    """Zeros before and after each axis, last axis first, as ``F.pad`` takes them."""
    groups: int
    output: tuple[int, ...]
    """Positions along each axis."""

    @cached_property
    def positions(self) -> int:
        """Positions at which the kernel is used in one step."""
        return prod(self.output)

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
        patches = self._patches(x.flatten(0, 1))
        inputs = prod(self.shape[1:])
        by_group = patches.reshape(*x.shape[:2], self.groups, inputs, self.positions)
        rows = by_group.movedim(-1, 2)
        return rows if self.groups > 1 else rows.squeeze(-2)

    def signal(self, y: Tensor) -> Tensor:
        """Return the outputs ``(T, B, positions, out)`` as an image, channels first."""
        return y.transpose(-1, -2).reshape(*y.shape[:2], self.shape[0], *self.output)

    def columns(self, value: Tensor) -> Tensor:
        """Return one value per channel."""
        return value.reshape(-1, *[1] * len(self.output))

    def driven(self, x: Tensor) -> int:
        """Return how many elements of all patches are not zero."""
        active = (x != 0).sum((0, 1, 2), dtype=torch.float64)[None, None]
        return int(self._patches(active).sum())

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads) if any(self.pads) else x

    def _patches(self, x: Tensor) -> Tensor:
        """Return the patches of ``(N, C, *spatial)``, ``(N, C * kernel, positions)``."""
        x = self._padded(x)
        lift = (1,) * (2 - len(self.output))  # a signal in one dimension is an image of one row
        if lift:
            x = x.unsqueeze(-2)
        return F.unfold(
            x,
            (*lift, *self.shape[2:]),
            dilation=(*lift, *self.dilation),
            stride=(*lift, *self.stride),
        )
