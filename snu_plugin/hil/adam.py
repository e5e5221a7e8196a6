"""Adam on named values, as a function of its moments: Kingma and Ba, ICLR 2015, alg. 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""The constants of the paper."""


class Moments(NamedTuple):
    """What Adam remembers: running means of gradients and of their squares, by name."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    steps: int


def rest(values: Mapping[str, Tensor]) -> Moments:
    """Return the moments before the first step."""
    zeros = {name: torch.zeros_like(value) for name, value in values.items()}
    return Moments(zeros, zeros, 0)


def step(
    values: Mapping[str, Tensor], gradients: Mapping[str, Tensor], moments: Moments, lr: float
) -> tuple[dict[str, Tensor], Moments]:
    """Return the values after one step of size ``lr``, and the moments after it."""
    steps = moments.steps + 1
    first = {n: m.lerp(gradients[n], 1 - BETA_1) for n, m in moments.first.items()}
    second = {
        n: v.mul(BETA_2).addcmul(gradients[n], gradients[n], value=1 - BETA_2)
        for n, v in moments.second.items()
    }
    size, width = lr / (1 - BETA_1**steps), (1 - BETA_2**steps) ** 0.5
    moved = {
        name: value.addcdiv(first[name], second[name].sqrt() / width + EPSILON, value=-size)
        for name, value in values.items()
    }
    return moved, Moments(first, second, steps)
