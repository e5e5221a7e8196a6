"""How neurons with a reset that no node of NIR has are spelt with nodes that NIR has.

An edge that closes a cycle delivers the last step's output, and a Threshold fires in the step of
its input. So what a spike takes away is a wire back to the membrane, and a neuron with a reset of
another kind a small graph. Its parts have the same names everywhere: ``mem`` is the membrane as its
host shows it (a node has this name only where its value is that), ``syn`` the current before it,
``spike`` what gives 0 or 1, ``graded`` a factor behind it, ``reset`` the way back of a reset,
``w_rec`` that of recurrent weights. Every cycle is entered at one node only, so that all executors
agree on which edge carries the last step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import nir
import numpy as np
from numpy.typing import NDArray

from snu_plugin.graph.shapes import Edge, ends
from snu_plugin.graph.snu_nodes import time_constant

Array = NDArray[Any]

DRIVEN = 2.0**60
"""A drive that makes any neuron fire, whatever else it receives, and so resets it."""


class Around(NamedTuple):
    """What a host puts around a neuron that fires."""

    syn: nir.NIRNode | None = None
    """A current through which inputs and recurrent spikes reach the membrane; or a Scale, ``gain``,
    where the membrane takes what it receives times a factor, but not what a spike takes away."""
    factor: Array | None = None
    """What spikes are multiplied by on leaving; ``None`` is 1."""
    w_rec: nir.NIRNode | None = None
    """Weights that carry what leaves back to where inputs come in; its bias acts at once."""


PLAIN = Around()


def integrator(decay: Array, dt: float) -> nir.NIRNode:
    """Return ``v = decay v + x`` as an LI, or as an I where nothing decays.

    Raises:
        ValueError: For decays outside [0, 1], which no time constant gives.
    """
    outside = decay[~((decay >= 0) & (decay <= 1))]
    if outside.size:
        raise ValueError(
            f"it keeps {outside[0]:.6g} of its potential from step to step; only shares in [0, 1] "
            "are supported yet"
        )
    if (decay == 1).all():
        return nir.I(np.full(decay.shape, 1 / dt))
    tau = time_constant(decay, dt)
    return nir.LI(tau, tau / dt, np.zeros(decay.shape))


def fires(lif: nir.NIRNode, around: Around = PLAIN) -> nir.NIRGraph:
    """Return a neuron of NIR's own, a LIF or the like, with what is around it."""
    return _graph({"lif": lif}, [], around, enters="lif", leaves="lif")


def never(mem: nir.NIRNode, threshold: Array, around: Around = PLAIN) -> nir.NIRGraph:
    """Return a neuron that fires and never resets: its membrane, and a Threshold behind it."""
    nodes = {"mem": mem, "spike": nir.Threshold(threshold)}
    return _graph(nodes, [("mem", "spike")], around)


def subtracting(
    mem: nir.NIRNode, threshold: Array, amount: Array, around: Around = PLAIN, name: str = "mem"
) -> nir.NIRGraph:
    """Return a neuron whose spike takes an amount from the membrane in the next step.

    ``v = decay v + x - amount y'``, ``y = v > threshold`` with the last step's ``y'``; ``mem`` is
    the membrane without its reset, ``v = decay v + x``, called ``name``.
    """
    nodes = {name: mem, "spike": nir.Threshold(threshold), "reset": nir.Scale(-amount)}
    edges = [(name, "spike"), ("spike", "reset"), ("reset", name)]
    return _graph(nodes, edges, around, enters=name)


def subtracting_at_once(
    potential: nir.NIRNode, decay: Array, threshold: Array, dt: float, around: Around = PLAIN
) -> nir.NIRGraph:
    """Return a neuron that is reset in the step of its spike, as snnTorch does that.

    ``s = decay v + x``, ``y = s - threshold r > threshold``, ``v = s - threshold y``, where ``r``
    says that the last ``v`` lay above the threshold still. With thresholds that are not negative
    ``y`` is ``s > threshold`` after ``r = 0``, and ``s > 2 threshold`` after ``r = 1``; the other
    one is the next ``r``. So the next ``r`` is 1 where both and ``r`` add up to 2 or more, and
    ``y`` is what the two are more than it.
    """
    one = np.ones(threshold.shape)
    nodes = {
        "potential": potential,
        "above": nir.Threshold(threshold),
        "twice": nir.Threshold(2 * threshold),
        "count": integrator(0 * one, dt),
        "still": nir.Threshold(1.5 * one),
        "less": nir.Scale(-one),
        "spike": nir.Threshold(0.5 * one),
        "reset": nir.Scale(-decay * threshold),
    }
    edges = [
        *(("potential", "above"), ("potential", "twice")),
        *(("above", "count"), ("twice", "count"), ("count", "still"), ("still", "count")),
        *(("above", "spike"), ("twice", "spike"), ("still", "less"), ("less", "spike")),
        *(("spike", "reset"), ("reset", "potential")),
    ]
    return _graph(nodes, edges, around, enters="potential")


def silent(lif: nir.NIRNode, steps: int, dt: float, around: Around = PLAIN) -> nir.NIRGraph:
    """Return a neuron that is held at its reset potential for some steps after each spike.

    What it receives in these steps is lost. They are counted from the last of its own spikes: a
    huge drive makes ``lif`` fire, and so reset, in each of them, and what it fires there is taken
    away again.
    """
    one = np.ones(lif.v_threshold.shape)
    nodes = {
        "lif": lif,
        "spike": nir.Threshold(0.5 * one),
        "reset": nir.Scale(DRIVEN * one),
        "less": nir.Scale(-one),
    }
    edges = [("lif", "spike"), ("reset", "lif"), ("less", "spike")]
    for late in range(steps):
        source = f"after_{late + 1}" if late else "spike"
        if late:
            nodes[source] = nir.Delay(late * dt * one)
            edges.append(("spike", source))
        edges += [(source, "reset"), (source, "less")]
    return _graph(nodes, edges, around, enters="lif")


class Subtraction(NamedTuple):
    """The names of three nodes that are one neuron, as ``subtracting`` makes it."""

    mem: str
    spike: str
    reset: str


def subtractions(nodes: Mapping[str, nir.NIRNode], edges: Sequence[Edge]) -> list[Subtraction]:
    """Return the neurons of a flat graph whose spikes subtract from their membranes.

    An LI or I, a Threshold that it alone feeds, and a Scale that leads from that one back and
    nowhere else. What else reads the membrane or the spikes, and feeds the membrane, is free.
    """
    sources, targets = ends(nodes, edges)
    found = []
    for reset, node in nodes.items():
        if not isinstance(node, nir.Scale) or len(sources[reset]) != 1 or len(targets[reset]) != 1:
            continue
        (spike,), (mem,) = sources[reset], targets[reset]
        integrates = isinstance(nodes[mem], (nir.LI, nir.I))
        if integrates and isinstance(nodes[spike], nir.Threshold) and sources[spike] == [mem]:
            found.append(Subtraction(mem, spike, reset))
    once = Counter(one.mem for one in found)
    return [one for one in found if once[one.mem] == 1]


def _graph(
    nodes: dict[str, nir.NIRNode],
    edges: Sequence[Edge],
    around: Around,
    enters: str = "mem",
    leaves: str = "spike",
) -> nir.NIRGraph:
    """Return the graph of a neuron, with ports and with what is around it."""
    called = "gain" if isinstance(around.syn, nir.Scale) else "syn"
    before = {} if around.syn is None else {called: around.syn}
    behind = {} if around.factor is None else {"graded": nir.Scale(around.factor)}
    first, last = next(iter((*before, enters))), [leaves, *behind][-1]
    back = {} if around.w_rec is None else {"w_rec": around.w_rec}
    every = [*pairwise(("input", *before, enters)), *edges, *pairwise((leaves, *behind, "output"))]
    every += [end for name in back for end in ((last, name), (name, first))]
    shape = tuple(nodes[enters].input_type["input"])
    return with_ports(before | nodes | behind | back, every, shape)


def in_series(
    nodes: dict[str, nir.NIRNode], shape: tuple[int, ...], out: tuple[int, ...] | None = None
) -> nir.NIRGraph:
    """Return nodes one behind the other as a graph; see ``with_ports``."""
    return with_ports(nodes, list(pairwise(("input", *nodes, "output"))), shape, out)


def with_ports(
    nodes: dict[str, nir.NIRNode],
    edges: Sequence[Edge],
    shape: tuple[int, ...],
    out: tuple[int, ...] | None = None,
) -> nir.NIRGraph:
    """Return a graph with an ``input`` of ``shape`` and an ``output`` likewise, or of ``out``."""
    given, taken = (np.array(s, dtype=int) for s in (shape, shape if out is None else out))
    ports = {"input": nir.Input({"input": given}), "output": nir.Output({"output": taken})}
    return nir.NIRGraph(ports | nodes, list(edges), metadata={}, type_check=False)
