"""The strict reference: a NIR graph as a torch module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import nir
import torch
from torch import Tensor, nn

from snu_plugin.graph.discretisation import Discrete, Reading, discretise
from snu_plugin.graph.feedback import Feedback
from snu_plugin.graph.modules import module
from snu_plugin.schedule import WiringState, run

Signal = Tensor | dict[str, Tensor]


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
    return Network(discrete, dtype or torch.get_default_dtype())


class Network(nn.Module):
    """A discretised graph that runs; made by ``network``.

    ``y, state = net(x, state=None)``: ``x`` is ``(T, B, *shape)``, a dict of these for a graph
    with several Inputs; ``y`` likewise for Outputs. The state is a value, never kept. Weights,
    biases and scales are parameters; gradients run through every node.
    """

    anchor: Tensor
    """Knows the dtype and device of the network, also where no node has values."""

    def __init__(self, discrete: Discrete, dtype: torch.dtype) -> None:
        super().__init__()
        self.discrete = discrete
        self.register_buffer("anchor", torch.empty(0, dtype=dtype), persistent=False)
        self.names = tuple(discrete.nodes)
        self.nodes = nn.ModuleList(module(name, discrete, dtype) for name in self.names)

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
        values, state = self.run(x, state, keep=self.discrete.outputs)
        if len(self.discrete.outputs) == 1:
            return values[self.discrete.outputs[0]], state
        return values, state

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
        inputs = self.discrete.inputs
        given = dict(x) if isinstance(x, Mapping) else {inputs[0]: x}
        if given.keys() != set(inputs):
            raise ValueError(
                f"x is given for {', '.join(map(repr, given))}; the Inputs of the graph are "
                f"{', '.join(map(repr, inputs))}: give a dict with one tensor for each"
            )
        steps = {tuple(value.shape[:2]) for value in given.values()}
        for name, value in given.items():
            shape = self.discrete.shapes[name]
            if value.dim() < 2 or tuple(value.shape[2:]) != shape or len(steps) > 1:
                raise ValueError(
                    f"x for Input {name!r} has shape {tuple(value.shape)}; it must be "
                    f"(T, B, {', '.join(map(str, shape))}), T and B the same for every Input"
                )
        return {name: value.to(self.anchor) for name, value in given.items()}
