"""Loops of hosts' leaky neurons over long sequences, in segments of steps.

Forward the states before each segment are kept and nothing else. Going back a block of columns runs
a segment once more and its gradients right after it, so potentials never leave the second cache.
"""

from __future__ import annotations

from functools import partial

from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.jit import parallel

BLOCK = 1024
"""Columns that run a segment once more: so few that what they keep stays in the second cache."""

_forward, _backward = kernels.forward.part, kernels.backward.part


@partial(parallel, rows=kernels.ROWS)
def forward(  # type: ignore[no-untyped-def]
    x, v, i, constants, steep, kind, size, y, vs, currents, v_marks, i_marks, v_last, i_last,
    span, steps, columns, scratch, lo, hi, number,
):  # fmt: skip
    """Fill what ``lif_kernels.forward`` does, and the states before all segments but the first.

    These are ``v_marks`` and, of neurons with a current, ``i_marks``; ``span`` steps lie between.
    """
    row = columns * size
    for t in range(0, steps, span):
        many, now, mark = min(span, steps - t), t * row, t // span * row
        ends = t + span >= steps
        _forward(x + now, 0, v_marks + mark - row if t else v,
                 (i_marks + mark - row if t else i) if i_marks else 0, constants, steep, kind,
                 size, y + now if y else 0, 0, vs + now if vs else 0,
                 currents + now if currents else 0, v_last if ends else v_marks + mark,
                 i_last if ends else i_marks + mark if i_marks else 0, columns, many, columns,
                 scratch, lo, hi, number)  # fmt: skip


@partial(parallel, rows=kernels.ROWS)
def backward(  # type: ignore[no-untyped-def]
    gy, gvs, gcurrents, x, v_marks, i_marks, v, i, zeros, slopes, constants, steep, kind,
    kind_forward, size, gx, gv, gi, ga, gb, gtheta, resets, spare, span, steps, columns, scratch,
    lo, hi, number,
):  # fmt: skip
    """Fill what ``lif_kernels.backward`` does, from the inputs and what ``forward`` kept.

    ``gv`` and ``gi`` are what the states after the last step receive, before. If it ``resets`` the
    potentials after that are computed, too; ``zeros`` are states to start from where there are
    none. ``spare`` has three segments of a block for each thread.
    """
    row, kept = columns * size, span * BLOCK * size
    own = spare + number * 3 * kept
    for t in range((steps - 1) // span * span, -1, -span):
        many, now, mark = min(span, steps - t), t * row, (t // span - 1) * row
        v_before = v_marks + mark if t else v
        i_before = (i_marks + mark if t else i) if i_marks else 0
        for a in range(lo, hi, BLOCK):
            b = min(a + BLOCK, hi)
            us = own - a * size
            vs = us + kept if resets else us
            currents = us + 2 * kept if gb[0] else 0
            _forward(x + now, 0, v_before, i_before, constants, steep, kind_forward, size, 0, us,
                     vs if resets else 0, currents, 0, 0, BLOCK, many, columns, scratch, a, b,
                     number)  # fmt: skip
            _backward(gy + now if gy else 0, gvs + now if gvs else 0,
                      gcurrents + now if gcurrents else 0, us, vs, currents,
                      v_before if v_before else zeros, i_before if i_before else zeros,
                      slopes + now if slopes else 0, constants, steep, kind, size, gx + now, gv,
                      gi, gv, gi, ga, gb, gtheta, columns, BLOCK, many, columns, scratch, a, b,
                      number)  # fmt: skip
