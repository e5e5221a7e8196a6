"""What becomes of each node of a graph when it runs: exact, approximate, or not at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import nir
import numpy as np

from snu_plugin.accepted import with_known_names
from snu_plugin.graph.cycles import (
    Feedback,
    biased_ways_back,
    check_states,
    declared_feedback,
    schedule,
    ways_into,
)
from snu_plugin.graph.discretisation import discretise_checked, euler
from snu_plugin.graph.flattening import Broken, CheckedGraph, checked_graph
from snu_plugin.graph.metadata import check_choice, declared_approximations, without_reset
from snu_plugin.graph.resets import Subtraction
from snu_plugin.graph.time_step import TimeStep, time_step
from snu_plugin.graph.validate import EXTENSIONS
from snu_plugin.notebook import Shown, Table, text
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


class Verdicts(Shown, list[Verdict]):
    """A verdict for each node, which shows itself as a table."""

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return text(self._table())

    def _table(self) -> Table:
        count = Counter(one.verdict for one in self)
        title = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
        rows = [(one.name or "(graph)", one.kind, one.verdict, one.reason) for one in self]
        return Table(title, ("node", "type", "verdict", "reason"), rows)


@with_known_names
def check(
    graph: nir.NIRGraph, dt: float | None = None, *, feedback: Feedback | None = None
) -> Verdicts:
    """Return a verdict for each node as a step meets them, for strict forward Euler.

    A graph that cannot be resolved as a whole gets one more verdict, under the empty name; none is
    "unsupported" exactly where ``network`` runs the graph. ``dt`` and ``feedback`` are as in
    ``discretise``, which says what strict forward Euler is. Never raises for what is in the graph.

    Raises:
        ValueError: For a feedback that does not exist.
    """
    check_choice("feedback", feedback, Feedback)
    broken: Broken = []
    try:
        return Verdicts(verdicts(checked_graph(graph, broken), dt, feedback))
    except ValueError as error:
        return Verdicts(_unsupported(*one) for one in broken or [("", "NIRGraph", error)])


def verdicts(
    graph: CheckedGraph, dt: float | None = None, feedback: Feedback | None = None
) -> list[Verdict]:
    """Return a verdict for each node of a checked graph; see ``check``.

    Raises:
        ValueError: If what the graph declares cannot be.
    """
    chosen = feedback or declared_feedback(graph.declared)
    wiring = schedule(graph.nodes, graph.edges, chosen or "silent")
    reading, late = graph.declared.get("if"), None
    try:
        step = time_step(graph.nodes, dt, graph.declared, reading == "step")
    except ValueError as error:
        step, late = TimeStep(None, str(error)), error
    approximations = declared_approximations(graph.declared)
    old = without_reset(graph.declared)
    unsettled = () if chosen else biased_ways_back(wiring, graph.nodes).values()
    biased = frozenset(name for way in unsettled for name in way)
    stateless = _stateless(wiring, graph.nodes)
    found = []
    for name in wiring.names:
        node = graph.nodes[name]
        about = {**graph.nested.metadata, **node.metadata}
        verdict = _verdict(Case(name, node, step, reading, wiring, biased, about), late)
        if verdict.verdict != "unsupported" and name in stateless:
            verdict = verdict._replace(verdict="unsupported", reason=stateless[name], field="edges")
        if verdict.verdict == "exact" and name in approximations:
            reason = approximations[name]
            verdict = verdict._replace(verdict="approximate", reason=reason, field="v_reset")
        elif verdict.verdict == "exact" and name in old:
            verdict = verdict._replace(
                reason=f"{verdict.reason}; the file has no v_reset, read as 0"
            )
        found.append(verdict)
    if any(verdict.verdict == "unsupported" for verdict in found):
        return found
    try:
        discrete = discretise_checked(graph, dt, feedback=feedback)
    except ValueError as error:
        return [*found, _unsupported("", "NIRGraph", error)]
    parts = {one.mem: one for one in discrete.subtracting}
    return [_as_one(verdict, parts.get(verdict.name)) for verdict in found]


def _as_one(verdict: Verdict, one: Subtraction | None) -> Verdict:
    """Return the verdict on a membrane with what makes a neuron of it."""
    if one is None or verdict.verdict != "exact":
        return verdict
    whole = f"with {one.spike!r} and {one.reset!r} one neuron, whose spikes subtract from it"
    return verdict._replace(reason=f"{verdict.reason}; {whole}")


def _stateless(wiring: Wiring, nodes: Mapping[str, nir.NIRNode]) -> dict[str, str]:
    """Return the nodes of cycles that hold no state, and what that means for each."""
    found: dict[str, str] = {}
    for block in wiring.blocks:
        try:
            check_states(block, nodes)
        except ValueError as error:
            found |= dict.fromkeys(block.names, str(error))
    return found


def _verdict(case: Case, late: ValueError | None) -> Verdict:
    name, node, step = case.name, case.node, case.step
    kind = type(node).__name__
    try:
        euler(name, node, step.dt, str(case.reading or "ode"))
    except ValueError as error:
        if step.dt is None and late is not None:
            return Verdict(name, kind, "unsupported", str(late), "dt")
        return _unsupported(name, kind, error)
    for rule in RULES:
        if found := rule(case):
            return Verdict(name, kind, "approximate", *found)
    reason = "the same at every dt"
    if kind in EXTENSIONS:
        reason = f"the {kind} extension node: other readers refuse it"
    elif step.dt is not None and kind in ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF", "Delay"):
        reason = f"strict forward Euler at dt = {step.dt:.6g} ({step.source})"
    return Verdict(name, kind, "exact", reason, "")


class Case(NamedTuple):
    """A node in its graph."""

    name: str
    node: nir.NIRNode
    step: TimeStep
    reading: object
    """How the graph declares that I and IF read ``r``; None if it does not."""
    wiring: Wiring
    biased: frozenset[str]
    """Nodes whose bias feeds back, where nobody says what that means for the first step."""
    metadata: Mapping[str, Any]
    """Of the graph and of the node."""


Finding = tuple[str, str] | None
"""Reason and field where NIR leaves more than one meaning."""


def _input_resistance(case: Case) -> Finding:
    node, step = case.node, case.step
    declared = case.reading or "argument" not in step.source
    if not isinstance(node, (nir.I, nir.IF)) or declared or step.dt == 1:
        return None
    if (np.abs(node.r * (step.dt or 1) - 1) < 1e-6).all():
        return None
    return "read as v += dt r x; sinabs, Norse and spyx read v += r x", "r"


def _padded_average(case: Case) -> Finding:
    if isinstance(case.node, nir.AvgPool2d) and np.any(case.node.padding):
        return "padding counts as zeros in the average, as in torch; NIR does not say", "padding"
    return None


def _bias_in_a_cycle(case: Case) -> Finding:
    if case.name not in case.biased:
        return None
    return (
        "the fed-back bias acts from the second step on, and the graph does not say whether it was "
        "trained so; feedback='biased' applies it at once, as snnTorch does",
        "bias",
    )


def _several_ways_into_a_cycle(case: Case) -> Finding:
    for block in case.wiring.blocks:
        ends = {b for _, b in block.delayed}
        if case.name in ends and len(ways_into(block, case.wiring)) > 1:
            return "its cycle is entered at several nodes; this one gets the last step", "edges"
    return None


def _reset_in_metadata(case: Case) -> Finding:
    said = str(case.metadata.get("reset_mechanism", "")).lower()
    if not hasattr(case.node, "v_reset") or said not in ("subtract", "none"):
        return None
    return (
        f"its metadata say reset_mechanism {said!r}, for which its type has no field: a spike sets "
        "it to v_reset here, as in all readers of NIR",
        "v_reset",
    )


RULES: tuple[Callable[[Case], Finding], ...] = (
    _reset_in_metadata,
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
