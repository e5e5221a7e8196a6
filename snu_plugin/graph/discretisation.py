"""Any NIR graph turned into the one update that everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin.graph.cycles import (
    Feedback,
    biased_ways_back,
    check_states,
    declared_feedback,
    schedule,
    ways_into,
)
from snu_plugin.graph.flattening import CheckedGraph, checked_graph
from snu_plugin.graph.metadata import (
    REPAIRED,
    UNCHECKED,
    check_agreement,
    check_choice,
    disagreement,
    left_out,
    without_reset,
)
from snu_plugin.graph.resets import Subtraction, subtractions
from snu_plugin.graph.shapes import Edge
from snu_plugin.graph.snu_nodes import SNU, SRC, src_config
from snu_plugin.graph.time_step import TimeStep, time_step
from snu_plugin.graph.validate import STATEFUL, Shape
from snu_plugin.neuron import Euler, SNUConfig
from snu_plugin.schedule import Wiring

Array = NDArray[Any]
Reading = Literal["ode", "step"]
SNAP = 1e-6
"""An input gain nearer to 1 than this is 1: what is left is rounding of the file's parameters,
and it would decide ties (measured for 71 decays, float32 files included)."""

ODD = 1e-6
"""A delay may miss a whole number of steps by this much."""


@dataclass(frozen=True, kw_only=True)
class DiscreteGraph:
    """A flat, validated graph and the update of each of its neurons at one time step.

    Semantics: strict forward Euler, zero start, spike where ``v > v_threshold``, then reset to
    ``v_reset``; several edges into a node are summed; of each cycle one edge carries the value of
    the last step and delivers nothing at the first.
    """

    dt: float | None
    """Time step, in the unit of the graph's time constants; None where nothing depends on it."""
    dt_source: str
    """Where dt is from: given, declared, or recognised."""
    nodes: Mapping[str, nir.NIRNode]
    """Flat nodes by name, sorted by name, with parameters of full shape."""
    neurons: dict[str, Euler]
    """Constants of every node with a membrane, float64, of full shape."""
    edges: tuple[Edge, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: dict[str, Shape]
    """What each node gives in one step, without batch."""
    input_shapes: dict[str, Shape]
    """What each node takes in one step, without batch."""
    wiring: Wiring
    """Which node runs when, and which edges carry the last step."""
    feedback: Feedback
    """What a path that feeds back delivers at the first step."""
    subtracting: tuple[Subtraction, ...]
    """Neurons of several nodes: the membrane itself loses what its spikes take away (``level`` and
    ``drop`` of its update), so that the way back carries nothing in ``wiring``."""
    notes: tuple[str, ...]
    """What was repaired or chosen, a sentence each."""
    metadata: Mapping[str, Any]
    """Of the flat graph, which declares the time step and what else was chosen."""

    def spikes(self, name: str) -> bool:
        """Tell whether a node gives 0 or 1: a neuron that fires, or a Threshold."""
        neuron = self.neurons.get(name)
        if neuron is None:
            return isinstance(self.nodes[name], nir.Threshold)
        return neuron.threshold is not None and not neuron.config.soft


def discretise(
    graph: nir.NIRGraph,
    dt: float | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> DiscreteGraph:
    """Return the update of every neuron of ``graph`` at one time step.

    LIF: ``decay = 1 - dt/tau``, ``gain = r dt/tau``, ``offset = v_leak dt/tau``; LI the same
    without threshold; CubaLIF and CubaLI also ``synapse_decay = 1 - dt/tau_syn`` and
    ``synapse_gain = w_in dt/tau_syn``; IF and I: ``decay = 1``, ``gain = r dt``. This is forward
    Euler of the equations in nir's own docstrings.

    Args:
        graph: Any graph of NIR's primitives, ``SNU`` and ``SRC`` nodes; not changed.
        dt: Time step in the unit of the graph's time constants; ``None`` takes what the graph
            declares, else what its input gains say (see ``time_step``).
        reading: How I and IF read ``r``: ``"ode"``, ``v += dt r x``, or ``"step"``, ``v += r x``.
            ``None`` takes what the graph declares, else "ode", which is what NIR's equation says;
            sinabs, Norse and spyx take the other. With dt = 1 they agree.
        feedback: ``"silent"``, or ``"biased"`` for a network that was trained with biases in its
            recurrent path and their effect at the first step, as snnTorch's recurrent layers have
            it; see ``Feedback``. ``None`` takes what the graph declares, else "silent".

    Raises:
        ValueError: For a graph that has no one meaning, or a dt that does not fit; names node and
            field, says what would do.
    """
    check_choice("reading", reading, Reading)
    check_choice("feedback", feedback, Feedback)
    return discretise_checked(checked_graph(graph), dt, reading=reading, feedback=feedback)


def discretise_checked(
    graph: CheckedGraph,
    dt: float | None = None,
    *,
    reading: Reading | None = None,
    feedback: Feedback | None = None,
) -> DiscreteGraph:
    """Return the update of every neuron of a checked graph; see ``discretise``."""
    nodes, entries = graph.nodes, graph.declared
    if reading is None:
        check_agreement(entries, "if", "give reading='step' or 'ode'")
    step = time_step(nodes, dt, entries, "step" in (reading, entries.get("if")))
    how = reading or entries.get("if") or _usual_reading(nodes, step)
    if how not in get_args(Reading):
        raise ValueError(f"the graph declares the IF reading {how!r}; it must be 'ode' or 'step'")
    neurons = {name: e for name, node in nodes.items() if (e := euler(name, node, step.dt, how))}
    inputs = tuple(n for n, node in nodes.items() if isinstance(node, nir.Input))
    if not inputs:
        raise ValueError("the graph has no Input; add one, so that it can be fed")
    first = feedback or declared_feedback(entries) or "silent"
    wiring = schedule(nodes, graph.edges, first)
    for block in wiring.blocks:
        check_states(block, nodes)
    notes = _choices(wiring, nodes)
    late = {edge for block in wiring.blocks for edge in block.delayed}
    one = [  # where the last v says what the last spike was, also before the first step
        s
        for s in subtractions(nodes, graph.edges)
        if (s.reset, s.mem) in late and bool((nodes[s.spike].threshold >= 0).all())
    ]
    if one:
        neurons |= {s.mem: _subtracting(neurons[s.mem], s, nodes) for s in one}
        inside = {(s.reset, s.mem) for s in one}
        wiring = schedule(nodes, [edge for edge in graph.edges if edge not in inside], first)
    return DiscreteGraph(
        dt=step.dt,
        dt_source=step.source,
        nodes=nodes,
        neurons=neurons,
        edges=graph.edges,
        inputs=inputs,
        outputs=tuple(n for n, node in nodes.items() if isinstance(node, nir.Output)),
        shapes={n: tuple(node.output_type["output"].tolist()) for n, node in nodes.items()},
        input_shapes={n: tuple(node.input_type["input"].tolist()) for n, node in nodes.items()},
        wiring=wiring,
        feedback=first,
        subtracting=tuple(one),
        notes=(*graph.notes, *_readings(entries, nodes, step, how), *notes),
        metadata=graph.declaring({"dt": step.dt, "if": how, "feedback": first}),
    )


def _subtracting(neuron: Euler, s: Subtraction, nodes: Mapping[str, nir.NIRNode]) -> Euler:
    """Return the update of a membrane with what its spikes take away.

    That comes after all else of the step, which is snnTorch's order.
    """
    drop = _tensor(-nodes[s.reset].scale)
    drop = drop if neuron.gain is None else neuron.gain * drop
    return replace(neuron, level=_tensor(nodes[s.spike].threshold), drop=drop)


def euler(name: str, node: nir.NIRNode, dt: float | None, reading: str = "ode") -> Euler | None:
    """Return the constants of one node, float64; None for a node without one membrane.

    Raises:
        ValueError: For a missing dt, a time constant that is not positive or shorter than dt, or
            an extension node with settings that have no meaning.
    """
    if isinstance(node, SNU):
        outside = (node.decay < 0) | (node.decay > 1)
        if outside.any():
            raise ValueError(
                f"node {name!r}: decay is {node.decay[outside][0]}; it must lie in [0, 1]"
            )
        config = SNUConfig(g=node.g, slope=node.slope, soft=node.soft)  # type: ignore[arg-type]
        return Euler(decay=_tensor(node.decay), threshold=_tensor(node.threshold), config=config)
    if isinstance(node, nir.Delay):
        delay_steps(name, node, dt)
    if isinstance(node, SRC):
        src_config(name, node)
    if type(node).__name__ not in STATEFUL or isinstance(node, (nir.Delay, SRC)):
        return None
    if dt is None and not (isinstance(node, (nir.I, nir.IF)) and reading == "step"):
        raise ValueError(f"node {name!r} ({type(node).__name__}) needs a dt; give dt")
    dt = 1.0 if dt is None else dt
    terms: dict[str, Tensor | None] = {}
    if isinstance(node, (nir.CubaLI, nir.CubaLIF)):
        rate = _rate(name, "tau_syn", node.tau_syn, dt)
        terms["synapse_decay"] = _tensor(np.maximum(1 - rate, 0))
        terms["synapse_gain"] = _gain(_float64(node.w_in) * rate)
    if isinstance(node, (nir.I, nir.IF)):
        gain = _float64(node.r) * (dt if reading == "ode" else 1)
        terms |= {"decay": torch.ones(gain.shape, dtype=torch.float64)}
    else:
        field = "tau" if hasattr(node, "tau") else "tau_mem"
        rate = _rate(name, field, getattr(node, field), dt)
        gain = _float64(node.r) * rate
        terms |= {"decay": _tensor(np.maximum(1 - rate, 0))}
        terms |= {"offset": _unless_zero(_float64(node.v_leak) * rate)}
    terms["gain"] = _gain(gain)
    if hasattr(node, "v_threshold"):
        terms["threshold"] = _tensor(node.v_threshold)
        terms["reset"] = _unless_zero(_float64(node.v_reset))
    return Euler(**terms)  # type: ignore[arg-type]


def delay_steps(name: str, node: nir.Delay, dt: float | None) -> NDArray[np.int64]:
    """Return a Delay in whole steps, of the layer's shape.

    Raises:
        ValueError: If a delay is negative or is not a whole number of steps.
    """
    if dt is None:
        raise ValueError(f"node {name!r} (Delay) needs a dt; give dt")
    steps = _float64(node.delay) / dt
    whole = np.round(steps)
    bad = (whole < 0) | (np.abs(steps - whole) > ODD * np.maximum(1, whole)) | (whole > 1e6)
    if bad.any():
        raise ValueError(
            f"node {name!r}: delay is {node.delay[bad][0]}, {steps[bad][0]:.6g} steps of dt = {dt};"
            " it must be a whole number of steps, 0 or more, at most 1000000"
        )
    out: NDArray[np.int64] = whole.astype(np.int64)
    return out


def _rate(name: str, field: str, tau: Array, dt: float) -> Array:
    """Return dt/tau, demanding a positive tau that is not shorter than dt."""
    tau = _float64(tau)
    if (tau <= 0).any():
        raise ValueError(
            f"node {name!r}: {int((tau <= 0).sum())} of {tau.size} values of {field} are not "
            f"positive (the least is {tau.min():.6g}); time constants must be positive"
        )
    rate = dt / tau
    if (rate > 1 + SNAP).any():
        raise ValueError(
            f"node {name!r}: {field} is {tau.min():.6g}, shorter than dt = {dt:.6g}; "
            "Euler steps overshoot there: give a smaller dt, or check the unit of the graph"
        )
    return np.asarray(rate)


def _gain(gain: Array) -> Tensor | None:
    """Return an input gain, None where it is 1 but for rounding."""
    snapped = np.where(np.abs(gain - 1) < SNAP, 1.0, gain)
    return None if (snapped == 1).all() else _tensor(snapped)


def _unless_zero(term: Array) -> Tensor | None:
    return _tensor(term) if term.any() else None


def _float64(array: Array) -> Array:
    return np.asarray(array, dtype=np.float64)


def _tensor(array: Array) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def _usual_reading(nodes: Mapping[str, nir.NIRNode], step: TimeStep) -> str:
    """Return "ode", unless dt was only recognised and the IF nodes do not follow it."""
    if "recognised" in step.source and step.dt is not None:
        for name, node in nodes.items():
            if isinstance(node, (nir.I, nir.IF)) and (np.abs(node.r * step.dt - 1) > SNAP).any():
                raise ValueError(
                    f"node {name!r} ({type(node).__name__}): r is {node.r.reshape(-1)[0]:.6g}; "
                    "tools read it as v += r x or as v += dt r x: give dt, for the second, or "
                    "in Python reading='step' or 'ode'"
                )
    return "ode"


def _readings(
    entries: Mapping[str, Any], nodes: Mapping[str, nir.NIRNode], step: TimeStep, reading: str
) -> list[str]:
    """Return a sentence for each thing that was read in one of several ways."""
    notes: list[str] = list(entries.get(REPAIRED, []))
    if entries.get("dt", step.dt) != step.dt:
        notes.append(f"dt is {step.dt} as given; the graph declares {entries['dt']}")
    if entries.get(UNCHECKED):
        notes.append(
            "the graph left its model unchecked (check=False): that they agree is not shown"
        )
    notes += left_out(entries)
    if said := disagreement(entries, "dt"):
        notes.append(f"dt is {step.dt} as given; the parts of the graph declare {said}")
    if names := without_reset(entries):
        notes.append(
            f"the file gives no v_reset for {', '.join(map(repr, names[:6]))}: read as 0; "
            "simulators that subtract the threshold give other spikes"
        )
    update = "v += dt r x" if reading == "ode" else "v += r x"
    return notes + [
        f"{type(node).__name__} {name!r} reads r as {update}"
        for name, node in nodes.items()
        if isinstance(node, (nir.I, nir.IF)) and step.dt != 1
    ]


def _choices(wiring: Wiring, nodes: Mapping[str, nir.NIRNode]) -> list[str]:
    """Return a sentence for each cycle in which another edge could have carried the delay."""
    notes = []
    for block in wiring.blocks:
        entered = ways_into(block, wiring)
        if block.delayed and len(entered) > 1:
            notes.append(
                f"a cycle is entered at {', '.join(map(repr, entered))}: the last step's value is "
                f"carried by {', '.join(f'{a} -> {b}' for a, b in sorted(block.delayed))}"
            )
    return notes + [
        f"the bias of {name!r} feeds back: it acts from the second step on, as the edge delivers "
        "nothing at the first; feedback='biased' applies it at once, as snnTorch's own layers do"
        for biased in biased_ways_back(wiring, nodes).values()
        for name in biased
    ]
