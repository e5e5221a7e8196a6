"""Digital gains that undo drift, fitted to what the chip's products show."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

Scope = Literal["column", "layer"]

DENSITY = 0.1
"""Share of ones among the probe inputs: few enough not to saturate the converters. Ours."""


def probes(inputs: int, count: int, generator: Generator) -> Tensor:
    """Return random 0/1 inputs ``(1, count, inputs)``."""
    drawn = torch.rand(1, count, inputs, generator=generator)
    return (drawn < max(DENSITY, 1 / inputs)).float()


def gains(seen: Tensor, expected: Tensor, scope: Scope) -> Tensor:
    """Return the factor on each output that brings ``seen`` back to ``expected``.

    ``Σ expected² / Σ expected seen``: the expected values carry no noise, so that noise in the
    readings, which does not drift, cannot bias the factor as it does a ratio of mean magnitudes
    (``pcm_accelerator`` section 11). Outputs that should always be 0 keep a factor of 1.

    Args:
        seen: Measured outputs before the digital gain, ``(..., out)``.
        expected: What the remembered weights give for the same inputs, of the same shape.
        scope: One factor per ``column``, or one for the ``layer``.

    >>> y = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    >>> gains(y / 2, y, "column")
    tensor([2., 2.])
    """
    if scope not in ("column", "layer"):
        raise ValueError(f"scope is {scope!r}; it must be column or layer")
    out = expected.shape[-1]
    power = expected.square().reshape(-1, out).sum(0)
    product = (expected * seen).reshape(-1, out).sum(0)
    if scope == "layer":
        power, product = power.sum().expand(out), product.sum().expand(out)
    usable = (power > 0) & (product > 0)
    return torch.where(usable, power / product.where(usable, torch.ones(())), torch.ones(()))
