"""Loops of pools by the largest number, of images channels last; see docs/kernels.md.

An image is rows of places of ``channels`` numbers, all side by side, given by its address. Windows
lie side by side. Which number of a window is its largest is kept in a byte, row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.jit import compiled, parallel
from snu_plugin.neuron.numba_scan.kernels import _zero
from snu_plugin.neuron.numba_scan.simd import Rows, Vector

PLACES = 256
"""Numbers of a window that a byte can tell apart."""

WIDTHS = 256, 64, 32
"""Bytes of a window's channels at once: few channels are one register."""


def _each_number(
    builder: Any, height: Any, width: Any, down: Any, across: Any, j: Any,
    body: Callable[[Any, Any], None],
) -> None:  # fmt: skip
    """Emit ``body(where, which)`` for all numbers of a window, column ``j`` of their channels."""
    with cgutils.for_range(builder, height) as rows, cgutils.for_range(builder, width) as columns:
        a, b = rows.index, columns.index
        where = builder.add(builder.mul(a, down), builder.add(builder.mul(b, across), j))
        which = builder.add(builder.mul(a, width), b)
        body(where, builder.trunc(which, ir.IntType(8)))


def _bytes(builder: Any, address: Any, j: Any, width: int) -> Any:
    """Return where bytes lie from column ``j`` on."""
    byte = ir.IntType(8)
    kind = ir.VectorType(byte, width) if width > 1 else byte
    start = builder.gep(builder.inttoptr(address, byte.as_pointer()), [j])
    return builder.bitcast(start, kind.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def _pool_window(
    context: Any, x: Any, down: Any, across: Any, height: Any, width: Any, y: Any, places: Any,
    channels: Any, like: Any,
) -> Any:  # fmt: skip
    """Put the largest numbers of a window and their places; NaN is larger than all.

    Rows of the window are ``down`` numbers apart, its columns ``across``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, down, across, height, width, y, places, channels, like = arguments
        given, out = (Rows(builder, like.type, None, start) for start in (x, y))

        def body(j: Any, many: int) -> None:
            most = cgutils.alloca_once_value(builder, given.at(j, many).value)
            at = _bytes(builder, places, j, many)
            place = cgutils.alloca_once_value(builder, ir.Constant(at.type.pointee, None))

            def look(where: Any, which: Any) -> None:
                value, before = given.at(where, many).value, builder.load(most)
                passes = builder.or_(
                    builder.fcmp_ordered(">", value, before),
                    builder.fcmp_unordered("uno", value, value),
                )
                here = simd.splat(builder, which, many).value
                builder.store(builder.select(passes, value, before), most)
                builder.store(builder.select(passes, here, builder.load(place)), place)

            _each_number(builder, height, width, down, across, j, look)
            out.put(Vector(builder, builder.load(most)), j)
            builder.store(builder.load(place), at, align=1)

        simd.columns(builder, like.type, channels, body, WIDTHS)
        return context.get_dummy_value()

    taken = x, down, across, height, width, y, places, channels, like
    return types.none(*taken), generate


@intrinsic  # type: ignore[untyped-decorator]
def _unpool_window(
    context: Any, gy: Any, places: Any, gx: Any, down: Any, across: Any, height: Any, width: Any,
    channels: Any, like: Any,
) -> Any:  # fmt: skip
    """Put each gradient to its place in a window, 0 elsewhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        gy, places, gx, down, across, height, width, channels, like = arguments
        given, out = (Rows(builder, like.type, None, start) for start in (gy, gx))

        def body(j: Any, many: int) -> None:
            g = given.at(j, many)
            place = builder.load(_bytes(builder, places, j, many), align=1)

            def put(where: Any, which: Any) -> None:
                here = simd.splat(builder, which, many).value
                chosen = Vector(builder, builder.icmp_unsigned("==", place, here))
                out.put(chosen.where(g, g.like(0)), where)

            _each_number(builder, height, width, down, across, j, put)

        simd.columns(builder, like.type, channels, body, WIDTHS)
        return context.get_dummy_value()

    taken = gy, places, gx, down, across, height, width, channels, like
    return types.none(*taken), generate


@compiled
def pool_rows(x, y, places, rows, columns, channels, height, width, size, like):  # type: ignore[no-untyped-def]
    """Pool so many rows of windows; ``columns`` are those of ``x``."""
    across, windows = channels, columns // width
    down = columns * across
    for r in range(rows):
        for c in range(windows):
            given = x + (r * height * down + c * width * across) * size
            at = (r * windows + c) * channels
            _pool_window(
                given, down, across, height, width, y + at * size, places + at, channels, like
            )


@compiled
def unpool_rows(gy, places, gx, rows, left, columns, channels, height, width, size, like):  # type: ignore[no-untyped-def]
    """Fill the gradient of so many rows of windows, and of the rows ``left`` below them."""
    across, windows = channels, columns // width
    down = columns * across
    beside = (columns - windows * width) * across * size
    for r in range(rows):
        for c in range(windows):
            to = gx + (r * height * down + c * width * across) * size
            at = (r * windows + c) * channels
            _unpool_window(
                gy + at * size, places + at, to, down, across, height, width, channels, like
            )
        if beside:
            for a in range(height):
                _zero(gx + (r * height + a + 1) * down * size - beside, beside)
    if left:
        _zero(gx + rows * height * down * size, left * down * size)


@parallel
def pool(x, y, places, rows, columns, channels, height, width, size, like, lo, hi, number):  # type: ignore[no-untyped-def]
    """Pool the images ``lo`` to ``hi``."""
    windows = rows // height
    for image in range(lo, hi):
        given = x + image * rows * columns * channels * size
        at = image * windows * (columns // width) * channels
        pool_rows(
            given, y + at * size, places + at, windows, columns, channels, height, width, size, like
        )


@parallel
def unpool(gy, places, gx, rows, columns, channels, height, width, size, like, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill the gradients of the images ``lo`` to ``hi``."""
    windows = rows // height
    left = rows - windows * height
    for image in range(lo, hi):
        to = gx + image * rows * columns * channels * size
        at = image * windows * (columns // width) * channels
        unpool_rows(
            gy + at * size, places + at, to, windows, left, columns, channels, height, width, size,
            like,
        )  # fmt: skip
