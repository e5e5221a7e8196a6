"""Neurons of several nodes: what a spike takes away, as a wire, and the same as one neuron."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import check, network
from snu_plugin.graph.layers import (
    Around,
    chain_layers,
    discretise,
    integrator,
    silent,
    subtracting,
    subtracting_at_once,
)

DT = 2.0**-10
ONE = np.ones(3)


def graph_of(neuron: nir.NIRNode) -> nir.NIRGraph:
    port = np.array([3])
    nodes = {
        "input": nir.Input({"input": port}),
        "n": neuron,
        "output": nir.Output({"output": port}),
    }
    edges = [("input", "n"), ("n", "output")]
    return nir.NIRGraph(nodes, edges, metadata={}, type_check=False)


def run(graph: nir.NIRGraph, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = network(graph, DT, torch.float64)(x.double())[0]
    assert isinstance(y, torch.Tensor)
    return y


def drive(steps: int = 60) -> torch.Tensor:
    """Return inputs on a grid, on which every state below is exact."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-2, 8, (steps, 4, 3), generator=generator) / 4


def by_hand(x: torch.Tensor, threshold: float, amount: float) -> torch.Tensor:
    v = y = torch.zeros_like(x[0])
    found = []
    for x_t in x:
        v = 0.5 * v + x_t - amount * y
        y = (v > threshold).to(x)
        found.append(y)
    return torch.stack(found)


@pytest.mark.parametrize("threshold", [1.0, 0.25, 0.0, -0.5])
@pytest.mark.parametrize("amount", [1.0, 0.5, -0.25])
def test_a_spike_takes_an_amount_away_in_the_next_step(threshold: float, amount: float) -> None:
    neuron = subtracting(integrator(0.5 * ONE, DT), threshold * ONE, amount * ONE)
    x = drive(20)
    expected = by_hand(x.double(), threshold, amount)
    assert 0 < expected.mean() < 1
    assert torch.equal(run(graph_of(neuron), x), expected)


def test_it_is_one_neuron_and_says_so() -> None:
    graph = graph_of(subtracting(integrator(0.5 * ONE, DT), ONE, ONE))
    discrete = discretise(graph, DT)
    assert [tuple(one) for one in discrete.subtracting] == [("n.mem", "n.spike", "n.reset")]
    assert not any(block.delayed for block in discrete.wiring.blocks)
    assert [layer.name for layer in chain_layers(discrete, as_one=True)] == ["n.mem"]
    with pytest.raises(ValueError, match="chain"):  # for who does not know such layers
        chain_layers(discrete)
    reasons = {v.name: v.reason for v in check(graph, DT)}
    assert "with 'n.spike' and 'n.reset' one neuron" in reasons["n.mem"]


def test_what_is_not_exactly_that_stays_wired() -> None:
    """A threshold below zero (it would count as crossed before the first step), other ways back."""
    plain = subtracting(integrator(0.5 * ONE, DT), ONE, ONE)
    below = subtracting(integrator(0.5 * ONE, DT), -ONE, ONE)
    full = subtracting(integrator(0.5 * ONE, DT), ONE, ONE)
    full.nodes["reset"] = nir.Linear(-np.eye(3))
    read = subtracting(integrator(0.5 * ONE, DT), ONE, ONE)
    read.edges.append(("reset", "output"))
    cuba = subtracting(nir.CubaLI(*(2 * DT * ONE,) * 2, ONE, 0 * ONE), ONE, ONE)
    for graph in map(graph_of, (below, full, read, cuba)):
        discrete = discretise(graph, DT)
        assert discrete.subtracting == ()
        assert any(block.delayed for block in discrete.wiring.blocks)
        with pytest.raises(ValueError, match="chain"):
            chain_layers(discrete, as_one=True)
    x = drive(20)
    assert torch.equal(run(graph_of(full), x), run(graph_of(plain), x))


def test_a_gain_and_a_leak_of_the_membrane_are_kept() -> None:
    """The wire passes through the gain of an LI, as every input does."""
    x = drive(20)
    mem = nir.LI(tau=2 * DT * ONE, r=0.5 * ONE, v_leak=0.5 * ONE)
    one = graph_of(subtracting(mem, 0.5 * ONE, ONE))
    wired = graph_of(subtracting(mem, 0.5 * ONE, ONE))
    wired.nodes["n"].nodes["reset"] = nir.Linear(-np.eye(3))
    expected = run(wired, x)
    assert 0 < expected.mean() < 1
    assert torch.equal(run(one, x), expected)


def test_a_membrane_that_something_else_reads_is_still_there() -> None:
    neuron = subtracting(integrator(0.5 * ONE, DT), ONE, ONE)
    graph = graph_of(neuron)
    graph.nodes["potential"] = nir.Output({"output": np.array([3])})
    flat = nir.NIRGraph(
        {**{k: v for k, v in graph.nodes.items() if k != "n"},
         **{f"n.{k}": v for k, v in neuron.nodes.items() if k not in ("input", "output")}},
        [("input", "n.mem"), ("n.mem", "n.spike"), ("n.spike", "n.reset"), ("n.reset", "n.mem"),
         ("n.spike", "output"), ("n.mem", "potential")],
        metadata={}, type_check=False,
    )  # fmt: skip
    x = drive(20)
    y = network(flat, DT, torch.float64)(x.double())[0]
    assert isinstance(y, dict)
    assert torch.equal(y["output"], by_hand(x.double(), 1.0, 1.0))
    assert torch.equal(y["output"], (y["potential"] > 1).double())


def test_a_sequence_may_be_cut_anywhere() -> None:
    net = network(graph_of(subtracting(integrator(0.5 * ONE, DT), ONE, ONE)), DT, torch.float64)
    x = drive(20).double()
    whole, _ = net(x)
    first, state = net(x[:7])
    second, _ = net(x[7:], state)
    assert torch.equal(torch.cat([first, second]), whole)


def test_gradients_run_through_the_reset() -> None:
    graph = graph_of(subtracting(integrator(0.5 * ONE, DT), ONE, ONE))
    x = drive(6).double().requires_grad_()
    network(graph, DT, torch.float64)(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    wired = graph_of(subtracting(integrator(0.5 * ONE, DT), ONE, ONE))
    wired.nodes["n"].nodes["reset"] = nir.Linear(-np.eye(3))
    again = drive(6).double().requires_grad_()
    network(wired, DT, torch.float64)(again)[0].sum().backward()
    torch.testing.assert_close(x.grad, again.grad)


@pytest.mark.parametrize("threshold", [1.0, 0.25, 0.0])
def test_a_reset_at_once_is_snntorchs(threshold: float) -> None:
    neuron = subtracting_at_once(integrator(0.5 * ONE, DT), 0.5 * ONE, threshold * ONE, DT)
    x = drive(20).double()
    v, found = torch.zeros_like(x[0]), []
    for x_t in x:
        still = (v > threshold).double()
        s = 0.5 * v + x_t - threshold * still
        y = (s > threshold).double()
        v = s - threshold * (y - still)
        found.append(y)
    expected = torch.stack(found)
    assert 0 < expected.mean() < 1
    assert torch.equal(run(graph_of(neuron), x), expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_silent_neuron_loses_what_it_receives_after_a_spike(steps: int) -> None:
    lif = nir.LIF(tau=2 * DT * ONE, r=2 * ONE, v_leak=0 * ONE, v_threshold=ONE, v_reset=0 * ONE)
    neuron = silent(lif, steps, DT, Around(w_rec=nir.Linear(np.roll(np.eye(3), 1, 0) / 2)))
    x = drive(40).double()
    v, y, left = (torch.zeros_like(x[0]) for _ in range(3))
    found = []
    for x_t in x:
        v = (0.5 * v + x_t + y.roll(1, -1) / 2) * (left <= 0)
        y = (v > 1).double()
        v, left = v * (1 - y), torch.where(y > 0, steps, left - 1)
        found.append(y)
    expected = torch.stack(found)
    assert 0 < expected.mean() < 1
    assert torch.equal(run(graph_of(neuron), x), expected)
