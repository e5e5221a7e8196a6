"""The scan of units that inhibit each other on processors: Numba's loops as functions of tensors.

In eager torch alone, without recurrent weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import Inhibition
from snu_plugin.neuron.numba_scan import inhibition_kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, flat, new, periodic, row
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.numba_scan.loops import numbers
from snu_plugin.neuron.operators import ScanOperator, every_step, repeated


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
    """Return outputs, the last ``s`` and ``y``, and the states of all steps if ``keep``.

    The largest output of a group is in the reset, which is to zero.
    """
    y = new(torch.empty_like(x, memory_format=torch.contiguous_format))
    states = new(every_step(x, keep))
    s = torch.empty_like(y[0])
    rows = [repeated(constant, s.shape) for constant in (decay, threshold)]
    unit = numbers(below, cut, soft, detach_reset, x.dtype)[:-1]
    wanted = row(s, s), flat(y), flat(states)
    arguments = flat(x), _given(v, s).copy(), *map(periodic, rows), *unit, *wanted
    size, groups = _groups(x, inhibition)
    run(kernels.forward, (*arguments, size), groups, x.numel())
    return y, s, y[-1].clone(), states


def inhibited_scan_backward(
    inhibition: Inhibition,
    gy: Tensor,
    gs_last: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    y: Tensor,
    states: Tensor,
    decay: Tensor,
    threshold: Tensor,
    reset: None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``."""
    gx = new(torch.empty_like(y))
    constants = [repeated(constant, y.shape[1:]) for constant in (decay, threshold)]
    gl = Sums(constants[0] if learn_decay else None, x)
    gtheta = Sums(constants[1] if learn_threshold else None, x)
    given = flat(gy), _given(gs_last, y[0]), flat(x), _given(v, y[0])
    h = flat(y[:0] if slopes is None else slopes.to(y.dtype).expand_as(y))
    kept = flat(y), flat(states), h, *map(periodic, constants)
    wanted = flat(gx), gl.place(), gtheta.place()
    size, groups = _groups(x, inhibition)
    unit = numbers(below, cut, soft, detach_reset, x.dtype)
    run(kernels.backward, (*given, *kept, *unit, *wanted, size), groups, x.numel())
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
        kept={"states": every_step},
        saved=("x", "v", "y", "states"),
        states=lambda saved, config: saved[3],
    )


INHIBITED: dict[Inhibition, ScanOperator] = {
    "sample": _operator("sample"),
    "batch": _operator("batch"),
}
