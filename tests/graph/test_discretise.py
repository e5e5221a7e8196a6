"""One update for every neuron, at a time step that is known."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import SNU, discretise, network, stamp
from snu_plugin.graph.discretisation import Reading

DT = 2.0**-10


def one(node: nir.NIRNode, size: int = 2) -> nir.NIRGraph:
    nodes = {
        "input": nir.Input(input_type={"input": np.array([size])}),
        "unit": node,
        "output": nir.Output(output_type={"output": np.array([size])}),
    }
    return nir.NIRGraph(nodes, [("input", "unit"), ("unit", "output")], {}, type_check=False)


def lif(
    tau: Any = 0.25, r: Any = 1.0, leak: Any = 0.0, threshold: Any = 1.0, reset: Any = 0.0
) -> nir.NIRNode:
    values = [np.broadcast_to(np.asarray(v, float), 2).copy() for v in (tau, r, leak, threshold)]
    return nir.LIF(*values, v_reset=np.broadcast_to(np.asarray(reset, float), 2).copy())


def full(*values: float) -> list[Any]:
    return [np.full(2, v) for v in values]


def test_a_lif_becomes_its_euler_step() -> None:
    neuron = discretise(one(lif(0.25, 3.0, 0.5, 2.0, -1.0)), dt=0.0625).neurons["unit"]
    assert neuron.decay.tolist() == [0.75, 0.75]
    assert neuron.gain is not None
    assert neuron.gain.tolist() == [0.75, 0.75]
    assert neuron.offset is not None
    assert neuron.offset.tolist() == [0.125, 0.125]
    assert neuron.threshold is not None
    assert neuron.threshold.tolist() == [2.0, 2.0]
    assert neuron.reset is not None
    assert neuron.reset.tolist() == [-1.0, -1.0]
    assert neuron.decay.dtype == torch.float64


def test_terms_that_do_nothing_are_absent() -> None:
    neuron = discretise(one(lif(0.25, 4.0)), dt=0.0625).neurons["unit"]
    assert (neuron.gain, neuron.offset, neuron.reset, neuron.start) == (None,) * 4
    assert neuron.synapse_decay is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dt", [1e-4, 1e-3, DT])
def test_an_input_gain_that_is_1_but_for_rounding_is_1(dtype: Any, dt: float) -> None:
    decay = np.linspace(0.01, 0.99, 200)
    tau = (dt / (1 - decay)).astype(dtype)
    r = (tau / dtype(dt)).astype(dtype)
    zero, thr = np.zeros(200, dtype), np.ones(200, dtype)
    neuron = discretise(one(nir.LIF(tau, r, zero, thr), 200), dt=dt).neurons["unit"]
    assert neuron.gain is None


def test_a_cuba_lif_has_two_states() -> None:
    node = nir.CubaLIF(*full(0.125, 0.25, 2.0, 0.0, 1.0), w_in=np.full(2, 0.5))
    neuron = discretise(one(node), dt=0.0625).neurons["unit"]
    assert neuron.synapse_decay is not None
    assert neuron.synapse_decay.tolist() == [0.5, 0.5]
    assert neuron.synapse_gain is not None
    assert neuron.synapse_gain.tolist() == [0.25, 0.25]
    assert neuron.gain is not None
    assert neuron.gain.tolist() == [0.5, 0.5]


# ---- where dt is from ----


def test_an_argument_beats_the_metadata_which_beats_the_convention() -> None:
    graph = one(lif(DT * 4, 4.0))
    assert discretise(graph).dt == DT
    assert discretise(graph).dt_source.startswith("recognised")
    stamp(graph, DT / 2)
    assert (discretise(graph).dt, discretise(graph).dt_source) == (
        DT / 2,
        "declared in the metadata of the graph",
    )
    given = discretise(graph, dt=DT / 4)
    assert (given.dt, given.dt_source) == (DT / 4, "given as argument")
    assert f"dt is {DT / 4} as given; the graph declares {DT / 2}" in given.notes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dt", [1e-4, 1e-3, 2e-3, DT, 2.0**-13, 1.0])
def test_the_convention_of_snntorch_is_recognised(dt: float, dtype: Any) -> None:
    tau = (dt / (1 - np.array([0.5, 0.9]))).astype(dtype)
    syn = (dt / (1 - np.array([0.3, 0.7]))).astype(dtype)
    zero, one_ = np.zeros(2, dtype), np.ones(2, dtype)
    step = dtype(dt)
    graph = one(nir.CubaLIF(syn, tau, tau / step, zero, one_, w_in=syn / step))
    assert discretise(graph).dt == dt
    assert discretise(one(nir.LIF(tau, tau / step, zero, one_))).dt == dt


def test_the_convention_of_spikingjelly_is_recognised() -> None:
    found = discretise(one(nir.IF(*full(1e4, 1.0, 0.0))))
    assert found.dt == 1e-4
    assert found.neurons["unit"].gain is None


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (lif(0.25, 1.0), r"input gains of the graph are all 1 \(node 'unit'\), which fits any dt"),
        (lif(0.25, [3.0, 4.0]), r"quotients tau/r of the graph run from 0.0625 to 0.08333"),
        (
            lif(0.0025, 24.0197),
            r"tau/r is 0.000104081 \(node 'unit'\), which is no usual time step",
        ),
        (
            nir.CubaLIF(*full(0.005, 0.02, 1.0, 0.0, 1.0), w_in=np.full(2, 4.0)),
            r"tau_syn/w_in is 0.00125 \(node 'unit'\), which is no usual time step",
        ),
        (lif(0.25, -4.0), "an input gain is not positive"),
        (lif(0.25, 0.5), "tau/r is longer than the time constants"),
        (nir.IF(*full(1.0, 1.0, 0.0)), "dt=1 reads r as an addition per step"),
        (nir.Delay(np.full(2, 0.5)), "dt is not declared"),
    ],
)
def test_an_ambiguous_graph_is_not_guessed(node: nir.NIRNode, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        discretise(one(node))
    assert "give dt" in str(caught.value)


def test_a_graph_without_time_needs_no_dt() -> None:
    found = discretise(one(nir.Threshold(np.ones(2))))
    assert (found.dt, found.dt_source) == (None, "no node depends on it")
    extension = discretise(one(SNU(np.full(2, 0.5), np.ones(2), "relu")))
    assert extension.dt is None


@pytest.mark.parametrize("dt", [0, -1.0, float("nan"), float("inf"), "1e-3", True])
def test_a_dt_that_is_none_is_refused(dt: Any) -> None:
    with pytest.raises(ValueError, match=r"dt is .*; it must be a positive number of seconds"):
        discretise(one(lif()), dt=dt)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (lif([0.25, -0.25]), "'unit': 1 of 2 values of tau are not positive"),
        (lif(0.0), "'unit': 2 of 2 values of tau are not positive"),
        (lif(0.03), "'unit': tau is 0.03, shorter than dt = 0.0625"),
        (nir.CubaLI(*full(0.01, 1.0, 1.0, 0.0)), "'unit': tau_syn is 0.01, shorter than dt"),
        (nir.CubaLI(*full(1.0, 0.01, 1.0, 0.0)), "'unit': tau_mem is 0.01, shorter than dt"),
        (nir.Delay(np.array([0.1, 0.5])), "'unit': delay is 0.1, 1.6 steps of dt = 0.0625"),
        (nir.Delay(np.full(2, -0.5)), r"'unit': delay is -0\.5"),
        (lif(np.nan), "'unit': 2 of 2 values of tau are NaN"),
        (SNU(np.full(2, 1.5), np.ones(2)), "'unit': decay is 1.5; it must lie in"),
    ],
)
def test_constants_that_do_not_fit_are_refused(node: nir.NIRNode, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        discretise(one(node), dt=0.0625)


def test_a_tau_of_one_dt_but_for_rounding_forgets_at_once() -> None:
    neuron = discretise(one(lif(float(np.float32(1e-4)))), dt=1e-4).neurons["unit"]
    assert neuron.decay.min() >= 0


# ---- two readings of an integrator's r ----


@pytest.mark.parametrize(("reading", "gain"), [("ode", 0.25), ("step", 4.0), (None, 0.25)])
@pytest.mark.parametrize("kind", [nir.IF, nir.I])
def test_an_integrator_is_read_as_told(kind: Any, reading: Reading | None, gain: float) -> None:
    node = kind(*full(4.0, 1.0) if kind is nir.IF else full(4.0))
    found = discretise(one(node), dt=0.0625, reading=reading)
    assert found.neurons["unit"].gain is not None
    assert found.neurons["unit"].gain.tolist() == [gain, gain]
    assert any("reads r as" in note for note in found.notes)


def test_a_declared_reading_is_taken() -> None:
    graph = stamp(one(nir.IF(*full(4.0, 1.0))), 0.0625, **{"if": "step"})
    neuron = discretise(graph).neurons["unit"]
    assert neuron.gain is not None
    assert neuron.gain.tolist() == [4.0, 4.0]


def test_read_per_step_an_integrator_needs_no_dt() -> None:
    assert discretise(one(nir.IF(*full(1.0, 1.0))), reading="step").neurons["unit"].gain is None


def test_an_integrator_that_does_not_follow_the_recognised_dt_is_not_guessed() -> None:
    graph = one(lif(DT * 4, 4.0))
    graph.nodes["if"] = nir.IF(*full(1.0, 1.0))
    graph.edges[-1:] = [("unit", "if"), ("if", "output")]
    with pytest.raises(ValueError, match=r"node 'if' \(IF\): r is 1; tools read it as"):
        discretise(graph)
    assert discretise(graph, reading="step").neurons["if"].gain is None


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="reading is 'both'; it must be 'ode' or 'step'"):
        discretise(one(lif()), dt=DT, reading="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="declares the IF reading 'both'"):
        discretise(stamp(one(lif()), DT, **{"if": "both"}))


# ---- wiring ----


def cycle(*edges: tuple[str, str], **nodes: nir.NIRNode) -> nir.NIRGraph:
    graph = one(lif())
    return nir.NIRGraph({**graph.nodes, **nodes}, [*graph.edges, *edges], {}, type_check=False)


def test_a_cycle_without_a_state_is_refused() -> None:
    scale = {name: nir.Scale(np.ones(2)) for name in ("a", "b")}
    graph = cycle(("input", "a"), ("a", "b"), ("b", "a"), ("b", "unit"), **scale)
    with pytest.raises(ValueError, match="cycle 'a' -> 'b' holds no neuron and no delay"):
        discretise(graph, dt=DT)


def test_a_choice_of_the_delayed_edge_is_noted() -> None:
    graph = cycle(("unit", "b"), ("b", "unit"), ("input", "b"), b=lif())
    found = discretise(graph, dt=DT)
    assert any("a cycle is entered at 'unit', 'b'" in note for note in found.notes)
    assert any("carried by b -> unit" in note for note in found.notes)


def test_a_bias_that_feeds_back_is_noted() -> None:
    graph = cycle(("unit", "w"), ("w", "unit"), w=nir.Affine(np.eye(2), np.ones(2)))
    assert any("bias of 'w' feeds back" in note for note in discretise(graph, dt=DT).notes)


def test_a_bias_that_feeds_back_acts_from_the_second_step_on() -> None:
    graph = cycle(("unit", "w"), ("w", "unit"), w=nir.Affine(np.zeros((2, 2)), np.full(2, 0.75)))
    graph.nodes["unit"] = lif(DT, 1.0, 0.0, 0.5)
    y, _ = network(graph, dt=DT)(torch.zeros(3, 1, 2))
    assert y[:, 0, 0].tolist() == [0, 1, 1]


def test_a_graph_without_an_input_is_refused() -> None:
    graph = cycle(("unit", "w"), ("w", "unit"), w=nir.Linear(np.eye(2)))
    del graph.nodes["input"], graph.edges[0]
    with pytest.raises(ValueError, match="the graph has no Input"):
        discretise(graph, dt=DT)


def test_a_graph_that_contains_itself_is_refused() -> None:
    graph = one(lif())
    graph.nodes["again"] = graph
    with pytest.raises(ValueError, match="more than 64 graphs deep"):
        discretise(graph, dt=DT)


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="the graph has no nodes"):
        discretise(nir.NIRGraph({}, [], {}, type_check=False), dt=DT)


class Stranger(nir.NIRNode):  # type: ignore[misc]
    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}


class LIF(nir.LIF):  # type: ignore[misc]
    """A subclass may mean anything."""


@pytest.mark.parametrize("node", [Stranger(), LIF(*full(1.0, 1.0, 0.0, 1.0)), None, 3])
def test_nodes_without_a_rule_are_refused(node: Any) -> None:
    with pytest.raises(ValueError, match=r"node 'unit' has type .*, which has no rule"):
        discretise(one(node), dt=DT)


def test_the_graph_stays_as_it_is() -> None:
    graph = one(lif())
    graph.nodes["input"] = nir.Input(input_type={"input": None})
    before = dict(graph.nodes), list(graph.edges)
    discretise(graph, dt=DT)
    assert (graph.nodes, graph.edges) == before
    assert graph.nodes["input"].input_type == {"input": None}


def test_names_that_collide_stay_apart() -> None:
    inner = one(lif(threshold=3.0))
    graph = one(lif())
    graph.nodes["a"] = inner
    graph.nodes["a.unit"] = lif(threshold=7.0)
    graph.edges = [("input", "unit"), ("unit", "a"), ("a", "a.unit"), ("a.unit", "output")]
    neurons = discretise(graph, dt=DT).neurons
    thresholds = {n: e.threshold[0].item() for n, e in neurons.items() if e.threshold is not None}
    assert thresholds == {"a.unit": 7.0, "a.unit_2": 3.0, "unit": 1.0}


def test_a_signal_that_passes_a_subgraph_unchanged_counts_twice() -> None:
    through = {
        "in": nir.Input(input_type={"input": np.array([2])}),
        "out": nir.Output(output_type={"output": np.array([2])}),
    }
    graph = one(nir.Scale(np.ones(2)))
    graph.nodes["sub"] = nir.NIRGraph(through, [("in", "out")], {}, type_check=False)
    graph.edges += [("input", "sub"), ("sub", "unit")]
    y, _ = network(graph)(torch.ones(1, 1, 2))
    assert y.flatten().tolist() == [2, 2]
