"""One matrix on its tiles: the product between the input and the output converters."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin.accelerator import devices
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices import Cells
from snu_plugin.accelerator.periphery import are_spikes, convert
from snu_plugin.accelerator.program import Product


@dataclass
class Count:
    """What one crossbar did during a run, summed over steps and batch."""

    steps: int = 0
    active_rows: int = 0
    """Inputs that were not zero."""
    conversions: int = 0
    """Outputs converted: columns of every row of tiles, every step."""
    saturated: int = 0
    """Inputs and outputs that hit the end of a converter's range."""
    spikes_only: bool = True
    """Whether every input was 0 or 1, so that no input converter worked."""


@dataclass
class Crossbar:
    """A matrix as it stands at one moment: aged, with the noise that one inference sees.

    ``observe`` makes it; it is used for one run and thrown away.
    """

    op: Product
    chip: Chip
    weight: Tensor
    """Weights with the frozen part of the read noise, ``(out, in)``, float32."""
    variance: Tensor | None
    """Variance of the fluctuating read noise in squared weights, ``(out, in)``, float32."""
    gain: Tensor
    """Digital factor on each output, ``(out,)``."""
    bias: Tensor | None
    noise: Generator
    """Stream of the noise added before the output converter."""
    count: Count = field(default_factory=Count)

    def __call__(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """Multiply inputs ``(T, B, in)``; returns ``(T, B, out)`` as the host sees it."""
        x = self._drive(x)
        chip = self.chip
        plain = chip.adc_bits is None and chip.output_noise is None and self.variance is None
        if plain and len(self.op.row_blocks) == 1:
            # One rounding, as the strict reference has: nothing lies between product and bias.
            return F.linear(x, self.weight * self.gain[:, None], self.bias), None
        y = sum((self._block(x, *rows) for rows in self.op.row_blocks), torch.zeros(()))
        y = y * self.gain
        return (y if self.bias is None else y + self.bias), None

    def _drive(self, x: Tensor) -> Tensor:
        """Convert inputs; spikes pass as they are."""
        count = self.count
        count.steps += x.shape[0] * x.shape[1]
        count.active_rows += int((x != 0).sum())
        outputs = self.weight.shape[0] * len(self.op.row_blocks)
        count.conversions += x.shape[0] * x.shape[1] * outputs
        if self.chip.dac_bits is None or are_spikes(x):
            return x
        count.spikes_only = False
        converted = convert(x, self.chip.dac_bits, self.chip.dac_bound)
        count.saturated += converted.saturated
        return converted.values

    def _block(self, x: Tensor, first: int, end: int) -> Tensor:
        """Return the converted outputs of one row of tiles, in the graph's units."""
        x = x[..., first:end]
        y = F.linear(x, self.weight[:, first:end])
        # The converter's range is fixed in conductance: in weights it differs by column.
        full_scale = (self.op.weight_per_us[:, first] * self.chip.g_max_us).float()
        variance: Tensor | None = None
        if self.variance is not None:
            variance = F.linear(x.square(), self.variance[:, first:end])
        if self.chip.output_noise is not None:
            added = (self.chip.output_noise * full_scale).square()
            variance = added.expand_as(y) if variance is None else variance + added
        if variance is not None:
            y = y + variance.sqrt() * torch.randn(y.shape, generator=self.noise)
        converted = convert(y, self.chip.adc_bits, self.chip.adc_bound * full_scale)
        self.count.saturated += converted.saturated
        return converted.values


def observe(
    op: Product,
    cells: Cells,
    chip: Chip,
    clock_s: float,
    observed_s: float,
    streams: dict[str, Generator],
    *,
    gain: Tensor,
    bias: Tensor | None,
) -> Crossbar:
    """Return the crossbar as an inference of ``observed_s`` seconds at ``clock_s`` meets it.

    The slow part of the read noise is drawn once; the fast part enters every product as noise on
    its outputs of variance ``Σ_j V_ij x_j²``, exact for independent normal device noise
    (``pcm_accelerator`` sections 2.1 and 9.4).
    """
    g = devices.conductance(cells, clock_s, chip)
    frozen, fast = devices.read_sigma(cells, g, clock_s, chip, observed_s)
    if bool(frozen.any()):
        g = (g + frozen * torch.randn(g.shape, generator=streams["read"])).clamp_min(0)
    variance = None
    if bool(fast.any()):
        variance = (fast.square().sum(0) * op.weight_per_us.square()).float()
    weight = ((g[0] - g[1]) * op.weight_per_us).float()
    return Crossbar(op, chip, weight, variance, gain, bias, streams["output"])
