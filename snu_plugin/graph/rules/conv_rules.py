"""Convolutions of torch as NIR nodes, and layers that are linear along each axis of maps.

Of these, upsampling, paddings and averages, NIR has none, but two convolutions say any matrix along
one axis. The first, its kernel as long as the axis, lays the axis out in channels, a place in each;
of what is left, one place, the second makes a new axis: its padding is so wide that each place of
the new axis meets another number of the kernel. All maps are treated alike, in groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.resets import in_series
from snu_plugin.graph.rules.torch_rules import (
    array,
    batch_axes,
    before,
    conv,
    parts_of,
    split_input,
    to_node,
)
from snu_plugin.graph.tracing.torch_functions import MODES, by_axis
from snu_plugin.graph.tracing.traced_tensor import Shape
from snu_plugin.neuron import Conv1d, Conv2d

Array = NDArray[Any]

PADDINGS = {kind: mode for mode, kinds in MODES.items() for kind in kinds}
"""The paddings that are not zeros, each with its mode."""


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


def matrix(function: Callable[[Tensor], Tensor], length: int) -> Array:
    """Return the matrix ``(out, length)`` of a function of maps ``(1, 1, length)``, if linear."""
    y = function(torch.eye(length, dtype=torch.float64)[:, None])
    return np.array(y[:, 0].T.numpy())


def along_axes(
    shape: Shape, matrices: Sequence[Array], behind: nir.NIRNode | None = None
) -> nir.NIRNode:
    """Return what multiplies maps by a matrix along each of their axes.

    Args:
        shape: Of the maps, ``(C, L)`` or ``(C, H, W)``.
        matrices: ``(out, in)`` for each axis behind the channels.
        behind: A convolution without padding that takes what they give.
    """
    nodes, sizes = list[nir.NIRNode](), list(shape[1:])
    for axis, values in enumerate(matrices):
        if values.shape[0] != values.shape[1] or (values != np.eye(len(values))).any():
            nodes += _along(shape[0], sizes, axis, values)
            sizes[axis] = len(values)
    out = (shape[0], *sizes)
    if behind is not None:
        strides, dilations = (np.atleast_1d(v) for v in (behind.stride, behind.dilation))
        reach = dilations * (np.array(behind.weight.shape[2:]) - 1) + 1
        nodes.append(behind)
        out = (len(behind.weight), *(int(n) for n in (np.array(sizes) - reach) // strides + 1))
    if len(nodes) == 1:
        return nodes[0]
    return in_series({f"axis_{i}": node for i, node in enumerate(nodes)}, shape, out)


def _along(channels: int, sizes: Sequence[int], axis: int, values: Array) -> list[nir.NIRNode]:
    """Return two convolutions that multiply by a matrix along one axis of space."""
    new, old = values.shape
    kernel, rest = [1] * len(sizes), list(sizes)
    kernel[axis] = old
    each = np.tile(np.eye(old), (channels, 1)).reshape(channels * old, 1, *kernel)
    rest[axis] = 1
    kernel[axis], wide = new, [0] * len(sizes)
    wide[axis] = new - 1
    spread = np.tile(values[::-1].T, (channels, 1, 1)).reshape(channels, old, *kernel)
    ones, none = (1,) * len(sizes), (0,) * len(sizes)
    return [
        conv(sizes, each, np.zeros(len(each)), ones, none, ones, channels),
        conv(rest, spread, np.zeros(len(spread)), ones, tuple(wide), ones, channels),
    ]


def paddings(sizes: Sequence[int], sides: Sequence[int], mode: str) -> list[Array]:
    """Return the matrix of a padding along each axis; ``sides`` are those of ``F.pad``."""
    return [
        matrix(partial(F.pad, pad=pair, mode=mode), n)
        for n, pair in zip(sizes, by_axis(sides), strict=True)
    ]


def _pad(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    mode = next(mode for kind, mode in PADDINGS.items() if isinstance(module, kind))
    return along_axes(shape, paddings(shape[1:], module.padding, mode))


@to_node.register(nn.Upsample)
def _upsample(module: nn.Upsample, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return each axis by itself: what is interpolated in two is so in one after the other."""
    axes = len(shape) - 1
    if module.mode not in ("nearest", "nearest-exact", "linear", "bilinear") or axes not in (1, 2):
        raise ValueError(f"mode is {module.mode!r} for {shape}; not yet supported")
    mode = "linear" if "linear" in module.mode else module.mode

    def each(value: Any) -> tuple[Any, ...]:
        return tuple(value) if isinstance(value, tuple) else (value,) * axes

    matrices = [
        matrix(
            partial(
                F.interpolate, size=size, scale_factor=factor, mode=mode,
                align_corners=module.align_corners,
                recompute_scale_factor=module.recompute_scale_factor if factor else None,
            ),
            n,
        )
        for n, size, factor in zip(
            shape[1:], each(module.size), each(module.scale_factor), strict=True
        )
    ]  # fmt: skip
    return along_axes(shape, matrices)


def averages(shape: Shape, sizes: Sequence[int]) -> nir.NIRNode:
    """Return an adaptive average by windows of several sizes."""
    return along_axes(
        shape,
        [
            matrix(partial(F.adaptive_avg_pool1d, output_size=size), n)
            for n, size in zip(shape[1:], sizes, strict=True)
        ],
    )


for _kind in PADDINGS:
    to_node.register(_kind, _pad)
    batch_axes.register(_kind, before(int(_kind.__name__[-2]) + 1))


@batch_axes.register(nn.Upsample)
def _(module: nn.Upsample, x: Tensor) -> int | None:
    return 1


for _kind, _axes in (
    (nn.Conv1d, 2), (nn.Conv2d, 3), (nn.ConvTranspose1d, 2), (nn.ConvTranspose2d, 3)
):  # fmt: skip
    batch_axes.register(_kind, before(_axes))
