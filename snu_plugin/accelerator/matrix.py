"""Devices as the matrix that inputs meet, element by element: the specification, in plain torch.

What weights show of their devices, and how they are laid out for products. ``numba_matrix`` has
``show`` and ``lay`` too, fused, and gives the same numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.accelerator.devices.model import Law

LEAST = -100
"""Power of two below which numbers are nothing: float32 ends at -126."""


class Showing(NamedTuple):
    """How devices make a weight, and what of their read noise one run keeps."""

    frozen: Tensor | None
    """What stays of the noise of each device, over its deviation, ``(devices of a weight, out,
    in)``; ``None``: nothing."""
    shares: tuple[float, ...]
    """What each device of a weight counts."""
    parts: tuple[float, ...]
    """What the square of its deviation counts in the variance that is new at every product."""
    open: Tensor | None = None
    """What this is multiplied by where devices differ in it, of the shape of ``frozen``."""


def show(
    g: Tensor,
    sigma: Tensor,
    how: Showing,
    difference: Tensor,
    variance: Tensor,
    law: Law | None = None,
    nu: Tensor | None = None,
) -> bool:
    """Put what weights show, ``Σ share max(0, g + sigma frozen)``, into ``difference``.

    And the variance that is new at every product, ``Σ part open sigma²``, into ``variance``.

    Args:
        g: Conductances ``(devices of a weight, out, in)``, µS, float32, contiguous.
        sigma: Standard deviation of a reading, µS.
        how: How devices make a weight.
        difference: ``(out, in)``, contiguous, written.
        variance: Likewise.
        law: Of devices of one age: they show ``g exp(-nu length)``, deviating by ``spread sigma``
            of it; then ``g`` is what was written, float64, and ``sigma`` their relative noise Q_s.
        nu: Their exponents.

    Returns:
        Whether any variance is not 0.

    >>> difference, variance = torch.empty(2, 1, 1)
    >>> g, sigma, frozen = torch.tensor([[[[4.0]], [[1.0]]], [[[1.0]], [[2.0]]], [[[1.0]], [[-3]]]])
    >>> show(g, sigma, Showing(frozen, (1.0, -1.0), (0.125, 0.125)), difference, variance)
    True
    >>> difference, variance
    (tensor([[5.]]), tensor([[0.6250]]))
    """
    if law is not None and nu is not None:
        x = nu * law.length
        g = g.float() * (torch.from_numpy(decayed(x.numpy())) if x.is_cpu else (-x).exp_())
        sigma = g.abs() * sigma * law.spread
    difference.zero_()
    variance.zero_()
    for device, (share, part) in enumerate(zip(how.shares, how.parts, strict=True)):
        own = g[device]
        if how.frozen is not None:
            own = (sigma[device] * how.frozen[device] + own).clamp_min(0)
        difference += share * own
        fresh = sigma[device] * sigma[device] * part
        variance += fresh if how.open is None else fresh * how.open[device]
    return bool(variance.any())


def decayed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``exp(-x)`` within 1e-7 of it for ``x`` from -87 on, by sums and products alone.

    ``2^-n exp(r)``, ``n`` the whole number next to ``x / ln 2``: what every machine rounds alike.

    >>> decayed(np.float32([0.0, 0.5, 1.0])).round(5)
    array([1.     , 0.60653, 0.36788], dtype=float32)
    """
    x = np.minimum(x, END)
    n = np.rint(x * DECADE[0])
    r = (n * DECADE[1] - x) + n * DECADE[2]
    e = np.full_like(x, SERIES[0])
    for coefficient in SERIES[1:]:
        e = e * r + coefficient
    found: NDArray[np.float32] = np.ldexp(e, -n.astype(np.int32))
    return found


DECADE = tuple(np.float32(c) for c in (1 / math.log(2), 0.693359375, math.log(2) - 0.693359375))
"""``1 / ln 2``, and ``ln 2`` in two parts, of which the first has few bits."""
END = np.float32(87)
"""Beyond it nothing is left but the smallest numbers of float32."""
SERIES = tuple(np.float32(1 / math.factorial(k)) for k in range(7, -1, -1))
"""Of the exponential, highest power first."""


class Drop(NamedTuple):
    """What of a matrix ``(out, in)`` IR drop depends on."""

    load: float
    """``n R g_max``: the share of the voltage that a cell's current takes, for a weight of 1."""
    far: Tensor
    """``1 - (1 - j/n)²`` of each row, ``(in,)``, float32."""


def wires(rows: int, unit: float, wire_ohm: float, g_max_us: float) -> Drop:
    """Return the drop along so many rows, of weights in units of ``unit`` times ``g_max_us``.

    Row ``j = 0`` lies at the converter and drops nothing; row ``n - 1`` lies at the far end. The
    ratio ``G_w = 1 / (R g_max)`` of wire to device conductance is that of the device in use.
    """
    near = 1 - torch.arange(rows, dtype=torch.float32) / rows
    return Drop(rows * wire_ohm * g_max_us * 1e-6 * unit, 1 - near**2)


def lay(weight: Tensor, first: int, end: int, drop: Drop | None, variance: Tensor | None) -> Tensor:
    """Return what the inputs of some rows meet, each row in one piece and ``summable``.

    Args:
        weight: ``(out, in)``, float32, contiguous.
        first: The first of the rows.
        end: The one behind the last.
        drop: Of these rows; ``None``: there is none.
        variance: Of the shape of ``weight``; ``None``: there is none.

    Returns:
        ``(end - first, kinds out)``: the weights ``w``; with a drop ``load |w|`` and ``far w``; the
        variance.
    """
    own = weight[:, first:end].t()
    kinds = (
        [own]
        if drop is None
        else [own, own.abs() * drop.load, own * drop.far.to(own.device)[:, None]]
    )
    kinds += [] if variance is None else [variance[:, first:end].t()]
    return summable(torch.cat(kinds, 1))


def summable(columns: Tensor) -> Tensor:
    """Round a matrix ``(in, out)`` so that sums of any numbers of a column are exact in float32.

    To multiples of ``2^-24`` of the power of two above the largest such sum: no coarser than what
    float32 leaves of it. Then the sums of spikes are the same in any order, and so whatever adds
    them up.

    >>> (summable(torch.tensor([[0.5], [2.0**-23], [2.0**-26]])) * 2**23).long().flatten()
    tensor([4194304,       1,       0])
    """
    wide = columns.double()
    most = (wide.abs().sum(0) + wide.sum(0).abs()) / 2
    most *= 1 + len(columns) * 2.0**-23  # that of the rounded ones
    exponent = torch.frexp(most).exponent.clamp_min(LEAST) - 24
    unit = torch.ldexp(torch.ones_like(most), exponent).float()
    return (columns / unit).round_().mul_(unit)
