"""The fused scans on GPUs: what they can run, and the operators that run it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from snu_plugin.neuron import fused
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState
from snu_plugin.neuron.operators import surrogate_refusal, transformed
from snu_plugin.neuron.precision import HALF, carried
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.triton_scan.operator import kernels, update
from snu_plugin.neuron.triton_scan.recurrent import SCAN

OLDEST = 7
"""Compute capability of the oldest GPUs that torch's compiler, too, gives kernels of Triton."""


def missing() -> str:
    """Return why this machine cannot run the kernels; raises ``ImportError`` without Triton."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    kernels()
    return ""


def refusal(x: Tensor, config: SNUConfig, recurrent: Tensor | None, *others: Tensor | None) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if recurrent is not None and transformed():
        return "recurrent weights are not fused inside the transforms of torch.func"
    if config.lateral_inhibition:
        return "lateral inhibition is not fused"
    return _refusal(x, config, recurrent, *others)


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
    run = update
    if recurrent is not None:
        run = partial(SCAN.update, recurrent, None if state is None else state.y)
    return fused.snu(run, x, config, decay, threshold, state)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None
) -> tuple[Tensor, EulerState]:
    """Run the scan fused; see ``snu_plugin.neuron.euler_scan``. ``euler_refusal`` must be empty."""
    return fused.euler(update, x, neuron, state)


def _refusal(x: Tensor, config: SNUConfig, *others: Tensor | None) -> str:
    if x.device.type != "cuda":
        return f"x is on {x.device}, it must be on a cuda device"
    major = torch.cuda.get_device_properties(x.device).major
    if major < OLDEST:
        return f"{x.device} has compute capability {major}, Triton needs {OLDEST} or higher"
    if x.dtype not in (*HALF, torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float16, bfloat16, float32 or float64"
    for tensor in (t for t in others if t is not None):
        if tensor.device != x.device:
            return f"x is on {x.device} and another tensor on {tensor.device}, all must share one"
        if tensor.dtype not in (x.dtype, carried(x)):
            return (
                f"x has dtype {x.dtype} and another tensor {tensor.dtype}, "
                f"it must have the same or {carried(x)}"
            )
    return surrogate_refusal(config, x, *others)
