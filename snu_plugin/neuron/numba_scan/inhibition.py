"""The scan of units that inhibit each other on processors: Numba's loops as functions of tensors.

In eager torch alone, without recurrent weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import Inhibition
from snu_plugin.neuron.numba_scan import inhibition_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, flat, periodic, row
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.kernels import SEGMENT
from snu_plugin.neuron.numba_scan.loops import SPAN, marks_of, numbers
from snu_plugin.neuron.operators import ScanOperator, repeated
from snu_plugin.neuron.pages import paged


def inhibited_scan(
    inhibition: Inhibition,
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor,
    reset: None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` what a backward pass starts from.

    The largest output of a group is in the reset, which is to zero.
    """
    marks = paged(marks_of(x, keep))
    unit = numbers(below, cut, soft, detach_reset, x.dtype)[:-1]
    y, s = _forward(inhibition, x, v, (decay, threshold), unit, marks)
    return y, s, y[-1].clone(), marks


def _forward(
    inhibition: Inhibition,
    x: Tensor,
    v: Tensor | None,
    constants: Sequence[Tensor],
    unit: Sequence[Any],
    marks: Tensor,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fill marks and states where they are wanted; return outputs and the last ``s``."""
    y = paged(torch.empty_like(x, memory_format=torch.contiguous_format))
    s = torch.empty_like(y[0])
    rows = [repeated(constant, s.shape) for constant in constants]
    wanted = row(s, s), flat(y), flat(marks), flat(y[:0] if states is None else states)
    given = flat(x), _given(v, s).copy(), *map(periodic, rows), *unit
    size, groups = _groups(x, inhibition)
    run(kernels.forward, (*given, *wanted, size), groups, x.numel())
    return y, s


def inhibited_scan_backward(
    inhibition: Inhibition,
    gy: Tensor,
    gs_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    marks: Tensor,
    decay: Tensor,
    threshold: Tensor,
    reset: None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``."""
    gx = paged(torch.empty_like(y))
    constants = [repeated(constant, y.shape[1:]) for constant in (decay, threshold)]
    gl = Sums(constants[0] if learn_decay else None, x)
    gtheta = Sums(constants[1] if learn_threshold else None, x)
    rows, sums = [*map(periodic, constants)], (gl.place(), gtheta.place())
    unit = numbers(below, cut, soft, detach_reset, x.dtype)
    gs, after = _given(gs_last, y[0]), flat(y.new_zeros((1, *y.shape[1:])))
    size, groups = _groups(x, inhibition)
    span = len(x) if slopes is None else SPAN
    for first in range((len(x) - 1) // span * span, -1, -span):
        part, slope = slice(first, first + span), y[:0]
        kept = marks[first // SEGMENT :]
        if slopes is not None:
            s = paged(torch.empty_like(y[part]))
            _forward(inhibition, x[part], kept[0], (decay, threshold), unit[:-1], y[:0], s)
            slope = slopes(s).to(y.dtype).expand_as(s)
        given = flat(gy[part]), gs, *(flat(t) for t in (x[part], y[part], kept, slope))
        wanted = flat(gx[part]), after[0], *sums
        begins = first + span >= len(x)
        run(kernels.backward, (*given, *rows, *unit, *wanted, begins, size), groups, x.numel())
        gs = _given(None, y[0])
    return gx, gl.total(), gtheta.total()


def _given(tensor: Tensor | None, step: Tensor) -> Any:
    """Return what broadcasts to one step, zeros for ``None``, as an array ``(neurons,)``."""
    return row(torch.zeros_like(step) if tensor is None else tensor, step)


def _groups(x: Tensor, inhibition: Inhibition) -> tuple[int, int]:
    """Return how many units inhibit each other, and how many such groups there are."""
    units = x[0].numel()
    size = max(x.shape[-1] if inhibition == "sample" else units, 1)
    return size, units // size


def _operator(inhibition: Inhibition) -> ScanOperator:
    return ScanOperator(
        name=f"inhibited_scan_{inhibition}",
        device=None,
        forward=partial(inhibited_scan, inhibition),
        backward=partial(inhibited_scan_backward, inhibition),
        kept={"marks": marks_of},
        saved=("x", "y", "marks"),
    )


INHIBITED: dict[Inhibition, ScanOperator] = {
    "sample": _operator("sample"),
    "batch": _operator("batch"),
}
