"""Pools of torch as NIR nodes: sums and averages of anything, the maximum of spikes."""

from __future__ import annotations

from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.resets import in_series
from snu_plugin.graph.rules.conv_rules import averages
from snu_plugin.graph.rules.torch_rules import batch_axes, before, conv, to_node
from snu_plugin.graph.tracing.traced_tensor import Shape

Array = NDArray[Any]

MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
"""The maximum of 0s and 1s is 1 where their sum is more than 0.5; of other values NIR has none."""


class Windows(NamedTuple):
    """The windows of a pool; each field has a number for each axis of space."""

    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    over: Shape
    """Zeros that ``ceil_mode`` adds at the end."""


@to_node.register(nn.AvgPool1d)
@to_node.register(nn.AvgPool2d)
def _average(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the pool; what NIR's average does not say is a sum and a factor for each window."""
    windows = _windows(module, shape)
    ones = torch.ones((1, *shape), dtype=torch.float64)
    factor = (module.forward(ones) / _summed(windows, ones))[0].numpy()
    if len(shape) == 3 and not any(windows.over) and (factor == 1 / np.prod(windows.kernel)).all():
        return nir.AvgPool2d(*map(np.array, windows[:3]))
    total = _sum(windows, shape)
    if (factor == 1).all():
        return total
    return in_series({"sum": total, "mean": nir.Scale(factor)}, shape, factor.shape)


@to_node.register(nn.LPPool2d)
def _power(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    if module.norm_type != 1:
        raise ValueError(
            f"norm_type is {module.norm_type}; NIR has no powers, it can say 1, which is the sum"
        )
    windows = _windows(module, shape)
    if any(windows.over):
        raise ValueError("ceil_mode is True and weighs the last windows otherwise; leave it out")
    return _sum(windows, shape)


@to_node.register(nn.MaxPool1d)
@to_node.register(nn.MaxPool2d)
def _largest(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check_indices(module)
    windows = _windows(module, shape)
    out = tuple(_summed(windows, torch.zeros((1, *shape))).shape[1:])
    spike = nir.Threshold(np.full(out, 0.5))
    return in_series({"sum": _sum(windows, shape), "max": spike}, shape, out)


@to_node.register(nn.AdaptiveAvgPool1d)
@to_node.register(nn.AdaptiveAvgPool2d)
@to_node.register(nn.AdaptiveMaxPool1d)
@to_node.register(nn.AdaptiveMaxPool2d)
def _adaptive(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return a plain pool where all windows have one size, else averages along each axis."""
    _check_indices(module)
    space, wanted, largest = shape[1:], module.output_size, isinstance(module, MAX_POOLS)
    given = (wanted,) * len(space) if isinstance(wanted, int) else tuple(wanted)
    sizes = tuple(n if out is None else out for n, out in zip(space, given, strict=True))
    if not any(n % out for n, out in zip(space, sizes, strict=True)):
        plain: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d)
        plain = (nn.MaxPool1d, nn.MaxPool2d) if largest else plain
        kernel = tuple(n // out for n, out in zip(space, sizes, strict=True))
        return to_node(plain[len(space) - 1](kernel), shape=shape, dt=dt)
    mean, out = averages(shape, sizes), (shape[0], *sizes)
    if not largest:
        return mean
    return in_series({"mean": mean, "max": nir.Threshold(np.zeros(out))}, shape, out)


def _check_indices(module: nn.Module) -> None:
    if getattr(module, "return_indices", False):
        raise ValueError("return_indices is True; NIR's graphs carry no indices")


def _windows(module: Any, shape: Shape) -> Windows:
    axes = len(shape) - 1
    kernel, stride, padding, dilation = (
        _each(getattr(module, field, default), axes)
        for field, default in (
            ("kernel_size", 1), ("stride", None), ("padding", 0), ("dilation", 1)
        )
    )  # fmt: skip
    stride = stride or kernel
    over = []
    for n, k, s, p, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        count = -(-(n + 2 * p - reach) // s) + 1
        count -= (count - 1) * s >= n + p  # A window does not begin behind the input.
        over.append(max(0, (count - 1) * s + reach - n - 2 * p) if module.ceil_mode else 0)
    return Windows(kernel, stride, padding, dilation, tuple(over))


def _each(value: Any, axes: int) -> Shape:
    if value is None:
        return ()
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def _sum(windows: Windows, shape: Shape) -> nir.NIRNode:
    """Return the node that adds up each window: a pool, or a convolution of each channel."""
    if len(shape) == 3 and set(windows.dilation) == {1} and not any(windows.over):
        return nir.SumPool2d(*map(np.array, windows[:3]))
    weight, ones = _ones(windows, shape[0]), (1,) * (len(shape) - 1)
    settings = (windows.stride, _padding(windows), ones, shape[0])
    return conv(shape[1:], weight, np.zeros(shape[0]), *settings)


def _summed(windows: Windows, x: Tensor) -> Tensor:
    """Add up each window of ``x``, ``(B, C, *space)``."""
    convolve = nn.functional.conv1d if x.dim() == 3 else nn.functional.conv2d
    weight = torch.from_numpy(_ones(windows, x.shape[1])).to(x)
    y: Tensor = convolve(
        x, weight, stride=windows.stride, padding=_padding(windows), groups=x.shape[1]
    )
    return y


def _ones(windows: Windows, channels: int) -> Array:
    """Return a kernel of 1 where a window looks; zeros before make room for what hangs over."""
    axes = list(zip(windows.kernel, windows.dilation, windows.over, strict=True))
    kernel = np.zeros((channels, 1, *(d * (k - 1) + 1 + over for k, d, over in axes)))
    looked_at = [slice(over, None, d) for _, d, over in axes]
    kernel[(slice(None), slice(None), *looked_at)] = 1
    return kernel


def _padding(windows: Windows) -> Shape:
    return tuple(p + o for p, o in zip(windows.padding, windows.over, strict=True))


for _kind, _axes in (
    (nn.AvgPool1d, 1), (nn.AdaptiveAvgPool1d, 1), (nn.MaxPool1d, 1), (nn.AdaptiveMaxPool1d, 1),
    (nn.AvgPool2d, 2), (nn.AdaptiveAvgPool2d, 2), (nn.MaxPool2d, 2), (nn.AdaptiveMaxPool2d, 2),
    (nn.LPPool2d, 2),
):  # fmt: skip
    batch_axes.register(_kind, before(1 + _axes))
