"""What is done to a chip once, before or instead of tuning: recalibrated, adapted, written again.

Each is a value with ``begin(board)``; ``fine_tune`` takes several as ``rule=[Recalibrate(),
Adapter(rank=8), DigitalOnly()]``, and each can be used alone. What they cost stands in the chip's
ledger (``Accelerator.spent``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Board, adapter_of
from snu_plugin.accepted import COUNT, SHARE, by_known_names, shown
from snu_plugin.hil.update import steps


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
class Adapter:
    """Put a digital adapter of low rank beside layers, which tuning then trains.

    ``y = product + adapter_out @ (adapter_in @ x)``. Costs no pulse; ``rank (in + out)`` digital
    values a layer, and as many multiplications a step in digital, fewer where inputs are spikes
    (``Cost.adapter_nj``). ``adapter_out`` begins at 0, so that nothing changes before it is
    trained, ``adapter_in`` with normal values of variance ``1 / in``. A node that has an adapter of
    this rank keeps it and its values.
    """

    rank: int = 8
    """At most; the smaller side of a matrix where that is less."""
    where: Literal["readout", "all"] | Sequence[str] = "readout"
    """Beside which nodes: those from which an Output is reached without another product, ``"all"``
    with weights, or the names of nodes."""
    seed: int = 0
    """Of the first values."""

    def __post_init__(self) -> None:
        COUNT.check("rank", self.rank)
        if isinstance(self.where, str) and self.where not in ("readout", "all"):
            raise ValueError(
                f"where is {shown(self.where)}; give 'readout', 'all' or a list of names of nodes"
            )

    def begin(self, board: Board) -> None:
        """Put the adapters beside their nodes.

        Raises:
            ValueError: For a node that can have none; the chip is as before then.
        """
        products, made = board.layout.products, list[str]()
        generator = Generator().manual_seed(self.seed)
        for name in self._names(board):
            if name not in products:
                self._undo(board, made)
                known = ", ".join(products)
                raise ValueError(f"no node {name!r} with weights; the chip has {known}")
            out, inputs = products[name].weight.shape
            rank = min(self.rank, out, inputs)
            first = torch.randn(rank, inputs, generator=generator) / sqrt(inputs)
            held = adapter_of(board.registers, name)
            if held is not None and len(held[0]) == rank and bool(held[0].any()):
                continue
            try:
                board.set_adapter(name, rank)
            except ValueError:
                self._undo(board, made)
                raise
            made.append(name)
            board.set_registers({f"{name}.adapter_in": first.float()})

    def _names(self, board: Board) -> Sequence[str]:
        if self.where == "all":
            return list(board.layout.products)
        return readout(board) if isinstance(self.where, str) else self.where

    def _undo(self, board: Board, made: list[str]) -> None:
        for name in made:
            board.set_adapter(name, 0)


def readout(board: Board) -> list[str]:
    """Return the nodes with weights from which an Output is reached without another product."""
    layout = board.layout
    seen, ahead = set[str](), list(layout.outputs)
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            if name not in layout.products:
                ahead += layout.wiring.sources.get(name, ())
    return [name for name in layout.products if name in seen]


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
    weights: Mapping[str, Tensor] | None = field(default=None, compare=False)
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
        readings = [board.read_weights() for _ in range(self.reads)]
        off = {
            name: (torch.stack([r[name] for r in readings]).mean(0) - value).abs()
            / full[name].abs().clamp_min(torch.finfo(torch.float32).tiny)
            for name, value in wanted.items()
        }
        every = torch.cat([value.flatten() for value in off.values()])
        count = max(1, round((self.worst or 1.0) * every.numel()))
        least = every.topk(count).values[-1]
        return {name: value >= least for name, value in off.items()}
