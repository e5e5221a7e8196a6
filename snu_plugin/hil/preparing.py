"""Preparations of a chip, judged: what does harm on data that were held back is taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator import Board, adapter_of
from snu_plugin.hil.guard import READS, SURE
from snu_plugin.hil.losses import Loss
from snu_plugin.hil.online import Online
from snu_plugin.hil.rewriting import Rewrite
from snu_plugin.hil.rules import Preparation, weights_of
from snu_plugin.hil.scores import Scores, difference, error

Scored = tuple[Scores[Any], Tensor]
"""What reads the losses of a chip, and what it read."""

FIRST_PARTS = (0.01, 0.09)
"""Shares of what a ``Rewrite`` writes, worst weights first, with a look behind each. Ours."""

LOGGER = logging.getLogger(__name__)
"""Tells before devices are written how many."""


class Prepared(NamedTuple):
    """What a preparation did."""

    way: str
    before: float | None
    """Loss on what was held back, before it; ``None`` where nothing judged."""
    after: float | None
    noise: float | None
    """Two standard errors of the difference of the two."""
    written: int
    """Pulses that it spent."""
    kept: bool
    stopped: bool = False
    """Whether a writing of devices ended early, since what it had written did harm."""

    def text(self) -> str:
        """Return a line that says what it did, and what became of it."""
        if self.before is None or self.after is None:
            return f"{self.way}, judged by nothing"
        found = f"{self.before:.4g} became {self.after:.4g} ± {self.noise:.2g}"
        if self.stopped:
            return f"{self.way}, stopped after {self.written:,} pulses, which did harm: {found}"
        if not self.kept:
            return f"{self.way}, taken back: {found} on what was held back"
        harmed = self.written and self.after - self.before > (self.noise or 0.0)
        return f"{self.way}: {found}" + ", and devices cannot be set back" * bool(harmed)


def prepared(
    chip: Board,
    ways: Sequence[Preparation],
    held: Sequence[tuple[Tensor, Any]] | None,
    fit: Callable[[], Loss],
    online: Online | None = None,
) -> list[Prepared]:
    """Prepare a chip in each way, and take back what does harm beyond the noise of measuring it.

    Digital values, adapters included, are what they were then. Devices cannot be set back: how many
    a ``Rewrite`` may write is logged before, and it begins with the worst of them (``FIRST_PARTS``)
    and goes no further where these did harm. It leaves digital adapters that may make up for what
    the devices of before lacked; they are emptied where that is better.

    Args:
        chip: The chip.
        ways: Preparations, in their order.
        held: What judges; ``None``: nothing does, and all are kept.
        fit: Returns the loss for the chip as it is: outputs that are taken for logits have another
            unit on another chip.
        online: How the chip is run; see ``fine_tune``.
    """
    found = list[Prepared]()
    now: Scored | None = None

    def scored() -> Scored:
        scores = Scores(chip, held or (), fit(), online)
        return scores, scores.of(READS)

    for way in ways:
        first, pulses, says = dict(chip.registers), chip.pulses, repr(way)
        try:
            if held is not None and now is None:
                now = scored()
            stopped = False
            if isinstance(way, Rewrite):
                LOGGER.info(_says(chip, way, looked_at=now is not None))
                if now is not None:
                    stopped = _harms(chip, way, now[1], scored)
                if now is not None and way.worst is not None:  # the first parts are written
                    way = replace(way, worst=way.worst * (1 - sum(FIRST_PARTS)))
            if not stopped:
                way.begin(chip)
            written = chip.pulses - pulses
            if now is None or (not written and _alike(first, chip.registers)):
                mean = None if now is None else float(now[1].mean())
                still = None if mean is None else 0.0
                found.append(Prepared(says, mean, mean, still, written, True))
                continue
            after, before = scored(), now[1]
            if written:
                after = _without_adapters(chip, after, scored)
            kept = (written > 0 and not stopped) or not difference(after[1], before) > 0
            if not kept:
                before, again = _in_turn(chip, first, now[0], after[0])
                after = after[0], again
                kept = not difference(again, before, SURE) > 0
                if not kept:
                    put_back(chip, first)
            left = after if kept else (now[0], before)
            # What was stopped is told as the chip that it began with, and the one that it left.
            ends = (now[1], left[1]) if stopped else (before, after[1])
            began, ended = (float(losses.mean()) for losses in ends)
            doubt = SURE * error(*ends)
            found.append(Prepared(says, began, ended, doubt, written, kept, stopped))
            now = left
        except BaseException:
            put_back(chip, first)
            raise
    return found


def _harms(chip: Board, way: Rewrite, best: Tensor, scored: Callable[[], Scored]) -> bool:
    """Write the first parts of what a way writes; return whether one did harm, and was the last.

    Harm is a loss above the ``best`` so far, before it or after an earlier part. Adapters, which
    make up for devices of before, are empty meanwhile.
    """
    first = dict(chip.registers)
    if empty := _emptied(first):
        chip.set_registers(empty)
        best = scored()[1]
    for share in FIRST_PARTS:
        replace(way, worst=share * (way.worst or 1.0)).begin(chip)
        now = scored()[1]
        if harm := difference(now, best, SURE) > 0:
            break
        best = min(best, now, key=lambda losses: float(losses.mean()))
    chip.set_registers({name: first[name] for name in empty})
    return harm


def put_back(chip: Board, values: Mapping[str, Tensor]) -> None:
    """Give a chip the digital values and adapters that it had."""
    for node in chip.layout.products:
        then, now = adapter_of(values, node), adapter_of(chip.registers, node)
        rank = 0 if then is None else len(then[0])
        if rank != (0 if now is None else len(now[0])):
            chip.set_adapter(node, rank)
    chip.set_registers(values)


def drop_idle(chip: Board, before: Mapping[str, Tensor]) -> None:
    """Take away adapters that add nothing and were not there before: they cost, and do nothing."""
    for node in chip.layout.products:
        held = adapter_of(chip.registers, node)
        if held is not None and not bool(held[1].any()) and adapter_of(before, node) is None:
            chip.set_adapter(node, 0)


def _in_turn(
    chip: Board, first: Mapping[str, Tensor], before: Scores[Any], after: Scores[Any]
) -> tuple[Tensor, Tensor]:
    """Score the values of before and those of now by turns, since a chip ages on the way."""
    last = dict(chip.registers)
    found: tuple[list[Tensor], list[Tensor]] = [], []
    for _ in range(READS):
        for values, scores, into in zip((first, last), (before, after), found, strict=True):
            put_back(chip, values)
            into.append(scores.of(1))
    return torch.cat(found[0]), torch.cat(found[1])


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two sets of digital values compute the same, adapters of nothing aside."""

    def acting(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outs = {n: v for n, v in values.items() if n.endswith(".adapter_out")}
        idle = tuple(n.removesuffix("out") for n, v in outs.items() if not bool(v.any()))
        return {n: v for n, v in values.items() if not n.startswith(idle)}

    one, other = acting(one), acting(other)
    return one.keys() == other.keys() and all(torch.equal(v, other[n]) for n, v in one.items())


def _without_adapters(chip: Board, found: Scored, scored: Callable[[], Scored]) -> Scored:
    """Empty adapters where the chip scores better without them; return what it comes to."""
    values = dict(chip.registers)
    if empty := _emptied(values):
        chip.set_registers(empty)
        without = scored()
        if bool(without[1].mean() < found[1].mean()):
            return without
        chip.set_registers(values)
    return found


def _emptied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return adapters that add something, emptied."""
    return {
        name: torch.zeros_like(value)
        for name, value in values.items()
        if name.endswith(".adapter_out") and bool(value.any())
    }


def _says(chip: Board, way: Rewrite, *, looked_at: bool) -> str:
    """Return what a writing may cost."""
    products = chip.layout.products
    count = sum(len(products[n].layout.shares) * k for n, k in weights_of(chip).items())
    most = (way.worst or 1.0) * count
    parts = [round(share * most) for share in FIRST_PARTS]
    looks = f"; looks after {parts[0]:,} and {parts[1]:,} more can stop it" * looked_at
    return (
        f"{way!r} writes up to {round(most):,} of {count:,} devices anew, "
        f"which cannot be set back{looks}"
    )
