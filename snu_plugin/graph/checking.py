"""What becomes of each node of a graph when it runs: exact, approximate, or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

import nir
import numpy as np

from snu_plugin.graph import feedback, wire
from snu_plugin.graph.approximate import admitted
from snu_plugin.graph.discretisation import euler
from snu_plugin.graph.flattening import expand, splice, walk
from snu_plugin.graph.nodes import EXTENSIONS, rebuild
from snu_plugin.graph.shapes import complete
from snu_plugin.graph.time_step import TimeStep, time_step
from snu_plugin.schedule import Wiring


class Verdict(NamedTuple):
    """What becomes of one node."""

    name: str
    """Name in the flat graph; empty for the graph itself."""
    kind: str
    """Type of the node."""
    verdict: Literal["exact", "approximate", "unsupported"]
    """exact: NIR and the declared discretisation leave one meaning, and that one runs.
    approximate: NIR leaves more than one meaning, and the one chosen is named; or the graph says
    that its exporter was allowed to approximate, and by how much.
    unsupported: it does not run."""
    reason: str
    field: str
    """The field that decides it, empty if none does."""


def check(graph: nir.NIRGraph, dt: float | None = None) -> list[Verdict]:
    """Return a verdict for each node, for running as strict forward Euler (see ``discretise``).

    A graph that cannot be resolved as a whole gets one more verdict, under the empty name.
    ``dt`` is as in ``discretise``. Never raises for what is in the graph.
    """
    broken = _broken(graph)
    if broken:
        return broken
    try:
        flat = expand(graph)
        complete(flat)
        splice(flat)
        said = wire.declared(graph)
        wiring = feedback.schedule(flat.nodes, flat.edges, feedback.declared(said))
    except ValueError as error:
        return [_unsupported("", "NIRGraph", error)]
    late: ValueError | None = None
    try:
        step = time_step(flat.nodes, dt, said, said.get("if") == "step")
    except ValueError as error:
        step, late = TimeStep(None, str(error)), error
    costs = admitted(said)
    found = [
        _verdict(name, node, step, said.get("if"), wiring, late)
        for name, node in sorted(flat.nodes.items())
    ]
    old = set(wire.without_reset(said))
    return [_qualified(verdict, costs, old) for verdict in found]


def _qualified(verdict: Verdict, costs: Mapping[str, str], old: Collection[str]) -> Verdict:
    """Return an exact verdict with what the file left open, or as what its exporter declared."""
    if verdict.verdict != "exact":
        return verdict
    if verdict.name in costs:
        reason = costs[verdict.name]
        return verdict._replace(verdict="approximate", reason=reason, field="v_reset")
    if verdict.name in old:
        return verdict._replace(reason=f"{verdict.reason}; the file has no v_reset, read as 0")
    return verdict


def _broken(graph: nir.NIRGraph) -> list[Verdict]:
    """Return verdicts for the nodes that are broken in themselves; empty if none is."""
    try:
        found = walk(graph)
    except ValueError as error:
        return [_unsupported("", "NIRGraph", error)]
    verdicts = []
    for path, node in found:
        name = ".".join(path)
        try:
            rebuild(name, node)
        except ValueError as error:
            verdicts.append(_unsupported(name, type(node).__name__, error))
    return verdicts


def _verdict(
    name: str,
    node: nir.NIRNode,
    step: TimeStep,
    reading: object,
    wiring: Wiring,
    late: ValueError | None,
) -> Verdict:
    kind = type(node).__name__
    try:
        euler(name, node, step.dt, str(reading or "ode"))
    except ValueError as error:
        if step.dt is None and late is not None:
            return Verdict(name, kind, "unsupported", str(late), "dt")
        return _unsupported(name, kind, error)
    for rule in RULES:
        if found := rule(name, node, step, reading, wiring):
            return Verdict(name, kind, "approximate", *found)
    reason = "the same at every dt"
    if kind in EXTENSIONS:
        reason = f"the {kind} extension node: other readers refuse it"
    elif step.dt is not None and kind in ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF", "Delay"):
        reason = f"strict forward Euler at dt = {step.dt:.6g} ({step.source})"
    return Verdict(name, kind, "exact", reason, "")


Rule = Callable[[str, nir.NIRNode, TimeStep, object, Wiring], tuple[str, str] | None]
"""Returns reason and field where NIR leaves more than one meaning."""


def _input_resistance(
    name: str, node: nir.NIRNode, step: TimeStep, reading: object, wiring: Wiring
) -> tuple[str, str] | None:
    declared = reading or "argument" not in step.source
    if not isinstance(node, (nir.I, nir.IF)) or declared or step.dt == 1:
        return None
    if (np.abs(node.r * (step.dt or 1) - 1) < 1e-6).all():
        return None
    return "read as v += dt r x; sinabs, Norse and spyx read v += r x", "r"


def _padded_average(
    name: str, node: nir.NIRNode, step: TimeStep, reading: object, wiring: Wiring
) -> tuple[str, str] | None:
    if isinstance(node, nir.AvgPool2d) and np.any(node.padding):
        return "padding counts as zeros in the average, as in torch; NIR does not say", "padding"
    return None


def _bias_in_a_cycle(
    name: str, node: nir.NIRNode, step: TimeStep, reading: object, wiring: Wiring
) -> tuple[str, str] | None:
    feeds_back = any(a == name for block in wiring.blocks for a, _ in block.delayed)
    if feeds_back and np.any(getattr(node, "bias", 0)):
        why = "the fed-back bias acts from the second step on"
        return f"{why}; feedback='biased' applies it at once, as snnTorch does", "bias"
    return None


def _several_ways_into_a_cycle(
    name: str, node: nir.NIRNode, step: TimeStep, reading: object, wiring: Wiring
) -> tuple[str, str] | None:
    for block in wiring.blocks:
        entered = [n for n in block.names if set(wiring.sources[n]) - set(block.names)]
        ends = {b for _, b in block.delayed}
        if name in ends and len(entered) > 1:
            return "its cycle is entered at several nodes; this one gets the last step", "edges"
    return None


RULES: tuple[Rule, ...] = (
    _input_resistance,
    _padded_average,
    _bias_in_a_cycle,
    _several_ways_into_a_cycle,
)


FIELDS = (
    *("tau_mem", "tau_syn", "tau", "r", "v_leak", "v_threshold", "v_reset", "w_in", "delay"),
    *("decay", "threshold", "slope", "g", "weight", "bias", "scale", "stride", "padding"),
    *("gate", "alpha", "rho", "z_hyp", "z_dep", "r_s", "z", "version"),
    *("dilation", "groups", "kernel_size", "input_shape", "start_dim", "shape", "type", "dt"),
)


def _unsupported(name: str, kind: str, error: ValueError) -> Verdict:
    """Return the verdict that an error message is, with the field that the message names."""
    places = {f: m.start() for f in FIELDS if (m := re.search(rf"\b{f}\b", str(error)))}
    field = min(places, key=places.__getitem__) if places else ""
    return Verdict(name, kind, "unsupported", str(error), field)
