"""Which simulators read a node exactly: each node alone, on what it receives in its graph.

How those that are not here read it is said as far as it is known: docs/hosts.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
from snu_plugin.graph.snu_nodes import SNU, SRC

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


UNKNOWN = "not known"

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF)


def known(simulator: str, node: nir.NIRNode, dt: float | None) -> str:
    """Return "exact", what becomes of the node instead, or "not known".

    Args:
        simulator: One of ``simulators.SIMULATORS``.
        node: A node of a flat graph, with parameters of full shape.
        dt: Time step of the graph.
    """
    if isinstance(node, (SNU, SRC)):
        return "refused: nir.read knows no extension node"
    return RULES[simulator](node, dt)


def _spikingjelly(node: nir.NIRNode, dt: float | None) -> str:
    if not isinstance(node, NEURONS) or dt is None:
        return UNKNOWN
    if not all(_uniform(value) for value in vars(node).values() if isinstance(value, np.ndarray)):
        return "refused: parameters differ from neuron to neuron"
    if np.any(node.v_reset) or np.any(getattr(node, "v_leak", 0)):
        return UNKNOWN if not isinstance(node, nir.LIF) else "refused: v_leak or v_reset is not 0"
    if isinstance(node, nir.LIF) and not (_is(node.r, 1) or _is(node.r * dt, node.tau)):
        return "refused: r is neither 1 nor tau / dt"
    if isinstance(node, nir.IF) and not _is(node.r * dt, 1):
        return "refused: r is not 1 / dt"
    return "exact, but for states on their threshold, which fire"


def _sinabs(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, NEURONS):
        return "crashes: its nir, 1.0.4 at most, reads no v_reset"
    if isinstance(node, nir.LI):
        return UNKNOWN if _is(node.r, 1) else "refused: r is not 1"
    if isinstance(node, (nir.Scale, nir.I, nir.Delay, nir.Linear, nir.Threshold, nir.AvgPool2d)):
        return "left out without a word; refused where nothing else is"
    return UNKNOWN


def _rockpool(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, nir.LIF):
        return "crashes: it looks for the fields of CubaLIF"
    if isinstance(node, nir.CubaLIF):
        return "differs: exponential decay, a spike subtracts"
    return UNKNOWN


def _spyx(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, NEURONS):
        return "differs: a spike subtracts and comes a step late"
    if isinstance(node, (nir.Threshold, nir.Scale, nir.I, nir.Delay, nir.CubaLI)):
        return "left out without a word"
    return UNKNOWN


def _sc_neurocore(node: nir.NIRNode, dt: float | None) -> str:
    if not isinstance(node, NEURONS):
        return UNKNOWN
    if np.any(getattr(node, "v_leak", 0)):
        return "differs at first: it starts at v_leak"
    return "exact"


def _nirtorch(node: nir.NIRNode, dt: float | None) -> str:
    if isinstance(node, nir.Affine):
        return "differs: its bias is replaced by a random one"
    mute = (nir.LI, nir.CubaLI, nir.I, nir.Scale, nir.Delay, nir.Threshold)
    return "refused: it maps layers alone" if isinstance(node, (*NEURONS, *mute)) else UNKNOWN


RULES: dict[str, Callable[[nir.NIRNode, float | None], str]] = {
    "spikingjelly": _spikingjelly,
    "sinabs": _sinabs,
    "rockpool": _rockpool,
    "spyx": _spyx,
    "sc-neurocore": _sc_neurocore,
    "nirtorch": _nirtorch,
}


def _uniform(value: Any) -> bool:
    return bool(np.ptp(value) <= 1e-6 * np.abs(value).max())


def _is(value: Any, wanted: Any) -> bool:
    return bool(np.allclose(value, wanted, rtol=1e-5, atol=0))
