"""A graph that is one chain of layers, for hosts that build networks layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.resets import Subtraction, with_ports
from snu_plugin.graph.shapes import Edge
from snu_plugin.neuron import Euler

Array = NDArray[Any]


class Layer(NamedTuple):
    """One node of a chain, with the loop around it if it has one."""

    name: str
    node: nir.NIRNode
    """Input and Output nodes make no layer; a neuron of several nodes is a graph of these."""
    neuron: Euler | None
    """Constants of the update, float64, of full shape; None for a node without a membrane. Where
    ``drop`` is one of them, the layer gives 1 where what the update gives lies above ``level``."""
    recurrent: Array | None
    """Weights from the layer's last outputs to its inputs, float64, ``(features, features)``,
    row = receiving unit."""


def is_snu(neuron: Euler) -> bool:
    """Tell whether a neuron has a threshold and a decay and nothing else."""
    absent = ("gain", "offset", "reset", "start", "synapse_decay", "synapse_gain")
    return neuron.threshold is not None and all(getattr(neuron, term) is None for term in absent)


def chain_layers(discrete: DiscreteGraph, *, as_one: bool = False) -> list[Layer]:
    """Return the nodes of a chain in the order in which they run.

    A neuron and a bias-free Linear (or Affine with zero bias) that leads from it back to it, or an
    edge from it to itself, are one layer. So are, ``as_one``, the nodes of a neuron whose spikes
    subtract from its membrane (``discrete.subtracting``), which ``layer_module`` runs.

    Raises:
        ValueError: If the graph is not such a chain; says which node makes it none.
    """
    if len(discrete.inputs) != 1 or len(discrete.outputs) != 1:
        raise ValueError(
            f"the graph has {len(discrete.inputs)} Inputs and {len(discrete.outputs)} Outputs; "
            "a chain has one of each"
        )
    neurons, edges = _as_one(discrete) if as_one else ({}, list(discrete.edges))
    loops = _loops(discrete, edges)
    inside = {back for name, (back, _) in loops.items() if back != name}
    inside |= {name for one in neurons.values() for name in (one.spike, one.reset)}
    edges = [e for e in edges if inside.isdisjoint(e) and e[0] != e[1]]
    order = _walk(discrete.inputs[0], edges)
    missing = discrete.nodes.keys() - set(order) - inside
    if missing or order[-1] != discrete.outputs[0]:
        raise ValueError(
            f"node {min(missing or {order[-1]})!r} does not lie on the way from Input "
            f"{discrete.inputs[0]!r} to Output {discrete.outputs[0]!r}; the graph is not a chain"
        )
    return [
        Layer(
            name,
            _parts(neurons[name], discrete) if name in neurons else discrete.nodes[name],
            discrete.neurons.get(name),
            loops.get(name, ("", None))[1],
        )
        for name in order
        if name not in (*discrete.inputs, *discrete.outputs)
    ]


def _as_one(discrete: DiscreteGraph) -> tuple[dict[str, Subtraction], list[Edge]]:
    """Return the neurons of several nodes by their membranes, and the edges around them.

    The spikes of such a neuron then leave its membrane, which must have no other reader.
    """
    readers = Counter(a for a, _ in discrete.edges)
    found = {s.mem: s for s in discrete.subtracting if readers[s.mem] == 1}
    spikes = {s.spike: s.mem for s in found.values()}
    parts = {(a, b) for s in found.values() for a, b in pairwise((s.mem, s.spike, s.reset, s.mem))}
    return found, [(spikes.get(a, a), b) for a, b in discrete.edges if (a, b) not in parts]


def _parts(s: Subtraction, discrete: DiscreteGraph) -> nir.NIRGraph:
    nodes = dict(zip(("mem", "spike", "reset"), (discrete.nodes[name] for name in s), strict=True))
    edges = [("input", "mem"), *pairwise((*nodes, "mem")), ("spike", "output")]
    return with_ports(nodes, edges, discrete.shapes[s.mem])


def _loops(discrete: DiscreteGraph, edges: Sequence[Edge]) -> dict[str, tuple[str, Array]]:
    """Return, for each neuron that feeds itself, the node on the way back and its weights.

    That node is the neuron itself where an edge leads from it to it.
    """
    found: dict[str, tuple[str, Array]] = {}
    for name in discrete.neurons:
        targets = [b for a, b in edges if a == name]
        backs = [b for b in targets if b == name or _is_way_back(b, name, discrete, edges)]
        if len(backs) > 1:
            raise ValueError(f"node {name!r} has {len(backs)} ways back to itself; a layer has one")
        if not backs:
            continue
        shape = discrete.shapes[name]
        if len(shape) != 1:
            raise ValueError(
                f"node {name!r} has the shape {shape} and feeds itself; a recurrent layer of a "
                "chain has one dimension"
            )
        if backs[0] == name:
            found[name] = name, np.eye(shape[0])
            continue
        node = discrete.nodes[backs[0]]
        if np.any(getattr(node, "bias", 0)):
            raise ValueError(
                f"node {backs[0]!r} feeds {name!r} back with a bias, which does not act at the "
                "first step; a layer cannot say that: move the bias into the node before "
                f"{name!r}, if the network was trained so"
            )
        found[name] = backs[0], np.array(node.weight, dtype=np.float64)
    return found


def _is_way_back(name: str, neuron: str, discrete: DiscreteGraph, edges: Sequence[Edge]) -> bool:
    node = discrete.nodes[name]
    around = [e for e in edges if name in e]
    only = sorted(around) == sorted([(neuron, name), (name, neuron)])
    return only and isinstance(node, (nir.Linear, nir.Affine)) and node.weight.ndim == 2


def _walk(start: str, edges: list[Edge]) -> list[str]:
    order = [start]
    while targets := [b for a, b in edges if a == order[-1]]:
        if len(targets) > 1:
            raise ValueError(
                f"node {order[-1]!r} feeds {', '.join(map(repr, targets))}; "
                "in a chain every node feeds one"
            )
        sources = [a for a, b in edges if b == targets[0]]
        if len(sources) > 1:
            raise ValueError(
                f"node {targets[0]!r} is fed by {', '.join(map(repr, sources))}; "
                "in a chain every node is fed by one"
            )
        if targets[0] in order:
            raise ValueError(f"node {targets[0]!r} lies on a cycle; a chain has none")
        order.append(targets[0])
    return order


def fold(layers: Sequence[Layer]) -> list[Layer]:
    """Return layers whose spiking neurons have no gain, offset or reset of their own.

    With input gain k, offset o, decay l and reset potential c of a neuron behind ``W x + b`` and
    with recurrent weights H, all per unit, the same spikes come from ``W' = k W``,
    ``b' = k b + o``, ``H' = k H + diag(l c)``: ``l c`` is what is left of the reset potential in
    the step after a spike. Weights are scaled in float64; where k is not a power of two they are
    rounded, so that a state within an ulp or so of its threshold may decide otherwise. A neuron
    that no weights precede gets a Scale (or an Affine, if it has an offset) before it. Neurons
    without a threshold stay as they are.

    Raises:
        ValueError: For a neuron with a synaptic current of its own (CubaLIF with tau_syn > dt), a
            start other than zero, or a reset that would need weights between pixels; names it.
    """
    out: list[Layer] = []
    for layer in layers:
        neuron = layer.neuron
        if neuron is None or neuron.threshold is None:
            out.append(layer)
            continue
        gain, offset = _drive(layer.name, neuron)
        if gain is not None or offset is not None:
            if out and (node := scaled(out[-1].node, gain, offset)):
                out[-1] = out[-1]._replace(node=node)
            else:
                out.append(_inserted(layer, gain, offset))
        plain = replace(neuron, gain=None, offset=None, reset=None)
        plain = replace(plain, synapse_decay=None, synapse_gain=None)
        out.append(layer._replace(neuron=plain, recurrent=_recurrent(layer, neuron, gain)))
    return out


def _drive(name: str, neuron: Euler) -> tuple[Array | None, Array | None]:
    """Return the input gain and offset of one neuron."""
    if neuron.start is not None:
        raise ValueError(f"node {name!r} does not start at zero; an SNU does")
    gain = _array(neuron.gain)
    if neuron.synapse_decay is not None:
        if neuron.synapse_decay.any():
            raise ValueError(
                f"node {name!r} has a synaptic current (tau_syn longer than dt): two states a "
                "unit; an SNU has one"
            )
        synapse = _array(neuron.synapse_gain)
        gain = synapse if gain is None else gain if synapse is None else gain * synapse
    return gain, _array(neuron.offset)


def scaled(node: nir.NIRNode, gain: Array | None, offset: Array | None) -> nir.NIRNode | None:
    """Return a node with weights that gives ``gain * y + offset``, for what it gives now.

    ``None`` if it has no weights, or the terms differ inside a channel of a convolution.
    """
    if isinstance(node, (nir.Linear, nir.Affine)):
        k = np.ones(node.weight.shape[:-1]) if gain is None else gain
        bias = k * getattr(node, "bias", 0.0) + (0.0 if offset is None else offset)
        weight = k[..., None] * np.asarray(node.weight, dtype=np.float64)
        new = nir.Affine(weight=weight, bias=bias) if np.any(bias) else nir.Linear(weight=weight)
        return _like(new, node)
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        scale, shift = (_per_channel(term) for term in (gain, offset))
        if (gain is not None and scale is None) or (offset is not None and shift is None):
            return None
        one = np.ones(len(node.bias)) if scale is None else scale
        settings = {f: getattr(node, f) for f in ("stride", "padding", "dilation", "groups")}
        new = type(node)(
            input_shape=None,
            weight=one.reshape(-1, *[1] * (node.weight.ndim - 1)) * node.weight.astype(np.float64),
            bias=one * node.bias + (0.0 if shift is None else shift),
            **settings,
        )
        new.input_shape = node.input_shape
        return _like(new, node)
    return None


def _inserted(layer: Layer, gain: Array | None, offset: Array | None) -> Layer:
    """Return a layer that does to the input of a neuron what its gain and offset did."""
    shape = tuple(int(n) for n in layer.node.input_type["input"])
    k = np.ones(shape) if gain is None else gain
    if offset is None:
        return Layer(f"{layer.name}.gain", nir.Scale(scale=k), None, None)
    if len(shape) != 1:
        raise ValueError(
            f"node {layer.name!r} of shape {shape} has a v_leak, and no weights with a bias per "
            "unit precede it; an SNU has no leak potential"
        )
    return Layer(f"{layer.name}.gain", nir.Affine(weight=np.diag(k), bias=offset), None, None)


def _recurrent(layer: Layer, neuron: Euler, gain: Array | None) -> Array | None:
    weight = layer.recurrent
    if weight is not None and gain is not None:
        weight = gain[:, None] * weight
    if neuron.reset is None:
        return weight
    if neuron.decay.dim() != 1:
        raise ValueError(
            f"node {layer.name!r} of shape {tuple(neuron.decay.shape)} has a v_reset other than 0;"
            " it folds into recurrent weights, which only a layer of one dimension can have"
        )
    kept = np.diag((neuron.decay * neuron.reset).numpy())
    return kept if weight is None else weight + kept


def _per_channel(term: Array | None) -> Array | None:
    """Return one number per channel, or None if pixels of one channel differ."""
    if term is None:
        return None
    flat = term.reshape(len(term), -1)
    return flat[:, 0] if (flat == flat[:, :1]).all() else None


def _like(new: nir.NIRNode, old: nir.NIRNode) -> nir.NIRNode:
    new.input_type, new.output_type = dict(old.input_type), dict(old.output_type)
    return new


def _array(term: Tensor | None) -> Array | None:
    return None if term is None else term.to(torch.float64).numpy()
