"""Normal numbers from random words, and values that relax by them: the specification.

The same numbers everywhere, to the last bit: ``numba_normal_numbers`` has ``polar`` and ``relax``
too, fused.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Single = NDArray[np.float32]

STEP, HALF, ONE, TWO = (np.float32(x) for x in (2.0**-20, 0.5, 1, 2))
LOG = tuple(np.float32(2 / n) for n in (9, 7, 5, 3))
"""Series of ``ln((1 + s) / (1 - s)) = 2 s + 2/3 s³ + ...``, highest power first."""
LN_2 = np.float32(math.log(2))
ROOT_HALF = np.int32(0x3F3504F3)
"""Bits of the float32 next to ``sqrt(1/2)``."""
QUARTER_TURN = np.float32(2 * math.pi / 2**12 / 4)
SIN = tuple(np.float32(1 / math.factorial(n)) for n in (7, 5, 3))
COS = tuple(np.float32(1 / math.factorial(n)) for n in (8, 6, 4))


def radius(k: Single) -> Single:
    """Return ``sqrt(-2 ln u)``, ``u = (k + 1/2) / 2^20``, for whole ``k`` from 0 to 2^20 - 1.

    ``u = 2^e (1 + s) / (1 - s)`` with the mantissa between ``sqrt(1/2)`` and ``sqrt(2)``.
    """
    u = (k + HALF) * STEP
    bits = u.view(np.int32)
    e = (bits - ROOT_HALF) >> np.int32(23)
    mantissa = (bits - (e << np.int32(23))).view(np.float32)
    s = (mantissa - ONE) / (mantissa + ONE)
    z = s * s
    a, b, c, d = LOG
    log = ((((a * z + b) * z + c) * z + d) * z + TWO) * s
    root: Single = np.sqrt(-TWO * (e.astype(np.float32) * LN_2 + log))
    return root


def circle(j: Single) -> tuple[Single, Single]:
    """Return cosine and sine of ``2π (j + 1/2) / 2^12`` for whole ``j`` from -2048 to 2047.

    Series at a quarter of the angle, doubled twice.
    """
    a = (j + HALF) * QUARTER_TURN
    z = a * a
    s7, s5, s3 = SIN
    c8, c6, c4 = COS
    s = (((s5 - s7 * z) * z - s3) * z + ONE) * a
    c = (((c8 * z - c6) * z + c4) * z - HALF) * z + ONE
    s, c = TWO * s * c, ONE - TWO * s * s
    return ONE - TWO * s * s, TWO * s * c


LANES = 1024
"""Generators of ``words`` side by side."""


def words(seeds: Tensor, count: int) -> Tensor:
    """Return random words ``(count,)``, int32, of many small generators that begin with seeds.

    xoshiro128++ (Blackman and Vigna 2021), ``LANES`` of them: each gives a word, then each the
    next. As vectors they are several times as fast as one that is as good.

    Args:
        seeds: Random bits ``(4 LANES,)``, int32: the first words of all states, then the second.
        count: How many words.
    """
    a, b, c, d = seeds.numpy().view(np.uint32).reshape(4, LANES).copy()
    found = np.empty((-(-count // LANES), LANES), np.uint32)
    for row in found:
        row[:] = _turned(a + d, 7) + a
        kept = b << np.uint32(9)
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= kept
        d[:] = _turned(d, 11)
    return torch.from_numpy(found.reshape(-1)[:count].view(np.int32))


def _turned(x: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


@cache
def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """Return all radii, cosines and sines there are."""
    turn = circle(np.arange(-2048, 2048, dtype=np.float32))
    length = radius(np.arange(2**20, dtype=np.float32))
    return torch.from_numpy(length), torch.from_numpy(turn[0]), torch.from_numpy(turn[1])


def polar(pairs: Tensor, count: int | None = None) -> Tensor:
    """Turn random words ``(lanes, n)``, int32, into normal numbers ``(lanes, 2 n)``, float32.

    With a ``count`` these are the seeds of so many ``words`` a lane.

    To the last bit the same whatever computes them. Box and Muller 1958 on 32 bits a pair: 20 for
    the radius, 12 for the angle, so that magnitudes end at 5.4 σ. Only float32 sums, products,
    quotients and roots, which every machine rounds alike: the library functions do not.
    """
    length, cos, sin = _tables()
    if count is not None:
        pairs = torch.stack([words(seeds, count) for seeds in pairs])
    every = pairs.flatten()
    turn = (every >> 20).add_(2048)
    r = length.index_select(0, every & 0xFFFFF)
    drawn = (r * table.index_select(0, turn) for table in (cos, sin))
    return torch.cat([half.view(pairs.shape) for half in drawn], 1)


class End(NamedTuple):
    """Where a relaxation ends that was looked at: ``kept v + sigma n + slope m``.

    ``v`` is its value before, ``n`` a normal number of its own, ``m`` the mean over the look.
    """

    kept: float
    sigma: float
    slope: float


def relax(
    value: Tensor,
    kept: float,
    sigma: float,
    end: End | None,
    pairs: Tensor,
    total: Tensor,
    count: int | None = None,
) -> None:
    """Let values ``v`` relax, in place, and add what a look shows of them, ``m``, to ``total``.

    ``m = kept v + sigma n``, ``n`` normal. It is the value itself, or the mean over a look that
    lasts: then the value goes on from an ``end``.

    Args:
        value: Float32, contiguous, changed in place.
        kept: Share that is kept.
        sigma: Deviation of what is new.
        end: Of a look that lasts.
        pairs: Random words, at least two values for each; see ``polar``. A row for ``m``, and one
            more for the ``end``.
        total: Of the shape of ``value``, changed in place.
        count: As of ``polar``.

    >>> value, total = torch.ones(3), torch.zeros(3)
    >>> relax(value, 0.5, 0.0, None, torch.zeros(1, 2, dtype=torch.int32), total)
    >>> value, total
    (tensor([0.5000, 0.5000, 0.5000]), tensor([0.5000, 0.5000, 0.5000]))
    """
    drawn = [row[: value.numel()].view_as(value) for row in polar(pairs, count)]
    shown = drawn[0] * sigma + value * kept
    if end is None:
        value.copy_(shown)
    else:
        value.copy_((drawn[1] * end.sigma + value * end.kept) + shown * end.slope)
    total += shown
