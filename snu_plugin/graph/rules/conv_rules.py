"""Convolutions of torch as NIR nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

from snu_plugin.graph.rules.axis_rules import along_axes, conv, paddings
from snu_plugin.graph.rules.torch_rules import (
    array,
    batch_axes,
    before,
    parts_of,
    split_input,
    to_node,
)
from snu_plugin.graph.tracing.traced_tensor import Shape
from snu_plugin.neuron import Conv1d, Conv2d


@split_input.register(nn.Conv1d)
@split_input.register(nn.Conv2d)
@split_input.register(Conv1d)
@split_input.register(Conv2d)
def _split_conv(module: nn.Conv1d | nn.Conv2d, widths: Sequence[int]) -> list[nn.Module]:
    if module.groups != 1 or module.padding_mode != "zeros":
        raise TypeError("its channels are in groups, or its padding is not zeros")
    settings = module.kernel_size, module.stride, module.padding, module.dilation
    return parts_of(module, widths, type(module), *settings)


@to_node.register(nn.Conv1d)
@to_node.register(nn.Conv2d)
@to_node.register(Conv1d)
@to_node.register(Conv2d)
def _conv(module: nn.Conv1d | nn.Conv2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    if module.padding_mode != "zeros":
        return _padded(module, shape)
    return conv_node(module, array(module.weight), module.stride, _padding(module), shape[1:])


def conv_node(
    module: Any, weight: Any, stride: Shape, padding: Shape | str, sizes: Sequence[int]
) -> nir.NIRNode:
    """Return the node of a convolution that is a module's but for what is given.

    Args:
        module: A convolution of torch, whose bias, dilation and groups count.
        weight: ``(out, in / groups, ...)``.
        stride: For each axis.
        padding: For each axis, or how it is called.
        sizes: Of the maps that the node takes.
    """
    bias = np.zeros(module.out_channels) if module.bias is None else array(module.bias)
    return conv(sizes, weight, bias, stride, padding, module.dilation, module.groups)


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | str:
    if not isinstance(module.padding, str):
        return module.padding
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    total = [0 if module.padding == "valid" else d * (k - 1) for k, d in sizes]
    return module.padding if any(n % 2 for n in total) else tuple(n // 2 for n in total)


@to_node.register(nn.ConvTranspose1d)
@to_node.register(nn.ConvTranspose2d)
def _conv_transpose(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return zeros put between the values, and the convolution with the kernel turned round."""
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    matrices = []
    for n, s, p, more, r in zip(
        shape[1:], module.stride, module.padding, module.output_padding, reach, strict=True
    ):
        spread = np.zeros(((n - 1) * s + 1 + 2 * r + more, n))
        spread[r + s * np.arange(n), np.arange(n)] = 1
        matrices.append(spread[p : len(spread) - p])
    weight = module.weight.detach().flip(tuple(range(2, 2 + len(reach))))
    weight = torch.cat([part.transpose(0, 1) for part in weight.chunk(module.groups)])
    padding = tuple(r - p for r, p in zip(reach, module.padding, strict=True))
    plain = all(s == 1 for s in module.stride) and min(padding) >= 0
    if plain and not any(module.output_padding):
        return conv_node(module, array(weight), (1,) * len(reach), padding, shape[1:])
    sizes = [len(values) for values in matrices]
    last = conv_node(module, array(weight), (1,) * len(reach), (0,) * len(reach), sizes)
    return along_axes(shape, matrices, last)


def _padded(module: Any, shape: Shape) -> nir.NIRNode:
    """Return a convolution whose padding is no zeros: the padding, and one without."""
    sides = module._reversed_padding_repeated_twice
    matrices = paddings(shape[1:], sides, module.padding_mode)
    sizes = [len(values) for values in matrices]
    stride, none = tuple(module.stride), (0,) * len(sizes)
    return along_axes(shape, matrices, conv_node(module, array(module.weight), stride, none, sizes))


for _kind, _axes in (
    (nn.Conv1d, 2), (nn.Conv2d, 3), (nn.ConvTranspose1d, 2), (nn.ConvTranspose2d, 3)
):  # fmt: skip
    batch_axes.register(_kind, before(_axes))
