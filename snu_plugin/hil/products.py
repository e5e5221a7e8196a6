"""How a host multiplies by weights: the calls of torch, and which devices they would meet."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.accelerator import Convolution, Geometry
from snu_plugin.neuron import spike_conv1d, spike_conv2d, spike_linear

CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2}
"""Calls that convolve, by axes of the image."""


def linear_call(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return input, weight, bias


def convolution_call(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    return input, weight, bias, stride, padding, dilation, groups


def convolution(
    axes: int, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int
) -> Convolution:
    """Return how the kernel of a call of torch meets ``x``."""

    def each(value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * axes if len(values) == 1 else values

    stride, dilation, kernel = each(stride), each(dilation), weight.shape[2:]
    if padding == "same":  # torch puts what is odd behind
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(n // 2, n - n // 2) for n in whole]
    else:
        sides = [(n, n) for n in each(0 if padding == "valid" else padding)]
    output = tuple(
        (size + sum(side) - d * (k - 1) - 1) // s + 1
        for size, side, d, k, s in zip(
            x.shape[-axes:], sides, dilation, kernel, stride, strict=True
        )
    )
    return Convolution(
        shape=tuple(weight.shape),
        groups=groups,
        positions=math.prod(output),
        stride=stride,
        dilation=dilation,
        pads=tuple(n for side in reversed(sides) for n in side),
        output=output,
    )


def multiply(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply as the host does: any number of axes before those of a vector or an image.

    Spikes are walked where they are few.
    """
    if not isinstance(geometry, Convolution):
        return spike_linear(x, weight, bias)
    axes, pads = len(geometry.output), geometry.pads
    convolve: Any = spike_conv1d if axes == 1 else spike_conv2d
    even = pads[::2] == pads[1::2]
    padding = pads[::2][::-1] if even else (0,) * axes
    x = x if even else F.pad(x, pads)
    how = geometry.stride, padding, geometry.dilation, geometry.groups
    y: Tensor = convolve(x, weight, bias, *how)
    return y


def among_processes(x: Tensor) -> tuple[Tensor, slice]:
    """Put sequences ``(T, B, ...)`` at their place among those of all processes, the rest 0.

    So the noise of each is that of one process with all of them.
    """
    count = x.shape[1]
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return x, slice(0, count)
    size, rank = dist.get_world_size(), dist.get_rank()
    whole = x.new_zeros(x.shape[0], size * count, *x.shape[2:])
    own = slice(rank * count, (rank + 1) * count)
    whole[:, own] = x
    return whole, own
