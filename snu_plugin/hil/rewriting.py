"""Gains fitted anew, and devices written again: all, the worst, or those of worn pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.accepted import COUNT, LEVEL, SHARE, by_known_names
from snu_plugin.hil.pulses import mean_reading, steps


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Recalibrate:
    """Fit the gain of every column anew, so that products are what they were.

    Costs no pulse and no digital value that was not there: 4 runs of 256 probe vectors through
    every crossbar. It undoes drift that a column shares, and nothing that devices do each for
    itself.
    """

    def begin(self, board: Board) -> None:
        """Recalibrate the chip."""
        board.calibrate()


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Write weights again in a closed loop, all of them or the worst, and recalibrate.

    The only way that undoes what devices do each for itself, and the only one that wears them:
    every device that is written takes a RESET, tens of SET pulses and a reading after each. What is
    written drifts from then on as fast as a young device does. Biases and thresholds stay as they
    are. Closed loops on chosen devices: Büchel et al., arXiv 2305.16647.
    """

    worst: float | None = None
    """Share of the weights that is written, those that a read-back shows farthest from their
    targets, in conductance; ``None`` writes all, without reading first."""
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)
    """Targets by node, in the graph's units and shapes; ``None``: the compiled ones. Nodes left
    out are not written."""
    reads: int = 4
    """Readings that the read-back is the mean of."""

    def __post_init__(self) -> None:
        if self.worst is not None:
            SHARE.check("worst", self.worst)
        COUNT.check("reads", self.reads)

    def begin(self, board: Board) -> None:
        """Write the chip.

        Targets beyond what devices hold with the gain of now, which recalibration may have made
        smaller, are written as far as they hold.

        Raises:
            ValueError: For weights of nodes or shapes that the chip does not have.
        """
        products = board.layout.products
        if self.weights is None:
            wanted = {n: op.whole.float().reshape(op.geometry.shape) for n, op in products.items()}
        else:
            wanted = dict(self.weights)
        if unknown := set(wanted) - set(products):
            raise ValueError(
                f"weights holds {', '.join(sorted(unknown))}; the chip has {', '.join(products)}"
            )
        if self.worst is None:
            # Devices that are all new need no gain that made up for the age of the old ones.
            board.set_registers(
                {
                    name: torch.ones_like(value)
                    for name, value in board.registers.items()
                    if name.endswith("gain") and name.rsplit(".", 1)[0] in wanted
                }
            )
        else:
            board.calibrate()
        full, held = dict[str, Tensor](), dict[str, Tensor]()
        for name, per_us in steps(board, 1.0).items():
            op = products[name]
            full[name] = per_us * (op.layout.per_polarity * op.chip.span_us)
            if name in wanted:
                # Outliers lie beside the devices and take none of their range.
                beside = 0.0 if op.outliers is None else op.outliers.reshape(op.geometry.shape)
                most, target = full[name].abs(), wanted[name].reshape(op.geometry.shape)
                held[name] = beside + (target - beside).clamp(-most, most)
        board.write(held, None if self.worst is None else self._worst(board, held, full))
        board.calibrate()

    def _worst(
        self, board: Board, wanted: Mapping[str, Tensor], full: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return masks of the weights that are farthest from what they should be."""
        seen = mean_reading(board, self.reads)
        off = {
            name: (seen[name] - value).abs()
            / full[name].abs().clamp_min(torch.finfo(torch.float32).tiny)
            for name, value in wanted.items()
        }
        every = torch.cat([value.flatten() for value in off.values()])
        count = max(1, round((self.worst or 1.0) * every.numel()))
        least = every.topk(count).values[-1]
        return {name: value >= least for name, value in off.items()}


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
