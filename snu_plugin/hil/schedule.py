"""When a chip in use is looked after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.accepted import POSITIVE

MONTH_S = 30 * 86_400.0
SURE = 2.0
"""Standard errors by which products must have moved besides, to be no noise of the reading."""


class Remembered(NamedTuple):
    """What a schedule keeps from one visit to the next."""

    products: Mapping[str, Tensor]
    """Mean outputs of each crossbar for the probes, as first seen; see ``column_means``."""
    level: float
    """How far the products were from those when the chip was last looked after."""


class Look(NamedTuple):
    """What a visit finds."""

    due: bool
    """Whether the chip is to be looked after now."""
    off: float | None
    """How far its products are from those first seen, a share; ``None``: nobody looked."""


class Schedule(Protocol):
    """When a chip is looked after: a value; what it remembers is kept by whoever uses it."""

    @property
    def seconds(self) -> float:
        """From one visit to the next, s."""

    def start(self, board: Board, probes: Tensor) -> Remembered:
        """Return what is remembered of the chip as it is now."""

    def look(self, board: Board, probes: Tensor, before: Remembered) -> Look:
        """Return whether something is to be done at this visit."""

    def after(self, board: Board, probes: Tensor, before: Remembered) -> Remembered:
        """Return what is remembered once the chip was looked after."""


@dataclass(frozen=True)
class Every:
    """Look after the chip at every visit.

    Raises:
        ValueError: For seconds that are no positive number.
    """

    seconds: float = MONTH_S
    """From one visit to the next, s."""

    def __post_init__(self) -> None:
        POSITIVE.check("seconds", self.seconds)

    def start(self, board: Board, probes: Tensor) -> Remembered:
        """Return that nothing is remembered."""
        return Remembered({}, 0.0)

    def look(self, board: Board, probes: Tensor, before: Remembered) -> Look:
        """Return that the time has come."""
        return Look(True, None)

    def after(self, board: Board, probes: Tensor, before: Remembered) -> Remembered:
        """Return that nothing is remembered."""
        return before


@dataclass(frozen=True)
class WhenWorse:
    """Look after the chip when its products have moved away; this needs no labels.

    At every visit a few probes run through the network, and the mean output of every column is
    compared with what it was when the chip was first looked at (``products_off``). The chip is due
    when that difference has grown by more than ``by``, beyond the noise of the reading, since it
    was last looked after, so that what cannot be mended does not call for mending at every visit.
    Slow read noise counts as drift does. Ours, ``by`` as well: 5 % is what drift with an exponent
    of 0.05 does while the age of the devices grows threefold.

    Raises:
        ValueError: For settings that are not positive.
    """

    by: float = 0.05
    """Growth of the difference that calls for upkeep, a share of the products."""
    seconds: float = MONTH_S
    """From one visit to the next, s."""
    reads: int = 4
    """Runs of the probes that are averaged at each look."""

    def __post_init__(self) -> None:
        for name in ("by", "seconds", "reads"):
            POSITIVE.check(name, getattr(self, name))

    def start(self, board: Board, probes: Tensor) -> Remembered:
        """Return the products of now, and how far a second look is from them: the noise."""
        seen = column_means(board, probes, self.reads)
        products = {name: runs.mean(0) for name, runs in seen.items()}
        return Remembered(products, products_off(board, probes, products, self.reads).share)

    def look(self, board: Board, probes: Tensor, before: Remembered) -> Look:
        """Return whether the products are off by more than after the last upkeep."""
        off = products_off(board, probes, before.products, self.reads)
        return Look(off.share > before.level + self.by + SURE * off.noise, off.share)

    def after(self, board: Board, probes: Tensor, before: Remembered) -> Remembered:
        """Return the same products, and how far upkeep left the chip from them."""
        return before._replace(level=products_off(board, probes, before.products, self.reads).share)


class Off(NamedTuple):
    """How far products are from what they were."""

    share: float
    """The root of the sum of squares of the differences over that of the products then."""
    noise: float
    """The share of it that scatter from run to run makes, its standard error."""


def column_means(board: Board, probes: Tensor, reads: int) -> dict[str, Tensor]:
    """Return what each output of the crossbars is on average over the steps and probes of a run.

    Args:
        board: The chip; it runs, which ages it by the length of the runs and is booked.
        probes: Inputs ``(T, B, ...)``, no labels.
        reads: Runs.

    Returns:
        ``(reads, ...)`` by node.
    """
    runs = [board.run(probes, record=True)[1].products for _ in range(reads)]
    return {name: torch.stack([one[name].mean((0, 1)) for one in runs]) for name in runs[0]}


def products_off(
    board: Board, probes: Tensor, products: Mapping[str, Tensor], reads: int = 4
) -> Off:
    """Return how far the products for the probes are from ``products``, means by node.

    That of the crossbar where it is largest; see ``column_means``.
    """
    worst = Off(0.0, 0.0)
    for name, now in column_means(board, probes, reads).items():
        then = products[name]
        if bool(then.any()):
            size = float(then.norm())
            error = (now.var(0).sum() / reads).sqrt() if reads > 1 else torch.zeros(())
            off = Off(float((now.mean(0) - then).norm()) / size, float(error) / size)
            worst = max(worst, off)
    return worst
