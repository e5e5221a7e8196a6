"""torch's layers and this package's as NIR nodes."""

from __future__ import annotations

from collections.abc import Sequence

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph import wire
from snu_plugin.graph.export import array, divide, leading, to_node
from snu_plugin.graph.flow import Shape
from snu_plugin.graph.src_node import encode_src
from snu_plugin.neuron import SNU, SRC, EventLinear, hold_decay, sSNU


@to_node.register(nn.Linear)
@to_node.register(EventLinear)
def _linear(module: nn.Linear, *, shape: Shape, dt: float) -> nir.NIRNode:
    weight = array(module.weight)
    return nir.Linear(weight) if module.bias is None else nir.Affine(weight, array(module.bias))


@divide.register(nn.Linear)
@divide.register(EventLinear)
def _divided(module: nn.Linear, widths: Sequence[int]) -> list[nn.Module]:
    """Return a layer for each part of the input, the bias with the first."""
    parts: list[nn.Module] = []
    for weight in torch.split(module.weight.detach(), list(widths), 1):
        bias = None if parts else module.bias
        part = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
        part.weight = nn.Parameter(weight)
        if bias is not None:
            part.bias = bias
        parts.append(part)
    return parts


@to_node.register(nn.Conv1d)
@to_node.register(nn.Conv2d)
def _conv(module: nn.Conv1d | nn.Conv2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {module.padding_mode!r}; NIR can only say 'zeros'")
    bias = np.zeros(module.out_channels) if module.bias is None else array(module.bias)
    settings = (module.stride, _padding(module), module.dilation)
    if isinstance(module, nn.Conv2d):
        return nir.Conv2d(shape[1:], array(module.weight), *settings, module.groups, bias)
    stride, padding, dilation = (s if isinstance(s, str) else s[0] for s in settings)
    return nir.Conv1d(
        shape[1], array(module.weight), stride, padding, dilation, module.groups, bias
    )


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | str:
    if not isinstance(module.padding, str):
        return module.padding
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    total = [0 if module.padding == "valid" else d * (k - 1) for k, d in sizes]
    return module.padding if any(n % 2 for n in total) else tuple(n // 2 for n in total)


@to_node.register
def _pool(module: nn.AvgPool2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the pool; an average over 1 is a sum."""
    if module.ceil_mode or module.divisor_override not in (None, 1):
        name = "ceil_mode" if module.ceil_mode else "divisor_override"
        raise ValueError(f"{name} is {getattr(module, name)}; NIR cannot say it, leave it out")
    kernel, stride, padding = (
        np.array((n, n) if isinstance(n, int) else n)
        for n in (module.kernel_size, module.stride, module.padding)
    )
    if module.divisor_override == 1:
        return nir.SumPool2d(kernel, stride, padding)
    if padding.any() and not module.count_include_pad:
        raise ValueError("count_include_pad is False; NIR's average counts the padding")
    return nir.AvgPool2d(kernel, stride, padding)


@to_node.register
def _flatten(module: nn.Flatten, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the node for one leading axis, the batch; ``to_nir`` needs no rule for reshapes."""
    start, end = (d - 1 if d > 0 else d for d in (module.start_dim, module.end_dim))
    if module.start_dim == 0:
        raise ValueError("start_dim is 0; NIR cannot flatten the batch")
    return nir.Flatten({"input": np.array(shape)}, start, end)


@to_node.register(SNU)
@to_node.register(sSNU)
def _snu(module: SNU | sSNU, *, shape: Shape, dt: float) -> nir.NIRNode:
    decay = hold_decay(module.decay) if module.config.learn_decay else module.decay
    return wire.encode(
        module.config,
        array(decay),
        array(module.threshold),
        dt=dt,
        recurrent=None if module.recurrent is None else array(module.recurrent),
    )


@to_node.register
def _src(module: SRC, *, shape: Shape, dt: float) -> nir.NIRNode:
    return encode_src(module.config, array(module.bias), shape)


@leading.register(nn.Linear)
def _(module: nn.Linear, x: Tensor) -> int | None:
    return max(0, x.dim() - 1)


@leading.register(nn.Conv1d)
def _(module: nn.Conv1d, x: Tensor) -> int | None:
    return max(0, x.dim() - 2)


@leading.register(nn.Conv2d)
@leading.register(nn.AvgPool2d)
def _(module: nn.Module, x: Tensor) -> int | None:
    return max(0, x.dim() - 3)


@leading.register(SNU)
@leading.register(sSNU)
@leading.register(SRC)
def _(module: SNU | sSNU | SRC, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.features))
