"""The engine on processors: what it can run, and the operators of its compiled loops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.numba_scan.fed import snu_linear
from snu_plugin.neuron.numba_scan.inhibition import INHIBITED
from snu_plugin.neuron.numba_scan.lif import lif_scan
from snu_plugin.neuron.numba_scan.loops import (
    marks_of,
    recurrent_marks,
    recurrent_scan,
    recurrent_scan_backward,
    scan,
    scan_backward,
    scan_eagerly,
)
from snu_plugin.neuron.numba_scan.pool import max_pool2d
from snu_plugin.neuron.numba_scan.pooled import refusal as pooled_refusal
from snu_plugin.neuron.numba_scan.pooled import snu_pooled
from snu_plugin.neuron.numba_scan.spike_product import SPIKES
from snu_plugin.neuron.numba_scan.src import src_scan
from snu_plugin.neuron.operators import (
    ScanOperator,
    Scans,
    is_eager,
    transformed,
)
from snu_plugin.neuron.surrogate import tanh_derivative

SCANS = Scans(
    plain=ScanOperator(
        name="scan",
        device="cpu",
        forward=scan,
        eagerly=scan_eagerly,
        backward=scan_backward,
        kept={"marks": marks_of},
        saved=("x", "soft_y", "marks"),
    ),
    recurrent=ScanOperator(
        name="recurrent_scan",
        device="cpu",
        recurrent=True,
        forward=recurrent_scan,
        backward=recurrent_scan_backward,
        kept={"marks": recurrent_marks},
        saved=("x", "y", "y_before", "marks"),
    ),
    inhibited=INHIBITED,
)


def refusal(
    x: Tensor, config: SNUConfig, recurrent: Tensor | None, others: Sequence[Tensor | None]
) -> str:
    """Return why these arguments of ``snu_scan`` cannot run fused, ``""`` where they can."""
    if config.lateral_inhibition and recurrent is not None:
        return "lateral inhibition beside recurrent weights is not fused"
    if config.lateral_inhibition and not is_eager(x, *others):
        return "lateral inhibition is fused in eager torch only"
    if recurrent is not None and transformed():
        return "recurrent weights are not fused inside the transforms of torch.func"
    if x.dtype not in (torch.float32, torch.float64):
        return f"x has dtype {x.dtype}, it must be float32 or float64"
    for tensor in (x, recurrent, *others):
        if tensor is not None and not tensor.is_cpu:
            return f"a tensor is on {tensor.device}, all must be on the cpu"
        if tensor is not None and tensor.dtype != x.dtype:
            return f"x has dtype {x.dtype} and another tensor {tensor.dtype}, all must have one"
    if not (config.soft or config.surrogate is tanh_derivative or is_eager(x, recurrent, *others)):
        return "a surrogate other than tanh_derivative is fused in eager torch only"
    return ""


ENGINE = Engine(
    name="numba",
    missing=lambda: "",  # to import this file needs Numba
    refusal=refusal,
    snu=SCANS.snu,
    euler=SCANS.euler,
    src=src_scan,
    lif=lif_scan,
    max_pool2d=max_pool2d,
    snu_pooled=snu_pooled,
    snu_linear=snu_linear,
    pooled_refusal=pooled_refusal,
    spikes=SPIKES,
)
