"""Norse networks built from NIR graphs."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import nir
import torch
import torch.nn.functional as F
from norse.torch import SequentialState
from torch import Tensor, nn

from snu_norse.neurons import SNUCell, sSNUCell
from snu_norse.parameters import SNUParameters, others
from snu_norse.recurrent import SNUFeedbackCell
from snu_norse.src import cell
from snu_norse.wired import Wired
from snu_plugin.graph import (
    SRC,
    Discrete,
    Feedback,
    Layer,
    Reading,
    built,
    default_tensor,
    discretise,
    is_snu,
    kept,
    layers,
    module,
    read,
    torch_layer,
)
from snu_plugin.neuron import Euler


def from_nir(
    graph_or_path: nir.NIRGraph | str | os.PathLike[str],
    dt: float | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> SequentialState:
    """Return a NIR graph as a Norse network that computes what the strict reference computes.

    ``y, state = net(x, state=None)`` advances one step, ``x`` is ``(B, *shape)``;
    ``norse.torch.Lift(net)`` runs sequences. Linear, Conv, pooling and Flatten nodes become
    torch's own modules, a LIF or IF that is a SNU a ``SNUCell``, one that feeds itself a
    ``SNUFeedbackCell``, all other nodes a ``NodeCell``. A graph that is no chain of layers becomes
    one ``Wired`` of the same cells.

    Args:
        graph_or_path: A graph, not changed, or the path of a NIR file.
        dt: Seconds per step; ``None`` takes what the graph declares or what its parameters say.
        reading: How I and IF read ``r``; see ``snu_plugin.graph.discretise``.
        feedback: What a path that feeds back delivers at the first step; see there.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a graph without one meaning; names the node and the field.
    """
    by_path = isinstance(graph_or_path, (str, os.PathLike))
    graph = read(graph_or_path) if by_path else graph_or_path
    discrete = discretise(graph, dt, reading=reading, feedback=feedback)
    try:
        chain = layers(discrete)
    except ValueError:
        return SequentialState(Wired(built(discrete, _module), discrete))
    return SequentialState(*(_module(layer, discrete) for layer in chain))


class NodeState(NamedTuple):
    """State of a ``NodeCell``: what its node carries, and its last output ``(B, *shape)``."""

    node: Any
    y: Tensor


class NodeCell(nn.Module):
    """One step of a NIR node that neither torch nor Norse has an exact module for.

    ``y, state = cell(x, state=None)``. Norse's own LIF, LI and IAF modules start elsewhere, round
    in another order or leave out parameters (N3, N4, N6, N7), so they are not used.

    Args:
        node: The node, kept for export; IF and I in the reading ``v += dt r x``.
        dt: Seconds per step for which ``run`` was made; ``None`` if it does not depend on it.
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
        self.node = node
        self.dt = dt
        self.run = run
        self.recurrent_weights = (
            None if recurrent_weights is None else nn.Parameter(recurrent_weights)
        )

    def forward(
        self, input_tensor: Tensor, state: NodeState | None = None
    ) -> tuple[Tensor, NodeState]:
        x = input_tensor
        if self.recurrent_weights is not None and state is not None:
            x = x + F.linear(state.y, self.recurrent_weights)
        (y,), carried = self.run(x[None], None if state is None else state.node)
        return y, NodeState(carried, y)

    def extra_repr(self) -> str:
        return f"{type(self.node).__name__}, recurrent={self.recurrent_weights is not None}"


def _module(layer: Layer, discrete: Discrete) -> nn.Module:
    name, node, neuron, recurrent = layer
    h = None if recurrent is None else default_tensor(recurrent)
    if neuron is not None and is_snu(neuron):
        return _snu(neuron, h, discrete.dt)
    if isinstance(node, SRC):
        return cell(node, discrete.dt)
    native = torch_layer(node)
    if native is not None:
        return native
    run = module(name, discrete, torch.get_default_dtype())
    return NodeCell(kept(node, neuron, discrete.dt), discrete.dt, run, h)


def _snu(neuron: Euler, h: Tensor | None, dt: float | None) -> nn.Module:
    values = (default_tensor(value) for value in (neuron.decay, neuron.threshold))
    p = SNUParameters(*values, **others(neuron.config))
    seconds = {} if dt is None else {"dt": dt}
    if h is not None:
        return SNUFeedbackCell(p, h, **seconds)
    return (sSNUCell if p.config.soft else SNUCell)(p, **seconds)
