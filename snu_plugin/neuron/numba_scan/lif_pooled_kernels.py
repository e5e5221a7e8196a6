"""Loops of hosts' leaky neurons whose outputs are pooled at once, as those of ``pooled_kernels``.

Potentials do not reach memory either: going back, each part of an image runs a segment of steps
once more, from the states before it.
"""

from __future__ import annotations

from functools import partial

from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.jit import parallel
from snu_plugin.neuron.numba_scan.kernels import SEGMENT, _move
from snu_plugin.neuron.numba_scan.pool_kernels import pool_rows, unpool_rows
from snu_plugin.neuron.numba_scan.pooled_kernels import part_of

_forward, _backward = kernels.forward.part, kernels.backward.part


@partial(parallel, rows=kernels.ROWS)
def forward(  # type: ignore[no-untyped-def]
    x, v, i, constants, steep, kind, size, v_last, i_last, v_marks, i_marks, pooled, places, spare,
    rows, line, channels, height, width, apart, parts, steps, columns, like, scratch, lo, hi,
    number,
):  # fmt: skip
    """Fill pools of outputs and the states after the last step, as ``kernels.forward`` does.

    ``v_marks`` and ``i_marks`` become the states before all segments but the first. Sizes are as in
    ``pooled_kernels.forward``.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    outputs = spare + number * SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        for t in range(0, steps, SEGMENT):
            many = min(SEGMENT, steps - t)
            if t:
                mark = ((t // SEGMENT - 1) * columns + a) * size
                if v_marks:
                    _move(v_last + a * size, v_marks + mark, (b - a) * size)
                if i_marks:
                    _move(i_last + a * size, i_marks + mark, (b - a) * size)
            _forward(x + t * columns * size, 0, v_last if t else v, i_last if t else i, constants,
                     steep, kind, size, outputs - a * size, 0, 0, 0, v_last, i_last, apart, many,
                     columns, scratch, a, b, number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                pool_rows(outputs + k * apart * size, pooled + at * size, places + at,
                          last - first, line, channels, height, width, size, like)  # fmt: skip


@partial(parallel, rows=kernels.ROWS)
def backward(  # type: ignore[no-untyped-def]
    g_pooled, places, x, v, i, v_marks, i_marks, constants, steep, kind, kind_forward, size, gx,
    gv, gi, ga, gtheta, zeros, spare, rows, line, channels, height, width, apart, parts, steps,
    columns, like, scratch, lo, hi, number,
):  # fmt: skip
    """Fill the gradients of inputs, ``gx``, and of what it started from, as ``kernels.backward``.

    ``gv`` and ``gi`` are what the states after the last step receive, before. ``spare`` has twice
    the rows; ``zeros`` are potentials to start from where there are none.
    """
    windows, across = rows // height, line // width * channels
    images = columns // (rows * line * channels)
    grads = spare + number * 2 * SEGMENT * apart * size
    potentials = grads + SEGMENT * apart * size
    for n in range(lo, hi):
        image, first, last, a, b = part_of(n, parts, rows, height, line * channels)
        left = (b - a) // (line * channels) - (last - first) * height
        for t in range((steps - 1) // SEGMENT * SEGMENT, -1, -SEGMENT):
            many, now = min(SEGMENT, steps - t), t * columns * size
            mark = (t // SEGMENT - 1) * columns * size
            v_before = v_marks + mark if t else v
            i_before = i_marks + mark if t and i_marks else 0 if t else i
            _forward(x + now, 0, v_before, i_before, constants, steep, kind_forward, size,
                     0, potentials - a * size, 0, 0, 0, 0, apart, many, columns, scratch, a, b,
                     number)  # fmt: skip
            for k in range(many):
                at = (((t + k) * images + image) * windows + first) * across
                unpool_rows(g_pooled + at * size, places + at, grads + k * apart * size,
                            last - first, left, line, channels, height, width, size,
                            like)  # fmt: skip
            _backward(grads - a * size, 0, 0, potentials - a * size, potentials - a * size, 0,
                      v_before if v_before else zeros, 0, 0, constants, steep, kind, size,
                      gx + now, gv, gi, gv, gi, ga, (0, 1, 1, 0), gtheta, apart, apart, many,
                      columns, scratch, a, b, number)  # fmt: skip
