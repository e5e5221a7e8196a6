"""Pools of images by their largest numbers, windows side by side, compiled.

torch keeps where each largest number lay, 8 bytes each, and fills gradients with zeros first. Here
a byte says so, or the way back looks once more where it was, and writes every number once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.memory import channels_last, paged
from snu_plugin.neuron.numba_scan import pool_kernels
from snu_plugin.neuron.numba_scan.arrays import scalar
from snu_plugin.neuron.numba_scan.jit import compiled, parallel, run
from snu_plugin.neuron.operators import refuse_batched

PER_NUMBER = 4
"""Numbers that are pooled in the time of an update of a neuron, about."""


def max_pool2d(x: Tensor, height: int, width: int) -> Tensor:
    """Return the largest number of each window of images ``(images, channels, rows, columns)``.

    In eager torch. The result lies in memory as ``x`` does, channels last or not. As torch has it:
    rows and columns left over are not looked at, NaN is larger than all, and of
    equal numbers the first one receives the gradient.
    """
    if channels_last(x) and height * width > pool_kernels.PLACES:
        return F.max_pool2d(x, (height, width))
    found: Tensor = _Pool.apply(x, height, width)
    return found


class _Pool(torch.autograd.Function):
    """Of images channels last the places are kept, a byte each; others are looked at once more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, height: int, width: int) -> Tensor:
        ctx.last, ctx.shape, ctx.size = channels_last(x), x.shape, (height, width)
        images, channels, rows, columns = x.shape
        shape = images, channels, rows // height, columns // width
        if ctx.last:
            y = paged(_empty_last(x, shape))
            places = torch.empty(y.numel(), dtype=torch.uint8)
            sizes = rows, columns, channels, height, width, x.element_size(), scalar(0, x)
            given = x.data_ptr(), y.data_ptr(), places.data_ptr(), *sizes
            run(pool_kernels.pool, given, images, x.numel() // PER_NUMBER)
            ctx.save_for_backward(places)
            return y
        x = x.contiguous()
        y = paged(x.new_empty(shape))
        run(_forward, (_images(x), _images(y), height, width), images * channels, y.numel())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Any:
        refuse_batched(gy)
        (kept,) = ctx.saved_tensors
        if ctx.last:
            images, channels, rows, columns = ctx.shape
            gy = gy.contiguous(memory_format=torch.channels_last)
            gx = paged(_empty_last(gy, ctx.shape))
            sizes = rows, columns, channels, *ctx.size, gy.element_size(), scalar(0, gy)
            given = gy.data_ptr(), kept.data_ptr(), gx.data_ptr(), *sizes
            run(pool_kernels.unpool, given, images, gx.numel() // PER_NUMBER)
            return gx, None, None
        gx, gy = paged(torch.empty_like(kept)), gy.contiguous()
        arguments = _images(kept), _images(gy), _images(gx), *ctx.size, scalar(0, kept)
        run(_backward, arguments, len(arguments[0]), gy.numel())
        return gx, None, None


def _empty_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return new images channels last."""
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _images(x: Tensor) -> Any:
    return x.flatten(0, -3).numpy(force=True)


@parallel
def _forward(x, y, height, width, lo, hi, number):  # type: ignore[no-untyped-def]
    for n in range(lo, hi):
        for r in range(y.shape[1]):
            if height == 2 and width == 2:  # as most are: without loops, many windows at once
                upper, lower, out = x[n, 2 * r], x[n, 2 * r + 1], y[n, r]
                for c in range(y.shape[2]):
                    out[c] = _of_four(upper, lower, c)[0]
            else:
                for c in range(y.shape[2]):
                    y[n, r, c] = _of_window(x[n], r * height, c * width, height, width)[0]


@parallel
def _backward(x, gy, gx, height, width, zero, lo, hi, number):  # type: ignore[no-untyped-def]
    for n in range(lo, hi):
        for r in range(gy.shape[1]):
            if height == 2 and width == 2:
                upper, lower, g = x[n, 2 * r], x[n, 2 * r + 1], gy[n, r]
                g_upper, g_lower = gx[n, 2 * r], gx[n, 2 * r + 1]
                for c in range(gy.shape[2]):
                    second, third, fourth = _of_four(upper, lower, c)[1:]
                    g_lower[2 * c + 1] = g[c] if fourth else zero
                    left = zero if fourth else g[c]
                    g_lower[2 * c] = left if third else zero
                    left = zero if third else left
                    g_upper[2 * c + 1] = left if second else zero
                    g_upper[2 * c] = zero if second else left
            else:
                gx[n, r * height : (r + 1) * height] = zero
                for c in range(gy.shape[2]):
                    place = _of_window(x[n], r * height, c * width, height, width)[1]
                    row, column = divmod(place, width)
                    gx[n, r * height + row, c * width + column] = gy[n, r, c]
            for row in range(r * height, (r + 1) * height):
                gx[n, row, gy.shape[2] * width :] = zero
        gx[n, gy.shape[1] * height :] = zero


@compiled
def _of_four(upper, lower, c):  # type: ignore[no-untyped-def]
    """Return the largest of four numbers, and whether each but the first passes those before."""
    most, value = upper[2 * c], upper[2 * c + 1]
    second = value > most or value != value
    most, value = value if second else most, lower[2 * c]
    third = value > most or value != value
    most, value = value if third else most, lower[2 * c + 1]
    fourth = value > most or value != value
    return value if fourth else most, second, third, fourth


@compiled
def _of_window(image, row, column, height, width):  # type: ignore[no-untyped-def]
    """Return the largest number of a window, and which it is, row by row."""
    most, place = image[row, column], 0
    for a in range(height):
        for b in range(width):
            value = image[row + a, column + b]
            if value > most or value != value:
                most, place = value, a * width + b
    return most, place
