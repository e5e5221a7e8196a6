"""Whether a tuning helps: scores on batches that it does not learn from, and what is kept of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.hil.forward import batch_axis
from snu_plugin.hil.scores import Scores, difference, error

Target = TypeVar("Target")

HELPS, SURE = 1.5, 2.0
"""Standard errors by which a tuning helps if most sequences gain too, and by which it helps whoever
gains; by the latter outputs must also tell classes apart. Ours. A mean can be the work of a few
sequences with a large loss, but then it scatters: few carry it beyond two standard errors.
"""

APART = 3.0
"""Standard errors by which outputs must fit their targets better than those of other sequences.
Ours: tunings by labels drawn at random reached 2.1, those by true ones 4.6 to 12.
"""

FEWEST = 8
"""Answers to judge by from which on a gain can be told from luck. Ours: of fewer, half of which
decide, labels drawn at random were learned in every second tuning.
"""

READS, FINAL_READS = 3, 8
"""Runs of what is held back for a score on the way, and for the two that decide at the end. Ours:
read noise differs from run to run, and a score has to say by how much."""


def hold_back(
    batches: Iterable[tuple[Tensor, Target]], share: float
) -> tuple[list[tuple[Tensor, Target]], list[tuple[Tensor, Target]]]:
    """Return the batches to judge by and those to learn from, in their order.

    The first ``share`` of the distinct batches judge, wherever they come again, at least one, and
    more, up to half of them, until these are ``FEWEST`` answers. Where all are one, so many of its
    sequences judge; where it cannot be divided, it does both.

    ``share`` lies above 0 and below 1.

    Raises:
        ValueError: If there is no batch.
    """
    everything = list(batches)
    if not everything:
        raise ValueError("batches holds none; give at least one pair of input and target")
    names = [_name(x) for x, _ in everything]
    distinct: dict[bytes, tuple[Tensor, Target]] = {}
    for name, one in zip(names, everything, strict=True):
        distinct.setdefault(name, one)
    if len(distinct) == 1:
        return _within(everything, share)
    count = max(1, math.floor(share * len(distinct)))
    each = list(distinct.values())
    while answers(each[:count]) < FEWEST and 2 * (count + 1) <= len(each):
        count += 1
    judging = dict(list(distinct.items())[:count])
    rest = [one for one, name in zip(everything, names, strict=True) if name not in judging]
    return list(judging.values()), rest


def _within(same: list[tuple[Tensor, Any]], share: float) -> tuple[list[Any], list[Any]]:
    """Divide copies of one batch by its sequences."""
    (x, target), count = same[0], same[0][0].shape[1]
    axis = batch_axis(target, x)
    if axis is None or count < 2:
        return same[:1], same
    first = max(1, math.floor(share * count), min(FEWEST, count // 2))
    parts = [
        (x[:, lo:hi], target.narrow(axis, lo, hi - lo)) for lo, hi in ((0, first), (first, count))
    ]
    return parts[:1], parts[1:] * len(same)


def answers(pairs: Iterable[tuple[Tensor, Any]]) -> int:
    """Return to how many answers targets belong: one a sequence, or one at each of its steps."""
    return sum(len(x) * x.shape[1] if batch_axis(y, x) == 1 else x.shape[1] for x, y in pairs)


def _name(x: Tensor) -> bytes:
    """Return what tells the content of a batch from that of others."""
    values = x.detach().cpu().contiguous()
    digest = hashlib.blake2b(str((values.dtype, values.shape)).encode(), digest_size=16)
    digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()


class Outcome(NamedTuple):
    """What a trial came to."""

    loss: float
    harm: float
    """By how much the loss is larger than before, beyond the noise; not positive: by nothing."""
    help: float
    """By how much it is smaller."""


class Settled(NamedTuple):
    """How a tuning ended, on what it was not looked at before."""

    began: float
    """The loss before the first update."""
    before: float
    """With the first digital values, on the devices of now."""
    best: float
    """With the best ones."""
    noise: float
    """Two standard errors of their difference."""
    kept: bool
    """Whether the best values are on the chip."""
    fell: bool
    """Whether the loss fell by more than its noise, if also with the targets of others."""


KNOWN = ("_start", "_best", "before", "_began", "_score", "_pulses", "looks", "best_look")
"""What a guard knows besides chip, data and loss."""


class Guard(Generic[Target]):
    """The best digital values of a tuning so far, by the loss on what is held back.

    Devices cannot be set back, digital values can: the guard returns to its best ones when a look
    shows a loss that is worse than the noise of the measurement explains. Every second part of what
    is held back is looked at on the way; the others decide at the end, since the best of several
    looks seems better than it is.
    """

    def __init__(self, scores: Scores[Target], saved: Mapping[str, Any] | None = None) -> None:
        """Score the chip before the first update, or know what another guard ``saved``.

        Raises:
            ValueError: If the loss is not finite.
        """
        self._scores, self._chip = scores, scores.chip
        self._start = self._best = dict(self._chip.registers)
        self.looks = self.best_look = 0
        self._pulses = self._chip.pulses
        if saved is not None:
            scores.taken = saved["taken"]
            for name in KNOWN:
                setattr(self, name, saved[name])
            return
        every = scores.of(READS)
        self.before = self._score = _half(every, final=False)
        self._began = float(_half(every, final=True).mean())

    def saved(self) -> dict[str, Any]:
        """Return what the guard knows, as tensors and numbers."""
        known = {name: getattr(self, name) for name in KNOWN}
        return known | {"taken": self._scores.taken}

    @property
    def enough(self) -> bool:
        """Whether so much is held back that anything can be kept."""
        return answers(self._scores.held) >= FEWEST

    def set_back(self) -> None:
        """Give the chip its best digital values so far, without measuring."""
        self._chip.set_registers(self._best)

    def trial(self) -> Outcome:
        """Compare the chip as it is with what it was before; nothing is kept."""
        now = self._measured(READS, refuse=False)
        return Outcome(
            float(now.mean()), difference(now, self.before), difference(self.before, now)
        )

    def look(self) -> str:
        """Score the chip as it is: ``"better"`` than ever, ``"worse"`` than at the start, or not.

        ``"back"`` says that it was worse than the best, measured anew, whose digital values it has
        again; ``"worn"`` that the best are no better than what it has, which is worse than at the
        start: its devices are.
        """
        now = self._measured(READS, refuse=False)
        self.looks += 1
        if bool(now.mean() < self._score.mean()):
            self._score, self._best = now, dict(self._chip.registers)
            self.best_look = self.looks
            return "better"
        if not difference(now, self._score) > 0:
            return "the same"
        # The best of several looks seems better than it is, and devices may be others by now.
        values = dict(self._chip.registers)
        self.begin_anew(self._best)
        harmed = difference(now, self.before) > 0
        if not difference(now, self._score) > 0:
            self._chip.set_registers(values)
            return "worn" if harmed else "the same"
        return "worse" if harmed else "back"

    def wear(self) -> float:
        """Return by how many standard errors pulses made the loss larger than at the start.

        With the first digital values, which are what a tuning falls back on: those of now may make
        up for pulses, and not be kept. 0 where no pulse was spent since it was asked last.
        """
        if self._chip.pulses == self._pulses:
            return 0.0
        self._pulses, values = self._chip.pulses, dict(self._chip.registers)
        self._chip.set_registers(self._start)
        now = self._measured(READS, refuse=False)
        self._chip.set_registers(values)
        more, doubt = float(now.mean() - self.before.mean()), error(now, self.before)
        return more / doubt if doubt else math.copysign(math.inf, more) if more else 0.0

    def begin_anew(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Take digital values, or those of now, for the best so far, and score them anew.

        The devices are no longer those of before.
        """
        if values is not None:
            self._chip.set_registers(values)
        self._score, self._best = self._measured(READS, refuse=False), dict(self._chip.registers)

    def settle(self) -> Settled:
        """Leave the best digital values on the chip if they are better than the first ones.

        Both are measured in turn, on what was not looked at before. What cannot tell the class of
        one sequence from that of another has learned nothing from the labels, however much lower
        its loss is (outputs near zero are the best answer to labels drawn at random): it is not
        kept either.
        """
        scores: dict[bool, list[Tensor]] = {False: [], True: []}
        for _ in range(FINAL_READS):
            for tuned, values in ((False, self._start), (True, self._best)):
                self._chip.set_registers(values)
                scores[tuned].append(self._measured(1, final=True))
        first, best = torch.cat(scores[False]), torch.cat(scores[True])
        doubt = error(first, best)
        kept = fell = self.enough and _helps(first, best)
        if fell:
            self._chip.set_registers(self._best)
            own, others = self._measured(READS, refuse=False, final=True), self._mixed_up()
            kept = others is None or difference(others, own, APART) > 0
        self._chip.set_registers(self._best if kept else self._start)
        scores_of = float(first.mean()), float(best.mean())
        return Settled(self._began, *scores_of, SURE * doubt, kept, fell)

    def _measured(
        self,
        reads: int,
        *,
        refuse: bool = True,
        final: bool = False,
        pairs: Sequence[tuple[Tensor, Any]] | None = None,
    ) -> Tensor:
        """Return the losses of the parts for looks or of the ``final`` ones; see ``Scores``."""
        return _half(self._scores.of(reads, refuse=refuse, pairs=pairs), final=final)

    def _mixed_up(self) -> Tensor | None:
        """Return the losses ``(READS, parts)`` with the targets of other sequences.

        Each run has them in another order. ``None`` where that says nothing: targets that cannot be
        divided, are all the same, or are no classes; a mean that all sequences share is worth
        learning where targets are numbers.
        """
        held: Sequence[tuple[Tensor, Any]] = self._scores.held
        if any(batch_axis(y, x) is None or y.is_floating_point() for x, y in held):
            return None
        draw = torch.Generator().manual_seed(0)
        found, same = list[Tensor](), True
        for _ in range(READS):
            mixed = exchanged(held, draw)
            both = zip(held, mixed, strict=True)
            same = same and all(torch.equal(own, other) for (_, own), (_, other) in both)
            found.append(self._measured(1, refuse=False, final=True, pairs=mixed))
        return None if same else torch.cat(found)


def exchanged(
    pairs: Sequence[tuple[Tensor, Tensor]], draw: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Give every sequence the target of another one, of any batch.

    Targets of steps that no other sequence has so many of are moved on in time; a single one of a
    whole sequence stays. Each target has a batch axis.
    """
    axes = [batch_axis(target, x) or 0 for x, target in pairs]
    given = [list(target.unbind(axis)) for (_, target), axis in zip(pairs, axes, strict=True)]
    alike: dict[Any, list[tuple[int, int]]] = {}
    for k, ones in enumerate(given):
        for i, one in enumerate(ones):
            alike.setdefault((axes[k], one.shape, one.dtype), []).append((k, i))
    for (axis, *_), places in alike.items():
        if len(places) == 1 and axis:
            k, i = places[0]
            steps = len(given[k][i])
            by = int(torch.randint(1, max(2, steps), (1,), generator=draw))
            given[k][i] = given[k][i].roll(by, 0)
            continue
        # A ring through all of them, in any order: nobody keeps its own.
        ring = [places[at] for at in torch.randperm(len(places), generator=draw).tolist()]
        targets = [given[k][i] for k, i in ring]
        for (k, i), target in zip(ring, targets[1:] + targets[:1], strict=True):
            given[k][i] = target
    return [
        (x, torch.stack(ones, axis)) for (x, _), ones, axis in zip(pairs, given, axes, strict=True)
    ]


def _half(scores: Tensor, *, final: bool) -> Tensor:
    """Return the parts for looks, or those that decide; where there is one, it is both."""
    return scores[:, int(final) :: 2] if scores.shape[1] > 1 else scores


def _helps(before: Tensor, after: Tensor) -> bool:
    """Return whether the mean falls surely, or rather surely and with it most parts."""
    if difference(before, after, SURE) > 0:
        return True
    return difference(before, after, HELPS) > 0 and _most_gain(before, after)


def _most_gain(before: Tensor, after: Tensor) -> bool:
    """Return whether more parts are better than worse, beyond the scatter of that count."""
    better = (before.mean(0) - after.mean(0)).sign()
    return float(better.sum()) >= HELPS * math.sqrt(len(better))
