"""The fused scan on GPUs: Triton kernels that keep the states in registers over time."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.neuron import fused
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.surrogate import tanh_derivative

BLOCK = 128
"""Neurons of one program: two warps, two neurons a thread, so that one load moves 4 bytes of
half precision, the least that can be fetched ahead."""

AHEAD = 4
"""Steps whose loads are in flight while one is computed."""

LAUNCH = {"BLOCK": BLOCK, "AHEAD": AHEAD, "num_warps": 2, "enable_fp_fusion": False}


def missing() -> str:
    """Return why this machine cannot run the kernels; raises ``ImportError`` without Triton."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    _kernels()
    return ""


def refusal(x: Tensor, config: SNUConfig, recurrent: Tensor | None, *others: Tensor | None) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if recurrent is not None:
        return "recurrent weights are not fused"
    if config.lateral_inhibition:
        return "lateral inhibition is not fused"
    return _refusal(x, config, *others)


def euler_refusal(x: Tensor, neuron: Euler, state: EulerState | None) -> str:
    """Return why these arguments of ``euler_scan`` cannot run fused, ``""`` where they can."""
    return fused.euler_refusal(x, neuron, state) or _refusal(
        x, neuron.config, *fused.euler_operands(neuron, state)
    )


def snu_scan(
    x: Tensor,
    config: SNUConfig,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Run the scan fused; see ``snu_plugin.snu_scan``. ``refusal`` must be empty.

    Where ``x`` has half precision, states are float32, and so is the state that is returned.
    """
    return fused.snu(_update, x, config, decay, threshold, state)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None
) -> tuple[Tensor, EulerState]:
    """Run the scan fused; see ``snu_plugin.neuron.euler_scan``. ``euler_refusal`` must be empty."""
    return fused.euler(_update, x, neuron, state)


def _refusal(x: Tensor, config: SNUConfig, *others: Tensor | None) -> str:
    if x.device.type != "cuda":
        return f"x is on {x.device}, it must be on a cuda device"
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float16, bfloat16, float32 or float64"
    for tensor in (t for t in others if t is not None):
        if tensor.device != x.device:
            return f"x is on {x.device} and another tensor on {tensor.device}, all must share one"
        if tensor.dtype not in (x.dtype, fused.carried(x)):
            return (
                f"x has dtype {x.dtype} and another tensor {tensor.dtype}, "
                f"it must have the same or {fused.carried(x)}"
            )
    if not config.soft and config.surrogate is not tanh_derivative:
        return "the surrogate is not tanh_derivative"
    return ""


class _Unit(NamedTuple):
    """The settings that kernels are compiled for."""

    below: float
    """Slope of g below zero."""
    cut: bool
    """g is zero below zero, whatever comes."""
    soft: bool
    detached: bool

    def forward(self) -> dict[str, Any]:
        return {"BELOW": self.below, "CUT": self.cut, "SOFT": self.soft, **LAUNCH}

    def backward(self) -> dict[str, Any]:
        return {"DETACHED": self.detached, **self.forward()}


def _update(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    config: SNUConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``fused.Update``."""
    below = config.slope if config.g == "leaky_relu" else 1.0
    unit = _Unit(below, config.g == "relu", config.soft, config.detach_reset)
    given = (x, v, decay, threshold)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        y, s_last, y_last = _Scan.apply(*given, reset, unit)
        return y, s_last, y_last
    return _forward(*given, reset, unit, None)


class _Scan(torch.autograd.Function):
    # Backward reads the states and nothing else of (T, B, ...): outputs follow from them.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        decay: Tensor,
        threshold: Tensor | None,
        reset: Tensor | None,
        unit: _Unit,
    ) -> tuple[Tensor, Tensor, Tensor]:
        s = x.new_empty(x.shape, dtype=fused.carried(x))
        ctx.unit, ctx.kind = unit, x.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(s, v, decay, threshold, reset)
        return _forward(x, v, decay, threshold, reset, unit, s)

    @staticmethod
    def backward(
        ctx: Any, gy: Tensor | None, gs_last: Tensor | None, gy_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the triton scan has no second derivative; differentiate without create_graph, or "
                "use impl='reference'"
            )
        s, v, decay, threshold, reset = ctx.saved_tensors
        needs = ctx.needs_input_grad
        gy = s.new_zeros(s.shape) if gy is None else gy.contiguous()
        gx, gv = torch.empty_like(s, dtype=ctx.kind), torch.empty_like(s[0])
        gl = torch.empty_like(gv) if needs[2] else None
        gtheta = torch.empty_like(gv) if needs[3] else None
        given = gy[-1], _whole(gs_last, gv), _whole(gy_last, gv), s[-1], _whole(v, gv)
        rows, periods = _constants((decay, threshold, reset), gv)
        _launch(
            "backward", s, *given, *rows, gx[-1], gv, gl, gtheta, len(s), gv.numel(), *periods,
            **ctx.unit.backward(),
        )  # fmt: skip
        asked = zip((gv, gl, gtheta), (v, decay, threshold), needs[1:4], strict=True)
        summed = (
            grad.sum_to_size(like.shape).to(like.dtype) if need and grad is not None else None
            for grad, like, need in asked
        )
        return gx, *summed, None, None


def _forward(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    unit: _Unit,
    s: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs and the last ``s`` and ``y``; fills ``s`` where it is wanted."""
    x = x.contiguous()
    y = torch.empty_like(x)
    s_last, y_last = x.new_empty((2, *x.shape[1:]), dtype=fused.carried(x))
    rows, periods = _constants((decay, threshold, reset), s_last)
    _launch(
        "forward", x, x, _whole(v, s_last), *rows, y, s, s_last, y_last,
        len(x), s_last.numel(), *periods, **unit.forward(),
    )  # fmt: skip
    return y, s_last, y_last


def _launch(kernel: str, like: Tensor, *arguments: Any, **settings: Any) -> None:
    """Start one program for every ``BLOCK`` neurons, on the device of ``like``."""
    programs = -(-math.prod(like.shape[1:]) // BLOCK)
    if not programs:
        return
    with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
        getattr(_kernels(), kernel)[(programs,)](*arguments, **settings)


def _kernels() -> ModuleType:
    from snu_plugin.neuron import triton_kernels

    return triton_kernels


def _whole(tensor: Tensor | None, step: Tensor) -> Tensor | None:
    """Return what broadcasts to one step in the memory order of one step."""
    return None if tensor is None else tensor.expand_as(step).contiguous()


def _constants(
    values: tuple[Tensor | None, ...], step: Tensor
) -> tuple[list[Tensor | None], list[int]]:
    """Return what broadcasts to one step as one period of its values, and the periods."""
    rows = [_period(value, step) for value in values]
    return rows, [1 if row is None else row.numel() for row in rows]


def _period(value: Tensor | None, step: Tensor) -> Tensor | None:
    if value is None or value.numel() == 1:
        return value
    value = value.reshape(value.shape[next(i for i, n in enumerate(value.shape) if n != 1) :])
    if value.shape == step.shape[-value.dim() :]:
        return value.contiguous()
    return value.expand_as(step).contiguous()
