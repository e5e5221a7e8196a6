"""Normal numbers, and values that relax by them, fused; see ``normal_numbers``, the specification.

No fast mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from snu_plugin.accelerator.normal_numbers import (
    HALF,
    LN_2,
    LOG,
    ONE,
    ROOT_HALF,
    STEP,
    TWO,
    Means,
    circle,
)
from snu_plugin.neuron.numba_scan import compiled

RADIUS_BITS, EXPONENT = np.int32(20), np.int32(23)
RADIUS = np.int32(0xFFFFF)


def polar(pairs: Tensor) -> Tensor:
    """Turn random words into normal numbers; see ``normal_numbers.polar``."""
    lanes, n = pairs.shape
    drawn = torch.empty(lanes, 2 * n, dtype=torch.float32)
    _fill(pairs.numpy(), drawn.numpy())
    return drawn


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, x: Any) -> Any:
    """Return the bits of a float32 as an int32."""
    return types.int32(types.float32), _bitcast(types.int32)


@intrinsic  # type: ignore[untyped-decorator]
def _from_bits(context: Any, x: Any) -> Any:
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
    mantissa = _from_bits(np.int32(bits - np.int32(e << EXPONENT)))
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
def _fill(pairs: Any, drawn: Any) -> None:
    lanes, n = pairs.shape
    for lane in range(lanes):
        # Two arrays: only then can a compiler know that one store does not touch the other.
        _lane(pairs[lane], drawn[lane, :n], drawn[lane, n:])


PAIRS = 1024
"""Pairs of normal numbers that are made at once: what they lie in stays in a cache."""


def relax(value: Tensor, kept: float, sigma: float, pairs: Tensor, total: Tensor) -> None:
    """Let values relax, in place; see ``normal_numbers.relax``."""
    shares = np.float32(kept), np.float32(sigma)
    _relax_all(value.view(-1).numpy(), *shares, pairs.numpy()[0], total.view(-1).numpy())


def relax_over(value: Tensor, means: Means, pairs: Tensor, total: Tensor) -> None:
    """Let values relax while they are looked at; see ``normal_numbers.relax_over``."""
    shares = [np.float32(share) for share in means]
    _relax_all_over(value.view(-1).numpy(), *shares, *pairs.numpy(), total.view(-1).numpy())


@compiled
def _relax_all(value: Any, kept: Any, sigma: Any, pairs: Any, total: Any) -> None:
    n = pairs.size
    first, second = np.empty(PAIRS, np.float32), np.empty(PAIRS, np.float32)
    for begin in range(0, n, PAIRS):
        size = min(n - begin, PAIRS)
        _lane(pairs[begin : begin + size], first[:size], second[:size])
        for start, drawn in ((begin, first), (n + begin, second)):
            end = max(start, min(start + size, value.size))
            _relax(value[start:end], kept, sigma, drawn, total[start:end])


@compiled
def _relax(value: Any, kept: Any, sigma: Any, drawn: Any, total: Any) -> None:
    for i in range(value.size):
        left = drawn[i] * sigma + value[i] * kept
        value[i] = left
        total[i] += left


@compiled
def _relax_all_over(
    value: Any, kept: Any, sigma: Any, end_kept: Any, end_sigma: Any, slope: Any,
    for_mean: Any, for_end: Any, total: Any,
) -> None:  # fmt: skip
    n = for_mean.size
    first, second = np.empty(PAIRS, np.float32), np.empty(PAIRS, np.float32)
    third, fourth = np.empty(PAIRS, np.float32), np.empty(PAIRS, np.float32)
    for begin in range(0, n, PAIRS):
        size = min(n - begin, PAIRS)
        _lane(for_mean[begin : begin + size], first[:size], second[:size])
        _lane(for_end[begin : begin + size], third[:size], fourth[:size])
        for start, mean, last in ((begin, first, third), (n + begin, second, fourth)):
            end = max(start, min(start + size, value.size))
            of_mean, of_end = (kept, sigma), (end_kept, end_sigma, slope)
            _relax_over(value[start:end], of_mean, of_end, mean, last, total[start:end])


@compiled
def _relax_over(value: Any, of_mean: Any, of_end: Any, mean: Any, last: Any, total: Any) -> None:
    kept, sigma = of_mean
    end_kept, end_sigma, slope = of_end
    for i in range(value.size):
        middle = mean[i] * sigma + value[i] * kept
        value[i] = (last[i] * end_sigma + value[i] * end_kept) + middle * slope
        total[i] += middle
