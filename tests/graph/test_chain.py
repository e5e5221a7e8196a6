"""Graphs as chains of chain_layers, and neurons folded into plain SNUs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin import snu_scan
from snu_plugin.graph import SNU, discretise, network
from snu_plugin.graph.layers import Layer, chain_layers, fold, node_module
from snu_plugin.neuron import Euler

DT = 0.0625


def chain(
    *nodes: nir.NIRNode, shape: tuple[int, ...] = (3,), **loops: nir.NIRNode | None
) -> nir.NIRGraph:
    """Nodes "0", "1", ... in a row; ``loops`` maps ``n<index>`` to what leads back to that node."""
    named: dict[str, nir.NIRNode] = {"input": nir.Input(input_type={"input": np.array(shape)})}
    named |= {str(i): node for i, node in enumerate(nodes)}
    named["output"] = nir.Output(output_type={"output": None})
    names = list(named)
    edges = list(itertools.pairwise(names))
    for place, node in loops.items():
        name = place.removeprefix("n")
        if node is None:
            edges.append((name, name))
        else:
            named[f"loop {name}"] = node
            edges += [(name, f"loop {name}"), (f"loop {name}", name)]
    return nir.NIRGraph(named, edges, {}, type_check=False)


def lif(
    shape: int | tuple[int, ...] = 3,
    tau: Any = 0.25,
    r: Any = 4.0,
    leak: Any = 0.0,
    threshold: Any = 1.0,
    reset: Any = 0.0,
) -> nir.NIRNode:
    values = (tau, r, leak, threshold, reset)
    return nir.LIF(*(np.broadcast_to(np.asarray(v, float), shape).copy() for v in values))


def affine(rows: int = 3, columns: int = 3) -> nir.NIRNode:
    random = np.random.default_rng(rows + columns)
    return nir.Affine(random.integers(-8, 9, (rows, columns)) / 8, random.integers(-4, 5, rows) / 8)


def run_folded(found: Sequence[Layer], x: torch.Tensor) -> torch.Tensor:
    """Run folded layers by ``snu_scan`` alone, to see that nothing else is left in them."""
    for layer in found:
        if layer.neuron is None:
            one = discretise(chain(layer.node, shape=tuple(x.shape[2:])), DT)
            x, _ = node_module("0", one, x.dtype)(x)
            continue
        neuron = layer.neuron
        assert neuron.threshold is not None
        weight = None if layer.recurrent is None else torch.tensor(layer.recurrent)
        x, _ = snu_scan(
            x,
            neuron.config,
            decay=neuron.decay,
            threshold=neuron.threshold,
            recurrent=weight,
            impl="reference",
        )
    return x


def drive(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return (torch.rand((30, 3, *shape), generator=random) < 0.4).double()


def test_a_chain_comes_in_the_order_in_which_it_runs() -> None:
    graph = chain(affine(), lif(), affine(2, 3), lif(2), n1=nir.Linear(np.eye(3)))
    graph.nodes = dict(reversed(graph.nodes.items()))
    found = chain_layers(discretise(graph, DT))
    assert [layer.name for layer in found] == ["0", "1", "2", "3"]
    assert [layer.neuron is None for layer in found] == [True, False, True, False]
    assert [layer.recurrent is None for layer in found] == [True, False, True, True]
    assert found[1].recurrent is not None
    np.testing.assert_array_equal(found[1].recurrent, np.eye(3))
    assert found[1].recurrent.dtype == np.float64


def test_an_edge_to_itself_is_a_loop_of_ones() -> None:
    (layer,) = chain_layers(discretise(chain(lif(), n0=None), DT))
    assert layer.recurrent is not None
    np.testing.assert_array_equal(layer.recurrent, np.eye(3))


def test_a_loop_with_a_bias_of_zero_is_a_layer() -> None:
    graph = chain(lif(), n0=nir.Affine(np.eye(3), np.zeros(3)))
    assert chain_layers(discretise(graph, DT))[0].recurrent is not None


def skip() -> nir.NIRGraph:
    graph = chain(affine(), lif())
    graph.edges.append(("input", "1"))
    return graph


def branch() -> nir.NIRGraph:
    graph = chain(affine(), lif())
    graph.nodes["side"] = lif()
    graph.edges += [("0", "side")]
    return graph


def two_inputs() -> nir.NIRGraph:
    graph = chain(affine(), lif())
    graph.nodes["more"] = nir.Input(input_type={"input": np.array([3])})
    graph.edges += [("more", "1")]
    return graph


def long_loop() -> nir.NIRGraph:
    graph = chain(lif(), affine(), lif())
    graph.edges.append(("2", "0"))
    return graph


def two_loops() -> nir.NIRGraph:
    graph = chain(lif(), n0=nir.Linear(np.eye(3)))
    graph.edges.append(("0", "0"))
    return graph


IMAGE = (1, 2, 2)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (skip(), "node 'input' feeds '0', '1'; in a chain every node feeds one"),
        (branch(), "the graph has 1 Inputs and 2 Outputs"),
        (two_inputs(), "the graph has 2 Inputs and 1 Outputs"),
        (long_loop(), "node '0' is fed by 'input', '2'; in a chain every node is fed by one"),
        (two_loops(), "node '0' has 2 ways back to itself"),
        (
            chain(lif(), n0=nir.Affine(np.eye(3), np.ones(3))),
            "'loop 0' feeds '0' back with a bias, which does not act at the first step",
        ),
        (chain(lif(IMAGE), shape=IMAGE, n0=None), r"has the shape \(1, 2, 2\) and feeds itself"),
    ],
)
def test_what_is_no_chain_is_refused(graph: nir.NIRGraph, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chain_layers(discretise(graph, DT))


# ---- folding ----

CHAINS: dict[str, nir.NIRGraph] = {
    "plain": chain(affine(), lif()),
    "gain": chain(affine(), lif(r=[1.0, 2.0, 8.0])),
    "leak": chain(affine(), lif(r=2.0, leak=[0.5, -0.5, 1.0])),
    "reset": chain(affine(), lif(reset=[0.5, -1.0, 0.0])),
    "all, recurrent": chain(
        affine(),
        lif(r=[1.0, 2.0, 4.0], leak=0.25, threshold=[0.5, 0.75, 1.0], reset=[0.5, -0.25, 0.0]),
        affine(2, 3),
        lif(2, r=8.0, leak=-0.25, reset=0.25),
        n1=nir.Linear(np.array([[0.5, -1, 0], [0.25, 0, 0.5], [1, 0.5, -0.5]])),
    ),
    "no weights before": chain(lif(r=2.0, reset=0.5)),
    "leak, no weights before": chain(lif(r=2.0, leak=2.0)),
    "neuron before": chain(lif(), lif(r=2.0, threshold=0.25)),
    "IF": chain(affine(), nir.IF(np.full(3, 4.0), np.ones(3), np.full(3, 0.25))),
    "fast synapse": chain(
        affine(),
        nir.CubaLIF(*(np.full(3, v) for v in (DT, 0.25, 2.0, 0.25, 1.0, 0.0)), np.full(3, 2.0)),
    ),
    "convolution": chain(
        nir.Conv2d(None, np.arange(-4.0, 4.0).reshape(2, 1, 2, 2) / 4, 1, 0, 1, 1, np.ones(2) / 8),
        lif((2, 2, 2), r=2.0, leak=0.5),
        shape=(1, 3, 3),
    ),
    "convolution, gain by pixel": chain(
        nir.Conv2d(None, np.arange(-4.0, 4.0).reshape(2, 1, 2, 2) / 4, 1, 0, 1, 1, np.ones(2) / 8),
        lif((2, 2, 2), r=np.array([[1.0, 2.0], [4.0, 8.0]])),
        shape=(1, 3, 3),
    ),
    "extension": chain(affine(), SNU(np.full(3, 0.75), np.ones(3), "relu")),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_folded_neurons_are_plain_snus_with_the_same_spikes(kind: str) -> None:
    graph = CHAINS[kind]
    discrete = discretise(graph, DT)
    folded = fold(chain_layers(discrete))
    for layer in folded:
        if layer.neuron is not None:
            plain = Euler(
                decay=layer.neuron.decay,
                threshold=layer.neuron.threshold,
                config=layer.neuron.config,
            )
            assert layer.neuron == plain
    x = drive(*discrete.shapes["input"])
    expected, _ = network(graph, DT, torch.float64)(x)
    assert expected.mean() > 0.02
    with torch.no_grad():
        assert torch.equal(run_folded(folded, x), expected)


def test_folding_real_numbers_changes_no_spike_away_from_thresholds() -> None:
    random = np.random.default_rng(3)
    values = (random.uniform(0.07, 2, 40), random.uniform(1, 9, 40), random.normal(0, 0.2, 40))
    unit = nir.LIF(*values, random.uniform(0.2, 1, 40), random.normal(0, 0.1, 40))
    feed = nir.Affine(random.normal(0, 0.5, (40, 3)), random.normal(0, 0.1, 40))
    graph = chain(feed, unit, n1=nir.Linear(random.normal(0, 0.1, (40, 40))))
    expected, _ = network(graph, DT, torch.float64)(drive(3))
    with torch.no_grad():
        got = run_folded(fold(chain_layers(discretise(graph, DT))), drive(3))
    assert 0.05 < expected.mean() < 0.95
    assert torch.equal(got, expected)


def test_folding_leaves_its_argument_alone() -> None:
    found = chain_layers(discretise(CHAINS["all, recurrent"], DT))
    before = [np.array(getattr(layer.node, "weight", 0)) for layer in found]
    fold(found)
    for layer, weight in zip(found, before, strict=True):
        np.testing.assert_array_equal(getattr(layer.node, "weight", 0), weight)
    assert found[1].neuron is not None
    assert found[1].neuron.gain is not None


def test_a_neuron_without_a_threshold_stays_as_it_is() -> None:
    found = chain_layers(
        discretise(chain(affine(), nir.LI(*(np.full(3, v) for v in (0.25, 1.0, 0.5)))), DT)
    )
    assert fold(found) == found


CUBA = nir.CubaLIF(*(np.full(3, v) for v in (0.25, 0.25, 1.0, 0.0, 1.0)))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (chain(affine(), CUBA), "node '1' has a synaptic current"),
        (chain(lif(IMAGE, reset=0.5), shape=IMAGE), r"'0' of shape \(1, 2, 2\) has a v_reset"),
        (chain(lif(IMAGE, leak=0.5), shape=IMAGE), r"'0' of shape \(1, 2, 2\) has a v_leak"),
    ],
)
def test_what_is_no_snu_is_refused(graph: nir.NIRGraph, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold(chain_layers(discretise(graph, DT)))
