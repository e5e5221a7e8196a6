"""Modules of a host wired as a NIR graph wires its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import nir
from torch import Tensor, nn

from snu_plugin.graph.chain import Layer
from snu_plugin.graph.discretisation import Discrete
from snu_plugin.schedule import Node, WiringState, run

Signal = Tensor | dict[str, Tensor]


def built(discrete: Discrete, make: Callable[[Layer, Discrete], nn.Module]) -> dict[str, nn.Module]:
    """Return a module for each node of a graph: ``make``'s, and for its ports the identity."""
    return {
        name: nn.Identity()
        if isinstance(node, (nir.Input, nir.Output))
        else make(Layer(name, node, discrete.neurons.get(name), None), discrete)
        for name, node in discrete.nodes.items()
    }


class Cells(nn.Module):
    """A network in any wiring, one module for each node of a graph; it can leave as one again.

    Of each cycle one edge carries the value of the last step, nothing at first. Hosts derive their
    network from it: their ``forward`` says how a cell is called, see ``advance``.

    Args:
        cells: A module for each node of the graph, for Input and Output too.
        discrete: The graph that the nodes are from.
    """

    def __init__(self, cells: Mapping[str, nn.Module], discrete: Discrete) -> None:
        super().__init__()
        self.names = tuple(cells)
        self.cells = nn.ModuleList(cells.values())
        self.wiring, self.edges, self.dt = discrete.wiring, discrete.edges, discrete.dt
        self.shapes, self.input_shapes = discrete.shapes, discrete.input_shapes
        self.inputs, self.outputs = discrete.inputs, discrete.outputs
        self.feedback = discrete.feedback

    def advance(
        self, nodes: Mapping[str, Node], x: Signal, state: WiringState | None
    ) -> tuple[Signal, WiringState]:
        """Run one step, ``(B, *shape)`` in and out; dicts by name for several Inputs or Outputs.

        Raises:
            ValueError: If ``x`` is not given for each Input.
        """
        given = x if isinstance(x, dict) else {self.inputs[0]: x}
        if given.keys() != set(self.inputs):
            raise ValueError(
                f"x is given for {', '.join(map(repr, given))}; the Inputs of the graph are "
                f"{', '.join(map(repr, self.inputs))}: give a dict with one tensor for each"
            )
        now = {name: value[None] for name, value in given.items()}
        y, state = run(self.wiring, nodes, now, self.shapes, state, keep=self.outputs)
        step = {name: value[0] for name, value in y.items()}
        return step[self.outputs[0]] if len(self.outputs) == 1 else step, state
