"""Which simulators read a node exactly: each node alone, on what it receives in its graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import nir
import numpy as np
import torch
from torch import Tensor

from snu_plugin.graph.discretisation import DiscreteGraph
from snu_plugin.graph.files import write
from snu_plugin.graph.metadata import stamp
from snu_plugin.graph.reference_network import Network, node_module, summed_input
from snu_plugin.graph.report import Comparison, Run
from snu_plugin.graph.resets import Subtraction

FOLDER = "nodes"
"""Where the graphs of single nodes lie, beside the whole graph."""
SEQUENCES = 2
"""Sequences that a node is run on: those in which it gives most. More than one, since importers
that count the batch as data are wrong only then."""
MOST_VALUES = 2**26
"""Values that the inputs of all nodes may have together, 256 MiB; further nodes are not run."""


class Alone(NamedTuple):
    """A node that simulators read and run alone."""

    name: str
    comparison: Comparison


@torch.no_grad()
def write_nodes(folder: Path, net: Network, values: dict[str, Tensor], reading: str) -> list[Alone]:
    """Write a graph and inputs for every node but Inputs and Outputs; the number is the name.

    Args:
        folder: Where; is made.
        net: The network, float32.
        values: Outputs of all its nodes, ``(T, B, ...)``, as ``net.run`` returns them.
        reading: How I and IF read ``r``.
    """
    folder.mkdir()
    discrete, found, room = net.discrete, list[Alone](), MOST_VALUES
    whole = {one.mem: one for one in discrete.subtracting}
    for name in discrete.wiring.names:
        node = discrete.nodes[name]
        if isinstance(node, (nir.Input, nir.Output)):
            continue
        last = whole[name].spike if name in whole else name
        given = (values[last] != 0).flatten(2).sum((0, 2))
        chosen = sorted(given.topk(min(SEQUENCES, len(given))).indices.tolist())
        x, y = summed_input(discrete, name, values)[:, chosen], values[last][:, chosen]
        room -= x.numel()
        if room < 0:
            break
        place = folder / str(len(found))
        write(place.with_suffix(".nir"), _alone(name, discrete, whole.get(name), reading))
        np.save(place.with_suffix(".npy"), x.numpy(), allow_pickle=False)
        found.append(Alone(name, _comparison(last, discrete, x, y)))
    return found


def _alone(
    name: str, discrete: DiscreteGraph, whole: Subtraction | None, reading: str
) -> nir.NIRGraph:
    """Return the graph of one node; of a membrane with the spikes that subtract from it."""
    nodes = {
        "input": nir.Input({"input": np.array(discrete.input_shapes[name])}),
        "node": discrete.nodes[name],
        "output": nir.Output({"output": np.array(discrete.shapes[name])}),
    }
    edges = [("input", "node"), ("node", "output")]
    if whole is not None:
        nodes |= {"spike": discrete.nodes[whole.spike], "reset": discrete.nodes[whole.reset]}
        edges = [("input", "node"), ("node", "spike"), ("spike", "reset"), ("reset", "node")]
        edges.append(("spike", "output"))
    made = nir.NIRGraph(nodes, edges, metadata={}, type_check=False)
    return made if discrete.dt is None else stamp(made, discrete.dt, **{"if": reading})


def _comparison(name: str, discrete: DiscreteGraph, x: Tensor, y: Tensor) -> Comparison:
    """Return what to compare with: spikes must be equal, the rest agree but for rounding."""
    if discrete.spikes(name):
        return Comparison(y.numpy(), 0.0, "")
    exact, _ = node_module(name, discrete, torch.float64)(x.double(), None)
    own = float((y.double() - exact).abs().max())
    return Comparison(y.numpy(), 2 * (own + 2.0**-23 * float(y.abs().max())), "")


def answers(folder: Path, nodes: list[Alone], simulator: str, importer: str) -> list[Run]:
    """Return what came of each node in one importer, from what its process left in ``folder``."""
    found = []
    for number, (_, comparison) in enumerate(nodes):
        output, failure = (folder / f"{number}{suffix}" for suffix in (".npy", ".json"))
        if output.is_file():
            run = comparison.judge(simulator, importer, np.load(output, allow_pickle=False))
            silent = run.status == "exact" and not comparison.expected.any()
            found.append(Run(simulator, importer, "silent") if silent else run)
        elif failure.is_file():
            told = json.loads(failure.read_text())
            found.append(Run(simulator, importer, told["status"], message=told["message"]))
        else:
            found.append(Run(simulator, importer, "crashed", message="its process ended before"))
    return found
