"""One matrix on its tiles as an inference meets it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from snu_plugin.accelerator import devices, tile, wires
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.columns import Columns
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.noise import Bits, Streams, normals
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.tile import Count, Setup, TileRow

CHUNK = 1 << 17
"""Values that are worked on at once: what a core's cache holds."""


@dataclass
class Crossbar:
    """A matrix as it stands at one moment: aged, with the noise that one inference sees.

    ``observe`` makes it; it is used for one run and thrown away.
    """

    op: Product
    setup: Setup
    rows: tuple[TileRow, ...]
    plain: Tensor | None
    """Weights ``(out, in)`` in the graph's units if nothing lies between product and bias."""
    gain: Tensor
    """Digital factor on each output, ``(out,)``."""
    bias: Tensor | None
    count: Count = field(default_factory=Count)

    def __call__(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Multiply a signal ``(T, B, ...)``; returns the node's signal as the host sees it.

        Steps are worked on in chunks; their number changes no result.
        """
        geometry, out_size = self.op.geometry, len(self.gain)
        self.count.steps += x.shape[0] * x.shape[1]
        if self.plain is not None:
            self.count.active_rows += geometry.driven(x)
            self.count.conversions += x.shape[0] * x.shape[1] * out_size * geometry.positions
            # One rounding, as the strict reference has.
            return geometry.multiply(x, self.plain * self.gain[:, None], self.bias), None
        n, groups = x.shape[1] * geometry.positions, geometry.groups
        out = torch.empty(len(x), n, out_size)
        width = n * max(self.op.weight.shape[1] * groups, out_size)
        # Repetitions take noise of their own: one step at a time keeps it in order.
        steps = 1 if self.setup.chip.bound_management else max(1, CHUNK // width)
        for t in range(0, len(x), steps):
            # Patches of a whole sequence could take gigabytes: those of one chunk at a time.
            rows = geometry.rows(x[t : t + steps])
            rows = rows.reshape(len(rows), n, *rows.shape[-1 if groups == 1 else -2 :])
            self._fill(out[t : t + steps], rows)
        return geometry.signal(out.view(*x.shape[:2], geometry.positions, out_size)), None

    def probe(self, x: Tensor) -> Tensor:
        """Return the sums of ``(n, in)`` in the graph's units, ``(n, out)``: no gain, no bias.

        The rows are driven as they are: of a convolution by a patch, of groups all alike.
        """
        bare = replace(self, setup=self.setup._replace(groups=1))
        sums = [y * row.scale for row, y in bare._sums(x[None], bare._look(x[None]))]
        return torch.stack(sums).sum(0)

    def exact(self, x: Tensor) -> Tensor:
        """Return what ``probe`` would on perfect periphery, fluctuating noise left out."""
        sums = [x[:, r.first : r.end] @ r.weight.T * r.scale for r in self.rows]
        return torch.stack(sums).sum(0)

    def _fill(self, out: Tensor, x: Tensor) -> None:
        """Fill ``out``, ``(steps, n, out)``, from inputs ``(steps, n, in)``."""
        for n, (row, y) in enumerate(self._sums(x, self._look(x))):
            scale, y = row.scale * self.gain, y.view_as(out)
            torch.mul(y, scale, out=out) if n == 0 else out.addcmul_(y, scale)
        if self.bias is not None:
            out += self.bias

    def _sums(self, x: Tensor, spikes: Tensor | bool) -> Iterator[tuple[TileRow, Tensor]]:
        """Yield every row of tiles with its converted sums ``(steps n, out)``."""
        size = tile.draws(self.setup.chip, self.rows[0]) * x.shape[1] * len(self.gain)
        noise = normals(self.setup.bits, len(x), len(self.rows) * size)
        for n, row in enumerate(self.rows):
            own = noise[:, n * size : (n + 1) * size]
            part = x[..., row.first : row.end]
            yield row, tile.run(part, spikes, row, self.setup, own, self.count)

    def _look(self, x: Tensor) -> Tensor | bool:
        """Count driven rows; return which steps hold only 0 and 1, or True if all do."""
        # A sum is the fastest way to ask whether anything is left; torch.equal is ten times slower.
        rest = (x * x).sub_(x).abs_().flatten(1).sum(1)
        if float(rest.sum()) == 0:
            self.count.active_rows += int(x.flatten(1).sum(1).double().sum())
            return True
        self.count.active_rows += int(x.count_nonzero())
        self.count.spikes_only = False
        return rest == 0


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
    g, variance = _seen(cells, chip, clock_s, observed_s, streams)
    plus, minus = devices.by_polarity(g)
    plain = None
    if variance is None and len(op.row_blocks) == 1 and _transparent(chip):
        plain = ((plus - minus) * op.weight_per_us).float()
    weight = (plus - minus).div_(chip.g_max_us * tile.unit(chip)).float()
    rows = tuple(
        _row(op, span, weight, variance, chip, fixed)
        for span, fixed in zip(op.row_blocks, columns, strict=True)
    )
    return Crossbar(op, Setup(chip, op.geometry.groups, bits), rows, plain, gain, bias)


def _seen(
    cells: Cells, chip: Chip, clock_s: float, observed_s: float, streams: Streams
) -> tuple[Tensor, Tensor | None]:
    """Return the conductances that an inference meets, µS, and the variance that stays open.

    The variance is that of a weight, ``(out, in)`` in squared steps of the output converter.
    """
    g = devices.conductance(cells, clock_s, chip)
    if chip.read_noise is None or chip.fit is None:
        return g, None
    g = g.float()
    frozen, fast = devices.read_sigma(cells, g, clock_s, chip, observed_s)
    if bool(frozen.any()):
        g = frozen.mul_(torch.randn(g.shape, generator=streams["read"])).add_(g).clamp_min_(0)
    if not bool(fast.any()):
        return g, None
    full_us = chip.g_max_us * tile.unit(chip) * chip.per_polarity
    return g, fast.div_(full_us).square_().sum(0)


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
        drop = wires.prepare(own, tile.unit(chip), chip.wire_ohm, chip.g_max_us)
    # The converter's range is fixed in conductance: in weights it differs by column.
    scale = (op.weight_per_us[:, first] * chip.g_max_us * tile.unit(chip)).float()
    open_ = None if variance is None else variance[:, first:end]
    return TileRow(first, end, own, open_, drop, columns, scale)


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
