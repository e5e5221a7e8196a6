"""What the compiler hands to a chip: crossbars, digital neurons, and how they are wired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices.model import device_model
from snu_plugin.accelerator.geometry import Geometry
from snu_plugin.accelerator.matrix import Drop, wires
from snu_plugin.accelerator.periphery import Converter
from snu_plugin.accelerator.synapse import WeightLayout
from snu_plugin.neuron import Euler
from snu_plugin.notebook import Shown, Table
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

    @property
    def height(self) -> int:
        """Rows that are used."""
        return self.rows[1] - self.rows[0]

    @property
    def width(self) -> int:
        """Columns that are used."""
        return self.columns[1] - self.columns[0]


@dataclass(frozen=True)
class Product:
    """A matrix held by a crossbar: ``y = W x + bias``, the bias added in digital."""

    chip: Chip
    """Settings of the chip that it lies on."""
    weight: Tensor
    """Target weights of the devices in the graph's units, ``(out, in)``, float64; 0 of outliers."""
    bias: Tensor | None
    """Digital bias, ``(out,)``, float32."""
    weight_per_us: Tensor
    """Weight that one µS stands for, ``(out, in)``; constant within a scale group."""
    row_blocks: tuple[tuple[int, int], ...]
    """Inputs of each row of tiles, ``(first, end)``; each is converted on its own."""
    geometry: Geometry
    """How the matrix meets the signal: once a step, or at every position of a convolution."""
    layout: WeightLayout
    """Which devices make a weight."""
    outliers: Tensor | None = None
    """Weights that stay in digital logic, ``(out, in)``, float32, 0 elsewhere; ``None``: none."""

    @property
    def whole(self) -> Tensor:
        """The weights of the graph, ``(out, in)``, float64: those of the devices and outliers."""
        return self.weight if self.outliers is None else self.weight + self.outliers.double()

    @cached_property
    def dac(self) -> Converter | None:
        """The input converters, in units of the input; ``None``: there are none."""
        bits = self.chip.dac_bits
        return None if bits is None else Converter.of(bits, self.chip.dac_bound)

    @cached_property
    def adc(self) -> Converter | None:
        """The output converters, in full conductances; ``None``: there are none."""
        bits = self.chip.adc_bits
        return None if bits is None else Converter.of(bits, self.chip.adc_bound)

    @cached_property
    def unit(self) -> float:
        """One step of the output converters in full conductances; 1 without a converter."""
        return 1.0 if self.adc is None else self.adc.step

    @cached_property
    def drops(self) -> tuple[Drop | None, ...]:
        """IR drop along each row of tiles; ``None`` where wires have no resistance."""
        chip = self.chip
        if not chip.wire_ohm:
            return (None,) * len(self.row_blocks)
        sizes = (end - first for first, end in self.row_blocks)
        return tuple(wires(n, self.unit, chip.wire_ohm, chip.g_max_us) for n in sizes)

    @cached_property
    def holds(self) -> Tensor:
        """Which columns of each row of tiles hold a weight besides 0: ``(rows of tiles, out)``."""
        least = torch.finfo(torch.float32).tiny  # what is less is a 0 on the digital side
        return torch.stack(
            [(self.weight[:, a:b].abs() >= least).any(1) for a, b in self.row_blocks]
        )

    def to(self, device: torch.device) -> Product:
        """Return the same crossbar with its tensors on another device."""
        return replace(
            self,
            weight=self.weight.to(device),
            bias=None if self.bias is None else self.bias.to(device),
            weight_per_us=self.weight_per_us.to(device),
            layout=self.layout.to(device),
            outliers=None if self.outliers is None else self.outliers.to(device),
        )

    @cached_property
    def mean_pulses(self) -> int:
        """SET pulses that write its devices from RESET if each moves its device by the mean."""
        targets = self.layout.fill(self.targets_us())
        return int(device_model(self.chip).response.to_reach(targets).round().sum())

    def targets_us(self) -> Tensor:
        """Return what pairs must differ by, ``(2, out, in)``: what G+ and what G- has more, µS."""
        g = self.weight / self.weight_per_us
        return torch.stack((g.clamp_min(0), (-g).clamp_min(0)))


@dataclass(frozen=True)
class Neurons:
    """A layer of digital neurons."""

    euler: Euler
    """Constants of shape ``shape``, float32."""

    def to(self, device: torch.device) -> Neurons:
        """Return the same neurons on another device."""
        return Neurons(self.euler.to(torch.empty(0, dtype=torch.float32, device=device)))


@dataclass(frozen=True)
class Digital:
    """What digital logic computes without devices and registers: pools, delays, scales, shapes."""

    compute: Node
    """``y, state = compute(x, state)`` over a sequence; holds nothing between calls. Where it has
    constants it is a module."""

    def to(self, device: torch.device) -> Digital:
        """Return the same logic with a copy of its constants on another device."""
        if not isinstance(self.compute, nn.Module):
            return self
        return Digital(deepcopy(self.compute).to(device))


Op = Product | Neurons | Digital


class Range(NamedTuple):
    """How far the converters of a crossbar reach, set by a sample of the data."""

    dac_bound: float
    """As ``Chip.dac_bound``."""
    adc_bound: float
    """As ``Chip.adc_bound``."""
    level: float
    """A usual input: 1 for spikes, else about the root of the mean square of those besides 0."""


@dataclass(frozen=True, repr=False)
class Program(Shown):
    """A network laid out for a chip, or several; made by a compiler, never changed."""

    chips: Mapping[str, Chip]
    """Settings by node with weights; nodes of equal settings share a chip."""
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
    remarks: tuple[str, ...] = ()
    """What the compiler repaired or chose, a sentence each."""
    outliers: float = 0.0
    """Share of each matrix that stays in digital logic; see ``Product.outliers``."""
    ranges: Mapping[str, Range] | None = None
    """Ranges of the converters by node, if they were set by data; else they are the chip's."""

    def to(self, device: torch.device) -> Program:
        """Return the program with its tensors on another device; itself where they are there."""
        if device == self.device:
            return self
        return replace(self, ops={name: op.to(device) for name, op in self.ops.items()})

    @cached_property
    def device(self) -> torch.device:
        """Where its tensors are."""
        held = (op.weight.device for op in self.products.values())
        return next(held, torch.device("cpu"))

    def with_ranges(self, ranges: Mapping[str, Range]) -> Program:
        """Return the program with converters of these ranges, by node; others stay as they are."""
        ops = dict(self.ops)
        for name, found in ranges.items():
            op = self.products[name]
            chip = replace(op.chip, dac_bound=found.dac_bound, adc_bound=found.adc_bound)
            ops[name] = replace(op, chip=chip)
        return replace(self, ops=ops, ranges=dict(ranges))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the compiler repaired or chose, and how far converters reach, a sentence each."""
        reach = self.range_note
        return (*self.remarks, reach) if reach else self.remarks

    @property
    def scaling_note(self) -> str:
        """What becomes of the largest weights."""
        note = f"scaled by {self.scaling}, whose largest weight takes the whole range"
        if not self.outliers:
            return f"{note}, outliers too"
        parts = (
            f"{name} {int((op.outliers != 0).sum()):,} of {op.weight.numel():,}"
            for name, op in self.products.items()
            if op.outliers is not None
        )
        return f"{note}; outliers stay in digital logic, exact: {', '.join(parts)}"

    @property
    def range_note(self) -> str:
        """Where the ranges of the converters are from, and what they are; empty without any."""
        parts = []
        for name, op in self.products.items():
            ends = [f"dac_bound {op.chip.dac_bound:.3g}"] * (op.chip.dac_bits is not None)
            ends += [f"adc_bound {op.chip.adc_bound:.3g}"] * (op.chip.adc_bits is not None)
            parts += [f"{name} {' '.join(ends)}"] if ends else []
        if not parts:
            return ""
        if self.ranges is not None:
            return f"ranges from data: {', '.join(parts)}"
        return (
            f"default ranges: {', '.join(parts)}; what lies beyond is clipped: give a sample of "
            "the data, which sets them by what they lose"
        )

    def _table(self) -> Table:
        rows = [
            (
                name,
                " × ".join(map(str, op.weight.shape)),
                f"{op.weight.numel() * op.chip.devices_per_weight:,}",
                ", ".join(dict.fromkeys(str(t.number) for t in self.tiles if t.node == name)),
            )
            for name, op in self.products.items()
        ]
        used = f"{100 * self.utilisation:.3g}% of the cells"
        title = f"{self.chip_name}: {self.devices:,} devices, {used}"
        return Table(title, ("node", "weights", "devices", "tiles"), rows, self.notes)

    def __str__(self) -> str:
        """Return a few lines: what lies where, and how far converters reach."""
        return "\n".join(
            [
                f"{self.chip_name}: {self.devices:,} devices on {self.tile_count} tiles, "
                f"{self.scaling_note}",
                *(f"  {note}" for note in self.notes),
            ]
        )

    @property
    def chip(self) -> Chip:
        """The chip, or where there are several that of the first node with weights."""
        return next(iter(self.chips.values()))

    @property
    def chip_name(self) -> str:
        """What reports call the chip, or the chips."""
        return ", ".join(dict.fromkeys(chip.name for chip in self.chips.values()))

    @cached_property
    def products(self) -> dict[str, Product]:
        """The crossbars by node name, in the order in which they run."""
        return {n: op for n, op in self.ops.items() if isinstance(op, Product)}

    @property
    def devices(self) -> int:
        """Phase-change-memory devices used: the chip's ``devices_per_weight`` for every weight.

        An 88-150-88 network with two per weight uses 52,800; biases are digital. Reference
        columns come besides.
        """
        return sum(op.weight.numel() * op.chip.devices_per_weight for op in self.products.values())

    @property
    def utilisation(self) -> float:
        """Share of the cells of the tiles in use that hold a weight, in (0, 1]."""
        cells = sum(self.tile_cells.values())
        weights = sum(op.weight.numel() for op in self.products.values())
        return weights / cells if cells else 0.0

    @cached_property
    def tile_cells(self) -> dict[int, int]:
        """Cells of every tile in use, by its number."""
        chips = {tile.number: self.chips[tile.node] for tile in self.tiles}
        return {number: chip.tile_rows * chip.tile_columns for number, chip in chips.items()}

    @property
    def tile_count(self) -> int:
        """Tiles in use."""
        return len(self.tile_cells)

    @cached_property
    def step_s(self) -> float:
        """Seconds that the products of a time step of one sequence take."""
        return sum(n * self.chips[name].step_ns for name, n in self.cycles.items()) * 1e-9

    @cached_property
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
