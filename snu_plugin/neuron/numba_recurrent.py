"""The scan of recurrent units on processors: a torch operator with a product in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron import numba_kernels as kernels
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_arrays import Sums, address, periodic, repeated, whole
from snu_plugin.neuron.numba_operator import (
    ending,
    imagined,
    numbers,
    once,
    own_surrogate,
    plain,
    settings,
    summed,
)
from snu_plugin.neuron.numba_threads import run
from snu_plugin.neuron.reference import activate


def recurrent_update(
    weight: Tensor,
    y: Tensor | None,
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: None,
    config: SNUConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the update of ``snu_plugin.neuron.fused.Update`` with ``x + H y'`` in place of ``x``.

    ``weight`` is H, ``(features, features)``, row = receiving unit; ``y`` the output of the step
    before the first, of a step's shape, ``None`` where it is zero.
    """
    tensors = x, weight, v, y, decay, threshold
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    arguments = *tensors, *settings(config), keep
    if not plain(*tensors):
        outputs, s, last, *_ = torch.ops.snu_plugin.recurrent_scan(*arguments)
    elif keep:
        outputs, s, last, *_ = RecurrentScan.apply(*arguments, config)
    else:
        outputs, s, last, *_ = recurrent_scan(*arguments)
    return outputs, s, last


torch.library.define(
    "snu_plugin::recurrent_scan",
    "(Tensor x, Tensor weight, Tensor? v, Tensor? y, Tensor decay, Tensor? threshold, float below, "
    "bool cut, bool soft, bool detach_reset, bool keep) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "snu_plugin::recurrent_scan_backward",
    "(Tensor gy, Tensor? gs_last, Tensor drives, Tensor outputs, Tensor marks, Tensor weight, "
    "Tensor decay, Tensor? threshold, float below, bool cut, bool soft, bool detach_reset, "
    "bool learn_decay, bool learn_threshold) -> (Tensor, Tensor, Tensor)",
)


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
    outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
    drives, marks = (x.new_empty((len(x) if keep else 0, *step)) for _ in range(2))
    products = _steps(drives if keep else torch.empty_like(outputs[:1]))
    given, last = _steps(x.detach()), _steps(outputs)
    senders = weight.detach().t().contiguous()
    before = None if y is None else y.detach().reshape(last.shape[1:])
    s, carried = x.new_empty(step), x.new_zeros(step)
    if v is not None:
        carried.copy_(v)
    constants = repeated(decay, step), repeated(threshold, step)
    unit = numbers(below, cut, soft, detach_reset, x.dtype)[:-1]
    settled = *(address(carried),) * 2, *map(periodic, constants), None, *unit, address(s)
    for t in range(len(x)):
        product = products[t if keep else 0]
        if before is None:
            product.copy_(given[t])
        else:
            torch.addmm(given[t], before, senders, out=product)
        wanted = address(last[t]), address(marks[t]) if keep else None, None, 1, columns
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
    gx = torch.empty_like(drives)
    received, carried = drives.new_empty(step), drives.new_zeros(step)
    product, given, found = _steps(received[None])[0], _steps(gy.contiguous()), _steps(gx)
    constants = repeated(decay, step), repeated(threshold, step)
    gl = Sums(constants[0] if learn_decay else None, carried)
    gtheta = Sums(constants[1] if learn_threshold else None, carried)
    unit = numbers(below, cut, soft, detach_reset, drives.dtype)
    settled = *map(periodic, constants), None, *unit
    sums = address(carried), address(carried), gl.place, gtheta.place, 1, columns
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
        run(kernels.backward, (*now, *settled, address(gx[t]), *sums), columns, columns)
        gs = None
    return gx, gl.total(), gtheta.total()


def _steps(tensor: Tensor) -> Tensor:
    """Return ``(T, B, ..., features)`` as ``(T, rows, features)``."""
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor.unsqueeze(1)


def _keep(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    _, weight, v, y, decay, threshold, *ctx.settings, _ = inputs
    outputs, _, _, drives, marks = output
    ctx.mark_non_differentiable(drives, marks)
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if t is None else t.shape for t in (v, decay, threshold)]
    ctx.save_for_backward(drives, outputs, marks, weight, decay, threshold, y)


def _backward(
    ctx: Any,
    gy: Tensor | None,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    *_: object,
    config: SNUConfig | None = None,
) -> tuple[Tensor | None, ...]:
    *kept, y = ctx.saved_tensors
    drives, outputs, marks, weight, decay, threshold = kept
    gy = ending(gy, gy_last, drives)
    seen = plain(gy, gs_last, *kept)
    ops = torch.ops.snu_plugin
    call: Any = recurrent_scan_backward if seen else ops.recurrent_scan_backward
    needs = ctx.needs_input_grad
    surrogate = None if config is None else own_surrogate(config)
    with torch.no_grad():
        slopes: Sequence[Tensor] = ()
        if config is not None and surrogate is not None:
            slopes = [surrogate(activate(drives + decay * marks, config) - threshold)]
        gx, *found = call(gy, gs_last, *kept, *ctx.settings, *needs[4:6], *slopes)
        gv = decay * gx[0] if needs[2] else None
        gy_before = gx[0] @ weight if needs[3] else None
        gh = _product(gx, outputs, y) if needs[1] else None
    asked = zip((gv, *found), ctx.shapes, (needs[2], *needs[4:6]), strict=True)
    gv, *rows = (summed(grad, shape) if need else None for grad, shape, need in asked)
    return *once((gy, outputs), gx, gh, gv, gy_before, *rows), *(None,) * 5


def _product(gx: Tensor, outputs: Tensor, y: Tensor | None) -> Tensor:
    """Return the gradient of H: that of every drive with the output of the step before it."""
    features = gx.shape[-1]
    found = gx[1:].reshape(-1, features).t() @ outputs[:-1].reshape(-1, features)
    if y is None:
        return found
    return found + gx[0].reshape(-1, features).t() @ y.reshape(-1, features)


class RecurrentScan(torch.autograd.Function):
    """``recurrent_scan`` with its gradients, for eager torch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, ctx.config = inputs
        output = recurrent_scan(*arguments)
        _keep(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_backward(ctx, *grads, config=ctx.config), None


@torch.library.register_fake("snu_plugin::recurrent_scan")  # type: ignore[untyped-decorator]
def _(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    outputs = torch.empty_like(x, memory_format=torch.contiguous_format)
    kept = (x.new_empty((x.shape[0] if rest[-1] else 0, *x.shape[1:])) for _ in range(2))
    return outputs, torch.empty_like(outputs[0]), torch.empty_like(outputs[0]), *kept


@torch.library.register_fake("snu_plugin::recurrent_scan_backward")  # type: ignore[untyped-decorator]
def _(
    gy: Tensor, gs_last: object, drives: Tensor, outputs: object, marks: object, weight: object,
    decay: Tensor, threshold: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    asked = zip((decay, threshold), rest[-2:], strict=True)
    return torch.empty_like(drives), *(imagined(of, drives, need) for of, need in asked)


torch.library.impl("snu_plugin::recurrent_scan", "cpu")(recurrent_scan)
torch.library.impl("snu_plugin::recurrent_scan_backward", "cpu")(recurrent_scan_backward)
torch.library.register_autograd("snu_plugin::recurrent_scan", _backward, setup_context=_keep)
