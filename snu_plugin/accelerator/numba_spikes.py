"""Spikes through rows of tiles, from bits to outputs in one pass; see ``periphery.walk``.

A few columns at a time: their sums are in the second cache still when they are converted. No fast
mathematics and the same order of operations: the numbers are the same, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from snu_plugin.accelerator.periphery import Ending, Tile, Walked
from snu_plugin.neuron.numba_scan import (
    VECTORS,
    WORD,
    Flag,
    Rows,
    Vector,
    bits_set,
    compiled,
    copied,
    parallel,
    run,
    simd,
    threads,
    walked,
)

ZERO = np.float32(0)
ROWS = 1024
"""Vectors whose sums are kept at once, 512 kB with the widest registers."""


def walk(words: Tensor, tiles: Sequence[Tile], skip_idle: bool, to: Ending) -> list[Walked]:
    """Send spikes through all rows of tiles; see ``periphery.walk``."""
    lanes, vectors, columns = to.out.shape
    rows, kinds = lanes * vectors, tiles[0].laid.shape[1] // columns
    width = simd.register_bytes() // 4
    wide = VECTORS // kinds * width
    updates = words.numel() // len(tiles) * tiles[0].laid.shape[1]
    scratch = to.out.new_empty(threads(updates), (WORD + min(rows, ROWS)) * wide * kinds).numpy()
    drawn = None if to.noise is None else to.noise.reshape(lanes, -1, columns).numpy()
    found = []
    for number, tile in enumerate(tiles):
        places = np.zeros((-(-(tile.end - tile.first) // WORD), rows), np.uint64)
        driven, clipped = np.zeros((lanes, vectors), np.int64), np.zeros(len(scratch), np.int64)
        bits_of_x = words.numpy().view(np.uint64)
        on, busy = _cut(bits_of_x, tile.first, tile.end, places, driven.reshape(-1))
        given = (
            places,
            tile.laid.numpy(),
            wide,
            width,
            True if to.drops else None,
            True if to.open else None,
            drawn,
            number * vectors,
            np.float32(to.sigma),
            None if to.last is None else np.float32(to.last),
            driven if skip_idle else driven[:0],
            tile.scale.numpy(),
            None if to.bias is None or number < to.rows - 1 else to.bias.numpy(),
            number > 0,
            to.out.numpy(),
            scratch,
            clipped,
        )
        run(_walk, given, -(-columns // wide), updates)
        found.append(Walked(on, busy, int(clipped.sum())))
    return found


@compiled
def _cut(words: Any, first: Any, end: Any, places: Any, driven: Any) -> Any:
    """Put the bits of the columns ``first`` to ``end`` into ``places``; count them by row.

    Returns how many there are, and in how many rows.
    """
    for j in range(len(places)):
        start = first + j * WORD
        which, shift = start // WORD, np.uint64(start % WORD)
        kept = np.uint64(max(0, WORD - (end - start)))
        for row in range(driven.size):
            word = words[which, row] >> shift
            if shift and which + 1 < len(words):
                word |= words[which + 1, row] << (np.uint64(WORD) - shift)
            word = (word << kept) >> kept
            places[j, row] = word
            driven[row] += np.int64(bits_set(word))
    total, busy = 0, 0
    for count in driven:
        total += count
        busy += count > 0
    return total, busy


@parallel
def _walk(  # type: ignore[no-untyped-def]
    words, laid, wide, vector_width, drops, open_, noise, first, sigma, last, driven, scale, bias,
    more, out, scratch, clipped, lo, hi, number,
):  # fmt: skip
    """Work on the groups ``lo`` to ``hi`` of ``wide`` columns of ``out``."""
    inner, stride = laid.shape
    rows, columns = words.shape[1], out.shape[2]
    width = stride // columns * wide
    own = scratch[number]
    like, size, most = own[0], laid.itemsize, WORD * width
    block = own.ctypes.data
    sums = block + most * size
    for group in range(lo, hi):
        column = group * wide
        n = min(wide, columns - column)
        if n < wide:
            own[:most] = ZERO  # behind the last column it stays so
        for top in range(0, rows, ROWS):
            high = min(ROWS, rows - top)
            own[most : most + high * width] = ZERO
            for j in range(len(words)):
                here = min(WORD, inner - j * WORD)
                for kind in range(stride // columns):
                    at = laid.ctypes.data + (j * WORD * stride + kind * columns + column) * size
                    copied(at, stride, here, n, block + kind * wide * size, width, like)
                word = words.ctypes.data + (j * rows + top) * 8
                walked(word, high, block, sums, width // vector_width, None, 0, 0, 0, like)
            for row in range(high):
                lane, vector = (top + row) // out.shape[1], (top + row) % out.shape[1]
                to = _at(out, lane, vector, column)
                offsets = 0 if bias is None else bias.ctypes.data + column * size
                if driven.size > 0 and driven[lane, vector] == 0:
                    _idle(out[lane, vector, column : column + n], bias, column, more)
                    continue
                drawn = 0 if noise is None else _at(noise, lane, first + vector, column)
                clipped[number] += _end(
                    sums + row * width * size, wide, n, drops, open_, noise, drawn, sigma, last,
                    scale.ctypes.data + column * size, offsets, more, to, like,
                )  # fmt: skip


@compiled
def _at(values: Any, lane: Any, vector: Any, column: Any) -> Any:
    """Return the address of a number of ``(lanes, vectors, columns)``."""
    far = (lane * values.shape[1] + vector) * values.shape[2] + column
    return values.ctypes.data + far * values.itemsize


@compiled
def _idle(out: Any, bias: Any, column: Any, more: Any) -> None:
    """Put what nothing gives, and a bias, into a row."""
    for i in range(out.size):
        value = out[i] if more else ZERO
        out[i] = value if bias is None else value + bias[column + i]


@intrinsic  # type: ignore[untyped-decorator]
def _end(
    context: Any, sums: Any, wide: Any, columns: Any, drops: Any, open_: Any, noise: Any,
    drawn: Any, sigma: Any, last: Any, scale: Any, bias: Any, more: Any, out: Any, like: Any,
) -> Any:  # fmt: skip
    """Do what ``periphery.finish`` does to columns of a vector; return how many were clipped.

    ``sums``, ``drawn``, ``scale``, ``bias`` (0: none) and ``out`` are addresses; kinds of sums lie
    ``wide`` numbers from each other. ``drops``, ``open_``, ``noise``, which ``drawn`` lie in, and
    ``last`` may be ``None``.
    """
    given = [not isinstance(kind, types.NoneType) for kind in (drops, open_, noise, last)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, wide, columns, *_, drawn, sigma, last, scale, bias, more, out, like = arguments
        drops, open_, noisy, converts = given
        whole = out.type
        kinds = Rows(builder, like.type, wide, sums)
        scales, offsets, found = (Rows(builder, like.type, None, at) for at in (scale, bias, out))
        added = Flag(builder, builder.zext(more, whole))
        over = cgutils.alloca_once_value(builder, whole(0))
        builder.store(whole(0), over)

        def body(j: Any, width: int) -> None:
            def every(number: Any) -> Vector:
                return simd.splat(builder, number, width)

            y = kinds.at(j, width)
            if drops:
                load, far = (kinds.at(j, width, whole(k)) for k in (1, 2))
                y = y - ((load * 0.05 - 0.2) * load + 0.5) * load * far
            if noisy:
                level = every(sigma)
                if open_:
                    spread = kinds.at(j, width, whole(1 + 2 * drops))
                    level = _rounded(spread + level * level, "sqrt")
                y = y + Rows(builder, like.type, None, drawn).at(j, width) * level
            if converts:
                end = every(last)
                y = _rounded(y, "rint")
                high, low = y > end, (0 - end) > y
                _count_true(builder, over, high)
                _count_true(builder, over, low)
                y = high.where(end, low.where(0 - end, y))
            y = y * scales.at(j, width)
            y = added.either(lambda: found.at(j, width) + y, lambda: y)
            y = offsets.present.either(lambda: y + offsets.at(j, width), lambda: y)
            found.put(y, j)

        simd.columns(builder, like.type, columns, body)
        return builder.load(over)

    taken = sums, wide, columns, drops, open_, noise, drawn, sigma, last, scale, bias, more
    return types.int64(*taken, out, like), generate


def _rounded(x: Vector, name: str) -> Vector:
    """Emit ``sqrt`` or ``rint``, which every machine rounds alike."""
    kind = x.value.type
    width = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    function = cgutils.get_or_insert_function(
        x.builder.module, ir.FunctionType(kind, [kind]), f"llvm.{name}.{width}f32"
    )
    return Vector(x.builder, x.builder.call(function, [x.value]))


def _count_true(builder: Any, total: Any, truths: Vector) -> None:
    """Add how many truths hold to a number in memory."""
    kind = truths.value.type
    bits = truths.value
    if isinstance(kind, ir.VectorType):
        bits = builder.ctpop(builder.bitcast(bits, ir.IntType(kind.count)))
    whole = total.type.pointee
    many = builder.zext(bits, whole) if bits.type.width < whole.width else bits
    builder.store(builder.add(builder.load(total), many), total)
