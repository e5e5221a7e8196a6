"""A graph replayed from what a model gave, step by step, with a bound on every rounding."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import nir
import torch
from torch import Tensor

from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.proving.settled import Given, comes_from
from snu_plugin.graph.reference_network import Recurrent, node_module
from snu_plugin.neuron import Euler, EulerState, SRCState, euler_step, src_step

ROUNDINGS = 8
"""Roundings that one update of a neuron, or one sum, may differ by."""


class Bounded(NamedTuple):
    """Values of a node in one step, and how far others may be from them by rounding alone."""

    y: Tensor
    far: Tensor


@dataclass
class Difference:
    """Where a model first gives something else than its graph."""

    step: int
    node: str
    expected: float
    actual: float
    input_differs: bool
    """Whether the model's module received something else than the graph's node."""


class Replayed(NamedTuple):
    """What came of a replay."""

    difference: Difference | None
    ties: int
    """Spikes that a rounding decides, taken over from the model."""


class ModelRun(NamedTuple):
    """What a model gave on some inputs, to be held against its graph."""

    discrete: DiscreteGraph
    """The graph."""
    x: Mapping[str, Tensor]
    """What each Input receives, ``(T, B, ...)``."""
    given: Given
    """What the model gave for some nodes, ``(T, B, ...)``, from which step on; the others give
    their own."""
    taken: Mapping[str, Tensor]
    """What the model's modules received, for some nodes."""
    eps: float
    """Relative rounding of the model's numbers."""
    sizes: Mapping[str, Tensor]
    """How large the terms are that the model adds one by one and a node as one, or leaves out, as
    potentials that it counts from where they begin."""


@torch.no_grad()
def replay(model: ModelRun, only: Collection[str]) -> Replayed:
    """Advance a graph with what a model gave, and find where the graph would give something else.

    Each node receives what the model's modules gave, and advances from the state that they left: a
    neuron resets where the model fired. So one step differs where the model differs in it, not
    where a rounding, long ago, moved a spike. Computed in float64.

    Args:
        model: What it gave.
        only: Nodes to compute, with all that they come from up to what the model gave. The others
            are taken over from the model.
    """
    discrete, x, given, taken, eps, sizes = model
    like = next(y for y in (*x.values(), *(y for first, y in given.values() if not first)))
    nodes = {name: _Node(name, discrete, eps, sizes.get(name), like.device) for name in only}
    steps, batch = like.shape[:2]
    spikes_of = {one.mem: one.spike for one in discrete.subtracting}
    last: dict[str, Bounded] = {}
    ties = 0
    for t in range(steps):
        now = {name: exact(value[t].double()) for name, value in x.items()}
        for block in discrete.wiring.blocks:
            for name in block.names:
                if name not in nodes:
                    if name in given and len(given[name][1]) == steps:
                        now[name] = exact(given[name][1][t].double())
                    continue
                parts = []
                for source in discrete.wiring.sources[name]:
                    late = (source, name) in block.delayed
                    if late and not t:
                        shape = (batch, *discrete.shapes[source])
                        parts.append(exact(like.new_zeros(shape, dtype=torch.float64)))
                    else:
                        parts.append(last[source] if late else now[source])
                total_in = _sum(parts, eps)
                first, known = given.get(name, (0, ()))
                gave = known[t - first].double() if 0 <= t - first < len(known) else None
                fired = last.get(spikes_of.get(name, ""))
                y, tied, far = nodes[name].step(total_in, gave, fired)
                now[name] = y
                if gave is None:
                    continue
                ties += int(tied.sum())
                if bool(far.any()):
                    place = tuple(far.nonzero()[0].tolist())
                    mine = taken.get(name)
                    apart = mine is not None and bool(
                        ((mine[t].double() - total_in.y).abs() > total_in.far + eps).any()
                    )
                    expected = float(nodes[name].own[place])
                    actual = float(gave[place])
                    return Replayed(Difference(t, name, expected, actual, apart), ties)
        last = now
    return Replayed(None, ties)


def replay_one(name: str, where: Tensor, model: ModelRun) -> Replayed:
    """Replay one node where it gives something else than the model did; see ``replay``.

    Args:
        name: The node.
        where: Whether it does in some step, ``(B, ...)``. Of neurons these alone are replayed, of
            what joins several values the sequences.
        model: What it gave.
    """
    discrete = model.discrete
    only = comes_from(name, discrete, model.given)
    shape = tuple(where.shape[1:])
    if all(_is_of_neurons(node, discrete, shape) for node in only):
        read = {source for node in only for source in discrete.wiring.sources[node]} | only
        places = where.flatten().nonzero().flatten()
        discrete = _neurons(discrete, only, places.cpu() % where[0].numel())

        def cut(y: Tensor) -> Tensor:
            return y.flatten(1)[:, places]

    else:
        read, places = set(discrete.nodes), where.flatten(1).any(1).nonzero().flatten()

        def cut(y: Tensor) -> Tensor:
            return y[:, places]

    cut_out = model._replace(
        discrete=discrete,
        x={n: cut(y) for n, y in model.x.items() if n in read},
        given={n: (first, cut(y)) for n, (first, y) in model.given.items() if n in read},
        taken={n: cut(y) for n, y in model.taken.items() if n in only},
    )
    return replay(cut_out, only)


def _is_of_neurons(name: str, discrete: DiscreteGraph, shape: tuple[int, ...]) -> bool:
    """Tell whether each value of a node comes from the one in its place, and those before."""
    kind = type(discrete.nodes[name]).__name__
    one_by_one = name in discrete.neurons or kind in ("Threshold", "Output")
    return one_by_one and discrete.shapes[name] == discrete.input_shapes[name] == shape


def _neurons(discrete: DiscreteGraph, names: Collection[str], places: Tensor) -> DiscreteGraph:
    """Return some nodes of a graph with some of their neurons, each of these a sequence."""
    nodes = {name: copy.copy(discrete.nodes[name]) for name in names}
    for node in nodes.values():
        if isinstance(node, nir.Threshold):
            node.threshold = node.threshold.reshape(-1)[places.numpy()]
    own = {name: neuron for name, neuron in discrete.neurons.items() if name in names}
    neurons = {n: neuron.each(lambda y: y.reshape(-1)[places]) for n, neuron in own.items()}
    shapes: dict[str, tuple[int, ...]] = {name: () for name in discrete.shapes}
    return replace(discrete, nodes=nodes, neurons=neurons, shapes=shapes)


def exact(y: Tensor) -> Bounded:
    return Bounded(y, torch.zeros_like(y))


def _sum(parts: list[Bounded], eps: float) -> Bounded:
    y, far = parts[0]
    for part in parts[1:]:
        y, far = y + part.y, far + part.far + ROUNDINGS * eps * (y.abs() + part.y.abs())
    return Bounded(y, far)


class _Node:
    """A node that advances step by step, with the bound of its rounding."""

    def __init__(
        self,
        name: str,
        discrete: DiscreteGraph,
        eps: float,
        size: Tensor | None,
        device: torch.device,
    ) -> None:
        self.module = node_module(name, discrete, torch.float64).to(device)
        self.size = 0.0 if size is None else size
        self.neuron = discrete.neurons.get(name)
        self.spikes = discrete.spikes(name)
        self.kind = type(discrete.nodes[name]).__name__
        self.state: Any = None
        self.own = torch.empty(0)
        """What the node itself gave in the last step."""
        self.eps = eps
        if self.neuron is not None:
            self.neuron = self.neuron.to(torch.empty(0, dtype=torch.float64, device=device))
        weight = getattr(self.module, "weight", None)
        terms = 1 if weight is None else weight[0].numel()
        self.unit = eps * (ROUNDINGS + terms**0.5)
        self.offset: Tensor | None = None
        """What the node gives for nothing, by magnitudes; known once it was needed."""
        self.magnitude = copy.deepcopy(self.module)
        for parameter in self.magnitude.parameters():
            parameter.abs_()

    def step(
        self, x: Bounded, model: Tensor | None, fired: Bounded | None
    ) -> tuple[Bounded, Tensor, Tensor]:
        """Return what goes on, which of it a rounding decides, and what is too far from it.

        Args:
            x: Summed input.
            model: What the model gave in this step, where it is known.
            fired: Spikes of the last step that subtract from the node's membrane.
        """
        if self.neuron is not None:
            y, edge = self._neuron(x, self.neuron, model, fired)
        elif self.kind == "SRC":
            y, edge = self._recurrent_cells(x, model), None
        elif self.kind == "Threshold":
            y, edge = self._threshold(x)
        else:
            y, edge = self._plain(x), None
        self.own = y.y
        if model is None:
            return y, torch.zeros(0), torch.zeros(0)
        far = (model - y.y).abs() > y.far
        tied = torch.zeros(0, dtype=torch.bool)
        if edge is not None:
            differs = model != y.y
            tied, far = differs & edge, differs & ~edge
        return exact(model), tied, far | ~model.isfinite()

    def _plain(self, x: Bounded) -> Bounded:
        if self.kind in ("Input", "Output", "Flatten"):
            y, _ = self.module(x.y[None], None)
            return Bounded(y[0], self.module(x.far[None], None)[0][0])
        mine, bound = self.state if self.state is not None else (None, None)
        y, mine = self.module(x.y[None], mine)
        if self.kind == "Delay":
            far, bound = self.module(x.far[None], bound)
            self.state = mine, bound
            return Bounded(y[0], far[0])
        far = self.unit * (self.magnitude(x.y.abs()[None], None)[0] + self.size)
        if bool(x.far.any()):
            if self.offset is None:
                self.offset = self.magnitude(torch.zeros_like(x.far)[None], None)[0]
            far = far + self.magnitude(x.far[None], None)[0] - self.offset
        return Bounded(y[0], far[0])

    def _threshold(self, x: Bounded) -> tuple[Bounded, Tensor]:
        threshold: Tensor = self.module.threshold  # type: ignore[assignment]
        edge = (x.y - threshold).abs() <= x.far + self.unit * threshold.abs()
        y = (x.y > threshold).double()
        return Bounded(y, edge.double()), edge

    def _neuron(
        self, x: Bounded, neuron: Euler, model: Tensor | None, fired: Bounded | None
    ) -> tuple[Bounded, Tensor | None]:
        """Advance ``Euler`` by a step, from the state that the model left."""
        zero = torch.zeros_like(x.y)
        if self.state is None:
            start = zero if neuron.start is None else neuron.start.expand_as(zero)
            self.state = start, zero, zero, zero
        v, v_far, i, i_far = self.state
        passive = replace(neuron, threshold=None, level=None, drop=None)
        s, after = euler_step(x.y, EulerState(v, i), passive)
        now = x.y if neuron.synapse_decay is None or after.i is None else after.i
        if neuron.synapse_decay is None:
            i_far = x.far
        else:
            kept, driven = neuron.synapse_decay * i, _times(neuron.synapse_gain, x.y)
            far = neuron.synapse_decay * i_far + _times(neuron.synapse_gain, x.far).abs()
            i_far = far + self.unit * (kept.abs() + driven.abs())
        sizes = (neuron.decay * v).abs() + _times(neuron.gain, now).abs()
        sizes = sizes if neuron.offset is None else sizes + neuron.offset.abs()
        s_far = neuron.decay * v_far + _times(neuron.gain, i_far).abs()
        if neuron.drop is not None and fired is not None:
            s, sizes = s - neuron.drop * fired.y, sizes + neuron.drop.abs()
            s_far = s_far + neuron.drop.abs() * fired.far
        s_far = s_far + self.unit * (sizes + self.size)
        if neuron.threshold is None:
            self.state = (s, s_far, now, i_far) if model is None else (model, zero, now, i_far)
            return Bounded(s, s_far), None
        over, edge = s - neuron.threshold, None
        if self.spikes:
            y, edge = (over > 0).double(), over.abs() <= s_far + self.unit * neuron.threshold.abs()
        else:
            y = torch.sigmoid(over)
        spikes = y if model is None else model
        reset = zero if neuron.reset is None else neuron.reset
        self.state = s * (1 - spikes) + reset * spikes, s_far * (1 - spikes).abs(), now, i_far
        return Bounded(y, s_far + self.unit if edge is None else edge.double()), edge

    def _recurrent_cells(self, x: Bounded, model: Tensor | None) -> Bounded:
        """Advance ``SRC`` by a step; its bound grows where the cell is unstable, as roundings do.

        The model shows potentials above zero, and of the others that they are not.
        """
        assert isinstance(self.module, Recurrent)
        config, bias = self.module.config, self.module.bias
        zero = torch.zeros_like(x.y)
        nothing = SRCState(zero, zero, zero)
        old, far = (nothing, nothing) if self.state is None else self.state
        y, new = src_step(x.y, old, config, bias=bias)
        i_far = config.alpha * far.i + x.far + self.unit * (x.y.abs() + old.i.abs())
        gains = abs(config.r), abs(config.r_s)
        inside = config.rho * torch.tanh(new.i / config.rho) + config.r * old.h
        inside = inside + config.r_s * old.h_s + bias
        inside_far = _steepest(new.i / config.rho, i_far / config.rho) * i_far
        inside_far = inside_far + gains[0] * far.h + gains[1] * far.h_s
        inside_far = inside_far + self.unit * (config.rho + sum(gains) + bias.abs())
        changed = _steepest(inside, inside_far) * inside_far + self.unit
        h_far = (abs(config.z) * far.h + abs(1 - config.z) * changed).clamp(max=2)
        u, u_far = (old.h, far.h) if config.gate.startswith("prev") else (new.h, h_far)
        hard = config.gate.endswith("hard")
        fired_far = ((u - 0.5).abs() <= u_far).double() if hard else (2.5 * u_far).clamp(max=1)
        slow = max(abs(config.z_hyp), abs(config.z_dep))
        moved = abs(config.z_hyp - config.z_dep) * fired_far * (old.h_s - old.h).abs()
        h_s_far = slow * far.h_s + (1 - min(config.z_hyp, config.z_dep)) * far.h + moved + self.unit
        h = new.h
        if model is not None:
            lowest, highest = h - h_far, (h + h_far).clamp(max=0)
            h = torch.where(model > 0, model, (lowest + highest) / 2)
            known = torch.where(model > 0, zero, ((highest - lowest) / 2).clamp(min=0))
        else:
            known = h_far
        self.state = SRCState(new.i, h, new.h_s), SRCState(i_far, known, h_s_far.clamp(max=2))
        return Bounded(y, h_far + self.unit)


def _steepest(x: Tensor, far: Tensor) -> Tensor:
    """Return the largest slope of tanh within ``far`` of ``x``."""
    return 1 - torch.tanh((x.abs() - far).clamp(min=0)) ** 2


def _times(gain: Tensor | None, x: Tensor) -> Tensor:
    return x if gain is None else gain * x
