"""``polar`` compiled by Numba: no fast mathematics and the same steps, so the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from snu_plugin.accelerator.polar import (
    COS,
    HALF,
    LN_2,
    LOG,
    ONE,
    QUARTER_TURN,
    ROOT_HALF,
    SIN,
    STEP,
    TWO,
)
from snu_plugin.neuron.numba_scan import compiled

RADIUS_BITS, EXPONENT = np.int32(20), np.int32(23)
RADIUS = np.int32(0xFFFFF)


def polar(pairs: Tensor) -> Tensor:
    """Turn random words into normal numbers; see ``polar.polar``."""
    lanes, n = pairs.shape
    drawn = torch.empty(lanes, 2 * n)
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


@compiled
def _circle(j: Any) -> Any:
    a = (j + HALF) * QUARTER_TURN
    z = a * a
    s7, s5, s3 = SIN
    c8, c6, c4 = COS
    s = (((s5 - s7 * z) * z - s3) * z + ONE) * a
    c = (((c8 * z - c6) * z + c4) * z - HALF) * z + ONE
    s, c = TWO * s * c, ONE - TWO * s * s
    return ONE - TWO * s * s, TWO * s * c


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
