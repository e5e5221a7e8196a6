"""What sets one column of a tile apart from the next, for the whole life of a chip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip


class Columns(NamedTuple):
    """Constants of the columns of one row of tiles, each ``(out,)``."""

    transmission: Tensor
    """Share of the read voltage that arrives, ``1 - max(0, N(0, voltage_offset))``."""
    gain: Tensor
    """Gain of the output converter, ``N(1, adc_gain_spread)``."""
    offset: Tensor
    """Offset of the output converter, ``N(0, adc_offset_spread)``, in units of ``adc_bound``."""


def draw(out: int, chip: Chip, generator: Generator) -> Columns | None:
    """Draw the constants of ``out`` columns; ``None`` if all columns are alike.

    Forms: voltage offset as in aihwkit 1.2.0; converter spread is ours.
    """
    spreads = (chip.voltage_offset, chip.adc_gain_spread, chip.adc_offset_spread)
    if not any(spreads):
        return None
    lacking, gain, offset = (
        (spread or 0.0) * torch.randn(out, generator=generator) for spread in spreads
    )
    return Columns(1 - lacking.clamp_min(0), 1 + gain, offset)
