"""Layers that are linear along each axis of maps: upsampling, paddings, averages.

NIR has none of them, but two convolutions say any matrix along one axis. The first, its kernel as
long as the axis, lays the axis out in channels, a place in each; of what is left, one place, the
second makes a new axis: its padding is so wide that each place of the new axis meets another number
of the kernel. All maps are treated alike, in groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.resets import with_ports
from snu_plugin.graph.rules.torch_rules import batch_axes, before, to_node
from snu_plugin.graph.tracing.torch_functions import MODES, by_axis
from snu_plugin.graph.tracing.traced_tensor import Shape

Array = NDArray[Any]

PADDINGS = {kind: mode for mode, kinds in MODES.items() for kind in kinds}
"""The paddings that are not zeros, each with its mode."""


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
        behind: A convolution that takes what they give.
    """
    nodes, sizes = list[nir.NIRNode](), list(shape[1:])
    for axis, values in enumerate(matrices):
        if values.shape[0] != values.shape[1] or (values != np.eye(len(values))).any():
            nodes += _along(shape[0], sizes, axis, values)
            sizes[axis] = len(values)
    nodes += [] if behind is None else [behind]
    out = (shape[0], *sizes) if behind is None else _out(behind, sizes)
    if len(nodes) == 1:
        return nodes[0]
    names = ["input", *(f"axis_{i}" for i in range(len(nodes))), "output"]
    parts = dict(zip(names[1:-1], nodes, strict=True))
    return with_ports(parts, list(pairwise(names)), shape, out)


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
    return [
        _plain(sizes, each, [0] * len(sizes), channels),
        _plain(rest, spread, wide, channels),
    ]


def conv(
    sizes: Sequence[int], weight: Any, bias: Any, stride: Shape, padding: Shape | str,
    dilation: Shape, groups: int,
) -> nir.NIRNode:  # fmt: skip
    """Return the node of a convolution of maps with one or two axes of so many places."""
    settings = (stride, padding, dilation)
    if len(sizes) == 2:
        return nir.Conv2d(tuple(sizes), weight, *settings, groups, bias)
    one, pad, apart = (s if isinstance(s, str) else s[0] for s in settings)
    return nir.Conv1d(sizes[0], weight, one, pad, apart, groups, bias)


def _plain(sizes: Sequence[int], weight: Array, padding: Sequence[int], groups: int) -> nir.NIRNode:
    ones = (1,) * len(sizes)
    return conv(sizes, weight, np.zeros(len(weight)), ones, tuple(padding), ones, groups)


def _out(node: nir.NIRNode, sizes: Sequence[int]) -> Shape:
    """Return what a convolution without padding makes of maps."""
    strides, dilations = (np.atleast_1d(v) for v in (node.stride, node.dilation))
    reach = dilations * (np.array(node.weight.shape[2:]) - 1) + 1
    return (len(node.weight), *(int(n) for n in (np.array(sizes) - reach) // strides + 1))


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
