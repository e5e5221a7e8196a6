"""What a function of one step gives for all steps at once.

Of images, one call for all steps would write tensors of 100 MB through no cache, into memory that
Linux hands out page by page: that took up to 2.5 times as long as the calls of the single steps. So
a few steps of a convolution run at a time, as many as the cache holds, and their results lie side
by side in huge pages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snu_plugin.acceleration.nodes import mapped, tensors_in
from snu_plugin.neuron import (
    laid_channels_last,
    max_pool2d,
    order_of,
    paged,
    spike_linear,
    walked_conv1d,
    walked_conv2d,
)

ELEMENTWISE = frozenset((
    "add", "sub", "mul", "div", "true_divide", "neg", "abs", "relu", "relu6", "sigmoid", "tanh",
    "exp", "log", "sqrt", "square", "pow", "clamp", "clamp_min", "clamp_max", "maximum", "minimum",
    "where", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "softplus", "hardtanh",
    "hardsigmoid", "hardswish", "mish", "logsigmoid", "softsign", "tanhshrink", "threshold",
    "dropout", "feature_dropout", "detach", "clone", "float", "double", "half", "to", "type_as",
    "sign", "round", "floor", "ceil", "heaviside", "rsub", "__add__", "__radd__", "__sub__",
    "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__div__", "__rdiv__",
    "__neg__", "__abs__", "__pow__", "__rpow__", "__gt__", "__lt__", "__ge__", "__le__", "__eq__",
    "__ne__", "gt", "lt", "ge", "le", "eq", "ne", "__and__", "__or__", "__xor__", "__invert__",
    "logical_and", "logical_or", "logical_not", "sin", "cos", "erf", "rsqrt", "reciprocal",
    "contiguous",
))  # fmt: skip
"""Functions of numbers side by side."""


class Steps:
    """A sequence among the arguments of a function that takes a step."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def at_once(
    name: str, function: Callable[..., Any], args: Any, kwargs: Any, sequences: Sequence[Tensor]
) -> Any:
    """Return what a function gives for all steps at once, ``None`` if torch cannot say so."""
    plain, named = (
        mapped(part, lambda v: v.tensor if isinstance(v, Steps) else v) for part in (args, kwargs)
    )
    axes = {s.dim() for s in sequences}
    static = [t for t in tensors_in((plain, named)) if not any(t is s for s in sequences)]
    x = sequences[0]
    first = bool(args) and isinstance(args[0], Steps) and len(sequences) == 1
    if name in ELEMENTWISE and len(axes) == 1 and all(t.dim() < x.dim() for t in static):
        return function(*plain, **named)
    if name == "linear" and first:
        return spike_linear(*plain, **named)
    if first and (images := of_all_steps(name, function, x, plain[1:], named)) is not None:
        return images
    if isinstance(function, nn.modules.batchnorm._BatchNorm):
        return function(x.flatten(0, 1)).view(x.shape)
    if first and name == "flatten":
        start, end = _of_flatten(*plain, **named)
        if start >= 0:
            return x.flatten(start + 1, end + 1 if end >= 0 else end)
    if first and name in ("view", "reshape") and all(type(n) is int for n in plain[1:]):
        asked = math.prod(n for n in plain[1:] if n != -1)
        left = math.prod(x.shape[1:]) // max(asked, 1)
        return x.reshape(len(x), *(left if n == -1 else n for n in plain[1:]))

    def step(*rows: Tensor) -> Any:
        left = iter(rows)
        put = lambda v: next(left) if isinstance(v, Steps) else v  # noqa: E731
        changed, named = mapped((args, kwargs), put)
        return function(*changed, **named)

    try:
        return torch.vmap(step, randomness="different")(*sequences)
    except (RuntimeError, ValueError):
        return None


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
        size = windows_of(args, kwargs)
        return None if size is None else max_pool2d(images, size)
    if name in CONVOLUTIONS:
        weight, bias, stride, padding, dilation, groups = _of_convolution(*args, **kwargs)
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


def windows_of(args: Any, kwargs: Any) -> tuple[int, int] | None:
    """Return the size of the windows of a ``max_pool2d`` that lie side by side.

    ``None``: they do not, or more than their largest numbers is asked for.

    Args:
        args: What it is called with behind the images.
        kwargs: The same by name.
    """
    size, stride, padding, dilation, ceil, places = _of_pool(*args, **kwargs)
    height, width = _each(size, 2)
    apart = not stride or _each(stride, 2) == (height, width)
    plain = _each(padding, 2) == (0, 0) and _each(dilation, 2) == (1, 1)
    plain = plain and not (ceil or places)
    return (height, width) if apart and plain else None


# What calls of torch's functions ask for, given by place or by name.


def _of_flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> tuple[int, int]:
    return start_dim, end_dim


def _of_pool(
    kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    return kernel_size, stride, padding, dilation, ceil_mode, return_indices


def _of_convolution(
    weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    return weight, bias, stride, padding, dilation, groups


CONVOLUTIONS = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return (
        tuple(value) * (axes // len(value)) if isinstance(value, (tuple, list)) else (value,) * axes
    )


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
        shape = len(x), *first.shape[1:]
        out = paged(torch.empty(shape, dtype=first.dtype, memory_format=order_of(first)))
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


def _parts(start: int, stop: int, size: int) -> Iterator[slice]:
    """Return the places from ``start`` to ``stop``, so many at a time."""
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
