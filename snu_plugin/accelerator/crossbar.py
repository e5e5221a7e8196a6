"""One matrix on its tiles as an inference meets it.

What drives the rows goes through the input converter, the devices, IR drop, voltage offset, read
noise, output non-linearity, output noise and the output converter, in this order (docs/devices.md,
order of a product). Outputs are in steps of the converter, or in full conductances (``g_max_us``
times an input of 1) where there is none. A lane is one step of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator import periphery
from snu_plugin.accelerator.magnitudes import Magnitudes
from snu_plugin.accelerator.noise import Fast, normals
from snu_plugin.accelerator.products import each_step, even, product
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.state import Columns
from snu_plugin.neuron import spike_linear

CHUNK = 1 << 17
"""Values that are worked on at once: what a core's cache holds."""
ROWS = 768
"""Rows below which a product does not use a core well."""
MOST = 1000.0
"""Largest factor by which bound management shrinks an input: aihwkit 1.2.0."""


@cache
def fastest(device: str) -> ModuleType:
    """Return the edges of a tile for a kind of device: on processors fused, if Numba is installed.

    Else ``periphery``: the same numbers.
    """
    if device != "cpu":
        return periphery
    try:
        from snu_plugin.accelerator import numba_periphery
    except ImportError:
        return periphery
    return numba_periphery


@dataclass
class Count:
    """What one crossbar did during a run, summed over steps and batch."""

    steps: int = 0
    active_rows: int = 0
    """Times that a row was driven by a value other than 0."""
    conversions: int = 0
    """Outputs converted: columns of every row of tiles, every step, but for those left out as idle
    (``Chip.skip_idle``)."""
    saturated: int = 0
    """Outputs that hit the end of the converter's range."""
    input_conversions: int = 0
    """Inputs converted: none where all inputs of a step were 0 or 1."""
    clipped: int = 0
    """Inputs that hit the end of the converter's range; of a repeated product the first time."""
    repeats: int = 0
    """Products repeated with a smaller input because an output saturated."""
    adapter_operations: int = 0
    """Multiplications, each with an addition, of the digital adapter beside the crossbar."""
    adapter_values: int = 0
    """Numbers that the adapter holds; not summed."""


class TileRow(NamedTuple):
    """One row of tiles as it stands at one moment."""

    first: int
    end: int
    walked: Tensor
    """Weights in steps, what IR drop needs of them and the variance of the fluctuating read noise,
    squared steps: ``(end - first, kinds out)``, float32, as ``periphery.lay`` makes it."""
    drops: bool
    """Whether there is IR drop."""
    open: bool
    """Whether there is a variance."""
    columns: Columns | None
    scale: Tensor
    """What one step stands for in the graph's units, ``(out,)``; 0 of columns left out."""
    used: Tensor
    """Columns that are converted, by group, ``(groups,)``, int64."""
    offset: Tensor | None = None
    """What the input converter of each row adds, ``(end - first,)``, ``even``."""

    @property
    def matrices(self) -> Tensor:
        """``(kinds, out, end - first)``."""
        return self.walked.t().view(-1, len(self.scale), self.end - self.first)


@dataclass
class Crossbar:
    """A matrix as it stands at one moment: aged, with the noise that one inference sees.

    ``observe`` makes it; it is used for one run and thrown away.
    """

    op: Product
    bits: Fast
    """Stream of the noise added before the output converter."""
    rows: tuple[TileRow, ...]
    exact: Tensor | None
    """Weights ``(out, in)`` in the graph's units if nothing lies between product and bias."""
    gain: Tensor
    """Digital factor on each output of every row of tiles, ``(rows of tiles, out)``."""
    bias: Tensor | None
    count: Count = field(default_factory=Count)
    watch: tuple[Magnitudes, Magnitudes] | None = None
    """Who looks at the inputs, spikes left out, and at the sums that converters meet."""
    _multiplied: dict[int, Tensor] = field(default_factory=dict)
    """The matrices of each row of tiles, ``even``, by its first row: as other inputs meet them."""

    def __call__(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Multiply a signal ``(T, B, ...)``; returns the node's signal as the host sees it.

        Steps are worked on in chunks; their number changes no result.
        """
        self.count.steps += x.shape[0] * x.shape[1]
        if self.exact is not None and self.watch is None:
            return self._exactly(x, self.exact), None
        geometry, out_size = self.op.geometry, self.gain.shape[1]
        n, groups = x.shape[1] * geometry.positions, geometry.groups
        out, edge = x.new_empty(len(x), n, out_size), fastest(x.device.type)
        width = n * max(self.op.weight.shape[1] * groups, out_size)
        # Repetitions take noise of their own: one step at a time keeps it in order.
        chip = self.op.chip
        steps = 1 if chip.bound_management else max(1, CHUNK // width, ROWS // n)
        # Whether between IR drop, noise and converter there is nothing else.
        others = chip.output_nonlinearity, chip.bound_management, self.watch, self.rows[0].columns
        plain = groups == 1 and not any(others)
        for t in range(0, len(x), steps):
            # Patches of a whole sequence could take gigabytes: those of one chunk at a time.
            rows = geometry.rows(x[t : t + steps])
            lanes = rows.reshape(len(rows), n, *rows.shape[-1 if groups == 1 else -2 :])
            noise = self._noise(lanes)
            for k, row in enumerate(self.rows):
                bias = self.bias if k == len(self.rows) - 1 else None
                scale, part = row.scale * self.gain[k], out[t : t + steps]
                kind = edge.classify(lanes, row.first, row.end)
                if plain and bool(kind.spikes.all()):
                    self._spikes(part, lanes, row, kind.driven, noise, scale, bias, k)
                else:
                    y = self.convert(lanes, row, kind, noise, k)
                    edge.accumulate(part, y, scale, bias, more=k > 0)
        return geometry.signal(out.view(*x.shape[:2], geometry.positions, out_size)), None

    def probe(self, x: Tensor) -> Tensor:
        """Return what each row of tiles gives for ``(n, in)``, in the graph's units.

        No gain, no bias: ``(rows of tiles, n, out)``. The rows are driven as they are: of a
        convolution by a patch, of groups all alike.
        """
        lanes, edge = x[None], fastest(x.device.type)
        noise = self._noise(lanes)
        found = []
        for k, row in enumerate(self.rows):
            kind = edge.classify(lanes, row.first, row.end)
            found.append(self.convert(lanes, row, kind, noise, k) * row.scale)
        return torch.cat(found)

    def weights(self) -> Tensor:
        """Return what the devices hold, in the graph's units and with the gains, ``(out, in)``.

        What of the read noise stays for this run is in it.
        """
        if self.exact is not None:
            return self.exact * self.gain[0, :, None]
        held = (row.matrices[0] * row.scale[:, None] for row in self.rows)
        return torch.cat([w * g[:, None] for w, g in zip(held, self.gain, strict=True)], 1)

    def ideal(self, x: Tensor) -> Tensor:
        """Return what ``probe`` would on perfect periphery, fluctuating noise left out."""
        rows = ((even(x[:, r.first : r.end]), r) for r in self.rows)
        return torch.stack([driven @ self._even(r)[0].T * r.scale for driven, r in rows])

    def _even(self, row: TileRow) -> Tensor:
        """Return the matrices of a row of tiles, ``even``."""
        if row.first not in self._multiplied:
            self._multiplied[row.first] = even(row.matrices)
        return self._multiplied[row.first]

    def _exactly(self, x: Tensor, weight: Tensor) -> Tensor:
        geometry = self.op.geometry
        self._count(geometry.driven(x).reshape(-1, geometry.groups), self.rows[0])
        gained = weight * self.gain[0, :, None]  # one rounding, as the strict reference has
        return each_step(lambda x_t: geometry.multiply(x_t, gained, self.bias), x)

    def _noise(self, x: Tensor) -> Tensor:
        """Draw for all rows of tiles, one after the other, ``(lanes, rows of tiles draws n out)``.

        ``x`` is ``(lanes, n, in)``, or ``(lanes, n, groups, in)`` where groups have own inputs.
        """
        noisy, added = self.rows[0].open, self.op.chip.output_noise is not None
        # Normal numbers for each sum.
        draws = noisy + added if self.op.chip.output_nonlinearity else int(noisy or added)
        size = draws * x.shape[1] * self.gain.shape[1]
        return normals(self.bits, len(x), len(self.rows) * size).to(x.device)

    def _spikes(
        self,
        out: Tensor,
        x: Tensor,
        row: TileRow,
        driven: Tensor,
        noise: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        k: int,
    ) -> None:
        """Do for spikes what ``convert`` and ``accumulate`` do, in one product and one pass."""
        chip, edge = self.op.chip, fastest(x.device.type)
        self._count(driven.reshape(-1, 1), row)
        # Spikes are their own magnitudes, and their own squares.
        sums = spike_linear(x[..., row.first : row.end], row.walked.t())
        added = (chip.output_noise or 0.0) / self.op.unit
        saturated = edge.finish(
            sums,
            row.drops,
            row.open,
            noise if noise.shape[1] else None,
            k,
            added,
            chip.adc_bits,
            driven if chip.skip_idle else None,
            scale,
            bias,
            out,
        )
        self.count.saturated += int(saturated.sum())

    def convert(
        self, lanes: Tensor, row: TileRow, kind: periphery.InputKind, noise: Tensor, k: int
    ) -> Tensor:
        """Return the converted sums of a row of tiles, in steps, ``(lanes, n, out)``.

        Args:
            lanes: All inputs ``(lanes, n, in)``, or ``(lanes, n, groups, in)``.
            row: The tiles.
            kind: Of what drives them.
            noise: Normal numbers for all rows of tiles, one after the other.
            k: Which of the rows of tiles they are.
        """
        x, (spikes, driven) = even(lanes[..., row.first : row.end]), kind
        size = noise.shape[1] // len(self.rows)
        noise = noise[:, k * size : (k + 1) * size]
        chip, scale, edge = self.op.chip, None, fastest(x.device.type)
        graded = not bool(spikes.all())
        if chip.input_scaling == "absmax" and graded:
            largest = x.abs().flatten(2).amax(2, keepdim=True)
            scale = torch.where((largest == 0) | spikes.view(-1, 1, 1), 1.0, largest)
            x = x / scale.view(*scale.shape[:2], *[1] * (x.dim() - 2))
        if self.watch is not None:
            self.watch[0].add(x[~spikes])
        values = x
        if chip.dac_bits is not None and graded:
            worked = driven[~spikes]
            vectors = int((worked > 0).sum()) if chip.skip_idle else worked.numel()
            self.count.input_conversions += vectors * (row.end - row.first)
            values, clipped, driven = edge.dac(x, spikes, chip.dac_bits, chip.dac_bound)
            self.count.clipped += int(clipped.sum())
        values = self._driven(values, spikes, row)
        # Where all groups are driven alike, one vector stands for all of them.
        self._count(driven.reshape(-1, 1 if x.dim() == 3 else x.shape[2]), row)
        used = driven if chip.skip_idle else None
        if chip.bound_management and chip.adc_bits is not None:
            y = self._managed(x, values, spikes, used, row, noise, chip.adc_bits)
        else:
            y = self._column_sums(values, graded, used, row, noise, chip.adc_bits)
        if graded and chip.dac_bound != 1:
            full = torch.where(spikes.view(-1, 1, 1), 1.0, chip.dac_bound)
            scale = full if scale is None else scale * full
        return y if scale is None else y.mul_(scale)

    def _driven(self, values: Tensor, spikes: Tensor, row: TileRow) -> Tensor:
        """Return the share of a full read pulse that the input converters give for ``values``.

        Bent, and off by each row's offset where the row is driven at all; a spike is a full pulse.
        """
        bend, full = self.op.chip.input_nonlinearity or 0.0, self.op.chip.dac_bound
        if (not bend and row.offset is None and full == 1) or bool(spikes.all()):
            return values
        driven = values / full
        driven /= (driven * bend).abs_().add_(1)
        if row.offset is not None:
            driven += row.offset / full * (values != 0)
        return torch.where(spikes.view(-1, *[1] * (values.dim() - 1)), values, driven)

    def _count(self, driven: Tensor, row: TileRow) -> None:
        """Count rows and conversions of vectors that drive so many rows, ``(vectors, groups)``."""
        self.count.active_rows += int(driven.sum()) * len(row.used) // driven.shape[1]
        busy = (driven > 0).sum(0) if self.op.chip.skip_idle else len(driven)
        self.count.conversions += int((busy * row.used).sum())

    def _managed(
        self,
        x: Tensor,
        values: Tensor,
        spikes: Tensor,
        driven: Tensor | None,
        row: TileRow,
        noise: Tensor,
        bits: int,
    ) -> Tensor:
        """Send every input vector that made an output saturate again, half as large.

        ``values`` is what the input converter makes of ``x`` at first; for the rest see
        ``_column_sums``.
        """
        chip, last = self.op.chip, periphery.last_code(bits)
        most = MOST  # where bound management gives up: aihwkit 1.2.0
        if chip.dac_bits is not None:
            most = min(most, 0.25 / periphery.resolution(chip.dac_bits))
        factor, again = 1.0, x.new_ones(*x.shape[:2], 1, dtype=torch.bool)
        y, graded = x.new_zeros(()), not bool(spikes.all())
        while True:
            codes = self._column_sums(values, graded, driven, row, noise, None).round_()
            y = torch.where(again, codes.clamp(-last, last) * factor, y)
            over = (codes.abs() > last) & again
            again = over.any(2, keepdim=True)
            if not bool(again.any()) or factor >= most:
                self.count.saturated += int(over.sum())
                return y
            factor *= 2
            self.count.repeats += int(again.sum())
            noise = normals(self.bits, len(noise), noise.shape[1]).to(x.device)
            values, graded = x / factor, True
            if chip.dac_bits is not None:
                edge = fastest(x.device.type)
                values = edge.dac(values, spikes, chip.dac_bits, chip.dac_bound).values
            values = self._driven(values, spikes, row)

    def _column_sums(
        self,
        x: Tensor,
        graded: bool,
        driven: Tensor | None,
        row: TileRow,
        noise: Tensor,
        bits: int | None,
    ) -> Tensor:
        """Return what the columns add up to, noise included and converted to ``bits``.

        Args:
            x: What drives the rows, ``even``.
            graded: Whether it holds other values than 0 and 1.
            driven: How many rows each vector drives, ``(lanes, n)`` or ``(lanes, n, groups)``;
                where none, the sums are 0. ``None``: all are converted.
            row: The tiles.
            noise: Normal numbers ``(lanes, draws n out)``.
            bits: Of the output converter; ``None`` does not convert.
        """
        chip, edge = self.op.chip, fastest(x.device.type)
        matrices, other = self._even(row), torch.empty_like(x) if graded else x
        y = product(x, matrices[0])
        if row.drops:
            # Spikes are their own magnitudes, and their own squares.
            load = product(torch.abs(x, out=other) if graded else x, matrices[1])
            edge.ir_drop(y, load, product(x, matrices[2]))
        if row.columns is not None:
            y *= row.columns.transmission
        variance = None
        if row.open:
            squares = torch.mul(x, x, out=other) if graded else x
            variance = product(squares, matrices[-1])
        size = y[0].numel()
        drawn = [noise[:, n : n + size] for n in range(0, noise.shape[1], size)]
        added = (chip.output_noise or 0.0) / self.op.unit
        if chip.output_nonlinearity:
            if variance is not None:
                edge.adc(y, drawn.pop(0), variance, 0.0, None)
                variance = None
            k = chip.output_nonlinearity / chip.adc_bound * self.op.unit
            y /= (y * k).abs_().add_(1)
        last = drawn[0] if drawn else None
        if row.columns is not None:
            edge.adc(y, last, variance, added, None)
            y.mul_(row.columns.gain).add_(row.columns.offset / self.op.unit)
            last = variance = None
        self.count.saturated += int(edge.adc(y, last, variance, added, bits, driven).sum())
        if self.watch is not None:
            self.watch[1].add(y[..., row.scale != 0] * self.op.unit)
        return y
