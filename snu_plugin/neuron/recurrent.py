"""The scan of recurrent units as a torch operator, whatever runs its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.operators import (
    direct,
    ending,
    followed,
    imagined,
    once,
    own_surrogate,
    plain,
    settings,
    summed,
)
from snu_plugin.neuron.precision import carried


@dataclass(frozen=True)
class Recurrent:
    """An operator made of a loop over time and a loop back; registered at birth.

    ``a`` and ``b`` are what the loop over time keeps for the loop back, in the precision of the
    states: ``a`` of every step, of the shape of x, and ``b`` of every step or the first. They have
    no step where nothing is kept.
    """

    name: str
    device: str
    """Type of the devices that it runs on."""
    forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    """Called with x, H, v, y, decay, threshold, ``settings`` and whether to keep; returns outputs,
    the last ``s`` and ``y``, ``a`` and ``b``."""
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """Called with gy, gs_last, ``a``, outputs, ``b``, H, decay, threshold, ``settings``, whether
    the gradients of decay and threshold are asked for, and the slopes of h in all steps unless they
    are the published ones; returns the gradients of x, decay and threshold, the last two in the
    form of ``imagined``."""
    states: Callable[[Tensor, Tensor, Tensor, SNUConfig], Tensor]
    """Called with ``a``, ``b``, decay and config; returns the states of all steps."""
    every: bool = True
    """Whether ``b`` is of every step."""

    def __post_init__(self) -> None:
        name, back = f"snu_plugin::{self.name}", f"snu_plugin::{self.name}_backward"
        unit = "float below, bool cut, bool soft, bool detach_reset"
        torch.library.define(
            name,
            "(Tensor x, Tensor weight, Tensor? v, Tensor? y, Tensor decay, Tensor? threshold, "
            f"{unit}, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        )
        torch.library.define(
            back,
            "(Tensor gy, Tensor? gs_last, Tensor a, Tensor outputs, Tensor b, Tensor weight, "
            f"Tensor decay, Tensor? threshold, {unit}, bool learn_decay, bool learn_threshold) -> "
            "(Tensor, Tensor, Tensor)",
        )
        torch.library.impl(name, self.device)(self.forward)
        torch.library.impl(back, self.device)(self.backward)
        torch.library.register_fake(name)(self._imagined)
        torch.library.register_fake(back)(_imagined_backward)
        torch.library.register_autograd(name, self.gradients, setup_context=_keep)

    def update(
        self,
        weight: Tensor,
        y: Tensor | None,
        x: Tensor,
        v: Tensor | None,
        decay: Tensor,
        threshold: Tensor | None,
        reset: None,
        config: SNUConfig,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the update of ``fused.Update`` with ``x + H y'`` in place of ``x``.

        ``weight`` is H, ``(features, features)``, row = receiving unit; ``y`` the output of the
        step before the first, of a step's shape, ``None`` where it is zero.
        """
        tensors = x, weight, v, y, decay, threshold
        keep = followed(*tensors)
        arguments = *tensors, *settings(config), keep
        if not plain(*tensors):
            outputs, s, last, *_ = getattr(torch.ops.snu_plugin, self.name)(*arguments)
        elif keep:
            outputs, s, last, *_ = _Eager.apply(*arguments, config, self)
        else:
            outputs, s, last, *_ = self.forward(*arguments)
        return outputs, s, last

    def gradients(
        self,
        ctx: Any,
        gy: Tensor | None,
        gs_last: Tensor | None,
        gy_last: Tensor | None,
        *_: object,
        config: SNUConfig | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of all inputs; with a config those of its own surrogate."""
        *kept, y = ctx.saved_tensors
        a, outputs, b, weight, decay, threshold = kept
        gy = ending(gy, gy_last, outputs)
        operator = getattr(torch.ops.snu_plugin, f"{self.name}_backward")
        needs = ctx.needs_input_grad
        surrogate = None if config is None else own_surrogate(config)
        eager = direct((gy, gs_last, *kept), (gy, gs_last), surrogate)
        call = self.backward if eager else operator
        with torch.no_grad():
            slopes: Sequence[Tensor] = ()
            if config is not None and surrogate is not None:
                slopes = [surrogate(self.states(a, b, decay, config) - threshold)]
            gx, *found = call(gy, gs_last, *kept, *ctx.settings, *needs[4:6], *slopes)
            gv = decay * gx[0] if needs[2] else None
            gy_before = gx[0] @ weight.to(gx.dtype) if needs[3] else None
            gh = _product(gx, outputs, y) if needs[1] else None
        asked = zip((gv, *found), ctx.shapes, (needs[2], *needs[4:6]), strict=True)
        gv, *rows = (summed(grad, shape) if need else None for grad, shape, need in asked)
        return *once((gy, outputs), gx, gh, gv, gy_before, *rows), *(None,) * 5

    def _imagined(self, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        step, kind = x.shape[1:], carried(x)
        last = (x.new_empty(step, dtype=kind) for _ in range(2))
        sizes = (x.shape[0], x.shape[0] if self.every else 1) if rest[-1] else (0, 0)
        kept = (x.new_empty((n, *step), dtype=kind) for n in sizes)
        return torch.empty_like(x, memory_format=torch.contiguous_format), *last, *kept


def steps(tensor: Tensor) -> Tensor:
    """Return ``(T, B, ..., features)`` as ``(T, rows, features)``."""
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor.unsqueeze(1)


def _keep(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    _, weight, v, y, decay, threshold, *ctx.settings, _ = inputs
    outputs, _, _, a, b = output
    ctx.mark_non_differentiable(a, b)
    ctx.set_materialize_grads(False)
    ctx.shapes = [None if t is None else t.shape for t in (v, decay, threshold)]
    ctx.save_for_backward(a, outputs, b, weight, decay, threshold, y)


def _product(gx: Tensor, outputs: Tensor, y: Tensor | None) -> Tensor:
    """Return the gradient of H: that of every drive with the output of the step before it."""
    features = gx.shape[-1]
    found = gx[1:].reshape(-1, features).t() @ outputs[:-1].reshape(-1, features)
    if y is None:
        return found
    return found + gx[0].reshape(-1, features).t() @ y.to(gx.dtype).reshape(-1, features)


class _Eager(torch.autograd.Function):
    """The loops with their gradients, for eager torch."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, ctx.config, ctx.scan = inputs
        output: tuple[Tensor, ...] = ctx.scan.forward(*arguments)
        _keep(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return *ctx.scan.gradients(ctx, *grads, config=ctx.config), None, None


def _imagined_backward(
    gy: Tensor, gs_last: object, a: Tensor, outputs: Tensor, b: object, weight: object,
    decay: Tensor, threshold: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    asked = zip((decay, threshold), rest[-2:], strict=True)
    gx = torch.empty_like(outputs, memory_format=torch.contiguous_format)
    return gx, *(imagined(of, a, need) for of, need in asked)
