"""Digital low-rank adapters: ``adapter_out @ (adapter_in @ x)`` beside a crossbar.

A sum of two small matrices that digital logic adds to the product of the devices. It learns, and
can be set back, without a pulse. Form: LoRA, Hu et al., arXiv 2106.09685; beside analog products:
Li et al., arXiv 2411.17367.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from snu_plugin.accelerator.geometry import Convolution, Geometry, Stack


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
