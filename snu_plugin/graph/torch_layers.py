"""Nodes of NIR as modules for hosts that build on torch: its own layers, or a step of the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.host_network import rescale_dt
from snu_plugin.graph.rules.torch_rules import batch_axes, with_parameters


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


class NodeModule(nn.Module):
    """One step of a NIR node that no layer of torch or of the host computes.

    Hosts derive theirs from it: their ``forward`` says where the state is kept, see ``advance``.

    Args:
        node: The node, kept for export; IF and I in the reading ``v += dt r x``.
        dt: Seconds per step for which ``run`` was made; ``None`` if it depends on none.
        run: The node over sequences, ``y, state = run(x, state)``.
        recurrent_weights: Weights H from the last output to the input, ``(features, features)``,
            row = receiving unit.
    """

    def __init__(
        self,
        node: nir.NIRNode,
        dt: float | None,
        run: nn.Module,
        recurrent_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.node, self.dt, self.run = node, dt, run
        weights = None if recurrent_weights is None else nn.Parameter(recurrent_weights)
        self.recurrent_weights = weights

    def advance(self, x: Tensor, y: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Return output and state after one step on ``x``, ``(B, *shape)``; ``y`` is the last."""
        if self.recurrent_weights is not None and y is not None:
            x = x + F.linear(y, self.recurrent_weights)
        (y,), state = self.run(x[None], state)
        return y, state

    def extra_repr(self) -> str:
        return f"{type(self.node).__name__}, recurrent={self.recurrent_weights is not None}"


def node_of(module: NodeModule, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    """Return the node of a module with its values of now; for ``to_node`` of derived classes."""
    node = rescale_dt(module.node, module.dt, dt)
    return with_parameters(node, module.run.named_parameters(), module.recurrent_weights)


@batch_axes.register
def _(module: NodeModule, x: Tensor) -> int | None:
    return x.dim() - len(module.node.input_type["input"])


def default_tensor(value: object) -> Tensor:
    """Return a copy of an array, a number or a tensor in torch's default type."""
    if isinstance(value, Tensor):
        return value.to(torch.get_default_dtype(), copy=True)
    return torch.tensor(np.asarray(value, order="C"), dtype=torch.get_default_dtype())


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
