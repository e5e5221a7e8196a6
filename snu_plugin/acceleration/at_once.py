"""What a function of one step gives for all steps at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.acceleration.images import of_all_steps
from snu_plugin.acceleration.nodes import mapped, tensors_in
from snu_plugin.neuron import spike_linear

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
    steps = len(x)
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
        start, end = (_argument(function, args, kwargs, n, d) for n, d in ((1, 0), (2, -1)))
        if start >= 0:
            return x.flatten(start + 1, end + 1 if end >= 0 else end)
    if first and name in ("view", "reshape") and all(type(n) is int for n in plain[1:]):
        return x.reshape(steps, *(_sizes(x.shape[1:], plain[1:])))
    return _mapped_over_time(function, args, kwargs, sequences)


def _sizes(shape: Sequence[int], asked: Sequence[int]) -> list[int]:
    """Return a shape with its -1, if there is one, filled in."""
    left = math.prod(shape) // max(math.prod(n for n in asked if n != -1), 1)
    return [left if n == -1 else n for n in asked]


def _argument(function: Any, args: Any, kwargs: Any, place: int, default: int) -> int:
    names = ("input", "start_dim", "end_dim")
    found = args[place] if len(args) > place else kwargs.get(names[place], default)
    return int(found)


def _mapped_over_time(
    function: Callable[..., Any], args: Any, kwargs: Any, sequences: Sequence[Tensor]
) -> Any:
    def step(*rows: Tensor) -> Any:
        left = iter(rows)
        put = lambda v: next(left) if isinstance(v, Steps) else v  # noqa: E731
        changed, named = mapped((args, kwargs), put)
        return function(*changed, **named)

    try:
        return torch.vmap(step, randomness="different")(*sequences)
    except (RuntimeError, ValueError):
        return None
