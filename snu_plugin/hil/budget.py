"""How many pulses an update may spend: few at first, more while they do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import Board

FIRST_SHARE = 1e-3
"""Pulses of an update before the first look, as a share of the weights, at least one. Ours: so few
do harm that a look hardly sees, and what does harm is seen before it is large."""
MORE = 2.0
"""What that is multiplied by after a look at which they did no harm, where all were spent. Ours."""


def first_pulses(board: Board) -> int:
    """Return how many pulses an update may spend before anything was seen of what they do."""
    count = sum(op.weight.numel() for op in board.layout.products.values())
    return max(1, round(FIRST_SHARE * count))


class Metered:
    """A board that applies at most so many SET pulses of ``pulse``, drawn from those asked for.

    All else is the board's own.
    """

    def __init__(self, board: Board, most: int, seed: int) -> None:
        self._board, self._left = board, most
        self._draw = Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._board, name)

    def pulse(self, counts: Mapping[str, Any]) -> None:
        """Apply pulses as far as they may be spent."""
        self.spend(counts)

    def spend(self, counts: Mapping[str, Any]) -> dict[str, Tensor]:
        """Apply pulses as far as they may be spent, and return those that were."""
        wanted = {name: torch.as_tensor(count) for name, count in counts.items()}
        if not wanted:
            return {}
        flat = torch.cat([count.flatten() for count in wanted.values()])
        size = flat.abs().long()
        if int(size.sum()) > self._left:
            order = torch.randperm(len(size), generator=self._draw)
            before = size[order].cumsum(0) - size[order]
            given = torch.empty_like(size)
            given[order] = torch.minimum((self._left - before).clamp_min(0), size[order])
            flat, size = (flat.sign() * given).to(flat.dtype), given
        self._left -= int(size.sum())
        kept, at = dict[str, Tensor](), 0
        for name, count in wanted.items():
            kept[name] = flat[at : at + count.numel()].reshape(count.shape)
            at += count.numel()
        self._board.pulse({name: count for name, count in kept.items() if bool(count.any())})
        return kept


def pulsed(board: Board, counts: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Apply pulses and return those that were applied, fewer where an update may not spend all."""
    if isinstance(board, Metered):
        return board.spend(counts)
    board.pulse({name: count for name, count in counts.items() if bool(count.any())})
    return counts
