"""Magnitudes that a converter met, and the range in which it loses least of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snu_plugin.accelerator.periphery import resolution

PER_OCTAVE = 16
"""Bins for each factor of 2: ends of ranges are found to 4 %."""
SMALLEST, LARGEST = -40, 40
"""Powers of 2 beyond which magnitudes are counted with the last bin."""
BINS = (LARGEST - SMALLEST) * PER_OCTAVE


class Magnitudes:
    """A histogram of magnitudes other than 0, which every converter gives exactly."""

    def __init__(self) -> None:
        # Of each bin: how many, their sum, the sum of their squares.
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        """Count values, of any shape."""
        size = values.detach().abs().flatten().double()
        size = size[size > 0]
        if not size.numel():
            return
        place = ((size.log2() - SMALLEST) * PER_OCTAVE).long().clamp(0, BINS - 1)
        for row, power in enumerate((torch.ones_like(size), size, size * size)):
            self.sums[row] += torch.bincount(place, power, BINS).cpu()
        self.largest = max(self.largest, float(size.max()))

    @property
    def rms(self) -> float:
        """Root of the mean square; 0 where nothing was met."""
        count, _, squares = self.sums.sum(1).tolist()
        return math.sqrt(squares / count) if count else 0.0

    def best_end(self, bits: int) -> float | None:
        """Return the end of the range that loses least, in the units of the values.

        The mean squared error of a converter of so many bits: a step of the range squared over 12
        for what it rounds, the square of what is less than half a step, which becomes 0, and the
        square of what is beyond the end. ``None`` where nothing was met.
        """
        if not self.largest:
            return None
        bins = torch.arange(BINS + 1, dtype=torch.float64)
        edges = torch.exp2(bins / PER_OCTAVE + SMALLEST)
        below = torch.cat((torch.zeros(3, 1, dtype=torch.float64), self.sums.cumsum(1)), 1)
        above = below[:, -1:] - below
        clipped = above[2] - 2 * edges * above[1] + edges**2 * above[0]
        # The end itself may be the largest value: then nothing is clipped.
        ends = torch.cat((edges, torch.tensor([self.largest], dtype=torch.float64)))
        clipped = torch.cat((clipped, clipped.new_zeros(1)))
        counted = torch.cat((below[0], below[0, -1:]))
        step = 2 * ends * resolution(bits)
        vanish = torch.searchsorted(edges, step / 2, right=True) - 1
        vanish = vanish.clamp(0, BINS)
        lost = below[2, vanish] + (counted - below[0, vanish]).clamp_min(0) * step**2 / 12 + clipped
        lost[ends > self.largest] = torch.inf
        return float(ends[lost.argmin()])
