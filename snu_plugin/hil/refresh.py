"""Pairs of devices that have used up their range, written again."""

from __future__ import annotations

from dataclasses import dataclass

from snu_plugin.accelerator import Board
from snu_plugin.accepted import COUNT, LEVEL, by_known_names
from snu_plugin.hil.update import steps


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Refresh:
    """When a pair has used up its range: RESET both devices and write the weight again.

    In a closed loop (``Board.write``), to what the reading showed; srnn-pcm pulses blindly.
    """

    every: int = 20
    """Updates between two looks at the devices."""
    above: float = 0.5
    """A device is high above this share of ``g_max_us``; 6 of 12 µS in srnn-pcm."""
    difference: float = 0.125
    """... and its pair is worth refreshing below this share; 1.5 of 12 µS in srnn-pcm."""

    def __post_init__(self) -> None:
        COUNT.check("every", self.every)
        LEVEL.check("above", self.above)
        LEVEL.check("difference", self.difference)

    def apply(self, board: Board) -> int:
        """Refresh every pair that meets the criterion; returns how many did.

        Where a weight has several devices, a pair is what its devices count together, each
        polarity as one. A single device has no common part to get rid of and is left alone.

        >>> import torch
        >>> from snu_plugin import graph
        >>> from snu_plugin.accelerator import PCM, Accelerator
        >>> from snu_plugin.compiler import compile
        >>> g = graph.to_nir(torch.nn.Linear(3, 2, bias=False), torch.ones(1, 1, 3), dt=1.0)
        >>> chip = Accelerator(compile(g, PCM), seed=0)
        >>> chip.program()
        >>> Refresh().apply(chip)  # just written: of no pair are both devices high
        0
        """
        count, per_us = 0, steps(board, 1.0)
        for name, g in board.read_conductances().items():
            op = board.layout.products[name]
            difference, full_us = g[0] - g[1], op.chip.g_max_us
            if op.layout.references:
                continue
            high = g.amax(0) > self.above * full_us
            worn = high & (difference.abs() < self.difference * full_us)
            if bool(worn.any()):
                held = difference.clamp(-op.chip.span_us, op.chip.span_us)
                unit = per_us[name].reshape(held.shape) * op.layout.per_polarity
                target = held * unit
                if op.outliers is not None:  # targets are weights of the graph
                    target = target + op.outliers
                board.write({name: target}, {name: worn})
                count += int(worn.sum())
        return count
