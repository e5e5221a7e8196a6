"""What the compiler hands to a chip: crossbars, digital neurons, and how they are wired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.geometry import Geometry
from snu_plugin.neuron import Euler
from snu_plugin.schedule import Node, Wiring

Scaling = Literal["layer", "tile", "column"]


class Tile(NamedTuple):
    """Where a part of a matrix lies: rows are inputs, columns outputs, as ``(first, end)``."""

    node: str
    rows: tuple[int, int]
    """Inputs of the node's matrix ``(out, in)`` that lie here."""
    columns: tuple[int, int]
    """Its outputs that lie here."""
    number: int = 0
    """Number of the tile on the chip; several parts may share one."""
    row: int = 0
    """First row of the tile that is used."""
    column: int = 0
    """First column of the tile that is used."""


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
    geometry: Geometry
    """How the matrix meets the signal: once a step, or at every position of a convolution."""
    column_blocks: tuple[tuple[int, int], ...]
    """Outputs of each column of tiles, ``(first, end)``."""

    @cached_property
    def reference(self) -> Tensor:
        """Number of the column of tiles in which each output lies, ``(out,)``."""
        sizes = torch.tensor([end - first for first, end in self.column_blocks])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def targets_us(self) -> Tensor:
        """Return what pairs must differ by, ``(2, out, in)``: what G+ and what G- has more, µS."""
        g = self.weight / self.weight_per_us
        return torch.stack((g.clamp_min(0), (-g).clamp_min(0)))


@dataclass(frozen=True)
class Neurons:
    """A layer of digital neurons."""

    euler: Euler
    """Constants of shape ``shape``, float32."""


@dataclass(frozen=True)
class Digital:
    """What digital logic computes without devices and registers: pools, delays, scales, shapes."""

    compute: Node
    """``y, state = compute(x, state)`` over a sequence; holds nothing between calls."""


Op = Product | Neurons | Digital


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
    notes: tuple[str, ...] = ()
    """What the compiler repaired or chose, a sentence each."""

    @property
    def products(self) -> dict[str, Product]:
        """The crossbars by node name, in the order in which they run."""
        return {n: op for n, op in self.ops.items() if isinstance(op, Product)}

    @property
    def devices(self) -> int:
        """Phase-change-memory devices used: the chip's ``devices_per_weight`` for every weight.

        An 88-150-88 network with two per weight uses 52,800; biases are digital. Reference
        columns come besides, ``reference_devices``.
        """
        weights = sum(op.weight.numel() for op in self.products.values())
        return weights * self.chip.devices_per_weight

    @property
    def reference_devices(self) -> int:
        """Devices of reference columns: one for each row of each tile, if weights have one each."""
        if not self.chip.has_reference:
            return 0
        return sum(len(op.column_blocks) * op.weight.shape[1] for op in self.products.values())

    @property
    def utilisation(self) -> float:
        """Share of the cells of the tiles in use that hold a weight, in (0, 1]."""
        cells = self.tile_count * self.chip.tile_rows * self.chip.tile_columns
        weights = sum(op.weight.numel() for op in self.products.values())
        return weights / cells if cells else 0.0

    @property
    def tile_count(self) -> int:
        """Tiles in use."""
        return len({tile.number for tile in self.tiles})

    @property
    def cycles(self) -> dict[str, int]:
        """Products that follow one another in a step, by node.

        A node multiplies once per position; its parts on different tiles work at the same time,
        those on one tile one after the other.
        """
        sharing = Counter((tile.node, tile.number) for tile in self.tiles)
        return {
            name: op.geometry.positions * max(n for (node, _), n in sharing.items() if node == name)
            for name, op in self.products.items()
        }
