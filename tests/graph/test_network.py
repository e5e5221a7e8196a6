"""The strict reference as a torch module."""

from __future__ import annotations

import copy
import importlib
import time
from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import SNU, declared, network, read, stamp, write

DT = 2.0**-10


def recurrent(size: int = 3, soft: bool = False) -> nir.NIRGraph:
    """12 inputs, a recurrent layer, 7 outputs."""
    random = np.random.default_rng(0)
    zero, tau = np.zeros(size), DT * random.uniform(1.5, 20, size)
    unit = nir.LIF(tau, tau / DT, zero, zero + 0.5, zero)
    if soft:
        unit = SNU(1 - DT / tau, zero + 0.5, soft=True)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([12])}),
        "fc1": nir.Affine(random.normal(0, 0.4, (size, 12)), random.normal(0, 0.1, size)),
        "lif1": unit,
        "rec": nir.Linear(random.normal(0, 0.2, (size, size))),
        "fc2": nir.Linear(random.normal(0, 0.4, (7, size))),
        "li": nir.LI(*(np.full(7, v) for v in (4 * DT, 4.0, 0.0))),
        "output": nir.Output(output_type={"output": np.array([7])}),
    }
    edges = [("input", "fc1"), ("fc1", "lif1"), ("lif1", "rec"), ("rec", "lif1"), ("lif1", "fc2")]
    edges += [("fc2", "li"), ("li", "output")]
    return stamp(nir.NIRGraph(nodes, edges, {}, type_check=False), DT)


def drive(steps: int = 20, batch: int = 4) -> torch.Tensor:
    return (torch.rand(steps, batch, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def test_gradients_reach_every_weight_and_the_input() -> None:
    net = network(recurrent())
    x = drive().requires_grad_()
    net(x)[0].square().sum().backward()
    assert {name for name, _ in net.named_parameters()} == {
        f"nodes.{net.names.index(name)}.{field}"
        for name, field in [
            ("fc1", "weight"),
            ("fc1", "bias"),
            ("rec", "weight"),
            ("fc2", "weight"),
        ]
    }
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert x.grad is not None


def test_gradients_of_a_soft_network_are_those_of_finite_differences() -> None:
    net = network(recurrent(soft=True), dtype=torch.float64)
    x = drive(5, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: net(x)[0], (x,))
    name = f"nodes.{net.names.index('rec')}.weight"
    weight = net.get_parameter(name).detach().clone().requires_grad_()

    def outputs(w: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.func.functional_call(net, {name: w}, (x.detach(),))[0]
        return y

    assert torch.autograd.gradcheck(outputs, (weight,))


def test_a_state_carries_over_segments_of_any_length() -> None:
    net = network(recurrent(), dtype=torch.float64)
    whole, last = net(drive())
    state, parts = None, []
    for part in torch.split(drive(), [1, 7, 0, 12]):
        y, state = net(part, state)
        parts.append(y)
    assert torch.equal(torch.cat(parts), whole)
    assert state is not None
    assert torch.equal(state.nodes["lif1"].v, last.nodes["lif1"].v)


def test_two_sequences_do_not_know_each_other() -> None:
    net = network(recurrent())
    assert torch.equal(net(drive())[0], net(drive())[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_takes_any_input_type_and_keeps_its_own(dtype: torch.dtype) -> None:
    net = network(recurrent(), dtype=dtype)
    for x in (drive().bool(), drive().int(), drive().double()):
        y, _ = net(x)
        assert y.dtype == dtype
        assert torch.equal(y, net(drive())[0])
    assert net.to(torch.float64)(drive())[0].dtype == torch.float64


def test_the_default_dtype_is_torch_s() -> None:
    assert network(recurrent())(drive())[0].dtype == torch.get_default_dtype()


def test_a_copy_and_a_state_dict_run_the_same() -> None:
    net, other = network(recurrent()), network(recurrent())
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(net.state_dict())
    expected, _ = net(drive())
    assert torch.equal(other(drive())[0], expected)
    assert torch.equal(copy.deepcopy(net)(drive())[0], expected)


def test_training_the_network_leaves_the_graph_alone() -> None:
    graph = recurrent()
    before = graph.nodes["fc1"].weight.copy()
    net = network(graph, dtype=torch.float64)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(graph.nodes["fc1"].weight, before)


def test_several_inputs_are_given_and_several_outputs_returned_by_name() -> None:
    graph = recurrent()
    graph.nodes["more"] = nir.Input(input_type={"input": np.array([3])})
    graph.nodes["spikes"] = nir.Output(output_type={"output": np.array([3])})
    graph.edges += [("more", "lif1"), ("lif1", "spikes")]
    net = network(graph)
    y, _ = net({"input": drive(), "more": torch.zeros(20, 4, 3)})
    assert y.keys() == {"output", "spikes"}
    assert torch.equal(y["output"], network(recurrent())(drive())[0])
    again, _ = net({"input": drive(), "more": torch.ones(20, 4, 3)})
    assert not torch.equal(again["spikes"], y["spikes"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(5, 2, 11),
            r"Input 'input' has shape \(5, 2, 11\); it must be \(T, B, 12\)",
        ),
        (torch.zeros(12), r"has shape \(12,\); it must be \(T, B, 12\)"),
        ({"in": torch.zeros(5, 2, 12)}, "x is given for 'in'; the Inputs of the graph are 'input'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    x: torch.Tensor | dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        network(recurrent())(x)


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(LookupError, match="no node 'x'; the nodes: fc1, fc2"):
        network(recurrent()).node("x")


def test_every_signal_can_be_kept() -> None:
    net = network(recurrent())
    values, _ = net.run(drive())
    assert values.keys() == set(net.names)
    assert {name: tuple(v.shape[2:]) for name, v in values.items()} == net.discrete.shapes
    few, _ = net.run(drive(), keep=("rec",))
    assert few.keys() == {"rec"}


def test_empty_sequences_and_batches_run() -> None:
    net = network(recurrent())
    assert net(torch.zeros(0, 4, 12))[0].shape == (0, 4, 7)
    assert net(torch.zeros(5, 0, 12))[0].shape == (5, 0, 7)


def test_an_average_counts_its_padding() -> None:
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1]))
    graph = nir.NIRGraph(
        {
            "input": nir.Input(input_type={"input": np.array([1, 2, 2])}),
            "pool": pool,
            "output": nir.Output(output_type={"output": np.array([1, 2, 2])}),
        },
        [("input", "pool"), ("pool", "output")],
        {},
        type_check=False,
    )
    assert network(graph)(torch.ones(1, 1, 1, 2, 2))[0].flatten().tolist() == [0.25] * 4


def test_a_long_chain_is_wired_quickly() -> None:
    names = [f"n{i:04d}" for i in range(400)]
    nodes = {name: nir.Scale(np.ones(1)) for name in names}
    graph = nir.NIRGraph(
        {
            "input": nir.Input(input_type={"input": np.array([1])}),
            **nodes,
            "output": nir.Output(output_type={"output": np.array([1])}),
        },
        list(zip(["input", *names], [*names, "output"], strict=True)),
        {},
        type_check=False,
    )
    start = time.perf_counter()
    y, _ = network(graph)(torch.ones(1, 1, 1))
    assert time.perf_counter() - start < 2
    assert y.item() == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_network_runs_on_a_gpu_as_on_a_cpu() -> None:
    net = network(recurrent(), dtype=torch.float64)
    expected, _ = net(drive())
    y, _ = net.cuda()(drive().cuda())
    torch.testing.assert_close(y.cpu(), expected)


def test_a_network_trained_on_leaves_as_it_now_runs(tmp_path: Path) -> None:
    net = network(recurrent(), dtype=torch.float64)
    x = drive().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = net(x)[0].detach()
    net(x)[0].square().sum().backward()
    optimizer.step()
    after, left = net(x)[0], net.to_nir()
    assert not torch.equal(after, before)
    write(tmp_path / "left.nir", left)
    assert torch.equal(network(read(tmp_path / "left.nir"), dtype=torch.float64)(x)[0], after)


def test_a_network_that_leaves_declares_what_it_was_run_with() -> None:
    given = recurrent()
    del given.metadata["snu"]
    left = network(given, dt=2 * DT, feedback="biased").to_nir()
    assert {n: declared(left)[n] for n in ("dt", "feedback")} == {
        "dt": 2 * DT,
        "feedback": "biased",
    }
    assert np.shares_memory(left.nodes["fc1"].weight, given.nodes["fc1"].weight) is False


def test_the_reset_of_a_subtracting_neuron_is_not_a_weight_that_training_changes() -> None:
    layers = importlib.import_module("snntorch").Leaky(beta=0.5, init_hidden=True)
    st = importlib.import_module("snu_snntorch")
    model = torch.nn.Sequential(torch.nn.Linear(12, 3), layers)
    net = network(st.to_nir(model, drive()))
    expected = net(drive())[0]
    with torch.no_grad():
        scales = [p for name, p in net.named_parameters() if name.endswith("scale")]
        assert scales
        for scale in scales:
            scale.mul_(2)  # as weight decay would
    assert torch.equal(net(drive())[0], expected)
    assert torch.equal(network(net.to_nir())(drive())[0], expected)


@pytest.mark.parametrize("field", ["weight", "bias"])
def test_weights_that_a_type_does_not_hold_are_refused_and_not_made_infinite(field: str) -> None:
    g = recurrent()
    getattr(g.nodes["fc1"], field).flat[0] = 1e39
    with pytest.raises(ValueError, match=rf"1 of .* {field} of node 'fc1' are beyond 3.4e\+38"):
        network(g)
    assert network(g, dtype=torch.float64)(drive().double())[0].isfinite().all()
