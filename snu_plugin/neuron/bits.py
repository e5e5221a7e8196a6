"""Matrices of 0 and 1 as bits."""

from __future__ import annotations

import torch
from torch import Tensor


def unpacked(words: Tensor, columns: int) -> Tensor:
    """Return the bits of ``SpikeProduct`` as a matrix of 0 and 1, ``(rows, columns)``.

    >>> unpacked(torch.tensor([[5, 2]]), 3)
    tensor([[1, 0, 1],
            [0, 1, 0]])
    """
    bits = words.t().unsqueeze(-1) >> torch.arange(64) & 1
    return bits.flatten(1)[:, :columns]
