"""What a chip loses on batches that it does not learn from, in parts, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator import Board
from snu_plugin.hil.forward import batch_axis
from snu_plugin.hil.online import Online

Target = TypeVar("Target")
Loss = Callable[[Tensor, Target], Tensor]

PIECES = 20
"""Parts of a batch whose losses are taken apart, to see how they scatter."""
ADDS_UP = 1e-3
"""Share of a loss within which the sum or the mean of those of its parts is taken for it. Ours."""


@dataclass
class Scores(Generic[Target]):
    """The losses of a chip on what is held back, read as often as is asked for."""

    chip: Board
    held: Sequence[tuple[Tensor, Target]]
    loss: Loss[Target]
    online: Online | None = None
    """How it learns; then it runs in segments here too."""
    taken: str | None = None
    """How the loss of a batch is divided, see ``PARTS``; ``None``: not known before the first."""

    @torch.no_grad()
    def of(
        self,
        reads: int,
        *,
        refuse: bool = True,
        pairs: Sequence[tuple[Tensor, Any]] | None = None,
    ) -> Tensor:
        """Return the losses ``(reads, parts)``, float64, each part some sequences of a batch.

        Of what is held back, or of other ``pairs``; what is not finite is infinite, or refused.

        Raises:
            ValueError: To ``refuse`` losses that are not finite.
        """
        pairs = self.held if pairs is None else pairs
        found = torch.tensor(
            [
                [float(loss) for x, target in pairs for loss in self._parts(x, target)]
                for _ in range(reads)
            ],
            dtype=torch.float64,
        )
        if refuse and not bool(found.isfinite().all()):
            raise ValueError(
                f"the loss of what is held back is {float(found.sum())}; check data and loss"
            )
        return found.nan_to_num(math.inf, math.inf)

    def _parts(self, x: Tensor, target: Any) -> list[Tensor]:
        """Run a batch and return its loss in parts."""
        if self.online is None:
            return self._losses(x, self.chip.run(x)[0], target)
        found: list[Tensor] = []
        for part in self.online.segments(self.chip, x, target, record=False):
            losses = [part.share * loss for loss in self._losses(part.x, part.output, part.target)]
            found = [a + b for a, b in zip(found, losses, strict=True)] if found else losses
        return found

    def _losses(self, x: Tensor, output: Tensor, target: Any) -> list[Tensor]:
        """Return the loss of a batch in parts, or whole where target or loss take no parts."""
        axis, count = batch_axis(target, x), x.shape[1]
        if axis is None or count < 2 or self.taken == "whole":
            return [self.loss(output, target)]
        every = torch.arange(count)

        def of(at: Tensor) -> Tensor:
            return self.loss(output[:, at], target.index_select(axis, at.to(target.device)))

        try:
            if self.taken is None:
                self.taken = division(of, every)
            return PARTS[self.taken](of, every)
        except (RuntimeError, ValueError, IndexError):  # a loss for whole batches alone
            self.taken = "whole"
            return [self.loss(output, target)]


Of = Callable[[Tensor], Tensor]
"""From the places of some sequences of a batch to the loss of these alone."""


def own_losses(of: Of, every: Tensor) -> list[Tensor]:
    """Return the losses of up to ``PIECES`` parts of a batch."""
    return [of(at) for at in every.chunk(PIECES)]


def influences(of: Of, every: Tensor) -> list[Tensor]:
    """Return what parts of a batch have to do with its loss: their mean is the loss.

    Pseudo-values of the jackknife, by what the loss is without a part (Tukey, Ann. Math. Stat. 29,
    1958): for losses that compare sequences or weigh them by what else is in the batch, of which
    a part alone has another one.
    """
    places = every.chunk(PIECES)
    without = torch.stack([of(every[~torch.isin(every, at)]) for at in places])
    return list(of(every) + (len(places) - 1) * (without.mean() - without))


PARTS: Mapping[str, Callable[[Of, Tensor], list[Tensor]]] = {
    "own": own_losses,
    "influence": influences,
}
"""How the loss of a batch is divided."""


def division(of: Of, every: Tensor) -> str:
    """Return how a loss is to be divided: into the losses of parts where these add up to it."""
    whole, parts = float(of(every)), torch.stack(own_losses(of, every)).double()
    share = torch.tensor([len(at) / len(every) for at in every.chunk(PIECES)]).double()
    sums = float(parts.sum()), float(parts @ share)
    return "own" if any(math.isclose(whole, one, rel_tol=ADDS_UP) for one in sums) else "influence"


def difference(worse: Tensor, better: Tensor, errors: float = 1.0) -> float:
    """Return by how much one score exceeds another beyond so many standard errors.

    Not positive: by nothing.
    """
    more = float(worse.mean() - better.mean())
    return more - errors * error(worse, better) if math.isfinite(more) else more


def error(one: Tensor, other: Tensor) -> float:
    """Return the standard error of the difference of two scores ``(runs, parts)``.

    Over runs or over parts, the larger one.
    """
    runs = [score.mean(1) for score in (one, other)]
    found = math.sqrt(sum(float(run.var()) / len(run) for run in runs if len(run) > 1))
    apart = one.mean(0) - other.mean(0)
    if len(apart) > 1:
        found = max(found, float(apart.std()) / math.sqrt(len(apart)))
    return found
