"""Convolutions and pools of the images of all steps.

One call for all steps would write tensors of 100 MB through no cache, into memory that Linux hands
out page by page: that took up to 2.5 times as long as the calls of the single steps. So a few steps
run at a time, as many as the cache holds, and their results lie side by side in huge pages.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from snu_plugin.neuron import (
    laid_channels_last,
    max_pool2d,
    order_of,
    paged,
    walked_conv1d,
    walked_conv2d,
)

AXES = {
    "conv1d": 1, "conv2d": 2, "conv3d": 3, "conv_transpose1d": 1, "conv_transpose2d": 2,
    "conv_transpose3d": 3, "max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "avg_pool1d": 1,
    "avg_pool2d": 2, "avg_pool3d": 3, "adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2,
    "adaptive_avg_pool3d": 3, "adaptive_max_pool2d": 2, "lp_pool2d": 2, "dropout2d": 2,
}  # fmt: skip
"""Functions of images in a batch, and how many axes an image has besides its channels."""

SHARE = 2**20
"""Bytes of results from which on steps run by themselves; of smaller ones several at once."""


def of_all_steps(name: str, function: Callable[..., Any], x: Tensor, args: Any, kwargs: Any) -> Any:
    """Return what a function of images gives for all steps, ``None`` if it is none.

    Args:
        name: Its name; those in ``AXES`` are known.
        function: The function.
        x: Images ``(T, B, channels, ...)``, or ``(T, channels, ...)``.
        args: Its other arguments.
        kwargs: Those by name.
    """
    axes = AXES.get(name)
    if axes is None or x.dim() not in (axes + 2, axes + 3):
        return None
    if x.dim() == axes + 2:
        return function(x, *args, **kwargs)
    images = x.flatten(0, 1)
    found = _known(name, images, x.shape[1], args, kwargs)
    if found is None:
        found = function(images, *args, **kwargs)
    return found.reshape(*x.shape[:2], *found.shape[1:]) if isinstance(found, Tensor) else None


def _known(name: str, images: Tensor, batch: int, args: Any, kwargs: Any) -> Tensor | None:
    """Return what a convolution or a pool gives that has a way of its own, else ``None``."""
    if not images.is_cpu or torch.is_autocast_enabled("cpu"):
        return None
    if name == "max_pool2d":
        size = windows_of(images, args, kwargs)
        return None if size is None else max_pool2d(images, size)
    if name in CONVOLUTIONS:
        asked = _CONVOLUTION.bind(images, *args, **kwargs)
        asked.apply_defaults()
        _, weight, bias, stride, padding, dilation, groups = asked.args
        if isinstance(padding, str) or weight.dtype != images.dtype:
            return None
        axes = AXES[name]
        settings = *(_each(n, axes) for n in (stride, padding, dilation)), groups
        images = laid_channels_last(images) if name == "conv2d" else images
        walk: Any = {"conv1d": walked_conv1d, "conv2d": walked_conv2d}.get(name)
        walked: Tensor | None = walk and walk(images, weight, bias, *settings)
        if walked is not None:
            return walked
        found: Tensor = _Convolution.apply(images, weight, bias, name, batch, settings)
        return found
    return None


def windows_of(x: Any, args: Any, kwargs: Any) -> tuple[int, int] | None:
    """Return the size of the windows of a ``max_pool2d`` of ``x`` that lie side by side.

    ``None``: they do not, or more than their largest numbers is asked for.
    """
    asked = _POOL.bind(x, *args, **kwargs)
    asked.apply_defaults()
    _, size, stride, padding, dilation, ceil, places = asked.args
    height, width = _pair(size)
    apart = not stride or _pair(stride) == (height, width)
    plain = _pair(padding) == (0, 0) and _pair(dilation) == (1, 1) and not (ceil or places)
    return (height, width) if apart and plain else None


def _pool(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> None: ...  # fmt: skip


def _convolution(
    input: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> None: ...  # fmt: skip


_POOL, _CONVOLUTION = inspect.signature(_pool), inspect.signature(_convolution)

CONVOLUTIONS = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (
        tuple(value) * (axes // len(value)) if isinstance(value, (tuple, list)) else (value,) * axes
    )


def _pair(value: Any) -> tuple[int, ...]:
    return _each(value, 2)


class _Convolution(torch.autograd.Function):
    """A convolution of the images of all steps, some steps after the other."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, name: str, batch: int,
        settings: tuple[Any, ...],
    ) -> Tensor:  # fmt: skip
        function = CONVOLUTIONS[name]
        first = function(x[:batch], weight, bias, *settings)
        ctx.at_once = batch * max(SHARE // max(first.nbytes, 1), 1)
        ctx.settings, ctx.biased = settings, bias is not None
        ctx.save_for_backward(x, weight)
        if ctx.at_once >= len(x):
            return function(x, weight, bias, *settings)
        out = paged(_like(first, len(x)))
        out[:batch] = first
        for some in _parts(batch, len(x), ctx.at_once):
            out[some] = function(x[some], weight, bias, *settings)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        needs_x, *_ = needs = ctx.needs_input_grad[:3]
        gx = paged(torch.empty_like(x)) if needs_x else None
        of_weights: Any = None, None
        for some in _parts(0, len(x), ctx.at_once):
            part, *grads = torch.ops.aten.convolution_backward(
                g[some], x[some], weight, [len(weight)] if ctx.biased else None, stride, padding,
                dilation, False, [0] * len(stride), groups, needs,
            )  # fmt: skip
            if gx is not None:
                gx[some] = part
            of_weights = [
                b if a is None else a.add_(b) for a, b in zip(of_weights, grads, strict=True)
            ]
        return gx, *of_weights, None, None, None


def _like(image: Tensor, count: int) -> Tensor:
    """Return so many images without numbers, in the order in memory of some others."""
    shape = count, *image.shape[1:]
    return torch.empty(shape, dtype=image.dtype, memory_format=order_of(image))


def _parts(start: int, stop: int, size: int) -> Iterator[slice]:
    """Return the places from ``start`` to ``stop``, so many at a time."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
