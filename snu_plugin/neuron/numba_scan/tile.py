"""What a tile of columns takes from memory before its steps run, and puts there after them.

Addresses, constants, sums and ``zero`` are those of ``numba_scan.kernels``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype

from snu_plugin.neuron.numba_scan.jit import compiled

SHORT = 64
"""Numbers side by side from which on adding them takes no longer for being few."""


@intrinsic  # type: ignore[untyped-decorator]
def _load(context: Any, start: Any, index: Any, like: Any) -> Any:
    """Return the number at an address; ``like`` has its precision."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, index, like = arguments
        return builder.load(builder.gep(builder.inttoptr(start, like.type.as_pointer()), [index]))

    return like(start, index, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(context: Any, start: Any, index: Any, value: Any) -> Any:
    """Put a number at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, index, value = arguments
        place = builder.gep(builder.inttoptr(start, value.type.as_pointer()), [index])
        builder.store(value, place)
        return context.get_dummy_value()

    return types.none(start, index, value), generate


def spread(constant: Any, a: int, n: int, zero: Any) -> Any:
    """Return the values of ``n`` columns from ``a`` on, or ``None``; in compiled code only."""
    raise NotImplementedError


@overload(spread, strict=False)  # type: ignore[untyped-decorator]
def _(constant: Any, a: Any, n: Any, zero: Any) -> Any:
    def nothing(constant, a, n, zero):  # type: ignore[no-untyped-def]
        return None

    def values(constant, a, n, zero):  # type: ignore[no-untyped-def]
        start, period = constant
        if period == 1:
            return np.full(n, _load(start, 0, zero))
        found = np.empty(n, number)
        done = 0
        while done < n:
            at = (a + done) % period
            more = min(period - at, n - done)
            part = found[done : done + more]  # whose own places, not sums, make vectors
            for j in range(more):
                part[j] = _load(start, at + j, zero)
            done += more
        return found

    number = as_dtype(zero)
    return nothing if isinstance(constant, types.NoneType) else values


@compiled
def begin(start, a, n, zero):  # type: ignore[no-untyped-def]
    """Return what ``n`` columns from ``a`` on start from: a copy, or zeros for ``None``."""
    found = np.full(n, zero)
    if start is not None:
        for j in range(n):
            found[j] = _load(start, a + j, zero)
    return found


@compiled
def end(start, a, last):  # type: ignore[no-untyped-def]
    """Put what the columns from ``a`` on carry to an address, unless it is ``None``."""
    if start is not None:
        for j in range(len(last)):
            _store(start, a + j, last[j])


@compiled
def copy(start, a, to, b, n, zero):  # type: ignore[no-untyped-def]
    """Put the numbers of ``n`` columns from ``a`` on to others from ``b`` on, unless ``None``."""
    if to is not None:
        for j in range(n):
            _store(to, b + j, _load(start, a + j, zero))


def sums(sums: Any, n: int, zero: Any) -> Any:
    """Return zeros for ``n`` columns, or ``None`` where sums is; in compiled code only."""
    raise NotImplementedError


@overload(sums, strict=False)  # type: ignore[untyped-decorator]
def _(sums: Any, n: Any, zero: Any) -> Any:
    if isinstance(sums, types.NoneType):
        return lambda sums, n, zero: None
    return lambda sums, n, zero: np.full(n, zero)


def totals(sums: Any) -> Any:
    """Return float64 zeros, one period of ``sums``, or ``None`` for ``None``; in compiled code."""
    raise NotImplementedError


@overload(totals, strict=False)  # type: ignore[untyped-decorator]
def _(sums: Any) -> Any:
    if isinstance(sums, types.NoneType):
        return lambda sums: None
    return lambda sums: np.zeros(sums[1])


@compiled
def add(totals, found, a):  # type: ignore[no-untyped-def]
    """Add what the columns from ``a`` on have gathered to the period of which they are part.

    Short periods are gathered several at a time.
    """
    if totals is None:
        return
    n, period = len(found), len(totals)
    width = min(n, period * max(SHORT // period, 1))
    gathered = np.zeros(width)
    for done in range(0, n, width):
        row = found[done : done + width]
        for j in range(len(row)):
            gathered[j] += row[j]
    place = a % period
    for j in range(width):
        totals[place] += gathered[j]
        place = 0 if place + 1 == period else place + 1


@compiled
def put(sums, totals, number, zero):  # type: ignore[no-untyped-def]
    """Put totals to the ``number``-th period of sums, in their precision."""
    if sums is None:
        return
    start, period, wide = sums
    if wide:
        end(start, number * period, totals)
        return
    row = np.full(period, zero)
    for j in range(period):
        row[j] = totals[j]
    end(start, number * period, row)
