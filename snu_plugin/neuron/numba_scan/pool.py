"""Pools of images by their largest numbers, windows side by side, compiled.

torch keeps where each largest number lay, 8 bytes each, and fills gradients with zeros first. Here
the way back looks once more where it was, and writes every number once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron.numba_scan.arrays import scalar
from snu_plugin.neuron.numba_scan.jit import compiled, parallel, run, threads
from snu_plugin.neuron.operators import refuse_batched
from snu_plugin.neuron.pages import paged
from snu_plugin.neuron.patches import channels_last


def max_pool2d(x: Tensor, height: int, width: int) -> Tensor:
    """Return the largest number of each window of images ``(images, channels, rows, columns)``.

    In eager torch. The result lies in memory as ``x`` does, channels last or not. As torch has it:
    rows and columns left over are not looked at, NaN is larger than all, and of
    equal numbers the first one receives the gradient.
    """
    found: Tensor = _Pool.apply(x, height, width)
    return found


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, height: int, width: int) -> Tensor:
        ctx.size, ctx.last = (height, width), channels_last(x)
        x = _laid(x, ctx.last)
        if ctx.last:
            rows, columns = x.shape[1] // height, x.shape[2] // width
            y = paged(x.new_empty(len(x), rows, columns, x.shape[3]))
            given = _rows(x), _rows(y), x.shape[3], height, width
            run(_forward_last, given, len(x), y.numel())
        else:
            rows, columns = x.shape[2] // height, x.shape[3] // width
            y = paged(x.new_empty(*x.shape[:2], rows, columns))
            run(_forward, (_images(x), _images(y), height, width), len(x) * x.shape[1], y.numel())
        ctx.save_for_backward(x)
        return y.permute(0, 3, 1, 2) if ctx.last else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Any:
        refuse_batched(gy)
        (x,) = ctx.saved_tensors
        gx, gy = paged(torch.empty_like(x)), _laid(gy, ctx.last)
        if ctx.last:
            rows, channels = _rows(gy), x.shape[3]
            teams = threads(gy.numel()), rows.shape[2]
            room = np.empty(teams, rows.dtype), np.empty(teams, np.int32)
            arguments = _rows(x), rows, _rows(gx), channels, *ctx.size, *room, scalar(0, x)
            run(_backward_last, arguments, len(x), gy.numel())
            return gx.permute(0, 3, 1, 2), None, None
        arguments = _images(x), _images(gy), _images(gx), *ctx.size, scalar(0, x)
        run(_backward, arguments, len(arguments[0]), gy.numel())
        return gx, None, None


def _laid(x: Tensor, last: bool) -> Tensor:
    """Return images contiguous, their channels as the last axis if they are to lie last."""
    return (x.permute(0, 2, 3, 1) if last else x).contiguous()


def _rows(x: Tensor) -> Any:
    return x.flatten(2).numpy(force=True)


def _images(x: Tensor) -> Any:
    return x.flatten(0, -3).numpy(force=True)


@parallel
def _forward_last(x, y, channels, height, width, lo, hi, number):  # type: ignore[no-untyped-def]
    """Pool images that are channels last, ``(images, rows, columns * channels)``."""
    columns = y.shape[2] // channels
    for n in range(lo, hi):
        for r in range(y.shape[1]):
            out = y[n, r]
            for which in range(height * width):
                given = x[n, r * height + which // width, which % width * channels :]
                for c in range(columns):
                    from_, to = c * width * channels, c * channels
                    _keep_largest(given[from_:], out[to : to + channels], which == 0)


@compiled
def _keep_largest(given, out, first):  # type: ignore[no-untyped-def]
    for k in range(len(out)):
        value = given[k]
        passes = first or value > out[k] or value != value
        out[k] = value if passes else out[k]


@parallel
def _backward_last(  # type: ignore[no-untyped-def]
    x, gy, gx, channels, height, width, mosts, places, zero, lo, hi, number
):
    most, place = mosts[number], places[number]
    columns = gy.shape[2] // channels
    for n in range(lo, hi):
        gx[n, gy.shape[1] * height :] = zero
        for r in range(gy.shape[1]):
            for row in range(r * height, (r + 1) * height):
                gx[n, row, len(most) * width :] = zero
            for c in range(columns):
                from_ = c * width * channels
                g = gy[n, r, c * channels : (c + 1) * channels]
                for which in range(height * width):
                    row, at = r * height + which // width, from_ + which % width * channels
                    _note_largest(x[n, row, at:], most, place, np.int32(which), len(g))
                for which in range(height * width):
                    row, at = r * height + which // width, from_ + which % width * channels
                    out, here = gx[n, row, at:], np.int32(which)
                    for k in range(len(g)):
                        out[k] = g[k] if place[k] == here else zero


@compiled
def _note_largest(given, most, place, here, channels):  # type: ignore[no-untyped-def]
    for k in range(channels):
        value = given[k]
        passes = here == 0 or value > most[k] or value != value
        most[k] = value if passes else most[k]
        place[k] = here if passes else place[k]


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
