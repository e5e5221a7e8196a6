"""One matrix on its tiles as an inference meets it.

What drives the rows goes through the input converter, the devices, IR drop, voltage offset, read
noise, output non-linearity, output noise and the output converter, in this order (docs/devices.md,
order of a product). Outputs are in steps of the converter, or in full conductances (``g_max_us``
times an input of 1) where there is none. A lane is one step of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from operator import mul
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.accelerator import periphery
from snu_plugin.accelerator.geometry import each_step, even, product
from snu_plugin.accelerator.noise import Fast, normals
from snu_plugin.accelerator.periphery import Ending, Tile
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.variability import Columns
from snu_plugin.neuron import spike_bits, spike_linear

CHUNK = 1 << 18
"""Values that are worked on at once: what a core's cache holds, and few calls."""
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
    squared steps: ``(end - first, kinds out)``, float32, as ``lay`` makes it."""
    drops: bool
    """Whether there is IR drop."""
    open: bool
    """Whether there is a variance."""
    columns: Columns | None
    scale: Tensor
    """What one step stands for in the graph's units, ``(out,)``; 0 of columns left out."""
    used: tuple[int, ...]
    """Columns that are converted, by group."""
    offset: Tensor | None = None
    """What the input converter of each row adds, ``(end - first,)``, ``even``."""

    @property
    def matrices(self) -> Tensor:
        """``(kinds, out, end - first)``."""
        return self.walked.t().view(-1, len(self.scale), self.end - self.first)


class Drive(NamedTuple):
    """What drives a row of tiles."""

    x: Tensor
    """Inputs as the converters meet them, ``(lanes, n, in)``, or ``(lanes, n, groups, in)``."""
    values: Tensor
    """Shares of a full read pulse that the converters give, of this shape."""
    spikes: Tensor
    """Which lanes hold 0 and 1 alone, ``(lanes,)``, bool."""
    graded: bool
    """Whether there are others; then ``x`` and ``values`` are ``even``."""
    driven: Tensor | None
    """How many rows each vector drives, ``(lanes, n)`` or ``(lanes, n, groups)``; where none, the
    sums are 0. ``None``: all are converted."""
    factor: Tensor | None
    """What the sums of each vector are multiplied by, ``(lanes, n or 1, 1)``; ``None`` is 1."""


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
    watch: tuple[Callable[[Tensor], None], Callable[[Tensor], None]] | None = None
    """What is shown the inputs, spikes left out, and the sums that converters meet."""
    _multiplied: dict[int, Tensor] = field(default_factory=dict)
    """The matrices of each row of tiles, ``even``, by its first row: as other inputs meet them."""

    def __call__(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Multiply a signal ``(T, B, ...)``; returns the node's signal as the host sees it.

        Steps are worked on in chunks; their number changes no result.
        """
        self.count.steps += x.shape[0] * x.shape[1]
        if self.exact is not None and self.watch is None:
            return self._exactly(x, self.exact), None
        geometry, chip, out_size = self.op.geometry, self.op.chip, self.gain.shape[1]
        n, groups = x.shape[1] * geometry.positions, geometry.groups
        out, edge = x.new_empty(len(x), n, out_size), fastest(x.device.type)
        width = n * max(self.op.weight.shape[1] * groups, out_size)
        # Repetitions take noise of their own: one step at a time keeps it in order.
        steps = 1 if chip.bound_management else max(1, CHUNK // width, ROWS // n)
        # Whether between IR drop, noise and converter there is nothing else.
        kind = self.rows[0]
        others = chip.output_nonlinearity, chip.bound_management, self.watch, kind.columns
        plain = groups == 1 and not any(others)
        scales = [row.scale * gain for row, gain in zip(self.rows, self.gain, strict=True)]
        sigma = (chip.output_noise or 0.0) / self.op.unit
        last = None if self.op.adc is None else self.op.adc.last
        for t in range(0, len(x), steps):
            # Patches of a whole sequence could take gigabytes: those of one chunk at a time.
            rows = geometry.rows(x[t : t + steps])
            lanes = rows.reshape(len(rows), n, *rows.shape[-1 if groups == 1 else -2 :])
            noise, part = self._noise(lanes), out[t : t + steps]
            if not plain:
                for k, (row, scale) in enumerate(zip(self.rows, scales, strict=True)):
                    y = self._converted(self._drive(lanes, row), row, noise, k)
                    bias = self.bias if k == len(scales) - 1 else None
                    edge.accumulate(part, y, scale, bias, more=k > 0)
                continue
            drawn = noise if noise.shape[1] else None
            to = Ending(kind.drops, kind.open, drawn, sigma, last, len(scales), self.bias, part)
            words = spike_bits(lanes, kind.walked.shape[1])
            if words is not None:
                self._walk(words, scales, to)
                continue
            # Spikes are their own magnitudes, and their own squares. On a single row of tiles there
            # are too many or too few to be walked, as was just seen.
            multiply = F.linear if len(scales) == 1 else spike_linear
            for k, (row, scale) in enumerate(zip(self.rows, scales, strict=True)):
                drive = self._drive(lanes, row)
                if drive.graded:
                    sums = self._products(drive, row)
                else:
                    sums = [multiply(drive.x, row.walked.t())]
                clipped = edge.finish(sums, k, scale, drive.driven, drive.factor, to)
                self.count.saturated += clipped
        return geometry.signal(out.view(*x.shape[:2], geometry.positions, out_size)), None

    def probe(self, x: Tensor) -> Tensor:
        """Return what each row of tiles gives for ``(n, in)``, in the graph's units.

        No gain, no bias: ``(rows of tiles, n, out)``. The rows are driven as they are: of a
        convolution by a patch, of groups all alike.
        """
        noise, found = self._noise(x[None]), []
        for k, row in enumerate(self.rows):
            found.append(self._converted(self._drive(x[None], row), row, noise, k) * row.scale)
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
        driven = geometry.driven(x)
        self._count(*periphery.tally(driven, geometry.groups), driven.numel(), self.rows[0])
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

    def _drive(self, lanes: Tensor, row: TileRow) -> Drive:
        """Return what the input converters of a row of tiles make of all inputs, and count it.

        ``lanes`` are ``(lanes, n, in)``, or ``(lanes, n, groups, in)``.
        """
        chip, edge, size = self.op.chip, fastest(lanes.device.type), row.end - row.first
        absmax, converter = chip.input_scaling == "absmax", self.op.dac
        # What is scaled first is converted below.
        met = edge.drive(lanes, row.first, row.end, None if absmax else converter)
        x, spikes, factor = lanes[..., row.first : row.end], met.spikes, None
        if absmax and met.graded:
            largest = x.abs().flatten(2).amax(2, keepdim=True)
            factor = torch.where((largest == 0) | spikes.view(-1, 1, 1), 1.0, largest)
            x = x / factor.view(*factor.shape[:2], *[1] * (x.dim() - 2))
            if converter is not None:
                values, clipped, driven = edge.dac(even(x), spikes, converter)
                rows, busy = periphery.tally(driven, len(met.busy))
                met = met._replace(
                    values=values, clipped=clipped, driven=driven, rows=rows, busy=busy
                )
        if self.watch is not None:
            self.watch[0](x[~spikes])
        if met.graded and converter is not None:
            worked = met.worked if chip.skip_idle else met.driven[~spikes].numel()
            self.count.input_conversions += worked * size
            self.count.clipped += met.clipped
        values = x if met.values is None else met.values
        if met.graded:
            values = self._driven(even(values), spikes, row)
            if chip.dac_bound != 1:
                full = torch.where(spikes.view(-1, 1, 1), 1.0, chip.dac_bound)
                factor = full if factor is None else factor * full
        self._count(met.rows, met.busy, met.driven.numel(), row)
        driven = met.driven if chip.skip_idle else None
        return Drive(x, values, spikes, met.graded, driven, factor)

    def _walk(self, words: Tensor, scales: list[Tensor], to: Ending) -> None:
        """Send spikes through all rows of tiles, from their bits, and count them."""
        pairs = zip(self.rows, scales, strict=True)
        tiles = [Tile(row.first, row.end, row.walked, scale) for row, scale in pairs]
        skip_idle = self.op.chip.skip_idle
        found = fastest(to.out.device.type).walk(words, tiles, skip_idle, to)
        for row, (rows, busy, clipped) in zip(self.rows, found, strict=True):
            self.count.active_rows += rows
            self.count.conversions += sum(row.used) * (busy if skip_idle else words.shape[1])
            self.count.saturated += clipped

    def _products(self, drive: Drive, row: TileRow) -> list[Tensor]:
        """Return the sums of the columns, those that IR drop needs, and their variance."""
        matrices, x = self._even(row), even(drive.values)
        sums = [product(x, matrices[0])]
        if not (row.drops or row.open):
            return sums
        # Spikes are their own magnitudes, and their own squares.
        other = torch.empty_like(x) if drive.graded else x
        if row.drops:
            sums.append(product(torch.abs(x, out=other) if drive.graded else x, matrices[1]))
            sums.append(product(x, matrices[2]))
        if row.open:
            sums.append(product(torch.mul(x, x, out=other) if drive.graded else x, matrices[-1]))
        return sums

    def _converted(self, drive: Drive, row: TileRow, noise: Tensor, k: int) -> Tensor:
        """Return the converted sums of a row of tiles, in steps, ``(lanes, n, out)``.

        ``noise`` holds normal numbers for all rows of tiles, one after the other; ``k`` says which
        of them these are.
        """
        size = noise.shape[1] // len(self.rows)
        noise, adc = noise[:, k * size : (k + 1) * size], self.op.adc
        if adc is not None and self.op.chip.bound_management:
            y = self._managed(drive, row, noise, adc.last)
        else:
            y = self._column_sums(drive, row, noise, None if adc is None else adc.last)
        return y if drive.factor is None else y.mul_(drive.factor)

    def _driven(self, values: Tensor, spikes: Tensor, row: TileRow) -> Tensor:
        """Return the share of a full read pulse that the input converters give for ``values``.

        Bent, and off by each row's offset where the row is driven at all; a spike is a full pulse.
        """
        bend, full = self.op.chip.input_nonlinearity or 0.0, self.op.chip.dac_bound
        if not bend and row.offset is None and full == 1:
            return values
        driven = values / full
        driven /= (driven * bend).abs_().add_(1)
        if row.offset is not None:
            driven += row.offset / full * (values != 0)
        return torch.where(spikes.view(-1, *[1] * (values.dim() - 1)), values, driven)

    def _count(self, rows: int, busy: list[int], vectors: int, row: TileRow) -> None:
        """Count ``vectors`` that drive ``rows`` in all; how many drive any say ``busy``, by group.

        Where all groups are driven alike, one vector stands for all of them.
        """
        alike = len(row.used) // len(busy)
        self.count.active_rows += rows * alike
        if not self.op.chip.skip_idle:
            busy = [vectors // len(busy)] * len(busy)
        self.count.conversions += sum(map(mul, busy * alike, row.used))

    def _managed(self, drive: Drive, row: TileRow, noise: Tensor, last: int) -> Tensor:
        """Send every input vector that made an output saturate again, half as large."""
        converter, most = self.op.dac, MOST  # where bound management gives up: aihwkit 1.2.0
        if self.op.chip.dac_bits is not None:
            most = min(most, 0.25 / periphery.resolution(self.op.chip.dac_bits))
        x, spikes = drive.x, drive.spikes
        factor, again = 1.0, x.new_ones(*x.shape[:2], 1, dtype=torch.bool)
        y = x.new_zeros(())
        while True:
            codes = self._column_sums(drive, row, noise, None).round_()
            y = torch.where(again, codes.clamp(-last, last) * factor, y)
            over = (codes.abs() > last) & again
            again = over.any(2, keepdim=True)
            if not bool(again.any()) or factor >= most:
                self.count.saturated += int(over.sum())
                return y
            factor *= 2
            self.count.repeats += int(again.sum())
            noise = normals(self.bits, len(noise), noise.shape[1]).to(x.device)
            values = even(x / factor)
            if converter is not None:
                values = fastest(x.device.type).dac(values, spikes, converter).values
            if not bool(spikes.all()):
                values = self._driven(values, spikes, row)
            drive = drive._replace(values=values, graded=True)

    def _column_sums(self, drive: Drive, row: TileRow, noise: Tensor, last: int | None) -> Tensor:
        """Return what the columns add up to, noise included and converted.

        ``noise`` holds normal numbers ``(lanes, draws n out)``; ``last`` is the largest code,
        ``None`` converts nothing.
        """
        chip, edge = self.op.chip, fastest(noise.device.type)
        y, *others = self._products(drive, row)
        if row.drops:
            edge.ir_drop(y, *others[:2])
        if row.columns is not None:
            y *= row.columns.transmission
        variance = others[-1] if row.open else None
        size = y[0].numel()
        drawn = [noise[:, n : n + size] for n in range(0, noise.shape[1], size)]
        added = (chip.output_noise or 0.0) / self.op.unit
        if chip.output_nonlinearity:
            if variance is not None:
                edge.adc(y, drawn.pop(0), variance, 0.0, None)
                variance = None
            k = chip.output_nonlinearity / chip.adc_bound * self.op.unit
            y /= (y * k).abs_().add_(1)
        normal = drawn[0] if drawn else None
        if row.columns is not None:
            edge.adc(y, normal, variance, added, None)
            y.mul_(row.columns.gain).add_(row.columns.offset / self.op.unit)
            normal = variance = None
        self.count.saturated += edge.adc(y, normal, variance, added, last, drive.driven)
        if self.watch is not None:
            self.watch[1](y[..., row.scale != 0] * self.op.unit)
        return y
