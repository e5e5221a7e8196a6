"""Steps of a sequence as matrix libraries multiply them alike wherever they lie."""

from __future__ import annotations

from torch import Tensor

BYTES = 64
"""Where torch lets a tensor of its own begin: at a multiple of so many bytes."""


def aligned(x: Tensor) -> Tensor:
    """Return ``x``, or a copy where it begins elsewhere than a tensor of its own would.

    On AMD processors MKL adds the terms of a small product in an order that depends on where they
    lie in memory. A step cut out of a sequence would be rounded otherwise than the same step alone.

    >>> import torch
    >>> x = torch.zeros(3, 5)
    >>> [aligned(x_t).storage_offset() for x_t in x]
    [0, 0, 0]
    """
    return x.clone() if x.storage_offset() * x.element_size() % BYTES else x
