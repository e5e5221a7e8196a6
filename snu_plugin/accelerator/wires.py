"""The voltage that the wires of a crossbar take: IR drop in its steady-state form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Drop(NamedTuple):
    """What IR drop needs to know of a matrix."""

    load: Tensor
    """``n R g_max |w|``, ``(..., out, in)``: share of the voltage that a cell's current takes."""
    far: Tensor
    """``w (1 - (1 - j/n)²)``, ``(..., out, in)``, in the units of the product."""


def prepare(weight: Tensor, unit: float, wire_ohm: float, g_max_us: float) -> Drop:
    """Return the drop of a matrix ``(..., out, in)`` in units of ``unit`` times ``g_max_us``.

    Row ``j = 0`` lies at the converter and drops nothing; row ``n - 1`` lies at the far end. The
    ratio ``G_w = 1 / (R g_max)`` of wire to device conductance is that of the device in use.
    """
    n = weight.shape[-1]
    near = 1 - torch.arange(n, dtype=weight.dtype) / n
    return Drop(n * wire_ohm * g_max_us * 1e-6 * unit * weight.abs(), weight * (1 - near**2))


def share(load: Tensor) -> Tensor:
    """Return the share ``c = a (a (0.05 a - 0.2) + 0.5)`` of the far sum that an output lacks.

    ``a`` is the load summed over the driven rows, and ``y - c Σ_j far_j x_j`` what is left of an
    output: aihwkit 1.2.0 (``pcm_accelerator`` section 10.1).
    """
    return load * (load * (0.05 * load - 0.2) + 0.5)
