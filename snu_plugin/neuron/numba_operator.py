"""The update that every unit shares as a torch operator whose loops Numba compiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.neuron import numba_kernels as kernels
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.numba_arrays import flat, row, run, scalar
from snu_plugin.neuron.numba_vmap import fold, fold_backward
from snu_plugin.neuron.surrogate import Surrogate, tanh_derivative


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
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    arguments = *tensors, *settings(config), keep
    if plain(*tensors):
        surrogate = None if threshold is None else own_surrogate(config)
        y, s, last, _ = Scan.apply(*arguments, surrogate) if keep else scan(*arguments)
    elif keep and transformed():
        y, s, last, _ = TransformedScan.apply(*arguments)
    else:
        y, s, last, _ = torch.ops.snu_plugin.scan(*arguments)
    return y, s, last


def own_surrogate(config: SNUConfig) -> Surrogate | None:
    """Return the surrogate of a hard unit, unless it is the one that the kernels know."""
    return None if config.soft or config.surrogate is tanh_derivative else config.surrogate


def settings(config: SNUConfig) -> tuple[float, bool, bool, bool]:
    """Return g's slope below zero, whether g cuts there, ``soft`` and ``detach_reset``."""
    below = config.slope if config.g == "leaky_relu" else 1.0
    return below, config.g == "relu", config.soft, config.detach_reset


def plain(*tensors: Tensor | None) -> bool:
    """Tell whether nothing but eager torch sees a call, which then needs no operator.

    Compilers, tracers, transforms, modes and subclasses of tensors have to see the operator; to go
    through it forward and backward takes 0.05 ms more.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or transformed()
        or torch._C._len_torch_dispatch_stack()
    ) and all(t is None or type(t) in (Tensor, nn.Parameter) for t in tensors)


def transformed() -> bool:
    """Tell whether a call is inside a transform of ``torch.func``."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


# Not ``torch.library.custom_op``: its first call imports torch's compiler, two seconds.
torch.library.define(
    "snu_plugin::scan",
    "(Tensor x, Tensor? v, Tensor decay, Tensor? threshold, Tensor? reset, float below, bool cut, "
    "bool soft, bool detach_reset, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "snu_plugin::scan_backward",
    "(Tensor gy, Tensor? gs_last, Tensor x, Tensor? y, Tensor marks, Tensor decay, "
    "Tensor? threshold, Tensor? reset, float below, bool cut, bool soft, bool detach_reset, "
    "bool learn_decay) -> (Tensor, Tensor, Tensor)",
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

    ``activation`` explains ``below`` and ``cut``, ``kernels.forward`` what is kept.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    s, marks = torch.empty_like(y[0]), _marks(x, keep)
    constants = row(decay, s), row(threshold, s), row(reset, s), True if soft else None
    filled = row(s, s), flat(y), flat(marks) if keep else None, None
    given = flat(x), row(v, s, fill=True), *constants, *activation(below, cut, x)
    run(kernels.forward, (*given, *filled), x)
    return y, s, y[-1].clone(), marks


def _marks(x: Tensor, keep: bool) -> Tensor:
    rows = x.shape[0] // kernels.STEPS + x.shape[0] % kernels.STEPS
    return x.new_empty((rows if keep else 0, *x.shape[1:]))


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
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, decay and threshold, the last two for every neuron.

    That of decay is empty unless it is asked for. ``slopes`` are those of h in all steps, ``None``
    for the published ones.
    """
    gx = torch.empty_like(x, memory_format=torch.contiguous_format)
    gtheta = torch.zeros_like(gx[0])
    gl = torch.zeros_like(gtheta) if learn_decay else gtheta.new_empty(0)
    kept = (None if t is None else flat(t) for t in (x, y, marks, slopes))
    given = flat(gy), row(gs_last, gtheta), *kept
    constants = row(decay, gtheta), row(threshold, gtheta), row(reset, gtheta)
    through = scalar(float(not detach_reset), x)
    carried = row(None, gtheta, fill=True), row(gl, gtheta) if learn_decay else None
    g = True if soft else None, *activation(below, cut, x)
    wanted = flat(gx), *carried, row(gtheta, gtheta)
    run(kernels.backward, (*given, *constants, *g, through, *wanted), x)
    return gx, gl, gtheta


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
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    s = torch.empty_like(found[0])
    constants = row(decay, s), row(threshold, s), row(reset, s), None, *activation(below, cut, x)
    given = flat(x), row(v, s, fill=True), *constants, row(s, s)
    run(kernels.forward, (*given, None, None, flat(found)), x)
    return found


def activation(below: float, cut: bool, like: Tensor) -> tuple[Any, Any]:
    """Return g as the kernels take it: ``None``, or the larger of a and ``below max(a, floor)``.

    ``below`` is its slope below zero; ``cut`` says that it is zero there, whatever comes.
    """
    identity = below == 1 and not cut
    return (
        None if identity else scalar(below, like),
        scalar(0.0 if cut else -math.inf, like),
    )


def keep_for_backward(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    x, v, decay, threshold, reset, *ctx.settings, _ = inputs
    y, marks = output[0] if ctx.settings[2] else None, output[3]
    ctx.mark_non_differentiable(marks)
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if t is None else t.shape for t in (v, decay, threshold)]
    ctx.save_for_backward(x, y, marks, decay, threshold, reset)


def backward(
    ctx: Any,
    gy: Tensor | None,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    *_: object,
    surrogate: Surrogate | None = None,
) -> tuple[Tensor | None, ...]:
    x, y, marks, decay, threshold, reset = ctx.saved_tensors
    gy = ending(gy, gy_last, x)
    tensors = gy, gs_last, x, y, marks, decay, threshold, reset
    needs = ctx.needs_input_grad
    call: Any = scan_backward if plain(*tensors) else torch.ops.snu_plugin.scan_backward
    with torch.no_grad():
        slopes: Sequence[Tensor] = ()
        if surrogate is not None:
            s = states(x, marks[0], decay, threshold, reset, *ctx.settings[:2])
            slopes = [surrogate(s.sub_(threshold))]
        gx, *found = call(*tensors, *ctx.settings, needs[2], *slopes)
        gv = decay * gx[0] if needs[1] else None
    asked = zip((gv, *found), ctx.shapes, needs[1:4], strict=True)
    rows = [grad.sum_to_size(shape) if need else None for grad, shape, need in asked]
    return *once((gy, x), gx, *rows), *(None,) * 6


def ending(gy: Tensor | None, gy_last: Tensor | None, like: Tensor) -> Tensor:
    """Return the gradient of all outputs from those of all and of the last."""
    gy = torch.zeros_like(like) if gy is None else gy
    if gy_last is None:
        return gy
    return torch.cat((gy[:-1], (gy[-1] + gy_last)[None]))


def once(causes: Sequence[Tensor], *grads: Tensor | None) -> Sequence[Tensor | None]:
    """Return gradients that refuse to be differentiated, where a graph of them is made.

    ``causes`` are the tensors through which a second derivative would go on.
    """
    if not torch.is_grad_enabled():
        return grads
    return [None if grad is None else _Once.apply(grad, *causes) for grad in grads]


class _Once(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, *causes: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: object, output: object) -> None: ...

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("the fused scan has no second derivative; impl='reference' has one")


class Scan(torch.autograd.Function):
    """``scan`` with its gradients, for eager torch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, ctx.surrogate = inputs
        output = scan(*arguments)
        keep_for_backward(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return *backward(ctx, *grads, surrogate=ctx.surrogate), None


class TransformedScan(torch.autograd.Function):
    """The same in the form that ``torch.func`` asks for, which takes longer to call."""

    forward = staticmethod(scan)
    setup_context = staticmethod(keep_for_backward)
    backward = staticmethod(backward)  # type: ignore[assignment]
    vmap = staticmethod(fold)


@torch.library.register_fake("snu_plugin::scan")  # type: ignore[untyped-decorator]
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty(x.shape[1:]), x.new_empty(x.shape[1:]), _marks(x, rest[-1])


@torch.library.register_fake("snu_plugin::scan_backward")  # type: ignore[untyped-decorator]
def _(gy: Tensor, gs_last: object, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gx = torch.empty_like(x, memory_format=torch.contiguous_format)
    gl, gtheta = (x.new_empty(x.shape[1:]) for _ in range(2))
    return gx, gl if rest[-1] else x.new_empty(0), gtheta


torch.library.impl("snu_plugin::scan", "cpu")(scan)
torch.library.impl("snu_plugin::scan_backward", "cpu")(scan_backward)
torch.library.register_autograd("snu_plugin::scan", backward, setup_context=keep_for_backward)
if hasattr(torch.library, "register_vmap"):  # since torch 2.5
    torch.library.register_vmap("snu_plugin::scan", fold)
    torch.library.register_vmap("snu_plugin::scan_backward", fold_backward)
