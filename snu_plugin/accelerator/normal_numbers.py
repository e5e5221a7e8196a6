"""Normal numbers from random words, and values that relax by them: the specification.

The same numbers everywhere, to the last bit: ``numba_normal_numbers`` has ``polar`` and ``relax``
too, compiled. Both work on arrays of NumPy, and put what they make into those that they are given.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Single = NDArray[np.float32]
Words = NDArray[np.int32]

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


def words(seeds: Words, count: int) -> Words:
    """Return random words ``(count,)`` of many small generators that begin with seeds.

    xoshiro128++ (Blackman and Vigna 2021), ``LANES`` of them: each gives a word, then each the
    next. As vectors they are several times as fast as one that is as good.

    Args:
        seeds: Random bits ``(4 LANES,)``: the first words of all states, then the second.
        count: How many words.
    """
    a, b, c, d = seeds.view(np.uint32).reshape(4, LANES).copy()
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
    return found.reshape(-1)[:count].view(np.int32)


def _turned(x: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (x << np.uint32(by)) | (x >> np.uint32(32 - by))


@cache
def tables() -> tuple[Single, Single, Single]:
    """Return all radii, cosines and sines there are."""
    return radius(np.arange(2**20, dtype=np.float32)), *circle(
        np.arange(-2048, 2048, dtype=np.float32)
    )


def polar(pairs: Words, seeded: bool, drawn: Single) -> None:
    """Turn random words ``(lanes, n)`` into normal numbers ``(lanes, 2 n)``.

    Where they are ``seeded``, these are the seeds of ``n`` ``words`` a lane.

    To the last bit the same whatever computes them. Box and Muller 1958 on 32 bits a pair: 20 for
    the radius, 12 for the angle, so that magnitudes end at 5.4 σ. Only float32 sums, products,
    quotients and roots, which every machine rounds alike: the library functions do not.
    """
    length, cos, sin = tables()
    n = drawn.shape[1] // 2
    if seeded:
        pairs = np.stack([words(seeds, n) for seeds in pairs])
    r, turn = length[pairs & 0xFFFFF], (pairs >> 20) + 2048
    drawn[:, :n] = r * cos[turn]
    drawn[:, n:] = r * sin[turn]


def relax(
    value: Single,
    of_shown: tuple[np.float32, np.float32],
    of_end: tuple[np.float32, np.float32, np.float32],
    lasts: bool,
    pairs: Words,
    n: int,
    seeded: bool,
    total: Single,
) -> None:
    """Let values ``v`` relax, and add what a look shows of them, ``m``, to ``total``.

    ``m = kept v + sigma x``, ``x`` normal. It is the value itself, or the mean over a look that
    ``lasts``: then the value goes on from ``end_kept v + end_sigma y + slope m``, ``y`` another.

    Args:
        value: Of one axis, changed.
        of_shown: ``kept`` and ``sigma``.
        of_end: ``end_kept``, ``end_sigma`` and ``slope``.
        lasts: Whether the look does.
        pairs: Random words, or seeds, as of ``polar``: a row, and one more if it lasts.
        n: How many words a row stands for, at least half as many as there are values.
        seeded: As of ``polar``.
        total: Of the shape of ``value``, changed.

    >>> value, total = np.ones((2, 3), np.float32)
    >>> half, none = np.float32([0.5, 0.0])
    >>> relax(value, (half, none), (none,) * 3, False, np.zeros((1, 2), np.int32), 2, False, total)
    >>> value.tolist(), total.tolist()
    ([0.5, 0.5, 0.5], [1.5, 1.5, 1.5])
    """
    drawn = np.empty((len(pairs), 2 * n), np.float32)
    polar(pairs, seeded, drawn)
    normal = drawn[:, : value.size]
    kept, sigma = of_shown
    shown = normal[0] * sigma + value * kept
    if lasts:
        end_kept, end_sigma, slope = of_end
        value[:] = (normal[1] * end_sigma + value * end_kept) + shown * slope
    else:
        value[:] = shown
    total += shown
