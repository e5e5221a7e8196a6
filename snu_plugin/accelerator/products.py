"""Products that are rounded alike however many are made at once, and wherever they lie."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from snu_plugin.schedule import aligned

LEAST = 16
"""Rows of a product below which its rounding would depend on how many there are."""
EVEN = 4
"""Columns of whose multiples rows of a product have to be, lest it depend on where they lie."""


def each_step(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what is computed from ``x``, ``(T, ...)``, a step at a time: as the reference rounds.

    ``compute`` takes and gives ``(1, ...)``.
    """
    return torch.cat([compute(aligned(x[t : t + 1])) for t in range(len(x))])


def even(x: Tensor) -> Tensor:
    """Return ``x`` in one piece, its rows filled up with zeros to a multiple of ``EVEN``.

    Of other rows MKL adds the products on AMD processors in an order that depends on the place.
    """
    missing = -x.shape[-1] % EVEN
    return pad(x, (0, missing)) if missing else x.contiguous()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x Wᵀ``, ``(lanes, n, out)``, to the last bit the same whatever the lanes are.

    Both have ``even`` rows. Inputs ``(lanes, n, groups, in)`` meet a group of the outputs each.
    """
    rows, out = x.flatten(0, 1), len(weight)
    if (n := len(rows)) < LEAST:
        rows = pad(rows.flatten(1), (0, 0, 0, LEAST - n)).view(LEAST, *rows.shape[1:])
    if x.dim() == 4:
        parts = weight.reshape(x.shape[2], -1, weight.shape[1])
        y = torch.einsum("...gi,goi->...go", rows, parts).flatten(-2).contiguous()[:n]
    else:
        # A single output would be a product of vectors, which is rounded by another kernel.
        whole = pad(weight, (0, 0, 0, 1)) if out == 1 else weight
        y = torch.mm(rows, whole.T)
        y = y if y.shape == (n, out) else y[:n, :out].contiguous()
    return y.view(*x.shape[:2], -1)
