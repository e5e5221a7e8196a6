"""What digital logic adds to the product of a crossbar: low-rank adapters, and outliers.

An adapter is ``adapter_out @ (adapter_in @ x)``, two small matrices that learn, and can be set
back, without a pulse. Form: LoRA, Hu et al., arXiv 2106.09685; beside analog products: Li et al.,
arXiv 2411.17367.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from snu_plugin.accelerator.crossbar import Count, Crossbar
from snu_plugin.accelerator.geometry import Convolution, Geometry, Stack, each_step
from snu_plugin.accelerator.program import Product
from snu_plugin.schedule import Node


def factors(geometry: Geometry, rank: int) -> tuple[Geometry, Geometry]:
    """Return how the two matrices of an adapter, ``(rank, in)`` and ``(out, rank)``, are used.

    Beside a convolution the first is a convolution to ``rank`` channels, the second one of size 1.

    Raises:
        ValueError: Where a node has several matrices, each with inputs of its own.
    """
    out, inputs = geometry.shape[0], geometry.shape[1:]
    if isinstance(geometry, Stack) or geometry.groups > 1:
        raise ValueError(
            "its outputs fall into groups with inputs of their own, and an adapter is one pair of "
            "matrices for all of them; choose nodes with one matrix"
        )
    if not isinstance(geometry, Convolution):
        return Geometry(shape=(rank, *inputs)), Geometry(shape=(out, rank))
    ones = (1,) * len(geometry.output)
    point = replace(
        geometry, shape=(out, rank, *ones), stride=ones, dilation=ones, pads=(0, 0) * len(ones)
    )
    return replace(geometry, shape=(rank, *inputs)), point


def adapter_output(geometry: Geometry, into: Tensor, out: Tensor, x: Tensor) -> Tensor:
    """Return what an adapter adds to the product with ``x``, ``(T, B, ...)``.

    ``into`` is ``(rank, in)``, ``out`` is ``(out, rank)``; gradients run through both.
    """
    first, second = factors(geometry, len(into))
    return second.multiply(first.multiply(x, into, None), out, None)


def adapter_of(registers: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor] | None:
    """Return ``adapter_in`` and ``adapter_out`` of a node; ``None`` if it has no adapter."""
    into = registers.get(f"{name}.adapter_in")
    return None if into is None else (into, registers[f"{name}.adapter_out"])


@dataclass(frozen=True)
class Adapted:
    """A crossbar with an adapter beside it, which counts what the adapter did."""

    array: Crossbar
    into: Tensor
    out: Tensor

    def __call__(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Multiply a signal ``(T, B, ...)`` and add what the adapter makes of it."""
        y, state = self.array(x, state)
        geometry, count = self.array.op.geometry, self.array.count
        # Rows that are driven meet the first matrix; the second works on every vector.
        vectors = prod(x.shape[:2]) * geometry.positions
        count.adapter_operations += int(geometry.driven(x).sum()) * len(self.into)
        count.adapter_operations += vectors * self.out.numel()
        count.adapter_values = self.into.numel() + self.out.numel()
        more = each_step(lambda x_t: adapter_output(geometry, self.into, self.out, x_t), x)
        return y + more, state


@dataclass(frozen=True)
class WithOutliers:
    """A crossbar with its outliers in digital beside it, which counts what they took."""

    array: Node
    op: Product
    outliers: Tensor
    count: Count

    def __call__(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Multiply a signal ``(T, B, ...)`` and add the product with the outliers."""
        y, state = self.array(x, state)
        multiply = self.op.geometry.multiply
        # A driven row meets those of its outliers that are there.
        met = multiply((x != 0).float(), (self.outliers != 0).float(), None)
        self.count.adapter_operations += int(met.double().sum().round())
        return y + each_step(lambda x_t: multiply(x_t, self.outliers, None), x), state


def outlier_values(op: Product) -> int:
    """Return how many numbers outliers take: each its value and its place."""
    return 0 if op.outliers is None else 2 * int((op.outliers != 0).sum())
