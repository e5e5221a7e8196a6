"""Normal numbers, and values that relax by them, compiled; see ``normal_numbers``.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from snu_plugin.accelerator.normal_numbers import (
    HALF,
    LANES,
    LN_2,
    LOG,
    ONE,
    ROOT_HALF,
    STEP,
    TWO,
    circle,
)
from snu_plugin.neuron.numba_scan import compiled

RADIUS_BITS, EXPONENT = np.int32(20), np.int32(23)
RADIUS = np.int32(0xFFFFF)


@compiled
def _next(state: Any, found: Any) -> None:
    """Give a word of each generator, and let it go on."""
    for i in range(found.size):
        a, b = state[i], state[LANES + i]
        c, d = state[2 * LANES + i], state[3 * LANES + i]
        total = np.uint32(a + d)
        found[i] = np.int32(np.uint32(_turned(total, 7, 25) + a))
        c ^= a
        d ^= b
        state[LANES + i] = b ^ c
        state[i] = a ^ d
        state[2 * LANES + i] = c ^ np.uint32(b << np.uint32(9))
        state[3 * LANES + i] = _turned(d, 11, 21)


@compiled
def _turned(x: Any, by: Any, rest: Any) -> Any:
    return np.uint32(np.uint32(x << np.uint32(by)) | np.uint32(x >> np.uint32(rest)))


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, x: Any) -> Any:
    """Return the bits of a float32 as an int32."""
    return types.int32(types.float32), _bitcast(types.int32)


@intrinsic  # type: ignore[untyped-decorator]
def from_bits(context: Any, x: Any) -> Any:
    """Return the float32 with the bits of an int32."""
    return types.float32(types.int32), _bitcast(types.float32)


def _bitcast(kind: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(kind))

    return generate


@compiled
def _radius(k: Any) -> Any:
    bits = _bits((k + HALF) * STEP)
    e = np.int32(np.int32(bits - ROOT_HALF) >> EXPONENT)
    mantissa = from_bits(np.int32(bits - np.int32(e << EXPONENT)))
    s = (mantissa - ONE) / (mantissa + ONE)
    z = s * s
    a, b, c, d = LOG
    log = ((((a * z + b) * z + c) * z + d) * z + TWO) * s
    return np.sqrt(-TWO * (np.float32(e) * LN_2 + log))


_circle = compiled(circle)
"""The specification itself: nothing in it is peculiar to arrays."""


@compiled
def _lane(pairs: Any, first: Any, second: Any) -> None:
    for i in range(pairs.size):
        word = pairs[i]
        r = _radius(np.float32(np.int32(word & RADIUS)))
        x, y = _circle(np.float32(np.int32(word >> RADIUS_BITS)))
        first[i], second[i] = r * x, r * y


@compiled
def polar(pairs: Any, seeded: Any, drawn: Any) -> None:
    """Turn random words into normal numbers; see ``normal_numbers.polar``."""
    n = drawn.shape[1] // 2
    for lane in range(len(pairs)):
        state, made = _begun(pairs[lane], seeded)
        for begin in range(0, n, LANES):
            end = min(begin + LANES, n)
            some = _some(pairs[lane], seeded, state, made, begin, end)
            # Two arrays: only then can a compiler know that one store does not touch the other.
            _lane(some, drawn[lane, begin:end], drawn[lane, n + begin : n + end])


@compiled
def _begun(pairs: Any, seeded: Any) -> Any:
    """Return the states of ``words``, if these are their seeds, and where words go."""
    if seeded:
        return pairs.view(np.uint32).copy(), np.empty(LANES, np.int32)
    return np.empty(0, np.uint32), np.empty(0, np.int32)


@compiled
def _some(pairs: Any, seeded: Any, state: Any, made: Any, begin: Any, end: Any) -> Any:
    """Return the next words, at most ``LANES``."""
    if not seeded:
        return pairs[begin:end]
    some = made[: end - begin]
    _next(state, some)
    return some


@compiled
def relax(
    value: Any, of_shown: Any, of_end: Any, lasts: Any, pairs: Any, n: Any, seeded: Any, total: Any
) -> None:
    """Let values relax; see ``normal_numbers.relax``."""
    first, second = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    third, fourth = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for_end = pairs[len(pairs) - 1]
    (of_first, made), (of_last, others) = _begun(pairs[0], seeded), _begun(for_end, seeded)
    for begin in range(0, n, LANES):
        size = min(n - begin, LANES)
        some = _some(pairs[0], seeded, of_first, made, begin, begin + size)
        _lane(some, first[:size], second[:size])
        if lasts:
            some = _some(for_end, seeded, of_last, others, begin, begin + size)
            _lane(some, third[:size], fourth[:size])
        for start, drawn, last in ((begin, first, third), (n + begin, second, fourth)):
            stop = max(start, min(start + size, value.size))
            own, sums = value[start:stop], total[start:stop]
            if lasts:
                _relax_over(own, of_shown, of_end, drawn, last, sums)
            else:
                _relax(own, of_shown, drawn, sums)


@compiled
def _relax(value: Any, of_shown: Any, drawn: Any, total: Any) -> None:
    kept, sigma = of_shown
    for i in range(value.size):
        left = drawn[i] * sigma + value[i] * kept
        value[i] = left
        total[i] += left


@compiled
def _relax_over(value: Any, of_mean: Any, of_end: Any, mean: Any, last: Any, total: Any) -> None:
    kept, sigma = of_mean
    end_kept, end_sigma, slope = of_end
    for i in range(value.size):
        middle = mean[i] * sigma + value[i] * kept
        value[i] = (last[i] * end_sigma + value[i] * end_kept) + middle * slope
        total[i] += middle
