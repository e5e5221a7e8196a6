"""What a module is in NIR, as rules: torch's layers and this package's; adapters add theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph.snu_nodes import encode_snu, encode_src
from snu_plugin.graph.tracing.function_layers import Elementwise
from snu_plugin.graph.tracing.traced_tensor import Shape
from snu_plugin.neuron import SNU, SRC, Linear, hold_decay, sSNU

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
        is an ``Affine``, its bias acts from the first step on, and ``to_nir`` moves it. In a graph
        with ports a node that is called as a state of the module (``mem``) has that state's value:
        where a model returns the state, or a layer receives it, the node feeds that.

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
        f"{type(module).__qualname__} receives tensors put side by side; not yet supported: add a "
        "rule with @split_input.register"
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
    if isinstance(node, nir.NIRGraph):  # a neuron of several nodes
        node.nodes["w_rec"] = nir.Linear(array(recurrent))
        node.edges += [("spike", "w_rec"), ("w_rec", "mem")]
        return node
    parts = {"lif": node, "w_rec": nir.Linear(array(recurrent))}
    return nir.NIRGraph(parts, [("lif", "w_rec"), ("w_rec", "lif")], metadata={}, type_check=False)


@to_node.register(nn.Linear)
@to_node.register(Linear)
def _linear(module: nn.Linear, *, shape: Shape, dt: float) -> nir.NIRNode:
    weight = array(module.weight)
    return nir.Linear(weight) if module.bias is None else nir.Affine(weight, array(module.bias))


@split_input.register(nn.Linear)
@split_input.register(Linear)
def _split_linear(module: nn.Linear, widths: Sequence[int]) -> list[nn.Module]:
    return parts_of(module, widths, nn.Linear)


def parts_of(
    module: Any, widths: Sequence[int], kind: Callable[..., Any], *settings: Any
) -> list[nn.Module]:
    """Return a layer of a kind for each part of the input, the bias with the first."""
    parts: list[nn.Module] = []
    for weight in torch.split(module.weight.detach(), list(widths), 1):
        bias = None if parts else module.bias
        has = {"bias": bias is not None, "device": "meta"}
        part = kind(weight.shape[1], len(weight), *settings, **has)
        part.weight = nn.Parameter(weight)
        if bias is not None:
            part.bias = bias
        parts.append(part)
    return parts


BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@to_node.register(nn.BatchNorm1d)
@to_node.register(nn.BatchNorm2d)
def _batch_norm(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return what evaluation mode computes; ``to_nir`` puts it into the weights before it."""
    if module.running_mean is None:
        raise ValueError(
            "it keeps no running mean, and takes that of each batch; NIR's nodes know no batch: "
            "use track_running_stats=True"
        )
    mean = array(module.running_mean)
    scale = 1 / np.sqrt(np.float64(array(module.running_var)) + module.eps)
    if module.weight is not None:
        scale = array(module.weight) * scale
    bias = 0.0 if module.bias is None else array(module.bias)
    return _affine_by_channel(scale, bias - mean * scale, shape)


@to_node.register
def _elementwise(module: Elementwise, *, shape: Shape, dt: float) -> nir.NIRNode:
    scale = np.ones(shape) if module.scale is None else spread_over(module.scale, shape)
    if module.shift is None:
        return nir.Scale(scale)
    shift = spread_over(module.shift, shape)
    by_channel = [v.reshape(shape[0], -1) for v in (scale, shift)]
    if len(shape) > 3 or any((v != v[:, :1]).any() for v in by_channel):
        # An integrator that forgets within a step: v = v_leak + r x.
        return nir.LI(np.full(shape, dt), scale, shift)
    return _affine_by_channel(by_channel[0][:, 0], by_channel[1][:, 0], shape)


def spread_over(value: Tensor, shape: Shape) -> Any:
    """Return a constant in the shape of a layer, from one that may be spread over a batch."""
    values = array(value)
    while values.ndim > len(shape) and (values == values[:1]).all():
        values = values[0]
    try:
        return np.array(np.broadcast_to(values, shape))
    except ValueError:
        raise ValueError(
            f"its constant has the shape {tuple(value.shape)}; it must broadcast to {shape}, the "
            "same in every step and sequence"
        ) from None


def _affine_by_channel(scale: Any, shift: Any, shape: Shape) -> nir.NIRNode:
    """Return ``scale * x + shift``, with one number of each for each channel."""
    if len(shape) == 1:
        return nir.Affine(np.diag(scale), shift)
    if len(shape) > 3:
        raise ValueError(f"it adds a constant to each channel of {shape}; not yet supported")
    ones = (1,) * (len(shape) - 1)
    weight = scale.reshape(-1, 1, *ones)
    return conv(shape[1:], weight, shift, ones, (0,) * len(ones), ones, shape[0])


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


def before(axes: int) -> Any:
    """Return a rule for ``batch_axes`` of modules that take ``axes`` others."""
    return lambda module, x: max(0, x.dim() - axes)


batch_axes.register(nn.Linear, before(1))


@batch_axes.register(nn.BatchNorm1d)
@batch_axes.register(nn.BatchNorm2d)
def _(module: nn.Module, x: Tensor) -> int | None:
    return 1


@batch_axes.register(SNU)
@batch_axes.register(sSNU)
@batch_axes.register(SRC)
def _(module: SNU | sSNU | SRC, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.features))
