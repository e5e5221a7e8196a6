"""What the compiler hands to a chip: crossbars, digital neurons, and how they are wired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.neuron.euler import Euler
from snu_plugin.neuron.wiring import Wiring

Scaling = Literal["layer", "tile", "column"]


class Tile(NamedTuple):
    """Where a part of a matrix lies: rows are inputs, columns outputs, as ``(first, end)``."""

    node: str
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class Product:
    """A matrix held by a crossbar: ``y = W x + bias``, the bias added in digital."""

    weight: Tensor
    """Target weights in the graph's units, ``(out, in)``, float64."""
    bias: Tensor | None
    """Digital bias, ``(out,)``, float32."""
    weight_per_us: Tensor
    """Weight that one µS stands for, ``(out, in)``; constant within a scale group."""
    row_blocks: tuple[tuple[int, int], ...]
    """Inputs of each row of tiles, ``(first, end)``; each is converted on its own."""

    def targets_us(self) -> Tensor:
        """Return the conductances of the pairs, ``(2, out, in)``: G+ and G-, µS float64."""
        g = self.weight / self.weight_per_us
        return torch.stack((g.clamp_min(0), (-g).clamp_min(0)))


@dataclass(frozen=True)
class Neurons:
    """A layer of digital neurons."""

    euler: Euler
    """Constants of shape ``shape``, float32."""


@dataclass(frozen=True)
class Relay:
    """Digital wiring that computes nothing but a shape or a factor."""

    shape: tuple[int, ...]
    """Shape of the output, without time and batch."""
    scale: Tensor | None = None
    """Factor, element by element; broadcast to the input."""


Op = Product | Neurons | Relay


@dataclass(frozen=True)
class Program:
    """A network laid out for one chip; made by a compiler, never changed."""

    chip: Chip
    scaling: Scaling
    ops: Mapping[str, Op]
    wiring: Wiring
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Output shape of each node, without time and batch."""
    tiles: tuple[Tile, ...]
    dt: float | None
    """Time step of the graph, s."""
    source: bytes
    """The graph the program was compiled from, as a file in ``format``."""
    format: str = "nir"
    """Which exchange format ``source`` is in: an entry point of ``snu_plugin.formats``."""

    @property
    def products(self) -> dict[str, Product]:
        """The crossbars by node name, in the order in which they run."""
        return {n: op for n, op in self.ops.items() if isinstance(op, Product)}

    @property
    def devices(self) -> int:
        """Phase-change-memory devices used: two for every weight.

        Shapes: an 88-150-88 network without biases uses 52,800.
        """
        return sum(2 * op.weight.numel() for op in self.products.values())

    @property
    def utilisation(self) -> float:
        """Share of the cells of the tiles in use that hold a weight, in (0, 1]."""
        cells = len(self.tiles) * self.chip.tile_rows * self.chip.tile_columns
        return self.devices / 2 / cells if cells else 0.0
