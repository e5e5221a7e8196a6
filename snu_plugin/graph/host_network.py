"""Nodes of NIR as modules of a host that builds on torch, and networks of these, of a time step.

A node is a layer of torch, a module that the host makes, or one that runs a step of the node.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.graph.chain import Layer
from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.reference_network import Signal, Subtracting, by_input, node_module, sizes
from snu_plugin.graph.rules.torch_rules import batch_axes, with_parameters
from snu_plugin.graph.snu_nodes import SRC, SRC_SETTINGS, src_config
from snu_plugin.neuron import Euler, check_like, check_tensor
from snu_plugin.schedule import Node, WiringState, run


def host_modules(
    discrete: DiscreteGraph, make: Callable[[Layer, DiscreteGraph], nn.Module]
) -> dict[str, nn.Module]:
    """Return a module for each node of a graph: ``make``'s, and for its ports the identity."""
    return {
        name: nn.Identity()
        if isinstance(node, (nir.Input, nir.Output))
        else make(Layer(name, node, discrete.neurons.get(name), None), discrete)
        for name, node in discrete.nodes.items()
    }


def layer_module(layer: Layer, discrete: DiscreteGraph) -> nn.Module:
    """Return ``y, state = run(x, state)`` for a layer, in torch's default type."""
    dtype = torch.get_default_dtype()
    if isinstance(layer.node, nir.NIRGraph) and layer.neuron is not None:
        return Subtracting(layer.neuron, dtype)
    return node_module(layer.name, discrete, dtype)


class Takes(NamedTuple):
    """What a chain of layers takes: its first layer, and the shape of the Input before it."""

    layer: nn.Module
    shape: tuple[int, ...]


def check_chain(chain: nn.Sequential, takes: Takes | None, x: Tensor) -> None:
    """Refuse a step that the layers of a graph do not take, in words before torch would.

    Args:
        chain: The layers.
        takes: What they take; a chain with another first layer takes what that does.
        x: What it is called with.

    Raises:
        TypeError: For what is no tensor, or of another type than the first weights.
        ValueError: For another shape than ``(B, *shape)``, or another device.
    """
    first = next(iter(chain), None)
    if takes is not None and takes.layer is first:
        met = next((layer for layer in chain if not isinstance(layer, UNWEIGHTED)), None)
        check_input("x", x, takes.shape, getattr(met, "weight", None))


def check_input(name: str, x: Tensor, shape: tuple[int, ...], weight: object) -> None:
    """Refuse a step for an Input of a graph; see ``check_chain``."""
    check_tensor(name, x)
    if x.shape[max(0, x.dim() - len(shape)) :] != shape:
        inner = "".join(f", {size}" for size in shape)
        raise ValueError(f"{name} has shape {tuple(x.shape)}; it must be one step, (B{inner})")
    if isinstance(weight, Tensor):
        check_like(x, weight)


UNWEIGHTED = nn.Flatten, nn.AvgPool2d, nn.Identity


class HostNetwork(nn.Module):
    """A network in any wiring, one module for each node of a graph; it can leave as one again.

    Of each cycle one edge carries the value of the last step, nothing at first. Hosts derive their
    network from it: their ``forward`` says how a cell is called, see ``advance``.

    Args:
        cells: A module for each node of the graph, for Input and Output too.
        discrete: The graph that the nodes are from.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: DiscreteGraph) -> None:
        super().__init__()
        self.names = tuple(cells)
        self.cells = nn.ModuleList(cells.values())
        self.wiring, self.edges, self.dt = discrete.wiring, discrete.edges, discrete.dt
        self.shapes, self.input_shapes = discrete.shapes, discrete.input_shapes
        self.inputs, self.outputs = discrete.inputs, discrete.outputs
        self.feedback = discrete.feedback
        self.fed = {a: self.names.index(b) for a, b in self.edges if a in self.inputs}

    def advance(
        self, nodes: Mapping[str, Node], x: Signal, state: WiringState | None
    ) -> tuple[Signal, WiringState]:
        """Run one step, ``(B, *shape)`` in and out; dicts by name for several Inputs or Outputs.

        Raises:
            ValueError, TypeError: If ``x`` is not given for each Input, or does not fit it.
        """
        given = by_input(x, self.inputs)
        for name, at in self.fed.items():
            weight = getattr(self.cells[at], "weight", None)
            check_input(f"x for Input {name!r}", given[name], self.shapes[name], weight)
        now = {name: value[None] for name, value in given.items()}
        y, state = run(self.wiring, nodes, now, self.shapes, state, keep=self.outputs)
        step = {name: value[0] for name, value in y.items()}
        return step[self.outputs[0]] if len(self.outputs) == 1 else step, state


@batch_axes.register
def _(module: HostNetwork, x: Tensor) -> int | None:
    return max(0, x.dim() - len(module.input_shapes[module.inputs[0]]))


USUAL = 2.0**-10
"""Seconds per step where nothing says another; a power of two keeps decays exact."""


def own_step(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> float:
    """Return the ``dt`` that modules of some ``kinds`` in a network have; ``USUAL`` if none has.

    Raises:
        ValueError: If they have several.
    """
    steps = (getattr(m, "dt", None) for m in net.modules() if isinstance(m, kinds))
    found = sorted({float(dt) for dt in steps if dt is not None})
    if len(found) > 1:
        raise ValueError(
            f"the network's neurons have the time steps {', '.join(map(str, found))}; a NIR graph "
            "has one: give dt, a step of each then leaves as a step of that"
        )
    return found[0] if found else USUAL


def rescale_dt(node: nir.NIRNode, old: float | None, new: float) -> nir.NIRNode:
    """Return a copy of a node that does in a step of ``new`` seconds what it did in ``old``.

    What an Euler step sees is ``dt/tau``, and ``r dt`` of IF and I.
    """
    node = copy.deepcopy(node)
    if old is None or old == new:
        return node
    if isinstance(node, nir.NIRGraph):
        node.nodes = {name: rescale_dt(part, old, new) for name, part in node.nodes.items()}
        return node
    for field in ("tau", "tau_mem", "tau_syn", "delay"):
        if hasattr(node, field):
            setattr(node, field, getattr(node, field) * (new / old))
    if isinstance(node, (nir.I, nir.IF)):
        node.r = node.r * (old / new)
    return node


def node_to_keep(node: nir.NIRNode, neuron: Euler | None, dt: float | None) -> nir.NIRNode:
    """Return a copy of a node for a module to keep; I and IF in the reading ``v += dt r x``."""
    node = copy.deepcopy(node)
    if isinstance(node, nir.NIRGraph):
        node.nodes = {name: node_to_keep(part, neuron, dt) for name, part in node.nodes.items()}
    if isinstance(node, (nir.I, nir.IF)) and neuron is not None and dt is not None:
        gain = np.ones(node.r.shape) if neuron.gain is None else neuron.gain.numpy()
        node.r = gain / dt
    return node


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
            stride=sizes(node.stride),
            padding=node.padding if isinstance(node.padding, str) else sizes(node.padding),
            dilation=sizes(node.dilation),
            groups=int(node.groups),
        )
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        pool: Callable[..., nn.Module] = nn.AvgPool2d  # its stub knows pairs of numbers only
        windows = map(sizes, (node.kernel_size, node.stride, node.padding))
        return pool(*windows, divisor_override=1 if isinstance(node, nir.SumPool2d) else None)
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


def src_arguments(node: SRC) -> tuple[Tensor, dict[str, Any]]:
    """Return the bias and the other settings, by name, with which cells compute what a node says.

    Raises:
        ValueError: For a version or setting that we do not know.
    """
    config = src_config("src", node)
    settings = {name: getattr(config, name) for name in (*SRC_SETTINGS, "gate", "bias_max")}
    return torch.from_numpy(np.array(node.bias)), settings


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
