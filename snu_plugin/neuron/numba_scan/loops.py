"""The compiled loops as functions of tensors, recurrent or not, and what they cannot run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.memory import LARGE, paged
from snu_plugin.neuron.numba_scan import kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic, step_address
from snu_plugin.neuron.numba_scan.jit import run
from snu_plugin.neuron.operators import Settings, is_eager, repeated, steps, transformed, whole
from snu_plugin.neuron.segments import LONG
from snu_plugin.neuron.surrogate import tanh_derivative

SPAN = 4 * kernels.SEGMENT
"""Steps whose states and slopes are there at once where a surrogate is not the published one."""

RECURRENT_SPAN = 6 * kernels.SEGMENT
"""Steps that recurrent units compute again at once: so many that their product is worth a look for
spikes."""


def scan(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    settings: Settings,
    keep: bool,
    segment: int | None = kernels.SEGMENT,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` what a backward pass starts from.

    ``kernels`` explains what is kept. ``segment=None`` has a
    mark before every pass where ``x`` is short. An operator cannot: how many marks there are has to
    be known when sizes are not. The ``states`` of all steps take the place of outputs.
    """
    x, step, total = x.contiguous(), x.shape[1:], x.numel()
    if segment is None:
        few = total < LONG and x.shape[0] > 2 * kernels.STEPS
        segment = kernels.STEPS if few else kernels.SEGMENT
    y = torch.empty_like(x) if states is None else states
    marks = x.new_empty(max(-(-len(x) // segment), 2) if keep else 0, *step)  # as ``marks_of``
    if x.nbytes >= LARGE:
        y, marks = paged(y), paged(marks)
    if keep and x.shape[0] <= segment:
        marks[1].zero_()  # the row that nobody reads
    s, last, columns = x.new_empty(*step), x.new_empty(*step), step.numel()
    rows = [None if c is None else repeated(c, step) for c in (decay, threshold, reset)]
    places = [(0, 1) if row is None else (row.data_ptr(), row.numel()) for row in rows]
    has = threshold is not None, reset is not None
    v = None if v is None else whole(v, step)
    given = x.data_ptr(), 0 if v is None else v.data_ptr(), 0, *places
    unit = numbers(settings, x.dtype, *has)[:-1]
    kept = marks.data_ptr() if keep else 0, segment, 0 if states is None else y.data_ptr()
    wanted = s.data_ptr(), last.data_ptr(), y.data_ptr(), *kept
    sizes = columns, x.shape[0], columns
    run(kernels.forward, (*given, *unit, *wanted, *sizes), columns, total, s)
    return y, s, last, marks


def marks_of(x: Tensor, keep: bool, segment: int = kernels.SEGMENT) -> Tensor:
    """Return an empty tensor for the potentials before each segment of so many steps."""
    # At least 2: torch.export, for any number of steps, cannot leave open whether there is but 1.
    rows = (x.shape[0] + segment - 1) // segment if keep else 0
    if keep:
        rows = max(rows, 2) if isinstance(rows, int) else torch.sym_max(rows, 2)
    return x.new_empty(rows, *x.shape[1:])


def scan_backward(
    gy: Tensor | Callable[[slice, Tensor], Tensor],
    gs_last: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    marks: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    settings: Settings,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``.

    ``gy`` may be a function, where there are ``slopes``: it is called with some steps and the
    slopes there and returns what their outputs receive, which matters where slopes are not 0.
    """
    x, marks, step = x.contiguous(), marks.contiguous(), x.shape[1:]
    gy = gy.contiguous() if isinstance(gy, Tensor) else gy
    y = None if y is None else y.contiguous()
    gx, length, columns = paged(torch.empty_like(x)), x.shape[0], step.numel()
    constants = [repeated(constant, step) for constant in (decay, threshold, reset)]
    gl = Sums(constants[0] if learn_decay else None, x)
    gtheta = Sums(constants[1] if learn_threshold else None, x)
    has, gs = (threshold is not None, reset is not None), whole(gs_last, step)
    unit = numbers(settings, x.dtype, *has)
    settled, sums = (*map(periodic, constants), *unit), (gl.place(), gtheta.place())
    span = length if slopes is None else SPAN
    carried = None if span >= length else x.new_empty(*step)
    few = marks.shape[0] <= max(-(-length // kernels.SEGMENT), 2)  # of these there are always two
    segment = kernels.SEGMENT if few else kernels.STEPS
    ends, before, slope = address(gs), 0, None
    for first in range((length - 1) // span * span, -1, -span):
        count, mark = min(span, length - first), first // segment
        if slopes is not None:
            part = x[first : first + count]
            states = torch.empty_like(part)
            scan(part, marks[mark], decay, threshold, reset, settings, False, states=states)
            slope = slopes(states).to(x.dtype).expand_as(part).contiguous()
            del states  # before there are others
        known = step_address(x, first), step_address(y, first), step_address(marks, mark)
        wanted = step_address(gx, first), before, address(carried), *sums, columns
        received = gy  # held until the loop has run
        if not isinstance(gy, Tensor):
            received = gy(slice(first, first + count), slope)  # type: ignore[arg-type]
        at = step_address(received, first if received is gy else 0)  # type: ignore[arg-type]
        given = at, ends, *known, segment, address(slope), *settled
        arguments = *given, *wanted, count, columns
        run(kernels.backward, arguments, columns, count * columns, x)
        ends, before = 0, address(carried)
    return gx, gl.total(), gtheta.total()


def refusal(
    x: Tensor, config: SNUConfig, recurrent: Tensor | None, others: Sequence[Tensor | None]
) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if config.lateral_inhibition and recurrent is not None:
        return "lateral inhibition beside recurrent weights is not fused"
    if config.lateral_inhibition and not is_eager(x, *others):
        return "lateral inhibition is fused in eager torch only"
    if recurrent is not None and transformed():
        return "recurrent weights are not fused inside the transforms of torch.func"
    if x.dtype not in (torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float32 or float64"
    for tensor in (x, recurrent, *others):
        if tensor is not None and not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, all must be on the cpu"
        if tensor is not None and tensor.dtype != x.dtype:
            return f"x has dtype {x.dtype} and another tensor {tensor.dtype}, all must have one"
    if not (config.soft or config.surrogate is tanh_derivative or is_eager(x, recurrent, *others)):
        return "a surrogate other than tanh_derivative is fused in eager torch only"
    return ""


@functools.cache
def numbers(
    settings: Settings, dtype: torch.dtype, fires: bool = True, resets: bool = False,
    known: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Return settings as the kernels take them: g, ``kind``, bytes of a number and ``through``.

    ``fires`` and ``resets`` say whether a threshold and a reset are given, ``known`` whether steps
    that are computed again take outputs as they were.
    """
    below, cut, soft, detach_reset = settings
    number = np.float32 if dtype == torch.float32 else np.float64
    floor = number(0.0 if cut else -math.inf)
    flags = cut or below != 1, soft, fires, resets, known
    kind = tuple(True if flag else None for flag in flags)
    return number(below), floor, kind, dtype.itemsize, number(not detach_reset)


def recurrent_marks(x: Tensor, keep: bool) -> Tensor:
    return marks_of(x, keep, RECURRENT_SPAN)


def recurrent_scan(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    y: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    settings: Settings,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and if ``keep`` the potentials before each span.

    The product is a dense one: adding the weights of those units that fired is faster only where
    fewer than one in twelve do.
    """
    step, columns = x.shape[1:], x.shape[1:].numel()
    outputs = paged(torch.empty_like(x, memory_format=torch.contiguous_format))
    marks = paged(recurrent_marks(x, keep))
    if keep and len(x) <= RECURRENT_SPAN:
        marks[1].zero_()  # the row that nobody reads
    product = steps(torch.empty_like(outputs[:1]))[0]
    given, last = steps(x.detach()), steps(outputs)
    senders = weight.detach().t().contiguous()
    before = None if y is None else y.detach().reshape(last.shape[1:])
    s, carried = x.new_empty(*step), x.new_zeros(*step)
    if v is not None:
        carried.copy_(v)
    constants = repeated(decay, step), repeated(threshold, step)
    unit = numbers(settings, x.dtype, threshold is not None)[:-1]
    settled = *(address(carried),) * 2, *map(periodic, (*constants, None)), *unit
    room = None
    for t in range(len(x)):
        if before is None:
            product.copy_(given[t])
        else:
            torch.addmm(given[t], before, senders, out=product)
        mark = address(marks[t // RECURRENT_SPAN]) if keep and t % RECURRENT_SPAN == 0 else 0
        kept = mark, kernels.STEPS, 0
        wanted = address(s), 0, address(last[t]), *kept, columns, 1, columns
        arguments = address(product), *settled, *wanted
        room = run(kernels.forward, arguments, columns, columns, s, room=room)
        before = last[t]
    return outputs, s, outputs[-1].clone(), marks


def recurrent_scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    x: Tensor,
    outputs: Tensor,
    y: Tensor | None,
    marks: Tensor,
    weight: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    settings: Settings,
    learn_decay: bool,
    learn_threshold: bool,
    slopes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold; see ``ScanOperator.backward``.

    What drove the units of a span is multiplied again, all of its steps at once. That rounds
    otherwise than step by step, so outputs are taken as they were.
    """
    step, columns, size = x.shape[1:], x.shape[1:].numel(), min(RECURRENT_SPAN, len(x))
    gx = paged(torch.empty_like(outputs))
    received, carried = gx.new_empty(*step), gx.new_empty(*step)
    potentials = gx.new_empty(size, *step)
    product, given, found = steps(received[None])[0], steps(gy.contiguous()), steps(gx)
    constants = repeated(decay, step), repeated(threshold, step)
    gl = Sums(constants[0] if learn_decay else None, carried)
    gtheta = Sums(constants[1] if learn_threshold else None, carried)
    fires, rows = threshold is not None, [*map(periodic, (*constants, None))]
    unit = numbers(settings, x.dtype, fires, False, fires)
    gs, before, room = whole(gs_last, step), 0, None
    for first in range((len(x) - 1) // RECURRENT_SPAN * RECURRENT_SPAN, -1, -RECURRENT_SPAN):
        stop = min(first + RECURRENT_SPAN, len(x))
        drives = _drives(x, weight, y, outputs, first, stop)
        potentials[0].copy_(marks[first // RECURRENT_SPAN])
        known = address(drives), address(outputs[first]), address(potentials)
        again = *known, *rows, *unit[:-1], stop - first, columns
        run(kernels.again, again, columns, columns * (stop - first), carried)
        slope = None
        if slopes is not None:
            a = decay * potentials[: stop - first]
            a += drives
            below, cut, *_ = settings
            s = F.relu(a) if cut else a if below == 1 else F.leaky_relu(a, below)
            slope = slopes(s).to(x.dtype).expand_as(s).contiguous()
        for t in range(stop - 1, first - 1, -1):
            if t + 1 == len(x):
                product.copy_(given[t])
            else:
                torch.addmm(given[t], found[t + 1], weight, out=product)
            kept = drives[t - first], outputs[t], potentials[t - first]
            now = address(received), address(gs), *map(address, kept)
            last = address(None if slope is None else slope[t - first])
            wanted = address(gx[t]), before, address(carried), gl.place(), gtheta.place()
            arguments = *now, kernels.STEPS, last, *rows, *unit, *wanted, columns, 1, columns
            room = run(kernels.backward, arguments, columns, columns, carried, room=room)
            gs, before = None, address(carried)
        del drives  # before there are others
    return gx, gl.total(), gtheta.total()


def _drives(
    x: Tensor, weight: Tensor, y: Tensor | None, outputs: Tensor, first: int, stop: int
) -> Tensor:
    """Return ``x + H y'`` of some steps; ``y`` are the outputs before all."""
    given, sent = steps(x)[first:stop], steps(outputs)[max(first - 1, 0) : stop - 1]
    # Dense where it is none of spikes.
    received = torch.ops.snu_plugin.spike_linear(sent, weight, None, False, False)
    if first:
        drives: Tensor = received.add_(given)
        return drives
    drives = given.clone()
    drives[1:] += received
    if y is not None:
        drives[0].addmm_(y.reshape(given[0].shape), weight.t())
    return drives
