"""Digital adapters of low rank beside layers, and what other chips learned: ways that wear nothing.

Each is a value with ``begin(board)``; ``fine_tune`` takes several as ``rule=[Recalibrate(),
Adapter(rank=8), DigitalOnly()]``, and each can be used alone. What they cost stands in the chip's
ledger (``Accelerator.spent``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import DENSITY, Board, adapter_of, checked_inputs
from snu_plugin.accepted import COUNT, LEVEL, by_known_names, shown
from snu_plugin.hil.forward import input_moments

LEAST_POWER = 1e-4
"""Power of an input that is never on, as a share of the largest one, where errors are weighed."""
PAUSE_S, PAUSE_OF_AGE = 60.0, 0.01
"""Seconds from one reading to the next at most, and as a share of the chip's clock. Ours: devices
drift with the logarithm of their age, and 16 readings add less than a sixth to it."""


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
        for name in _chosen(board, self.where):
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

    def _undo(self, board: Board, made: list[str]) -> None:
        for name in made:
            board.set_adapter(name, 0)


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Correct:
    """Put digital adapters beside layers that add what the devices lack, as far as they hold it.

    Weights are read back, several times with a pause, so that slow read noise is another each time.
    What they lack of the compiled ones is weighted by the inputs of ``sample``, and of that the
    part of largest effect on the products is added by an adapter (see ``Adapter``): a singular
    value decomposition, nothing is trained, no label is needed. Its directions are those of every
    other reading, its sizes those that the remaining readings confirm, so that noise is not added.

    Costs no pulse; ``reads`` readings of all weights, a run of the sample, ``reads * pause_s``
    seconds of the chip's clock, and digital values and multiplications as ``Adapter``. It makes up
    for what devices do each for itself and stays: errors of writing, and how unevenly they drift.
    What a whole column lacks is left to its gain: recalibrate first. What all devices of a layer
    drift in the meantime is taken out of the readings, and its gains make up for it: a chip written
    seconds ago may be corrected.
    Low rank beside analog weights: VeRA+, arXiv 2603.26016; the closed form is ours.
    """

    rank: int = 16
    """At most; the smaller side of a matrix where that is less."""
    where: Literal["readout", "all"] | Sequence[str] = "all"
    """Beside which nodes, as in ``Adapter``."""
    reads: int = 16
    """Readings, at least 2."""
    pause_s: float | None = None
    """Seconds from one reading to the next; ``None``: a hundredth of what the chip's clock shows, a
    minute at most."""
    sample: Tensor | None = field(default=None, compare=False, repr=False)
    """Inputs ``(T, B, ...)`` such as the chip meets; ``None``: those that it is tuned on, and alone
    all inputs count the same."""

    def __post_init__(self) -> None:
        Adapter(rank=self.rank, where=self.where)
        COUNT.check("reads", self.reads)
        if self.pause_s is not None:
            LEVEL.check("pause_s", self.pause_s)
        if self.reads < 2:
            raise ValueError("reads is 1; half of the readings checks the other half, give 2")

    def begin(self, board: Board) -> None:
        """Put the adapters beside their nodes; those that were there are replaced.

        Raises:
            TypeError: For a sample that is no tensor or array of numbers.
            ValueError: For a node that can have none, or a sample that the chip does not take; the
                chip is as before then.
        """
        if self.sample is not None:
            checked_inputs(board.layout, self.sample)
        Adapter(rank=self.rank, where=self.where).begin(board)
        pause_s = self.pause_s
        if pause_s is None:
            pause_s = min(PAUSE_S, PAUSE_OF_AGE * board.clock_s)
        readings = []
        for number in range(self.reads):
            if number:
                board.wait(pause_s)
            readings.append(board.read_weights())
        found, lack = dict[str, Tensor](), dict[str, Tensor]()
        for name, op in board.layout.products.items():
            wanted = op.weight.double()
            beside = op.whole.double() - wanted
            held = torch.stack([r[name].double().reshape(wanted.shape) - beside for r in readings])
            drifted = _drifted(held, wanted)
            found[f"{name}.gain"] = (board.registers[f"{name}.gain"] / drifted[-1]).float()
            held /= drifted[:, None, None]
            lack[name] = wanted - held / _shown(held.mean(0), wanted)
        # What it is corrected by is weighed by inputs that it meets with the gains of then.
        board.set_registers(found)
        moments = {} if self.sample is None else input_moments(board, self.sample)
        for name in _chosen(board, self.where):
            parts = lack[name][::2].mean(0), lack[name][1::2].mean(0)
            rank = len(board.registers[f"{name}.adapter_in"])
            into, out = confirmed(*parts, moments.get(name), rank)
            found |= {f"{name}.adapter_in": into.float(), f"{name}.adapter_out": out.float()}
        board.set_registers(found)


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Prior:
    """Begin with what another chip of the same network learned: its digital values as a prior.

    Gains change by the same share as its own did, biases and thresholds by the same amount;
    adapters that it trained from nothing are put beside the same nodes, those of ``Correct``, which
    make up for its own devices, are not. Costs no pulse, no reading and no data. What a tuning
    learned is ``History.learnt``:

        history = fine_tune(chip, batches)
        fine_tune(other, batches, rule=[Recalibrate(), history.learnt])
    """

    first: Mapping[str, Tensor] = field(compare=False, repr=False)
    """Digital values of that chip before it learned, by name."""
    last: Mapping[str, Tensor] = field(compare=False, repr=False)
    """The same afterwards."""

    def begin(self, board: Board) -> None:
        """Give the chip what was learned.

        Raises:
            ValueError: For a chip with another network, which is as before then.
        """
        held, moved = board.registers, dict[str, Tensor]()
        for name, then in self.first.items():
            if ".adapter_" in name:
                continue
            if name not in held or held[name].shape != then.shape:
                raise ValueError(f"the chip has no {name} of {tuple(then.shape)}: another network")
            now, gain = self.last[name], name.endswith("gain")
            moved[name] = held[name] * (now / then) if gain else held[name] + (now - then)
        for node in board.layout.products:
            before, learned = adapter_of(self.first, node), adapter_of(self.last, node)
            if learned is not None and (before is None or not bool(before[1].any())):
                board.set_adapter(node, len(learned[0]))
                moved |= {f"{node}.adapter_in": learned[0], f"{node}.adapter_out": learned[1]}
        board.set_registers(moved)


def shown_inputs(way: Any, sample: Tensor) -> Any:
    """Return the same way, with inputs that the network meets where it asks for some.

    >>> shown_inputs(Correct(), torch.zeros(2, 1, 10)).sample.shape
    torch.Size([2, 1, 10])
    """
    if isinstance(way, Correct) and way.sample is None:
        return replace(way, sample=sample)
    return way


def _drifted(held: Tensor, wanted: Tensor) -> Tensor:
    """Return how large readings ``(reads, out, in)`` are, as shares of the first one."""
    size = (held * wanted).sum((1, 2))
    return size / size[0] if bool((size > 0).all()) else torch.ones_like(size)


def _shown(held: Tensor, wanted: Tensor) -> Tensor:
    """Return what of each column ``(out, 1)`` its devices hold, as a recalibration sees it.

    Weighed by inputs as it probes with. What a converter or a line adds to a column of its own is
    not in a reading, and gains make up for it already: a correction must not undo that.
    """
    often = max(DENSITY, 1 / held.shape[1])

    def seen(other: Tensor) -> Tensor:
        alone = (1 - often) * (wanted * other).sum(1, keepdim=True)
        return alone + often * wanted.sum(1, keepdim=True) * other.sum(1, keepdim=True)

    found, whole = seen(held), seen(wanted)
    return torch.where((found > 0) & (whole > 0), found / whole, 1.0)


def confirmed(
    seen: Tensor, again: Tensor, moment: Tensor | None, rank: int
) -> tuple[Tensor, Tensor]:
    """Return matrices ``(rank, in)`` and ``(out, rank)`` whose product is what two errors share.

    Args:
        seen: One measurement of an error, ``(out, in)``, float64.
        again: Another one.
        moment: The mean of ``z z^T`` of the inputs ``z``; ``None``: all the same.
        rank: Of the product.
    """
    if moment is None:
        root = back = torch.eye(seen.shape[1], dtype=torch.float64)
    else:
        power, axes = torch.linalg.eigh(moment.to(seen))
        power = power.clamp_min(max(float(power.max()) * LEAST_POWER, 1e-300)).sqrt()
        root, back = axes * power @ axes.T, axes / power @ axes.T
    left, size, right = torch.linalg.svd(seen @ root, full_matrices=False)
    left, size, right = left[:, :rank], size[:rank], right[:rank]
    size = torch.minimum((left.T @ again @ root * right).sum(1).clamp_min(0), size)
    into = right @ back
    norm = into.square().sum(1, keepdim=True).sqrt().clamp_min(1e-300)
    return into / norm, left * (size * norm[:, 0])


def _chosen(board: Board, where: str | Sequence[str]) -> Sequence[str]:
    """Return the nodes that ``where`` of an adapter names."""
    if where == "all":
        return list(board.layout.products)
    return readout(board) if isinstance(where, str) else where


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
