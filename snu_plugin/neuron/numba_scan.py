"""The fused scan on processors: a torch operator whose loops Numba compiles."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron import numba_kernels as kernels
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState, initial
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.scan import broadcasts
from snu_plugin.neuron.surrogate import tanh_derivative

GRAIN = 100_000
"""Neuron updates below which a second thread costs more than it saves."""

LINEAR = SNUConfig()
"""What a synapse reads of a config: no activation."""


def missing() -> str:
    """Return why this machine cannot run the fused scan; importing the module needs Numba."""
    return ""


def refusal(x: Tensor, config: SNUConfig, recurrent: Tensor | None, *others: Tensor | None) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if recurrent is not None:
        return "recurrent weights are not fused"
    if config.lateral_inhibition:
        return "lateral inhibition is not fused"
    return _refusal(x, config, *others)


def snu_scan(
    x: Tensor,
    config: SNUConfig,
    *,
    decay: Tensor | None = None,
    threshold: Tensor | None = None,
    recurrent: Tensor | None = None,
    state: State | None = None,
) -> tuple[Tensor, State]:
    """Run the scan fused; see ``snu_plugin.snu_scan``. ``refusal`` must be empty."""
    if not x.shape[0]:
        zeros = x.new_zeros(x.shape[1:])
        return torch.empty_like(x), state or State(zeros, zeros)
    v = None
    if state is not None:
        v = state.s * (1 - (state.y.detach() if config.detach_reset else state.y))
    decay = x.new_tensor(config.decay) if decay is None else decay
    threshold = x.new_tensor(config.threshold) if threshold is None else threshold
    y, s_last, y_last = _fused(x, v, decay, threshold, None, config)
    return y, State(s_last, y_last)


def euler_refusal(x: Tensor, neuron: Euler, state: EulerState | None) -> str:
    """Return why these arguments of ``euler_scan`` cannot run fused, ``""`` where they can."""
    others = [t for t in (*vars(neuron).values(), *(state or ())) if isinstance(t, Tensor)]
    step = x.shape[1:]
    if not all(broadcasts(t.shape, step) for t in others):
        return f"constants or state are larger than one step of x, {tuple(step)}"
    if neuron.reset is not None and neuron.reset.requires_grad:
        return "a trained reset is not fused"
    return _refusal(x, neuron.config, *others)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None
) -> tuple[Tensor, EulerState]:
    """Run the scan fused; see ``snu_plugin.neuron.euler_scan``. ``euler_refusal`` must be empty."""
    state = initial(x.new_zeros(x.shape[1:]), neuron) if state is None else state
    if not x.shape[0]:
        return torch.empty_like(x), state
    i, i_last = x, None
    if neuron.synapse_decay is not None:
        driven = x if neuron.synapse_gain is None else neuron.synapse_gain * x
        i, i_last, _ = _fused(driven, state.i, neuron.synapse_decay, None, None, LINEAR)
    drive = i if neuron.gain is None else neuron.gain * i
    drive = drive if neuron.offset is None else drive + neuron.offset
    y, s, fired = _fused(
        drive, state.v, neuron.decay, neuron.threshold, neuron.reset, neuron.config
    )
    if neuron.threshold is None:
        return y, EulerState(s, i_last)
    blocked = fired.detach() if neuron.config.detach_reset else fired
    v = s * (1 - blocked)
    return y, EulerState(v if neuron.reset is None else v + neuron.reset * blocked, i_last)


def _refusal(x: Tensor, config: SNUConfig, *others: Tensor | None) -> str:
    if x.dtype not in (torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float32 or float64"
    for tensor in (x, *others):
        if tensor is not None and tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}, all must be on the cpu"
        if tensor is not None and tensor.dtype != x.dtype:
            return f"x has dtype {x.dtype} and another tensor {tensor.dtype}, all must have one"
    if not config.soft and config.surrogate is not tanh_derivative:
        return "the surrogate is not tanh_derivative"
    return ""


def _fused(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    config: SNUConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``s = g(x + decay v)``, ``y = h(s - threshold)``, ``v = s (1 - y) + reset y``.

    Args:
        x: Drive, ``(T, B, ..., features)`` with ``T >= 1``, float32 or float64.
        v: Potential after the last reset; ``None`` is zero. It, decay, threshold and reset
            broadcast to ``x.shape[1:]``.
        decay: Decays.
        threshold: Thresholds; ``None``: the output is ``s`` and nothing resets.
        reset: Potential after a spike, which gets no gradient; ``None`` is zero.
        config: Supplies g, its slope, h and ``detach_reset``.

    Returns:
        Outputs, and the last step's ``s`` and ``y``.
    """
    below = config.slope if config.g == "leaky_relu" else 1.0
    y, s_last, y_last, _ = torch.ops.snu_plugin.scan(
        x, v, decay, threshold, reset, below, config.g == "relu", config.soft, config.detach_reset
    )
    return y, s_last, y_last


# Not ``torch.library.custom_op``: its first call imports torch's compiler, two seconds.
torch.library.define(
    "snu_plugin::scan",
    "(Tensor x, Tensor? v, Tensor decay, Tensor? threshold, Tensor? reset, float below, bool cut, "
    "bool soft, bool detach_reset) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "snu_plugin::scan_backward",
    "(Tensor gy, Tensor? gs_last, Tensor? gy_last, Tensor x, Tensor y, Tensor? v, Tensor marks, "
    "Tensor decay, Tensor? threshold, Tensor? reset, float below, bool cut, bool soft, "
    "bool detach_reset, bool learn_decay) -> (Tensor, Tensor, Tensor, Tensor)",
)


@torch.library.impl("snu_plugin::scan", "cpu")
def _scan(
    x: Tensor,
    v: Tensor | None,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs, the last ``s`` and ``y``, and what ``kernels.backward`` starts segments from.

    ``_activation`` explains ``below`` and ``cut``.
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    s, marks = torch.empty_like(y[0]), _marks(x)
    carried = _row(v, s, fill=True)
    constants = _row(decay, s), _row(threshold, s), _row(reset, s), True if soft else None
    activation = _activation(below, cut, x)
    filled = _row(s, s), _flat(y), _flat(marks)
    _run(kernels.forward, (_flat(x), carried, *constants, *activation, *filled), x)
    return y, s, y[-1].clone(), marks


def _marks(x: Tensor) -> Tensor:
    return x.new_empty(((x.shape[0] - 1) // kernels.SEGMENT, *x.shape[1:]))


@torch.library.register_fake("snu_plugin::scan")  # type: ignore[untyped-decorator]
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, torch.empty_like(y[0]), torch.empty_like(y[0]), _marks(x)


@torch.library.impl("snu_plugin::scan_backward", "cpu")
def _scan_backward(
    gy: Tensor,
    gs_last: Tensor | None,
    gy_last: Tensor | None,
    x: Tensor,
    y: Tensor,
    v: Tensor | None,
    marks: Tensor,
    decay: Tensor,
    threshold: Tensor | None,
    reset: Tensor | None,
    below: float,
    cut: bool,
    soft: bool,
    detach_reset: bool,
    learn_decay: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, v, decay and threshold, the last two for every neuron."""
    gx = torch.empty_like(x, memory_format=torch.contiguous_format)
    gv, gl, gtheta = torch.empty_like(gx[0]), torch.zeros_like(gx[0]), torch.zeros_like(gx[0])
    last = _row(gs_last, gv, fill=True), _row(gy_last, gv, fill=True)
    given = _flat(gy), *last, _flat(x), _flat(y), _row(v, gv, fill=True), _flat(marks)
    constants = _row(decay, gv), _row(threshold, gv), _row(reset, gv), True if soft else None
    settings = *_activation(below, cut, x), _scalar(float(not detach_reset), x)
    wanted = _flat(gx), _row(gv, gv), _row(gl, gv) if learn_decay else None, _row(gtheta, gv)
    _run(kernels.backward, (*given, *constants, *settings, *wanted), x)
    return gx, gv, gl, gtheta


@torch.library.register_fake("snu_plugin::scan_backward")  # type: ignore[untyped-decorator]
def _(
    gy: Tensor, gs_last: object, gy_last: object, x: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return gx, torch.empty_like(gx[0]), torch.empty_like(gx[0]), torch.empty_like(gx[0])


def _keep(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    x, v, decay, threshold, reset, *ctx.settings = inputs
    ctx.mark_non_differentiable(output[3])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, output[0], v, output[3], decay, threshold, reset)


def _backward(
    ctx: Any, gy: Tensor | None, gs_last: Tensor | None, gy_last: Tensor | None, _: object
) -> tuple[Tensor | None, ...]:
    x, y, v, marks, decay, threshold, reset = ctx.saved_tensors
    needs = ctx.needs_input_grad
    gy = torch.zeros_like(y) if gy is None else gy
    gx, gv, gl, gtheta = torch.ops.snu_plugin.scan_backward(
        gy, gs_last, gy_last, x, y, v, marks, decay, threshold, reset, *ctx.settings, needs[2]
    )
    asked = zip((gv, gl, gtheta), (v, decay, threshold), needs[1:4], strict=True)
    rows = (grad.sum_to_size(like.shape) if need else None for grad, like, need in asked)
    return gx, *rows, *(None,) * 5


torch.library.register_autograd("snu_plugin::scan", _backward, setup_context=_keep)


def _flat(tensor: Tensor) -> Any:
    """Return ``(T, B, ..., features)`` as an array ``(T, neurons)``, a copy if not contiguous."""
    array = tensor.contiguous().numpy(force=True)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def _row(tensor: Tensor | None, step: Tensor, *, fill: bool = False) -> Any:
    """Return what broadcasts to one step as an array ``(neurons,)``.

    With ``fill`` an array of its own: a copy, or zeros for ``None``, which stays ``None`` without.
    """
    if tensor is None and not fill:
        return None
    if tensor is not None and not fill and tensor.shape == step.shape:
        return tensor.contiguous().numpy(force=True).reshape(-1)
    row = np.empty(step.shape, np.float32 if step.dtype == torch.float32 else np.float64)
    row[...] = 0 if tensor is None else tensor.numpy(force=True)
    return row.reshape(-1)


def _activation(below: float, cut: bool, like: Tensor) -> tuple[Any, Any]:
    """Return g as the kernels take it, the larger of ``a`` and ``below max(a, floor)``.

    ``below`` is its slope below zero; ``cut`` says that it is zero there, whatever comes.
    """
    return _scalar(below, like), _scalar(0.0 if cut else -math.inf, like)


def _scalar(value: float, like: Tensor) -> Any:
    return np.float32(value) if like.dtype == torch.float32 else np.float64(value)


def _run(kernel: Callable[..., None], arguments: Sequence[Any], like: Tensor) -> None:
    """Run a kernel over all columns, in as many threads as torch uses and the work deserves."""
    columns = math.prod(like.shape[1:])
    parts = max(1, min(torch.get_num_threads(), like.numel() // GRAIN))
    if parts == 1:
        kernel(*arguments, 0, columns)
        return
    ends = [columns * part // parts for part in range(parts + 1)]
    ranges = itertools.pairwise(ends[1:])
    waiting = [_threads().submit(kernel, *arguments, lo, hi) for lo, hi in ranges]
    kernel(*arguments, 0, ends[1])
    for part in waiting:
        part.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="snu-scan")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; a child starts its own
    os.register_at_fork(after_in_child=_threads.cache_clear)
