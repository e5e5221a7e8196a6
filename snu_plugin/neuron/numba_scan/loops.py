"""The compiled loops as functions of tensors: one forward and one back, recurrent or not."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_scan import kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, new, periodic
from snu_plugin.neuron.numba_scan.jit import run, threads
from snu_plugin.neuron.operators import repeated, steps, whole
from snu_plugin.neuron.reference import activate


def scan(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` what a backward pass starts from.

    ``numbers`` explains ``below`` and ``cut``, ``kernels`` what is kept.
    """
    x = x.contiguous()
    y, marks = new(x.new_empty(x.shape)), new(marks_of(x, keep))
    last = x.new_empty(x.shape[1:])
    unit = below, cut, soft, detach_reset
    s = _forward(x, v, (decay, threshold, reset), unit, last, y, marks if keep else None)
    if len(marks) > kernels.segments(len(x)):  # a row that nobody reads
        marks[-1].zero_()
    return y, s, last, marks


def _forward(
    x: Tensor,
    v: Tensor | None,
    constants: Sequence[Tensor | None],
    unit: Sequence[Any],
    last: Tensor | None,
    y: Tensor,
    marks: Tensor | None = None,
    states: Tensor | None = None,
) -> Tensor:
    """Fill the last outputs, all, marks and states where they are wanted; return the last ``s``."""
    step = x.shape[1:]
    s, v = x.new_empty(step), whole(v, step)
    rows = [repeated(constant, step) for constant in constants]
    columns, room = s.numel(), scratch(x)
    has = constants[1] is not None, constants[2] is not None
    given = address(x), address(v), 0, *map(periodic, rows), *numbers(*unit, x.dtype, *has)[:-1]
    wanted = map(address, (s, last, y, marks, states, room))
    run(kernels.forward, (*given, *wanted, x.shape[0], columns), columns, x.numel())
    return s


def scratch(x: Tensor) -> Tensor:
    """Return what the threads of a call that takes ``x`` need for themselves."""
    total = x.numel()
    tile = min(total // len(x), kernels.TILE) + kernels.PAD
    return x.new_empty(threads(total) * kernels.SCRATCH * tile)


def marks_of(x: Tensor, keep: bool) -> Tensor:
    # At least 2: torch.export, for any number of steps, cannot leave open whether there is but 1.
    rows = kernels.segments(x.shape[0]) if keep else 0
    if keep:
        rows = max(rows, 2) if isinstance(rows, int) else torch.sym_max(rows, 2)
    return x.new_empty((rows, *x.shape[1:]))


def scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    marks: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold, the last two empty if not asked for.

    They have the shape of ``repeated``. ``slopes`` are those of h in all steps, ``None`` for the
    published ones.
    """
    x, gy, marks, step = x.contiguous(), gy.contiguous(), marks.contiguous(), x.shape[1:]
    y = None if y is None else y.contiguous()
    gx, columns = new(x.new_empty(x.shape)), step.numel()
    constants = [repeated(constant, step) for constant in (decay, threshold, reset)]
    gl = Sums(constants[0] if learn_decay else None, x)
    gtheta = Sums(constants[1] if learn_threshold else None, x)
    gs_last = whole(gs_last, step)
    slopes = None if slopes is None else slopes.to(x.dtype).expand_as(x).contiguous()
    given = address(gy), *map(address, (gs_last, x, y, marks, slopes))
    has, room = (threshold is not None, reset is not None), scratch(x)
    unit = numbers(below, cut, soft, detach_reset, x.dtype, *has)
    wanted = address(gx), 0, 0, gl.place(), gtheta.place(), address(room)
    arguments = *given, *map(periodic, constants), *unit, *wanted, x.shape[0], columns
    run(kernels.backward, arguments, columns, x.numel())
    return gx, gl.total(), gtheta.total()


def states(
    x: Tensor,
    v: Tensor,
    decay: Tensor,
    threshold: Tensor,
    reset: Tensor | None,
    below: float,
    cut: bool,
) -> Tensor:
    """Return the states of all steps of a hard unit again."""
    x = x.contiguous()
    found = new(x.new_empty(x.shape))
    constants = decay, threshold, reset
    _forward(x, v, constants, (below, cut, False, False), None, found, states=found)
    return found


@functools.cache
def numbers(
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    dtype: torch.dtype,
    fires: bool = True,
    resets: bool = False,
) -> tuple[Any, ...]:
    """Return settings as the kernels take them: g, ``kind``, bytes of a number and ``through``.

    ``below`` is the slope of g below zero, 1 for the identity; ``cut`` says that it is zero there,
    whatever comes. ``fires`` and ``resets`` say whether a threshold and a reset are given.
    """
    number = np.float32 if dtype == torch.float32 else np.float64
    floor = number(0.0 if cut else -math.inf)
    kind = tuple(True if flag else None for flag in (cut or below != 1, soft, fires, resets))
    return number(below), floor, kind, dtype.itemsize, number(not detach_reset)


def recurrent_scan(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    y: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and of each step, if ``keep``, its drive and ``v``.

    The drive is ``x + H y'``, ``v`` the potential before the step. The product is a dense one:
    adding the weights of those units that fired is faster only where fewer than one in twelve do.
    """
    step, columns = x.shape[1:], x.shape[1:].numel()
    outputs = new(torch.empty_like(x, memory_format=torch.contiguous_format))
    drives, marks = (new(x.new_empty((len(x) if keep else 0, *step))) for _ in range(2))
    products = steps(drives if keep else torch.empty_like(outputs[:1]))
    given, last = steps(x.detach()), steps(outputs)
    senders = weight.detach().t().contiguous()
    before = None if y is None else y.detach().reshape(last.shape[1:])
    s, carried = x.new_empty(step), x.new_zeros(step)
    if v is not None:
        carried.copy_(v)
    constants = repeated(decay, step), repeated(threshold, step)
    unit = numbers(below, cut, soft, detach_reset, x.dtype, threshold is not None)[:-1]
    room = scratch(x[:1])
    settled = *(address(carried),) * 2, *map(periodic, (*constants, None)), *unit
    for t in range(len(x)):
        product = products[t if keep else 0]
        if before is None:
            product.copy_(given[t])
        else:
            torch.addmm(given[t], before, senders, out=product)
        mark = address(marks[t]) if keep else 0
        wanted = address(s), 0, address(last[t]), mark, 0, address(room), 1, columns
        run(kernels.forward, (address(product), *settled, *wanted), columns, columns)
        before = last[t]
    return outputs, s, outputs[-1].clone(), drives, marks


def recurrent_scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    drives: Tensor,
    outputs: Tensor,
    marks: Tensor,
    weight: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold, the last two empty if not asked for.

    They have the shape of ``repeated``. ``slopes`` are those of h in all steps, ``None`` for the
    published ones.
    """
    step, columns = drives.shape[1:], drives.shape[1:].numel()
    gx = new(torch.empty_like(drives))
    received, carried = drives.new_empty(step), drives.new_empty(step)
    before = 0
    product, given, found = steps(received[None])[0], steps(gy.contiguous()), steps(gx)
    constants = repeated(decay, step), repeated(threshold, step)
    gl = Sums(constants[0] if learn_decay else None, carried)
    gtheta = Sums(constants[1] if learn_threshold else None, carried)
    unit = numbers(below, cut, soft, detach_reset, drives.dtype, threshold is not None)
    room, settled = scratch(drives[:1]), (*map(periodic, (*constants, None)), *unit)
    gs = whole(gs_last, step)
    slopes = None if slopes is None else slopes.to(drives.dtype).expand_as(drives).contiguous()
    for t in range(len(drives) - 1, -1, -1):
        if t + 1 == len(drives):
            product.copy_(given[t])
        else:
            torch.addmm(given[t], found[t + 1], weight, out=product)
        kept = drives[t], outputs[t] if soft else None, marks[t]
        slope = None if slopes is None else slopes[t]
        now = address(received), address(gs), *map(address, (*kept, slope))
        wanted = address(gx[t]), before, address(carried), gl.place(), gtheta.place(), address(room)
        run(kernels.backward, (*now, *settled, *wanted, 1, columns), columns, columns)
        gs, before = None, address(carried)
    return gx, gl.total(), gtheta.total()


def recurrent_states(drives: Tensor, marks: Tensor, decay: Tensor, config: SNUConfig) -> Tensor:
    return activate(drives + decay * marks, config)
