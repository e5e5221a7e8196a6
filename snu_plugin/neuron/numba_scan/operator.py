"""The update that every unit shares as a torch operator whose loops Numba compiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_scan import kernels as kernels
from snu_plugin.neuron.numba_scan.loops import marks_of, scan, scan_backward, states
from snu_plugin.neuron.operators import (
    SCAN,
    direct,
    ending,
    followed,
    imagined,
    once,
    own_surrogate,
    plain,
    settings,
    summed,
    transformed,
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
    return y, x.new_empty(x.shape[1:]), x.new_empty(x.shape[1:]), marks_of(x, rest[-1])


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
