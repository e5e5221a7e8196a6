"""Functions of torch as the layers that compute the same; what NIR can say of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.function_layers import (
    Above,
    Below,
    Either,
    Elementwise,
    Fired,
    Sign,
    beside,
)

Found = tuple[Tensor, nn.Module]
"""The signal that a function takes, and the layer that does to it what the function does."""


def as_layer(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], signal: Tensor
) -> nn.Module | None:
    """Return the layer that computes what the function ``name`` computes of ``signal``.

    ``None`` if there is none, or if ``signal`` is not what the function takes as its input. All
    other tensors among the arguments are taken for constants.
    """
    name = name.strip("_")
    if name in MIRRORED and len(args) == 2 and args[0] is not signal:
        name, args = MIRRORED[name], args[::-1]
    make = FUNCTIONS.get(name)
    if make is None:
        return None
    if make in (_times, _plus) and len(args) == 2 and args[1] is signal:
        args = args[::-1]
    try:
        x, layer = make(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    return layer if x is signal else None


def is_same_layer(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two layers have the same settings and values."""
    if a is b or type(a) is not type(b):
        return a is b
    settings = [{k: v for k, v in vars(layer).items() if k[0] != "_"} for layer in (a, b)]
    values = [[*layer._parameters.values(), *layer._buffers.values()] for layer in (a, b)]
    return settings[0] == settings[1] and all(
        x is y if x is None or y is None else torch.equal(x, y)
        for x, y in zip(*values, strict=False)
    )


def _filled(kind: Callable[..., nn.Module], *sizes: Any, **settings: Any) -> nn.Module:
    """Return a layer with the given parameters, by name; no random number is drawn."""
    weight, bias = settings.pop("weight"), settings.pop("bias")
    layer = kind(*sizes, bias=bias is not None, device="meta", **settings)
    return _with_parameters(layer, weight, bias)


def _with_parameters(layer: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.detach().clone(), requires_grad=False))
    return layer


def selection(total: int, start: int, width: int, axes: int) -> nn.Module:
    """Return the layer that puts ``width`` features at ``start`` of ``total``, zeros elsewhere.

    ``axes`` is how many axes of space follow the features, or channels, at most 2.
    """
    return _pointwise(torch.eye(total)[:, start : start + width], axes)


def chosen(places: Tensor, total: int, axes: int) -> nn.Module:
    """Return the layer that gives those of ``total`` features at some places; see above."""
    return _pointwise(torch.eye(total)[places], axes)


def _pointwise(weight: Tensor, axes: int) -> nn.Module:
    rows, columns = weight.shape
    if not axes:
        return _filled(nn.Linear, columns, rows, weight=weight, bias=None)
    kind = nn.Conv1d if axes == 1 else nn.Conv2d
    return _filled(
        kind, columns, rows, 1, weight=weight.reshape(rows, columns, *[1] * axes), bias=None
    )


def spread(width: int) -> nn.Module:
    """Return the layer that gives one feature ``width`` times."""
    return _filled(nn.Linear, 1, width, weight=torch.ones(width, 1), bias=None)


def reduction(name: str, shape: Sequence[int], axes: Sequence[int]) -> nn.Module | None:
    """Return the layer that computes a mean or sum over ``axes`` of what a step gives.

    That is the one axis of features, or all axes of space; the axes stay, with length 1. ``None``
    if there is no such layer.
    """
    size, inside = len(shape), sorted(axis % len(shape) for axis in axes)
    if size == 1:
        weight = torch.full((1, shape[0]), 1 / shape[0] if name == "mean" else 1.0)
        return _filled(nn.Linear, shape[0], 1, weight=weight, bias=None)
    if inside != list(range(1, size)) or size > 3:
        return None
    if name == "mean":
        return nn.AdaptiveAvgPool1d(1) if size == 2 else nn.AdaptiveAvgPool2d(1)
    return nn.LPPool2d(1, tuple(shape[1:])) if size == 3 else None


def reduction_of_parts(name: str, width: int, shape: Sequence[int], axis: int) -> nn.Module | None:
    """Return the layer that lays features out in a ``shape``, and adds them up along an axis.

    ``None`` where more than one axis is left.
    """
    if len(shape) != 2:
        return None
    parts = torch.eye(width).reshape(width, *shape)
    weight = (parts.mean(axis + 1) if name == "mean" else parts.sum(axis + 1)).t()
    return _filled(nn.Linear, width, len(weight), weight=weight.contiguous(), bias=None)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Found:
    rows, columns = weight.shape
    return input, _filled(nn.Linear, columns, rows, weight=weight, bias=bias)


def _product(a: Any, b: Any) -> Found:
    """``x @ W``, W constant: a row of W for each input."""
    if b.dim() != 2:
        raise ValueError
    return _linear(a, b.t())


def _added_product(bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Found:
    if (beta, alpha) != (1, 1) or bias.dim() != 1 or b.dim() != 2:
        raise ValueError
    return _linear(a, b.t(), bias)


def _einstein(equation: str, *operands: Any) -> Found:
    """``einsum`` of features with a matrix: their letter, the last, becomes another."""
    (a, b), out = (
        equation.replace(" ", "").split("->")[0].split(","),
        equation.split("->")[1].strip(),
    )
    (x, weight) = operands[0] if len(operands) == 1 else operands
    if a[:-1] != out[:-1]:
        a, b, x, weight = b, a, weight, x
    old, new = a[-1], b.replace(a[-1], "")
    if len(b) != 2 or len(new) != 1 or new in a or out != a[:-1] + new or a.count(old) > 1:
        raise ValueError
    return _linear(x, weight if b[1] == old else weight.t())


def _padded(input: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Found:
    """Zeros around maps: a kernel of one 1 in each channel, as large as the sides differ."""
    pairs = by_axis(pad)
    axes = min(input.dim() - 2, 2)
    if mode in MODES and axes > 0 and len(pairs) <= axes:
        return input, MODES[mode][axes - 1](tuple(pad) + (0, 0) * (axes - len(pairs)))
    if mode != "constant" or value or axes < 1 or len(pairs) > axes or min(pad) < 0:
        raise ValueError
    pairs = [(0, 0)] * (axes - len(pairs)) + pairs
    channels, kernel = input.shape[-axes - 1], [1 + abs(a - b) for a, b in pairs]
    weight = torch.zeros(channels, 1, *kernel)
    centre: Any = (slice(None), 0, *(max(a, b) - a for a, b in pairs))
    weight[centre] = 1
    layer = _filled(
        nn.Conv1d if axes == 1 else nn.Conv2d, channels, channels, tuple(kernel), weight=weight,
        bias=None, padding=tuple(map(max, pairs)), groups=channels,
    )  # fmt: skip
    return input, layer


def by_axis(sides: Sequence[int]) -> list[tuple[int, int]]:
    """Return what ``F.pad`` takes, the last axis first, as pairs in the order of the axes."""
    return list(zip(sides[::2], sides[1::2], strict=True))[::-1]


MODES: dict[str, tuple[Any, Any]] = {
    "circular": (nn.CircularPad1d, nn.CircularPad2d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d),
}
"""The paddings that are not zeros, by the number of axes."""


def _interpolated(input: Tensor, *sizes: Any, **settings: Any) -> Found:
    if settings.pop("antialias", False) or input.dim() not in (3, 4):
        raise ValueError
    return input, nn.Upsample(*sizes, **settings)


CONV = "stride", "padding", "dilation", "groups"
TRANSPOSED = "stride", "padding", "output_padding", "groups", "dilation"
"""Arguments of a convolution's function behind its bias, in their order."""


def _conv(kind: Callable[..., nn.Module], names: Sequence[str] = CONV) -> Callable[..., Found]:
    def found(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, *given: Any, **named: Any
    ) -> Found:
        settings = dict(zip(names, given, strict=False)) | named
        first, second, *kernel = weight.shape
        sizes = [first, second * settings.get("groups", 1)]
        sizes = sizes if names is TRANSPOSED else sizes[::-1]
        return input, _filled(kind, *sizes, tuple(kernel), weight=weight, bias=bias, **settings)

    return found


def _pool(kind: Callable[..., nn.Module]) -> Callable[..., Found]:
    def found(input: Tensor, *sizes: Any, **settings: Any) -> Found:
        return input, kind(*sizes, **settings)

    return found


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Found:
    if training or running_mean is None or running_var is None:
        raise ValueError
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[input.dim()]
    layer = kind(len(running_mean), eps, affine=False, device="meta")
    layer.running_mean, layer.running_var = running_mean.clone(), running_var.clone()
    layer.num_batches_tracked = None
    return input, _with_parameters(layer, weight, bias).eval()


def _constant(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.tensor(float(value), dtype=torch.float64)


def _times(x: Tensor, factor: Any) -> Found:
    return x, Elementwise(_constant(factor), None)


def _plus(x: Tensor, shift: Any) -> Found:
    return x, Elementwise(None, _constant(shift))


def _at_least(x: Tensor, threshold: Any) -> Found:
    return x, Above(_next(x, threshold, -torch.inf), x.dtype)


def _next(x: Tensor, threshold: Any, towards: float) -> Tensor:
    """Return the number of ``x``'s type beside a threshold: ``x`` lies beyond it, or on it."""
    if not x.is_floating_point():
        raise ValueError
    return beside(torch.as_tensor(threshold, dtype=x.dtype, device=x.device).detach(), towards)


def _heaviside(x: Tensor, values: Tensor) -> Found:
    if bool((values == 1).all()):
        return _at_least(x, 0.0)
    if bool(values.any()):
        raise ValueError
    return x, Above(0.0, x.dtype)


def _fired_where(number: int) -> Callable[..., Found]:
    """Where spikes are 1, or are not 0: what compares them with that number."""

    def found(x: Tensor, value: Any = number) -> Found:
        if isinstance(value, Tensor) or value != number:
            raise ValueError
        return x, Fired()

    return found


def _not(x: Tensor) -> Found:
    if x.dtype != torch.bool:
        raise ValueError
    return x, Elementwise(torch.tensor(-1.0), torch.tensor(1.0))


def _clamped(input: Tensor, min: Any = None, max: Any = None) -> Found:
    """A sum of spikes that is at most 1: whether there is any."""
    if min not in (None, 0) or max != 1:
        raise ValueError
    return input, Either()


def _chosen(spikes: Tensor, a: Any, b: Any) -> Found:
    """``where`` of two constants."""
    if spikes.dtype != torch.bool:
        raise ValueError
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    return spikes, Elementwise(a - b, b)


FUNCTIONS: dict[str, Callable[..., Found]] = {
    "linear": _linear,
    "matmul": _product,
    "mm": _product,
    "addmm": _added_product,
    "einsum": _einstein,
    "pad": _padded,
    "conv1d": _conv(nn.Conv1d),
    "conv2d": _conv(nn.Conv2d),
    "conv_transpose1d": _conv(nn.ConvTranspose1d, TRANSPOSED),
    "conv_transpose2d": _conv(nn.ConvTranspose2d, TRANSPOSED),
    "interpolate": _interpolated,
    "avg_pool1d": _pool(nn.AvgPool1d),
    "avg_pool2d": _pool(nn.AvgPool2d),
    "max_pool1d": _pool(nn.MaxPool1d),
    "max_pool2d": _pool(nn.MaxPool2d),
    "lp_pool2d": _pool(nn.LPPool2d),
    "adaptive_avg_pool2d": _pool(nn.AdaptiveAvgPool2d),
    "adaptive_max_pool2d": _pool(nn.AdaptiveMaxPool2d),
    "batch_norm": _batch_norm,
    "relu": lambda input, inplace=False: (input, nn.ReLU()),
    **dict.fromkeys(("mul", "multiply"), _times),
    **dict.fromkeys(
        ("div", "divide", "truediv", "true_divide"),
        lambda x, divisor: (x, Elementwise(1 / _constant(divisor), None)),
    ),
    "add": _plus,
    **dict.fromkeys(("sub", "subtract"), lambda x, shift: _plus(x, -_constant(shift))),
    "rsub": lambda x, minuend: (x, Elementwise(_constant(-1), _constant(minuend))),
    **dict.fromkeys(("neg", "negative"), lambda x: _times(x, -1)),
    **dict.fromkeys(("gt", "greater"), lambda x, threshold: (x, Above(threshold, x.dtype))),
    **dict.fromkeys(("ge", "greater_equal"), _at_least),
    **dict.fromkeys(("lt", "less"), lambda x, threshold: (x, Below(threshold))),
    **dict.fromkeys(
        ("le", "less_equal"), lambda x, threshold: (x, Below(_next(x, threshold, torch.inf)))
    ),
    "eq": _fired_where(1),
    **dict.fromkeys(("ne", "not_equal", "bool"), _fired_where(0)),
    "heaviside": _heaviside,
    **dict.fromkeys(("sign", "sgn"), lambda x: (x, Sign())),
    **dict.fromkeys(("invert", "logical_not"), _not),
    "where": _chosen,
    **dict.fromkeys(("clamp", "clip"), _clamped),
}
"""By the name that torch knows each by, without underscores; an in-place form is the same."""

MIRRORED = {"gt": "lt", "ge": "le", "greater": "less", "greater_equal": "less_equal"}
MIRRORED |= {other: name for name, other in MIRRORED.items()}
"""What a comparison is with its sides changed."""


def written_out(name: str, kwargs: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """Return what computes the same as the function ``name`` by others; ``None`` if it is one."""
    name = name.strip("_")
    if name in ("add", "sub", "subtract", "rsub") and "alpha" not in kwargs:
        return None
    return COMPOSITIONS.get(name)


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "add": lambda input, other, *, alpha=1: input + alpha * other,
    "sub": lambda input, other, *, alpha=1: input - alpha * other,
    "subtract": lambda input, other, *, alpha=1: input - alpha * other,
    "rsub": lambda input, other, *, alpha=1: other - alpha * input,
    "addcmul": lambda input, tensor1, tensor2, *, value=1: input + value * (tensor1 * tensor2),
    "addcdiv": lambda input, tensor1, tensor2, *, value=1: input + value * (tensor1 / tensor2),
    "lerp": lambda input, end, weight: input + weight * (end - input),
}
"""Functions that are several at once, written out in those that are known one by one."""
