"""The update that every unit shares as a torch operator whose loops Numba compiles."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_scan import kernels as kernels
from snu_plugin.neuron.numba_scan.arrays import Sums, address, periodic
from snu_plugin.neuron.numba_scan.pages import new
from snu_plugin.neuron.numba_scan.threads import run
from snu_plugin.neuron.operators import (
    SCAN,
    direct,
    ending,
    followed,
    imagined,
    once,
    own_surrogate,
    plain,
    repeated,
    settings,
    summed,
    transformed,
    whole,
)
from snu_plugin.neuron.surrogate import Surrogate
from snu_plugin.neuron.vmap import folded, folded_backward


def update(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    config: SNUConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the update over time; see ``snu_plugin.neuron.fused.Update``; reset is not trained."""
    tensors = x, v, decay, threshold, reset
    keep, eager = followed(*tensors), plain(*tensors)
    if keep and eager:
        surrogate = None if threshold is None else own_surrogate(config)
        return Scan.apply(*tensors, settings(config), surrogate)  # type: ignore[no-any-return]
    arguments = *tensors, *settings(config), keep
    y, s, last, _ = scan(*arguments) if eager else _seen(*arguments)
    return y, s, last


def _seen(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the operator in the form for whoever sees the call."""
    if arguments[-1] and transformed():
        return TransformedScan.apply(*arguments)  # type: ignore[no-any-return]
    return torch.ops.snu_plugin.scan(*arguments)  # type: ignore[no-any-return]


# Not ``torch.library.custom_op``: its first call imports torch's compiler, two seconds.
torch.library.define("snu_plugin::scan", SCAN)
torch.library.define(
    "snu_plugin::scan_backward",
    "(Tensor gy, Tensor? gs_last, Tensor x, Tensor? y, Tensor marks, Tensor decay, "
    "Tensor? threshold, Tensor? reset, float below, bool cut, bool soft, bool detach_reset, "
    "bool learn_decay, bool learn_threshold) -> (Tensor, Tensor, Tensor)",
)


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
    y, marks = new(x.new_empty(x.shape)), new(_marks(x, keep))
    last = x.new_empty(x.shape[1:])
    unit = numbers(below, cut, soft, detach_reset, x.dtype)
    wanted = last, y, marks if keep else None
    return y, _forward(x, v, (decay, threshold, reset), unit, *wanted), last, marks


def _forward(
    x: Tensor,
    v: Tensor | None,
    constants: Sequence[Tensor | None],
    unit: Sequence[Any],
    last: Tensor | None = None,
    y: Tensor | None = None,
    marks: Tensor | None = None,
    states: Tensor | None = None,
) -> Tensor:
    """Fill the last outputs, all, marks and states, unless ``None``; return the last ``s``."""
    step = x.shape[1:]
    s, v = x.new_empty(step), whole(v, step)
    rows = [repeated(constant, step) for constant in constants]
    given = address(x), address(v), None, *map(periodic, rows), *unit[:-1]
    wanted = map(address, (s, last, y, marks, states))
    run(kernels.forward, (*given, *wanted, x.shape[0], s.numel()), s.numel(), x.numel())
    return s


def _marks(x: Tensor, keep: bool) -> Tensor:
    return x.new_empty((kernels.passes(x.shape[0]) if keep else 0, *x.shape[1:]))


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
    unit = numbers(below, cut, soft, detach_reset, x.dtype)
    wanted = address(gx), None, None, gl.place(), gtheta.place()
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
    unit = numbers(below, cut, False, False, x.dtype)
    _forward(x, v, (decay, threshold, reset), unit, states=found)
    return found


@functools.cache
def numbers(
    below: float, cut: bool, soft: bool, detach_reset: bool, dtype: torch.dtype
) -> tuple[Any, ...]:
    """Return settings as the kernels take them: ``soft``, ``below``, ``floor``, 0 and ``through``.

    ``soft`` is ``True`` or ``None``. g is the larger of a and ``below max(a, floor)``, where
    ``below`` is its slope below zero, ``None`` for the identity; ``cut`` says that it is zero
    there, whatever comes.
    """
    number = np.float32 if dtype == torch.float32 else np.float64
    return (
        True if soft else None,
        None if below == 1 and not cut else number(below),
        number(0.0 if cut else -math.inf),
        number(0.0),
        number(not detach_reset),
    )


def keep_for_backward(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    *tensors, below, cut, soft, detach_reset, _ = inputs
    ctx.mark_non_differentiable(output[3])
    _keep(ctx, tensors, (below, cut, soft, detach_reset), output)


def _keep(
    ctx: Any, tensors: Sequence[Any], settings: Sequence[Any], output: Sequence[Tensor]
) -> None:
    x, v, decay, threshold, reset = tensors
    ctx.settings = settings
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if t is None else t.shape for t in (v, decay, threshold)]
    ctx.save_for_backward(x, output[0] if settings[2] else None, output[3], decay, threshold, reset)


def backward(
    ctx: Any,
    gy: Tensor | None,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    *_: object,
    surrogate: Surrogate | None = None,
) -> tuple[Tensor | None, ...]:
    x, y, marks, decay, threshold, reset = ctx.saved_tensors
    if gy is None or gy_last is not None:
        gy = ending(gy, gy_last, x)
    tensors = gy, gs_last, x, y, marks, decay, threshold, reset
    if not torch.is_grad_enabled():
        return *_gradients(ctx, surrogate, *tensors), *(None,) * 6
    with torch.no_grad():
        found = _gradients(ctx, surrogate, *tensors)
    return *once((gy, x, decay, threshold), *found), *(None,) * 6


def _gradients(ctx: Any, surrogate: Surrogate | None, *tensors: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, v, decay and threshold, given the tensors of ``scan_backward``."""
    gy, gs_last, x, _, marks, decay, threshold, reset = tensors
    needs = ctx.needs_input_grad
    eager = direct(tensors, (gy, gs_last), surrogate)
    call: Any = scan_backward if eager else torch.ops.snu_plugin.scan_backward
    slopes: Sequence[Tensor] = ()
    if surrogate is not None:
        s = states(x, marks[0], decay, threshold, reset, *ctx.settings[:2])
        slopes = [surrogate(s.sub_(threshold))]
    gx, *found = call(*tensors, *ctx.settings, *needs[2:4], *slopes)
    gv = decay * gx[0] if needs[1] else None
    asked = zip((gv, *found), ctx.shapes, needs[1:4], strict=True)
    return gx, *(summed(grad, shape) if need else None for grad, shape, need in asked)


class Scan(torch.autograd.Function):
    """``scan`` with its gradients, for eager torch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, settings, ctx.surrogate = inputs
        output = scan(*tensors, *settings, True)  # type: ignore[call-arg]
        _keep(ctx, tensors, settings, output)
        return output[:3]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return backward(ctx, *grads, surrogate=ctx.surrogate)[:7]


class TransformedScan(torch.autograd.Function):
    """The same in the form that ``torch.func`` asks for, which takes longer to call."""

    forward = staticmethod(scan)
    setup_context = staticmethod(keep_for_backward)
    backward = staticmethod(backward)  # type: ignore[assignment]
    vmap = staticmethod(folded(_seen))


@torch.library.register_fake("snu_plugin::scan")  # type: ignore[untyped-decorator]
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty(x.shape[1:]), x.new_empty(x.shape[1:]), _marks(x, rest[-1])


@torch.library.register_fake("snu_plugin::scan_backward")  # type: ignore[untyped-decorator]
def _(
    gy: Tensor, gs_last: object, x: Tensor, y: object, marks: object, decay: Tensor,
    threshold: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    gx = torch.empty_like(x, memory_format=torch.contiguous_format)
    asked = zip((decay, threshold), rest[-2:], strict=True)
    return gx, *(imagined(constant, x, need) for constant, need in asked)


torch.library.impl("snu_plugin::scan", "cpu")(scan)
torch.library.impl("snu_plugin::scan_backward", "cpu")(scan_backward)
torch.library.register_autograd("snu_plugin::scan", backward, setup_context=keep_for_backward)
if hasattr(torch.library, "register_vmap"):  # since torch 2.5
    torch.library.register_vmap("snu_plugin::scan", folded(_seen))
    back = folded_backward(
        torch.ops.snu_plugin.scan_backward, over=(0, 2, 3, 4), ends=(1,), rows=(5, 6, 7)
    )
    torch.library.register_vmap("snu_plugin::scan_backward", back)
