"""What a module is in NIR, as rules: torch's layers and this package's; adapters add theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph.snu_nodes import encode_snu, encode_src
from snu_plugin.graph.traced_tensor import Shape
from snu_plugin.neuron import SNU, SRC, EventLinear, hold_decay, sSNU

CONTAINERS: set[type] = {nn.Sequential}
"""Containers that compute what their one module computes; adapters add their host's."""


@singledispatch
def to_node(module: object, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the NIR node for one module; adapters add rules with ``@to_node.register``.

    Args:
        module: A module of a type that has a rule.
        shape: Shape of what the module receives in one step, without batch and time.
        dt: Time step in seconds that the graph declares.

    Returns:
        A node whose parameters have their full shape, copied. A recurrent layer returns a
        ``nir.NIRGraph`` with the nodes ``input``, ``lif``, ``w_rec``, ``output``; where ``w_rec``
        is an ``Affine``, its bias acts from the first step on, and ``to_nir`` moves it.

    Raises:
        TypeError: If the type has no rule.
        ValueError: If NIR cannot say what this module is set to do.
    """
    raise TypeError(f"no NIR rule for {type(module).__qualname__}; add one with @to_node.register")


def has_rule(rules: Any, module: object) -> bool:
    """Tell whether one of the functions below has a rule for the type of ``module``."""
    return rules.dispatch(type(module)) is not rules.dispatch(object)


@singledispatch
def nearest(module: object, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the NIR node that is nearest to a module which ``to_node`` refuses.

    Adapters add rules for neurons whose reset NIR has no word for; see ``to_node`` for the
    arguments.

    Raises:
        TypeError: If there is no rule: the module stays refused.
        ValueError: If something else than the reset cannot be said.
    """
    raise TypeError(
        f"no nearest NIR node for {type(module).__qualname__}; add one with @nearest.register"
    )


@singledispatch
def batch_axes(module: object, x: Tensor) -> int | None:
    """Return how many leading axes of a module's input ``x`` are batch and time.

    ``None``, the default, takes over what the module's source has, and one at the model's input.
    Adapters add rules for modules that take whole sequences: 2 for ``(T, B, ...)``.
    """
    return None


@singledispatch
def split_input(module: object, widths: Sequence[int]) -> Sequence[nn.Module]:
    """Return modules whose outputs add up to that of ``module`` for their inputs side by side.

    Args:
        module: A module of a type that has a rule.
        widths: Length of each part of its input.

    Raises:
        TypeError: If the type has no rule.
    """
    raise TypeError(
        f"{type(module).__qualname__} receives tensors put side by side; only Linear layers can "
        "in NIR, as one each"
    )


@singledispatch
def start(module: object, x: Tensor) -> Any:
    """Return the states that a module begins with if it is given none, as it takes them.

    ``None``, the default, says that they are zero. Adapters add rules for neurons that begin
    elsewhere; ``x`` is what the module receives.
    """
    return None


def array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a copy of a tensor; float32 and wider keep their type, narrower become float32."""
    values = tensor.detach().cpu()
    narrow = values.dtype in (torch.float16, torch.bfloat16)
    return np.array((values.float() if narrow else values).numpy())


def with_parameters(
    node: nir.NIRNode, values: Iterable[tuple[str, Tensor]], recurrent: Tensor | None
) -> nir.NIRNode:
    """Put trained values into a node that an adapter runs as it is; changes ``node``.

    Args:
        node: The node, a copy of its own.
        values: Field and value of each parameter.
        recurrent: Weights from the node to itself, ``(features, features)``.

    Returns:
        The node, or with ``recurrent`` a ``nir.NIRGraph`` of ``lif`` and ``w_rec``.
    """
    for field, value in values:
        setattr(node, field, array(value))
    if recurrent is None:
        return node
    parts = {"lif": node, "w_rec": nir.Linear(array(recurrent))}
    return nir.NIRGraph(parts, [("lif", "w_rec"), ("w_rec", "lif")], metadata={}, type_check=False)


@to_node.register(nn.Linear)
@to_node.register(EventLinear)
def _linear(module: nn.Linear, *, shape: Shape, dt: float) -> nir.NIRNode:
    weight = array(module.weight)
    return nir.Linear(weight) if module.bias is None else nir.Affine(weight, array(module.bias))


@split_input.register(nn.Linear)
@split_input.register(EventLinear)
def _split_linear(module: nn.Linear, widths: Sequence[int]) -> list[nn.Module]:
    """Return a layer for each part of the input, the bias with the first."""
    parts: list[nn.Module] = []
    for weight in torch.split(module.weight.detach(), list(widths), 1):
        bias = None if parts else module.bias
        part = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
        part.weight = nn.Parameter(weight)
        if bias is not None:
            part.bias = bias
        parts.append(part)
    return parts


@to_node.register(nn.Conv1d)
@to_node.register(nn.Conv2d)
def _conv(module: nn.Conv1d | nn.Conv2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {module.padding_mode!r}; NIR can only say 'zeros'")
    bias = np.zeros(module.out_channels) if module.bias is None else array(module.bias)
    settings = (module.stride, _padding(module), module.dilation)
    if isinstance(module, nn.Conv2d):
        return nir.Conv2d(shape[1:], array(module.weight), *settings, module.groups, bias)
    stride, padding, dilation = (s if isinstance(s, str) else s[0] for s in settings)
    return nir.Conv1d(
        shape[1], array(module.weight), stride, padding, dilation, module.groups, bias
    )


def _padding(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | str:
    if not isinstance(module.padding, str):
        return module.padding
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    total = [0 if module.padding == "valid" else d * (k - 1) for k, d in sizes]
    return module.padding if any(n % 2 for n in total) else tuple(n // 2 for n in total)


@to_node.register
def _pool(module: nn.AvgPool2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the pool; an average over 1 is a sum."""
    if module.ceil_mode or module.divisor_override not in (None, 1):
        name = "ceil_mode" if module.ceil_mode else "divisor_override"
        raise ValueError(f"{name} is {getattr(module, name)}; NIR cannot say it, leave it out")
    kernel, stride, padding = (
        np.array((n, n) if isinstance(n, int) else n)
        for n in (module.kernel_size, module.stride, module.padding)
    )
    if module.divisor_override == 1:
        return nir.SumPool2d(kernel, stride, padding)
    if padding.any() and not module.count_include_pad:
        raise ValueError("count_include_pad is False; NIR's average counts the padding")
    return nir.AvgPool2d(kernel, stride, padding)


@to_node.register
def _flatten(module: nn.Flatten, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the node for one leading axis, the batch; ``to_nir`` needs no rule for reshapes."""
    start, end = (d - 1 if d > 0 else d for d in (module.start_dim, module.end_dim))
    if module.start_dim == 0:
        raise ValueError("start_dim is 0; NIR cannot flatten the batch")
    return nir.Flatten({"input": np.array(shape)}, start, end)


@to_node.register(SNU)
@to_node.register(sSNU)
def _snu(module: SNU | sSNU, *, shape: Shape, dt: float) -> nir.NIRNode:
    decay = hold_decay(module.decay) if module.config.learn_decay else module.decay
    return encode_snu(
        module.config,
        array(decay),
        array(module.threshold),
        dt=dt,
        recurrent=None if module.recurrent is None else array(module.recurrent),
    )


@to_node.register
def _src(module: SRC, *, shape: Shape, dt: float) -> nir.NIRNode:
    return encode_src(module.config, array(module.bias), shape)


def _before(axes: int) -> Any:
    return lambda module, x: max(0, x.dim() - axes)


for _kind, _axes in ((nn.Linear, 1), (nn.Conv1d, 2), (nn.Conv2d, 3), (nn.AvgPool2d, 3)):
    batch_axes.register(_kind, _before(_axes))


@batch_axes.register(SNU)
@batch_axes.register(sSNU)
@batch_axes.register(SRC)
def _(module: SNU | sSNU | SRC, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.features))
