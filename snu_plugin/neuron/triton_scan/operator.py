"""The update that every unit shares as a torch operator whose loops Triton compiles."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.operators import (
    SCAN,
    direct,
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
from snu_plugin.neuron.precision import carried
from snu_plugin.neuron.surrogate import Surrogate
from snu_plugin.neuron.vmap import folded, folded_backward

BLOCK = 128
"""Neurons of one program: two warps, two neurons a thread, so that one load moves 4 bytes of
half precision, the least that can be fetched ahead."""

AHEAD = 4
"""Steps whose loads are in flight while one is computed."""

LAUNCH = {"BLOCK": BLOCK, "AHEAD": AHEAD, "num_warps": 2, "enable_fp_fusion": False}


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
        y, s, last, _ = Scan.apply(*tensors, settings(config), surrogate)
        return y, s, last
    arguments = *tensors, *settings(config), keep
    y, s, last, _ = scan(*arguments) if eager else _seen(*arguments)
    return y, s, last


def _seen(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the operator in the form for whoever sees the call."""
    if arguments[-1] and transformed():
        return TransformedScan.apply(*arguments)  # type: ignore[no-any-return]
    return torch.ops.snu_plugin.triton_scan(*arguments)  # type: ignore[no-any-return]


torch.library.define("snu_plugin::triton_scan", SCAN)
torch.library.define(
    "snu_plugin::triton_scan_backward",
    "(Tensor gy, Tensor? gs_last, Tensor? gy_last, Tensor s, Tensor? v, Tensor decay, "
    "Tensor? threshold, Tensor? reset, float below, bool cut, bool soft, bool detach_reset, "
    "bool learn_decay, bool learn_threshold) -> (Tensor, Tensor, Tensor, Tensor)",
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
    """Return outputs, the last ``s`` and ``y``, and the states of all steps if ``keep``.

    ``settings`` explains ``below`` and ``cut``.
    """
    step = x.shape[1:]
    y, s_last, y_last, s = _outputs(x, keep)
    forward = Loop("forward", s_last, (decay, threshold, reset), below, cut, soft)
    given = x.contiguous(), whole(v, step), *forward.constants
    forward(*given, y, s if keep else None, s_last, y_last, None, steps=len(x))
    return y, s_last, y_last, s


def _outputs(x: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    s_last, y_last = (x.new_empty(x.shape[1:], dtype=carried(x)) for _ in range(2))
    s = x.new_empty((x.shape[0] if keep else 0, *x.shape[1:]), dtype=carried(x))
    return y, s_last, y_last, s


def scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    s: Tensor,
    v: Tensor | None,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the first step's drive, of decay and of threshold.

    That of the drive is that of ``x[0]`` in the precision of the states. The last two have the
    shape of ``repeated``, or are empty if not asked for. ``slopes`` are those of h in all steps,
    ``None`` for the published ones.
    """
    step, gy, s = s.shape[1:], gy.contiguous(), s.contiguous()
    gx, ga = _gradients(gy, s)
    slopes = None if slopes is None else slopes.expand_as(s).contiguous()[-1]
    backward = Loop("backward", ga, (decay, threshold, reset), below, cut, soft)
    sums = backward.sums(learn_decay, learn_threshold)
    ends = (whole(t, step) for t in (gs_last, gy_last))
    given = gy[-1], *ends, s[-1], slopes, whole(v, step), *backward.constants
    unit = {"DETACHED": detach_reset, "ON": False}
    backward(*given, gx[-1], ga, *sums, steps=len(s), **unit)
    gl, gtheta = backward.totals(sums)
    return gx, ga, gl, gtheta


def _gradients(gy: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gy, memory_format=torch.contiguous_format), s.new_empty(s.shape[1:])


class Loop:
    """A kernel of ``triton_scan.kernels`` for one layer, ready to run over some steps."""

    def __init__(
        self,
        kernel: str,
        like: Tensor,
        constants: Sequence[Tensor | None],
        below: float,
        cut: bool,
        soft: bool,
    ) -> None:
        """Take decay, threshold and reset of a layer; ``like`` is like one of its states."""
        self._kernel, self._like = kernel, like
        self.constants = [repeated(constant, like.shape) for constant in constants]
        self._periods = [1 if row is None else row.numel() for row in self.constants]
        self._unit: dict[str, Any] = {"BELOW": below, "CUT": cut, "SOFT": soft, **LAUNCH}

    def __call__(self, *arguments: Tensor | None, steps: int, **settings: bool) -> None:
        """Start one program for every ``BLOCK`` neurons, on the device of the layer."""
        columns = self._like.numel()
        if columns:
            numbers = steps, columns, *self._periods
            with torch.cuda.device_of(self._like):  # type: ignore[no-untyped-call]
                kernel = getattr(kernels(), self._kernel)[(-(-columns // BLOCK),)]
                kernel(*arguments, *numbers, **self._unit, **settings)

    def sums(self, *learn: bool) -> list[Tensor | None]:
        """Return where the kernel writes the gradients of decay and threshold, of every column."""
        return [torch.empty_like(self._like) if need else None for need in learn]

    def totals(self, sums: Sequence[Tensor | None]) -> list[Tensor]:
        """Return these gradients in the form of ``imagined``."""
        return [
            self._like.new_empty(0) if grad is None or row is None else summed(grad, row.shape)
            for grad, row in zip(sums, self.constants[:2], strict=True)
        ]


def kernels() -> ModuleType:
    """Return ``triton_scan.kernels``; raises ``ImportError`` without Triton."""
    from snu_plugin.neuron.triton_scan import kernels

    return kernels


def keep_for_backward(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    x, *tensors = inputs[:5]
    ctx.mark_non_differentiable(output[3])
    _keep(ctx, x, tensors, inputs[5:9], output)


def _keep(
    ctx: Any, cause: Tensor | None, tensors: Sequence[Any], settings: Any, output: Sequence[Tensor]
) -> None:
    ctx.settings, ctx.kind = settings, output[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(cause, output[3], *tensors)


def backward(
    ctx: Any,
    gy: Tensor | None,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    *_: object,
    surrogate: Surrogate | None = None,
) -> tuple[Tensor | None, ...]:
    cause, s, v, decay, threshold, reset = ctx.saved_tensors
    gy = s.new_zeros(s.shape, dtype=ctx.kind) if gy is None else gy
    tensors = gy, gs_last, gy_last, s, v, decay, threshold, reset
    needs = ctx.needs_input_grad
    eager = direct(tensors, (gy, gs_last, gy_last), surrogate)
    call: Any = scan_backward if eager else torch.ops.snu_plugin.triton_scan_backward
    with torch.no_grad():
        slopes = [] if surrogate is None else [surrogate(s - threshold)]
        gx, ga, *found = call(*tensors, *ctx.settings, *needs[2:4], *slopes)
        gv = decay * ga if needs[1] else None
    asked = zip((gv, *found), (v, decay, threshold), needs[1:4], strict=True)
    rows = [summed(grad, of.shape).to(of.dtype) if need else None for grad, of, need in asked]
    return *once((gy, s if cause is None else cause), gx, *rows), *(None,) * 6


class Scan(torch.autograd.Function):
    """``scan`` with its gradients, for eager torch.

    The states are an output that nobody gets: so a second derivative finds its way to the refusal
    through them, and ``x`` need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, *tensors, settings, ctx.surrogate = inputs
        output = scan(x, *tensors, *settings, True)  # type: ignore[call-arg]
        _keep(ctx, None, tensors, settings, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return backward(ctx, *grads, surrogate=ctx.surrogate)[:7]


class TransformedScan(torch.autograd.Function):
    """The same in the form that ``torch.func`` asks for, which takes longer to call."""

    forward = staticmethod(scan)
    setup_context = staticmethod(keep_for_backward)
    backward = staticmethod(backward)  # type: ignore[assignment]
    vmap = staticmethod(folded(_seen))


@torch.library.register_fake("snu_plugin::triton_scan")  # type: ignore[untyped-decorator]
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(x, rest[-1])


@torch.library.register_fake("snu_plugin::triton_scan_backward")  # type: ignore[untyped-decorator]
def _(
    gy: Tensor, gs_last: object, gy_last: object, s: Tensor, v: object, decay: Tensor,
    threshold: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    asked = zip((decay, threshold), rest[-2:], strict=True)
    return *_gradients(gy, s), *(imagined(of, s, need) for of, need in asked)


torch.library.impl("snu_plugin::triton_scan", "cuda")(scan)
torch.library.impl("snu_plugin::triton_scan_backward", "cuda")(scan_backward)
torch.library.register_autograd(
    "snu_plugin::triton_scan", backward, setup_context=keep_for_backward
)
if hasattr(torch.library, "register_vmap"):  # since torch 2.5
    torch.library.register_vmap("snu_plugin::triton_scan", folded(_seen))
    back = folded_backward(
        torch.ops.snu_plugin.triton_scan_backward, over=(0, 3), ends=(1, 2), rows=(4, 5, 6, 7)
    )
    torch.library.register_vmap("snu_plugin::triton_scan_backward", back)
