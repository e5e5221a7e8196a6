"""The strict reference: a NIR graph as a torch module, each primitive a module over a sequence."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.accepted import shown, with_known_names
from snu_plugin.graph.cycles import Feedback
from snu_plugin.graph.discretisation import (
    DiscreteGraph,
    Reading,
    delay_steps,
    discretise,
)
from snu_plugin.graph.metadata import CHECKED, UNCHECKED, declare, declared
from snu_plugin.graph.snu_nodes import src_config
from snu_plugin.neuron import Euler, EulerState, SRCConfig, SRCState, euler_scan, src_scan, step
from snu_plugin.schedule import WiringState, aligned, run

Signal = Tensor | dict[str, Tensor]


@with_known_names
def network(
    graph: nir.NIRGraph,
    dt: float | None = None,
    dtype: torch.dtype | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> Network:
    """Return ``graph`` as a torch module that runs it as strict forward Euler.

    Args:
        graph: Any graph of NIR's primitives, ``SNU`` and ``SRC`` nodes, nested or not; not changed.
        dt: Time step in the unit of the graph's time constants; ``None``: see ``discretise``.
        dtype: Of weights and states; ``None`` is torch's default. float64 follows the file.
        reading: How I and IF read ``r``; see ``discretise``.
        feedback: What a path that feeds back delivers at the first step; see ``discretise``.

    Raises:
        ValueError: For a graph without one meaning; see ``discretise``.

    >>> import numpy as np
    >>> half = nir.LIF(*(np.array([v]) for v in (2.0, 2.0, 0.0, 1.0)))
    >>> net = network(nir.NIRGraph.from_list(half), dt=1.0)
    >>> net(torch.full((3, 1, 1), 0.75))[0].flatten()
    tensor([0., 1., 0.])
    """
    discrete = discretise(graph, dt, reading=reading, feedback=feedback)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype is {shown(dtype)}; it must be one of floating point: torch.float32")
    return Network(discrete, dtype or torch.get_default_dtype())


def by_input(x: Signal, inputs: Sequence[str]) -> dict[str, Tensor]:
    """Return what is given for each Input of a graph; a tensor alone is for the only one.

    Raises:
        ValueError: If it is not given for each.
        TypeError: If something is no tensor.
    """
    given = dict(x) if isinstance(x, Mapping) else {inputs[0]: x}
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"x for Input {name!r} is {type(value).__name__}; it must be a tensor")
    if given.keys() != set(inputs):
        raise ValueError(
            f"x is given for {', '.join(map(repr, given))}; the Inputs of the graph are "
            f"{', '.join(map(repr, inputs))}: give a dict with one tensor for each"
        )
    return given


class Network(nn.Module):
    """A discretised graph that runs; made by ``network``.

    ``y, state = net(x, state=None)``: ``x`` is ``(T, B, *shape)``, a dict of these for a graph
    with several Inputs; ``y`` likewise for Outputs. The state is a value, never kept. Weights,
    biases and scales are parameters; gradients run through every node.
    """

    anchor: Tensor
    """Knows the dtype and device of the network, also where no node has values."""

    def __init__(self, discrete: DiscreteGraph, dtype: torch.dtype) -> None:
        super().__init__()
        self.discrete = discrete
        self.register_buffer("anchor", torch.empty(0, dtype=dtype), persistent=False)
        self.names = tuple(discrete.nodes)
        self.nodes = nn.ModuleList(node_module(name, discrete, dtype) for name in self.names)

    def __repr__(self) -> str:
        rows = (
            f"  ({n}) {name}: {type(module).__name__}"
            + "".join(f", {of} {tuple(p.shape)}" for of, p in module.named_parameters())
            for n, (name, module) in enumerate(zip(self.names, self.nodes, strict=True))
        )
        return "\n".join(["Network(", *rows, ")"])

    def node(self, name: str) -> nn.Module:
        """Return the module of one node of the flat graph.

        Raises:
            LookupError: For a name that the flat graph does not have.
        """
        if name not in self.names:
            raise LookupError(f"no node {name!r}; the nodes: {', '.join(self.names)}")
        return self.nodes[self.names.index(name)]

    def forward(self, x: Signal, state: WiringState | None = None) -> tuple[Signal, WiringState]:
        """Run a sequence from ``state`` (``None``: zero); returns outputs and the new state."""
        if state is not None and not isinstance(state, WiringState):
            raise TypeError(
                f"state is {shown(state)}; it must be what an earlier call returned, or None"
            )
        values, state = self.run(x, state, keep=self.discrete.outputs)
        if len(self.discrete.outputs) == 1:
            return values[self.discrete.outputs[0]], state
        return values, state

    def to_nir(self) -> nir.NIRGraph:
        """Return the flat graph with weights, biases and scales as they are now.

        They are float64 numbers of the network's dtype; neurons keep their constants. The graph
        declares the time step and what else the network runs with, and no longer that it was
        compared with another model.

        >>> layer = nir.Linear(np.ones((1, 1)))
        >>> net = network(nir.NIRGraph.from_list(layer))
        >>> with torch.no_grad():
        ...     for weight in net.parameters():
        ...         weight *= 3
        >>> net.to_nir().nodes["linear"].weight
        array([[3.]])
        """
        nodes = {name: copy.copy(node) for name, node in self.discrete.nodes.items()}
        inside = {one.reset for one in self.discrete.subtracting}  # a constant of the neuron there
        for name, module in zip(self.names, self.nodes, strict=True):
            for field, value in module.named_parameters(recurse=False):
                if name not in inside:
                    setattr(nodes[name], field, value.detach().cpu().double().numpy().copy())
        graph = nir.NIRGraph(
            nodes, list(self.discrete.edges), dict(self.discrete.metadata), type_check=False
        )
        said = declared(graph)
        return declare(graph, {n: v for n, v in said.items() if n not in (CHECKED, UNCHECKED)})

    def run(
        self, x: Signal, state: WiringState | None = None, *, keep: Iterable[str] | None = None
    ) -> tuple[dict[str, Tensor], WiringState]:
        """Run a sequence and return the outputs of the nodes in ``keep`` (``None``: of all).

        Raises:
            ValueError: For inputs whose names or shapes are not the graph's.
        """
        return run(
            self.discrete.wiring,
            dict(zip(self.names, self.nodes, strict=True)),
            self.signals(x),
            self.discrete.shapes,
            state,
            keep=keep,
        )

    def signals(self, x: Signal) -> dict[str, Tensor]:
        """Return what each Input receives, in the dtype and on the device of the weights."""
        given = by_input(x, self.discrete.inputs)
        steps = {tuple(value.shape[:2]) for value in given.values()}
        for name, value in given.items():
            shape = self.discrete.shapes[name]
            if value.dim() < 2 or tuple(value.shape[2:]) != shape or len(steps) > 1:
                raise ValueError(
                    f"x for Input {name!r} has shape {tuple(value.shape)}; it must be "
                    f"(T, B, {', '.join(map(str, shape))}), T and B the same for every Input"
                )
        return {name: value.to(self.anchor) for name, value in given.items()}


def summed_input(discrete: DiscreteGraph, name: str, values: dict[str, Tensor]) -> Tensor:
    """Return the summed input of one node over the whole run."""
    delayed = {e for block in discrete.wiring.blocks for e in block.delayed}
    parts = []
    for source in discrete.wiring.sources[name]:
        y = values[source]
        late = torch.cat([torch.zeros_like(y[:1]), y[:-1]])
        parts.append(late if (source, name) in delayed else y)
    return torch.stack(parts).sum(0)


def node_module(name: str, discrete: DiscreteGraph, dtype: torch.dtype) -> nn.Module:
    """Return ``y, state = node(x, state)`` for one node; x and y are ``(T, B, *shape)``.

    Weights, biases and scales are parameters, the constants of neurons are buffers.

    Raises:
        ValueError: For weights, biases or scales that ``dtype`` does not hold.
    """
    node = discrete.nodes[name]
    for field in ("weight", "bias", "scale"):
        _check_held(f"{field} of node {name!r}", getattr(node, field, None), dtype)
    kind = type(node).__name__
    if name in discrete.neurons:
        return Neuron(discrete.neurons[name], dtype)
    if kind in ("Affine", "Linear"):
        return Linear(node, dtype)
    if kind in ("Conv1d", "Conv2d"):
        return Conv(node, dtype)
    if kind in ("SumPool2d", "AvgPool2d"):
        return Pool(node)
    if kind == "Scale":
        return Scale(node, dtype)
    if kind == "Threshold":
        return Threshold(node, dtype)
    if kind == "SRC":
        return Recurrent(node, src_config(name, node), dtype)
    if kind == "Delay":
        return Delay(delay_steps(name, node, discrete.dt))
    if kind == "Flatten":
        return Reshape(discrete.shapes[name])
    return Identity()


class Identity(nn.Module):
    """Input and Output: the signal as it is."""

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return x, None


def stepwise(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``compute``, ``(B, ...)`` to ``(B, ...)``, to each step of ``x``, ``(T, B, ...)``.

    A product with few rows is rounded otherwise than one with many (matrix libraries have a kernel
    for each). One step at a time, each ``aligned``, gives the same bits however long the call is,
    and the bits of a simulator that advances step by step.
    """
    if len(x) > 1:
        return torch.stack([compute(aligned(x_t)) for x_t in x])
    y = compute(aligned(x).flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:])


class Linear(nn.Module):
    """``W x + b`` over the last axis; leading axes of W are separate matrices."""

    def __init__(self, node: nir.NIRNode, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = parameter(node.weight, dtype)
        self.bias = parameter(node.bias, dtype) if hasattr(node, "bias") else None

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        if self.weight.dim() == 2:
            return stepwise(lambda x_t: F.linear(x_t, self.weight, self.bias), x), None
        y = torch.matmul(self.weight, x.unsqueeze(-1)).squeeze(-1)
        return y if self.bias is None else y + self.bias, None


class Conv(nn.Module):
    """A convolution in one or two dimensions, ``(C, *spatial)``."""

    def __init__(self, node: nir.NIRNode, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = parameter(node.weight, dtype)
        self.bias = parameter(node.bias, dtype)
        self.apply_to = F.conv1d if isinstance(node, nir.Conv1d) else F.conv2d
        kernel, dilation = node.weight.shape[2:], sizes(node.dilation)
        self.pads = _pads(node.padding, kernel, dilation)
        self.settings: dict[str, Any] = {
            "stride": sizes(node.stride),
            "dilation": dilation,
            "groups": int(node.groups),
        }

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return stepwise(self._step, x), None

    def _step(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads) if any(self.pads) else x
        return self.apply_to(x, self.weight, self.bias, **self.settings)


class Pool(nn.Module):
    """Sums, or averages, over windows of ``(C, H, W)``; padding counts as zeros in the average."""

    def __init__(self, node: nir.NIRNode) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = (
            sizes(v) for v in (node.kernel_size, node.stride, node.padding)
        )
        self.divisor = 1 if isinstance(node, nir.SumPool2d) else None

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        windows = (self.kernel_size, self.stride, self.padding)
        y = F.avg_pool2d(x.flatten(0, 1), *windows, divisor_override=self.divisor)
        return y.reshape(*x.shape[:2], *y.shape[1:]), None


class Scale(nn.Module):
    """Element-wise product."""

    def __init__(self, node: nir.Scale, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = parameter(node.scale, dtype)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return x * self.scale, None


class Threshold(nn.Module):
    """1 where ``x > threshold``, else 0; backward the SNU's surrogate slope."""

    threshold: Tensor

    def __init__(self, node: nir.Threshold, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(node.threshold, dtype=dtype))

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return step(x - self.threshold), None


class Reshape(nn.Module):
    """Flatten: the same values in another shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return x.reshape(*x.shape[:2], *self.shape), None


class Delay(nn.Module):
    """What came in some steps ago, zeros at first; the state is the inputs still on the way."""

    steps: Tensor

    def __init__(self, steps: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        super().__init__()
        self.longest = int(steps.max())
        self.register_buffer("steps", torch.tensor(steps))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past = x.new_zeros((self.longest, *x.shape[1:])) if state is None else state
        line = torch.cat([past, x])
        start = (self.longest - self.steps).expand_as(x)
        when = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.dim() - 1))
        return line.gather(0, start + when), line[len(x) :]


class Neuron(nn.Module):
    """Any neuron of NIR and the SNU, by the one Euler update."""

    def __init__(self, neuron: Euler, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = neuron.config
        self.terms = [f.name for f in fields(neuron) if isinstance(getattr(neuron, f.name), Tensor)]
        for term in self.terms:
            self.register_buffer(term, getattr(neuron, term).to(dtype))

    def forward(self, x: Tensor, state: EulerState | None = None) -> tuple[Tensor, EulerState]:
        constants = {term: getattr(self, term) for term in self.terms}  # as they are now
        return euler_scan(x, Euler(config=self.config, **constants), state)


class Subtracting(Neuron):
    """A neuron of several nodes as one: 1 where its membrane lies above the level."""

    level: Tensor

    def forward(self, x: Tensor, state: EulerState | None = None) -> tuple[Tensor, EulerState]:
        v, state = super().forward(x, state)
        return step(v - self.level), state


class Recurrent(nn.Module):
    """Spiking Recurrent Cells; the biases are constants of the neurons, like thresholds."""

    bias: Tensor

    def __init__(self, node: nir.NIRNode, config: SRCConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bias", torch.tensor(node.bias, dtype=dtype))

    def forward(self, x: Tensor, state: SRCState | None = None) -> tuple[Tensor, SRCState]:
        return src_scan(x, self.config, bias=self.bias, state=state)


def _check_held(what: str, value: Any, dtype: torch.dtype) -> None:
    """Refuse what would be infinite in a type, and NaN behind its first sum."""
    largest = torch.finfo(dtype).max
    if value is None or np.asarray(value).itemsize <= dtype.itemsize:
        return
    if beyond := int((np.abs(value) > largest).sum()):
        raise ValueError(
            f"{beyond} of {np.size(value)} values of {what} are beyond {largest:.3g}, the largest "
            f"of {dtype}; give smaller ones, or dtype=torch.float64"
        )


def parameter(value: np.ndarray[Any, Any], dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=dtype))


def sizes(value: Any) -> tuple[int, ...]:
    """Return ``(height, width)``, or ``(length,)``, whatever spelling a node has."""
    return tuple(int(n) for n in np.atleast_1d(value))


def _pads(
    padding: str | int | tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> list[int]:
    """Return zeros before and after each axis, last axis first, as ``F.pad`` takes them.

    "same" puts the odd zero of an even kernel behind, as torch does.
    """
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [pad for n in reversed(total) for pad in (n // 2, n - n // 2)]
    around = (0,) * len(kernel) if isinstance(padding, str) else sizes(padding)
    return [pad for n in reversed(around) for pad in (n, n)]
