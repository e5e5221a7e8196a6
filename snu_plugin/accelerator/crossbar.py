"""One matrix on its tiles as an inference meets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snu_plugin.accelerator import devices, periphery, synapse, tile, wires
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.columns import Columns
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.noise import Bits, Several, Streams, normals
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.tile import Count, Setup, TileRow
from snu_plugin.schedule import aligned

CHUNK = 1 << 17
"""Values that are worked on at once: what a core's cache holds."""
ROWS = 320
"""Rows below which a product does not use a core well."""


@dataclass
class Crossbar:
    """A matrix as it stands at one moment: aged, with the noise that one inference sees.

    ``observe`` makes it; it is used for one run and thrown away. ``together`` makes one of
    several chips; what a chip owns then has a leading axis of chips.
    """

    op: Product
    setup: Setup
    rows: tuple[TileRow, ...]
    """None of several chips that draw different noise, which can only run apart."""
    plain: Tensor | None
    """Weights ``(out, in)`` in the graph's units if nothing lies between product and bias."""
    gain: Tensor
    """Digital factor on each output of every row of tiles, ``(rows of tiles, out)``."""
    bias: Tensor | None
    counts: tuple[Count, ...] = field(default_factory=lambda: (Count(),))
    """Of each chip."""
    apart: tuple[Crossbar, ...] = ()
    """The same on each chip alone, if there are several."""

    def __call__(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Multiply a signal ``(T, B, ...)``; returns the node's signal as the host sees it.

        Steps are worked on in chunks; their number changes no result. Of several chips, whose
        sequences follow one another in ``B``, one step is worked on together, many steps chip
        after chip.
        """
        if not self.apart:
            return (self._tiled(x) if self.plain is None else self._plain(x, self.plain)), None
        if len(x) == 1 and self.rows and self.plain is None and not self._repeats:
            return self._tiled(x), None
        signals = [part.contiguous() for part in x.chunk(len(self.apart), 1)]
        parts = [one(part)[0] for one, part in zip(self.apart, signals, strict=True)]
        return torch.cat(parts, 1), None

    def probe(self, x: Tensor) -> Tensor:
        """Return what each row of tiles gives for ``(n, in)``, in the graph's units.

        No gain, no bias: ``(rows of tiles, n, out)``. The rows are driven as they are: of a
        convolution by a patch, of groups all alike.
        """
        bare = replace(self, setup=self.setup._replace(groups=1))
        return torch.cat([y * row.scale for row, y in bare._sums(x[None])])

    def exact(self, x: Tensor) -> Tensor:
        """Return what ``probe`` would on perfect periphery, fluctuating noise left out."""
        rows = ((tile.even(x[:, r.first : r.end]), r) for r in self.rows)
        return torch.stack([driven @ r.weight.T * r.scale for driven, r in rows])

    @property
    def _repeats(self) -> bool:
        return self.setup.chip.bound_management

    def _plain(self, x: Tensor, weight: Tensor) -> Tensor:
        (count,) = self.counts
        count.steps += x.shape[0] * x.shape[1]
        count.active_rows += self.op.geometry.driven(x)
        count.conversions += x.shape[0] * x.shape[1] * len(self.gain) * self.op.geometry.positions
        # One rounding and one step at a time, as the strict reference has.
        gained = weight * self.gain[0, :, None]
        steps = (aligned(x[t : t + 1]) for t in range(len(x)))
        return torch.cat([self.op.geometry.multiply(x_t, gained, self.bias) for x_t in steps])

    def _tiled(self, x: Tensor) -> Tensor:
        """Multiply ``(T, B, ...)``; several chips one step."""
        geometry, out_size, chips = self.op.geometry, self.gain.shape[-1], len(self.counts)
        for count in self.counts:
            count.steps += x.shape[0] * x.shape[1] // chips
        n, groups = x.shape[1] // chips * geometry.positions, geometry.groups
        out = torch.empty(len(x) * chips, n, out_size)
        width = n * max(self.op.weight.shape[1] * groups, out_size)
        # Repetitions take noise of their own: one step at a time keeps it in order.
        steps = 1 if self._repeats else max(1, CHUNK // width, ROWS // n)
        for t in range(0, len(x), steps):
            # Patches of a whole sequence could take gigabytes: those of one chunk at a time.
            rows = geometry.rows(x[t : t + steps])
            lanes = out[t : t + steps] if chips == 1 else out
            self._fill(lanes, rows.reshape(len(lanes), n, *rows.shape[-1 if groups == 1 else -2 :]))
        return geometry.signal(out.view(*x.shape[:2], geometry.positions, out_size))

    def _fill(self, out: Tensor, x: Tensor) -> None:
        """Fill ``out``, ``(lanes, n, out)``, from inputs ``(lanes, n, in)``."""
        for n, (row, y) in enumerate(self._sums(x)):
            scale = row.scale * self.gain.view(-1, *self.gain.shape[-2:])[:, n]
            bias = None
            if self.bias is not None and n == len(self.rows) - 1:
                bias = self.bias.view(-1, self.bias.shape[-1])
            periphery.fastest().collect(out, y, scale, bias, more=n > 0)

    def _sums(self, x: Tensor) -> Iterator[tuple[TileRow, Tensor]]:
        """Yield every row of tiles with its converted sums ``(lanes, n, out)``."""
        spikes = self._look(x)
        size = tile.draws(self.setup.chip, self.rows[0]) * x.shape[1] * self.gain.shape[-1]
        noise = normals(self.setup.bits, len(x), len(self.rows) * size)
        for n, row in enumerate(self.rows):
            own = noise[:, n * size : (n + 1) * size]
            part = tile.even(x[..., row.first : row.end])
            yield row, tile.run(part, spikes, row, self.setup, own, self.counts)

    def _look(self, x: Tensor) -> Tensor | bool:
        """Count driven rows; return which lanes hold only 0 and 1, or True if all do."""
        spikes, driven = periphery.fastest().look(x)
        tile.tally(self.counts, "active_rows", driven)
        if bool(spikes.all()):
            return True
        of_chip = [spikes.all()] if len(self.counts) == 1 else spikes
        for count, only in zip(self.counts, of_chip, strict=True):
            count.spikes_only &= bool(only)
        return spikes  # type: ignore[no-any-return]


def together(apart: Sequence[Crossbar]) -> Crossbar:
    """Return the same matrix on several chips as one crossbar; of one chip, itself."""
    first, *others = apart
    if not others:
        return first
    # A chip without fluctuating noise, all weights 0 for example, draws none.
    alike = len({row.variance is None for one in apart for row in one.rows}) == 1
    rows = zip(*(one.rows for one in apart), strict=True) if alike else ()
    return replace(
        first,
        setup=first.setup._replace(bits=Several(tuple(one.setup.bits for one in apart))),
        rows=tuple(_stacked(row) for row in rows),
        gain=torch.stack([one.gain for one in apart]),
        bias=_stack([one.bias for one in apart]),
        counts=tuple(count for one in apart for count in one.counts),
        apart=tuple(apart),
    )


def _stacked(rows: Sequence[TileRow]) -> TileRow:
    """Return the same row of tiles on several chips as one."""
    drops = [row.drop for row in rows if row.drop is not None]
    columns = [row.columns for row in rows if row.columns is not None]
    return rows[0]._replace(
        weight=torch.stack([row.weight for row in rows]),
        variance=_stack([row.variance for row in rows]),
        drop=wires.Drop(*map(torch.stack, zip(*drops, strict=True))) if drops else None,
        columns=Columns(*(torch.stack(v)[:, None] for v in zip(*columns, strict=True)))
        if columns
        else None,
    )


def _stack(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.stack(present) if present else None


def observe(
    op: Product,
    cells: Cells,
    chip: Chip,
    clock_s: float,
    observed_s: float,
    streams: Streams,
    bits: Bits,
    columns: tuple[Columns | None, ...],
    *,
    gain: Tensor,
    bias: Tensor | None,
) -> Crossbar:
    """Return the crossbar as an inference of ``observed_s`` seconds at ``clock_s`` meets it.

    The slow part of the read noise is drawn once; the fast part enters every product as noise on
    its outputs of variance ``Σ_j V_ij x_j²``, exact for independent normal device noise
    (``pcm_accelerator`` sections 2.1 and 9.4).
    """
    difference, variance = _seen(op, cells, chip, clock_s, observed_s, streams)
    plain = None
    if variance is None and len(op.row_blocks) == 1 and _transparent(chip):
        plain = (difference * op.weight_per_us).float()
    weight = (difference / (chip.g_max_us * tile.unit(chip))).float()
    rows = tuple(
        _row(op, span, weight, variance, chip, fixed)
        for span, fixed in zip(op.row_blocks, columns, strict=True)
    )
    return Crossbar(op, Setup(chip, op.geometry.groups, bits), rows, plain, gain, bias)


def _seen(
    op: Product,
    cells: Cells,
    chip: Chip,
    clock_s: float,
    observed_s: float,
    streams: Streams,
) -> tuple[Tensor, Tensor | None]:
    """Return G+ - G- as an inference meets it, ``(out, in)`` µS, and the variance that stays open.

    The variance is that of a weight, ``(out, in)`` in squared steps of the output converter. Of
    what a reference column fluctuates each output takes a draw of its own.
    """
    if chip.read_noise is None or chip.fit is None:
        g = devices.conductance(cells, clock_s, chip)
        plus, minus = synapse.by_polarity(g, chip, op.reference)
        return plus - minus, None
    noise = None
    if devices.has_frozen_noise(chip, observed_s):
        noise = torch.randn(cells.g_us.shape, generator=streams["read"])
    shape = cells.g_us.shape[1:]
    difference, variance = torch.zeros(shape), torch.zeros(shape)
    full_us = chip.g_max_us * tile.unit(chip)
    # Many devices are worked on part by part, so that what lies between stays in a cache.
    rows = max(1, CHUNK // 2 // len(cells.g_us) // shape[1])
    first_s, last_s = cells.t_s.aminmax()
    for first in range(0, shape[0], rows):
        part = slice(first, first + rows)
        own = Cells(*(field[:, part] for field in cells))
        own = own._replace(g_us=own.g_us.float(), t_s=first_s if first_s == last_s else own.t_s)
        g = devices.conductance(own, clock_s, chip)
        frozen, fast = devices.read_sigma(own, g, clock_s, chip, observed_s)
        if noise is not None:
            g = frozen.mul_(noise[:, part]).add_(g).clamp_min_(0)
        open_ = fast.square_()
        for device, share in enumerate(synapse.shares(chip)):
            difference[part].add_(g[device], alpha=share)
            variance[part].add_(open_[device], alpha=(share / full_us) ** 2)
    if chip.has_reference:
        out = len(op.reference)
        difference = difference[:out] - difference[out:][op.reference]
        variance = variance[:out] + variance[out:][op.reference]
    return difference, variance if bool(variance.any()) else None


def _row(
    op: Product,
    span: tuple[int, int],
    weight: Tensor,
    variance: Tensor | None,
    chip: Chip,
    columns: Columns | None,
) -> TileRow:
    first, end = span
    own = weight[:, first:end]
    drop = None
    if chip.wire_ohm:
        lost = wires.prepare(own, tile.unit(chip), chip.wire_ohm, chip.g_max_us)
        drop = wires.Drop(*map(tile.even, lost))
    # The converter's range is fixed in conductance: in weights it differs by column.
    scale = (op.weight_per_us[:, first] * chip.g_max_us * tile.unit(chip)).float()
    open_ = None if variance is None else tile.even(variance[:, first:end])
    return TileRow(first, end, tile.even(own), open_, drop, columns, scale)


def _transparent(chip: Chip) -> bool:
    """Return whether nothing lies between the product and the host."""
    inputs = chip.dac_bits is None and chip.input_scaling == "fixed"
    spreads = (chip.voltage_offset, chip.adc_gain_spread, chip.adc_offset_spread)
    return inputs and not any(
        (
            chip.adc_bits,
            chip.output_noise is not None,
            chip.output_nonlinearity,
            chip.wire_ohm,
            *spreads,
        )
    )
