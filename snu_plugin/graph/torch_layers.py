"""Nodes of NIR as torch's own layers, for hosts whose networks are made of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def torch_layer(node: nir.NIRNode) -> nn.Module | None:
    """Return the layer of torch, ``(B, ...)`` in and out, that computes a node; None without one.

    Linear and Affine with one matrix, Conv1d, Conv2d, AvgPool2d, SumPool2d (an average over 1) and
    Flatten have one. Weights are copied, in torch's default type. No random number is drawn.
    """
    if isinstance(node, (nir.Linear, nir.Affine)) and node.weight.ndim == 2:
        rows, columns = node.weight.shape
        return _filled(node, nn.Linear, columns, rows, bias=isinstance(node, nir.Affine))
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        out, per_group, *kernel = node.weight.shape
        return _filled(
            node,
            nn.Conv1d if isinstance(node, nir.Conv1d) else nn.Conv2d,
            per_group * int(node.groups),
            out,
            tuple(kernel),
            stride=_sizes(node.stride),
            padding=node.padding if isinstance(node.padding, str) else _sizes(node.padding),
            dilation=_sizes(node.dilation),
            groups=int(node.groups),
        )
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        pool: Callable[..., nn.Module] = nn.AvgPool2d  # its stub knows pairs of numbers only
        sizes = map(_sizes, (node.kernel_size, node.stride, node.padding))
        return pool(*sizes, divisor_override=1 if isinstance(node, nir.SumPool2d) else None)
    if isinstance(node, nir.Flatten):
        rank = len(node.input_type["input"])
        start, end = (int(d) % rank + 1 for d in (node.start_dim, node.end_dim))  # behind the batch
        return nn.Flatten(start, end)
    return None


def default_tensor(value: object) -> Tensor:
    """Return a copy of an array, a number or a tensor in torch's default type."""
    values = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    return values.to(torch.get_default_dtype(), copy=True)


def _filled(node: nir.NIRNode, kind: type[nn.Module], *sizes: Any, **settings: Any) -> nn.Module:
    """Return a layer with the weights of a node."""
    make: Callable[..., nn.Module] = nn.utils.skip_init
    layer = make(kind, *sizes, **settings)
    fields = [field for field in ("weight", "bias") if hasattr(node, field)]
    layer.load_state_dict({field: default_tensor(getattr(node, field)) for field in fields})
    return layer


def _sizes(value: int | tuple[int, ...] | NDArray[np.integer]) -> tuple[int, ...]:
    """Return ``(height, width)``, or ``(length,)``, whatever spelling the node has."""
    return tuple(int(n) for n in np.atleast_1d(value))
