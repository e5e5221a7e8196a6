"""Loops of units whose outputs are pooled at once, so that these never reach memory.

Images are channels last. A part of one, a few rows of windows of all channels, goes through a
segment of steps; its outputs lie in the second cache and are pooled there. Going back, gradients of
the pools are spread there before the units take them. Both go through the loops of ``kernels``,
with columns of their own. Nothing here adds up otherwise than these and ``pool_kernels`` do.
"""

from __future__ import annotations

from functools import partial

from snu_plugin.neuron.numba_scan import kernels
from snu_plugin.neuron.numba_scan.jit import compiled, parallel
from snu_plugin.neuron.numba_scan.kernels import SCRATCH, SEGMENT, _load, _store
from snu_plugin.neuron.numba_scan.pool_kernels import pool_rows, unpool_rows

WIDEST = 4096
"""Columns of a part, where a row of windows is not wider: 256 kB of outputs of a segment."""

_forward, _backward = kernels.forward.part, kernels.backward.part
NONE = 0, 1


@compiled
def part_of(n, parts, rows, height, wide):  # type: ignore[no-untyped-def]
    """Return which image part ``n`` is of, and from and to which of its windows and columns.

    Images have ``rows`` of ``wide`` columns; rows that no window takes belong to the last part.
    """
    image, part = n // parts, n % parts
    windows = rows // height
    first, last = part * windows // parts, (part + 1) * windows // parts
    end = rows if last == windows else last * height
    return image, first, last, (image * rows + first * height) * wide, (image * rows + end) * wide


@partial(parallel, rows=SCRATCH)
def forward(  # type: ignore[no-untyped-def]
    x, v, carried, decay, threshold, below, floor, kind, size, s, y_last, marks, pooled, places,
    spare, rows, line, channels, height, width, apart, parts, steps, columns, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill pools of outputs, ``pooled`` and ``places``, and what ``kernels.forward`` does.

    Images have ``rows`` of ``line`` places; ``lo`` to ``hi`` are parts of these, so many an image.
    ``spare`` has ``SEGMENT`` rows for each thread, ``apart`` numbers from each other.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    outputs = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        for t in range(0, steps, SEGMENT):
            many = min(SEGMENT, steps - t)
            begins = carried if t else v
            ends = y_last if t + many == steps else 0
            mark = marks + t // SEGMENT * columns * size if marks else 0
            given = x + t * columns * size
            _forward(given, begins, carried, decay, threshold, NONE, below, floor, kind, size, s,
                     ends, outputs - a * size, mark, SEGMENT, 0, apart, many, columns, scratch, a,
                     b, number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                pool_rows(outputs + k * apart * size, pooled + at * size, places + at,
                          last - first, line, channels, height, width, size, floor)  # fmt: skip


@partial(parallel, rows=SCRATCH)
def backward(  # type: ignore[no-untyped-def]
    g_pooled, places, gs_last, gy_last, x, marks, decay, threshold, below, floor, kind, size,
    through, gx, carried, gl, gtheta, spare, rows, line, channels, height, width, apart, parts,
    steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill the gradients ``gx``; see ``forward`` and ``kernels.backward``.

    ``carried`` are zeros before. Sums go on from what they hold.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    grads = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        left = (b - a) // (line * channels) - (last - first) * height
        for t in range((steps - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            many = min(SEGMENT, steps - t)
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                unpool_rows(g_pooled + at * size, places + at, grads + k * apart * size,
                            last - first, left, line, channels, height, width, size,
                            floor)  # fmt: skip
            at_end = t + many == steps
            if gy_last and at_end:
                to = grads + (many - 1) * apart * size
                for j in range(b - a):
                    more = _load(gy_last, a + j, floor)
                    _store(to, j, _load(to, j, floor) + more, floor)
            now = t * columns * size
            mark = marks + t // SEGMENT * columns * size
            _backward(grads - a * size, gs_last if at_end else 0, x + now, 0, mark, SEGMENT, 0,
                      decay, threshold, NONE, below, floor, kind, size, through, gx + now, carried,
                      carried, gl, gtheta, apart, many, columns, scratch, a, b, number)  # fmt: skip
