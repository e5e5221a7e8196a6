"""A verdict for every node."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import SNU, check, network, read, stamp, write

DT = 0.0625


def graph(**nodes: nir.NIRNode) -> nir.NIRGraph:
    named = {
        "input": nir.Input(input_type={"input": np.array([2])}),
        **nodes,
        "output": nir.Output(output_type={"output": None}),
    }
    names = list(named)
    edges = list(itertools.pairwise(names))
    return nir.NIRGraph(named, edges, {}, type_check=False)


def full(*values: float) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return [np.full(2, v) for v in values]


def test_what_has_one_meaning_is_exact() -> None:
    verdicts = check(stamp(graph(fc=nir.Linear(np.eye(2)), lif=nir.LIF(*full(1, 1, 0, 1))), DT))
    assert [(v.name, v.verdict) for v in verdicts] == [
        (name, "exact")
        for name in ("input", "fc", "lif", "output")  # as a step meets them
    ]
    (lif,) = (v for v in verdicts if v.name == "lif")
    assert (
        lif.reason == "strict forward Euler at dt = 0.0625 (declared in the metadata of the graph)"
    )


@pytest.mark.parametrize("said", ["subtract", "none"])
@pytest.mark.parametrize("of_node", [True, False])
def test_a_reset_that_metadata_name_and_no_field_says_is_not_exact(
    said: str, of_node: bool, tmp_path: Path
) -> None:
    lif = nir.LIF(*full(1, 1, 0, 1), v_reset=np.zeros(2))
    made = stamp(graph(lif=lif, fc=nir.Linear(np.eye(2))), DT)
    (lif if of_node else made).metadata["reset_mechanism"] = said
    write(tmp_path / "said.nir", made)
    by_name = {v.name: v for v in check(read(tmp_path / "said.nir"))}
    assert by_name["lif"].verdict == "approximate"
    assert by_name["lif"].field == "v_reset"
    assert f"its metadata say reset_mechanism '{said}'" in by_name["lif"].reason
    assert by_name["fc"].verdict == "exact"


def test_metadata_that_name_the_reset_that_v_reset_is_change_no_verdict() -> None:
    lif = nir.LIF(*full(1, 1, 0, 1), v_reset=np.zeros(2))
    lif.metadata["reset_mechanism"] = "zero"
    assert {v.verdict for v in check(stamp(graph(lif=lif), DT))} == {"exact"}


def test_the_extension_node_is_said_to_be_one() -> None:
    (unit,) = (v for v in check(graph(unit=SNU(*full(0.5, 1), "relu"))) if v.name == "unit")
    assert unit.verdict == "exact"
    assert "other readers refuse it" in unit.reason


@pytest.mark.parametrize(
    ("node", "field", "words"),
    [
        (nir.LIF(*full(-1, 1, 0, 1)), "tau", "not positive"),
        (nir.LIF(*full(0.01, 1, 0, 1)), "tau", "shorter than dt"),
        (nir.CubaLIF(*full(0.01, 1, 1, 0, 1)), "tau_syn", "shorter than dt"),
        (nir.LIF(*full(1, np.nan, 0, 1)), "r", "NaN"),
        (nir.Delay(np.full(2, 0.1)), "delay", "whole number of steps"),
    ],
)
def test_what_does_not_run_is_unsupported(node: nir.NIRNode, field: str, words: str) -> None:
    (unit,) = (v for v in check(graph(unit=node), DT) if v.verdict == "unsupported")
    assert (unit.name, unit.field) == ("unit", field)
    assert words in unit.reason


def test_a_missing_dt_is_the_fault_of_the_nodes_that_need_it() -> None:
    verdicts = check(graph(fc=nir.Linear(np.eye(2)), lif=nir.LIF(*full(1, 1, 0, 1))))
    assert [(v.name, v.field) for v in verdicts if v.verdict == "unsupported"] == [("lif", "dt")]


def test_a_node_without_a_rule_does_not_hide_the_others() -> None:
    class Spline(nir.NIRNode):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    verdicts = check(graph(unit=Spline(), lif=nir.LIF(*full(1, np.inf, 0, 1))), DT)
    assert {(v.name, v.kind, v.verdict) for v in verdicts} == {
        ("unit", "Spline", "unsupported"),
        ("lif", "LIF", "unsupported"),
    }


def test_a_graph_that_cannot_be_resolved_is_unsupported_as_a_whole() -> None:
    (verdict,) = check(graph(fc=nir.Linear(np.ones((2, 3)))), DT)
    assert (verdict.name, verdict.verdict) == ("", "unsupported")
    assert "'input' (Input) gives (2,), but node 'fc' (Linear) takes (3,)" in verdict.reason


@pytest.mark.parametrize(
    ("r", "dt", "verdict"), [(1.0, DT, "approximate"), (1 / DT, DT, "exact"), (1.0, 1.0, "exact")]
)
def test_an_undeclared_integrator_is_approximate(r: float, dt: float, verdict: str) -> None:
    (unit,) = (v for v in check(graph(unit=nir.IF(*full(r, 1))), dt) if v.name == "unit")
    assert unit.verdict == verdict
    assert unit.field == ("r" if verdict == "approximate" else "")


def test_a_declared_integrator_is_exact() -> None:
    declared = stamp(graph(unit=nir.IF(*full(1, 1))), DT)
    assert {v.verdict for v in check(declared)} == {"exact"}


def test_a_bias_that_feeds_back_is_approximate() -> None:
    given = graph(lif=nir.LIF(*full(1, 1, 0, 1)))
    given.nodes["rec"] = nir.Affine(np.eye(2), np.ones(2))
    given.edges += [("lif", "rec"), ("rec", "lif")]
    assert [(v.name, v.field) for v in check(given, DT) if v.verdict == "approximate"] == [
        ("rec", "bias")
    ]


def test_a_cycle_with_two_ways_in_is_approximate() -> None:
    given = graph(a=nir.LIF(*full(1, 1, 0, 1)), b=nir.LIF(*full(1, 1, 0, 1)))
    given.edges += [("b", "a"), ("input", "b")]
    assert [(v.name, v.field) for v in check(given, DT) if v.verdict == "approximate"] == [
        ("a", "edges")
    ]


def test_a_cycle_without_a_state_is_unsupported_node_by_node() -> None:
    given = graph(a=nir.Linear(np.eye(2) / 2), b=nir.Scale(np.ones(2)), c=nir.Scale(np.ones(2)))
    given.edges.append(("b", "a"))
    found = {v.name: v for v in check(given, DT) if v.verdict == "unsupported"}
    assert found.keys() == {"a", "b"}
    assert all(v.field == "edges" and "holds no neuron" in v.reason for v in found.values())


def drawn(random: np.random.Generator) -> nir.NIRGraph:
    """A graph of a few nodes with random edges; many of them cannot run."""
    kinds: list[nir.NIRNode] = [
        nir.LIF(*full(random.choice([1, 1, 0.01, -1]), 1, 0, 1)),
        nir.IF(*full(1, 1)),
        nir.LI(*full(1, 2, 0)),
        nir.Linear(np.eye(2)),
        nir.Affine(np.eye(2), np.ones(2)),
        nir.Scale(np.ones(2)),
        nir.Threshold(np.ones(2)),
        nir.Delay(np.full(2, random.choice([DT, 2 * DT, 0.01]))),
        nir.Linear(np.ones((2, 3))),
        SNU(*full(random.choice([0.5, 0.5, 1.5]), 1)),
    ]
    chosen = random.choice(len(kinds), random.integers(1, 5), replace=False)
    nodes: dict[str, nir.NIRNode] = {f"n{i}": kinds[i] for i in chosen}
    if random.random() < 0.9:
        nodes["input"] = nir.Input(np.array([2]))
    names = list(nodes)
    edges = [
        (a, b) for a in names for b in names if b != "input" and random.random() < 0.7 / len(names)
    ]
    edges += [(names[-1], names[0])] if names[-1] == "input" else []
    made = nir.NIRGraph(nodes, edges, {}, type_check=False)
    if random.random() < 0.7:
        said = {
            "if": random.choice(["ode", "step"]),
            "feedback": random.choice(["silent", "biased"]),
        }
        return stamp(made, DT, **{key: str(value) for key, value in said.items()})
    return made


def test_a_graph_is_called_supported_exactly_where_it_runs() -> None:
    counts = {True: 0, False: 0}
    for seed in range(600):
        random = np.random.default_rng(seed)
        given = drawn(random)
        dt = DT if random.random() < 0.3 else None
        feedback: Any = [None, "silent", "biased"][random.integers(3)]
        try:
            net = network(given, dt, feedback=feedback)
            shapes = {n: (3, 1, *net.discrete.shapes[n]) for n in net.discrete.inputs}
            net({name: torch.zeros(shape) for name, shape in shapes.items()})
            runs = True
        except ValueError:
            runs = False
        fine = all(v.verdict != "unsupported" for v in check(given, dt, feedback=feedback))
        assert fine == runs, f"seed {seed}"
        counts[runs] += 1
    assert min(counts.values()) > 60


def test_padding_in_an_average_is_approximate() -> None:
    pool = nir.AvgPool2d(*(np.array([n, n]) for n in (2, 2, 1)))
    given = graph(pool=pool)
    given.nodes["input"] = nir.Input(input_type={"input": np.array([1, 4, 4])})
    assert [(v.name, v.field) for v in check(given) if v.verdict == "approximate"] == [
        ("pool", "padding")
    ]
