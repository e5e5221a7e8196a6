"""The fused scans on processors: what they can run, and the operators that run it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from snu_plugin.neuron import fused
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState
from snu_plugin.neuron.numba_scan import inhibition as inhibition
from snu_plugin.neuron.numba_scan.operator import update
from snu_plugin.neuron.numba_scan.recurrent import SCAN
from snu_plugin.neuron.operators import surrogate_refusal, transformed
from snu_plugin.neuron.reference import State


def missing() -> str:
    """Return why this machine cannot run the fused scan; importing the module needs Numba."""
    return ""


def refusal(x: Tensor, config: SNUConfig, recurrent: Tensor | None, *others: Tensor | None) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if config.lateral_inhibition and (why := inhibition.refusal(x, recurrent, *others)):
        return why
    if recurrent is not None and transformed():
        return "recurrent weights are not fused inside the transforms of torch.func"
    return _refusal(x, config, recurrent, *others)


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
    run: fused.Update = inhibition.update if config.lateral_inhibition else update
    if recurrent is not None:
        run = partial(SCAN.update, recurrent, None if state is None else state.y)
    return fused.snu(run, x, config, decay, threshold, state)


def euler_refusal(x: Tensor, neuron: Euler, state: EulerState | None) -> str:
    """Return why these arguments of ``euler_scan`` cannot run fused, ``""`` where they can."""
    others = fused.euler_operands(neuron, state)
    return fused.euler_refusal(x, neuron, state) or _refusal(x, neuron.config, *others)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None
) -> tuple[Tensor, EulerState]:
    """Run the scan fused; see ``snu_plugin.neuron.euler_scan``. ``euler_refusal`` must be empty."""
    return fused.euler(update, x, neuron, state)


def _refusal(x: Tensor, config: SNUConfig, *others: Tensor | None) -> str:
    if x.dtype not in (torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float32 or float64"
    for tensor in (x, *others):
        if tensor is not None and not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, all must be on the cpu"
        if tensor is not None and tensor.dtype != x.dtype:
            return f"x has dtype {x.dtype} and another tensor {tensor.dtype}, all must have one"
    return surrogate_refusal(config, x, *others)
