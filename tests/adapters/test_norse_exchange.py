"""Networks of Norse through NIR: equal outputs at every step, or a reason why not."""

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nir
import norse.torch as norse
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import snu_norse as sn
from snu_plugin import graph

GRAPHS = Path(__file__).parents[3] / "shared" / "reference" / "nir_graphs"

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")  # Norse calls it


def spikes(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full(shape, 0.4), generator=generator)


def parameters(size: int, **choices: object) -> sn.SNUParameters:
    decay, threshold = torch.rand(size) * 0.5 + 0.5, torch.rand(size) * 0.4 + 0.1
    return sn.SNUParameters(decay, threshold, **choices)


def on_a_grid(net: nn.Module) -> nn.Module:
    """Round to multiples of 1/8, so that states land on thresholds."""
    with torch.no_grad():
        for value in net.parameters():
            value.copy_((value * 8).round() / 8)
    return net


def feed_forward() -> nn.Module:
    net: nn.Module = norse.SequentialState(
        nn.Linear(6, 9), sn.SNUCell(parameters(9)), nn.Linear(9, 5, bias=False), sn.SNUCell()
    )
    return net.eval()


def recurrent() -> nn.Module:
    net: nn.Module = norse.SequentialState(
        nn.Linear(6, 5),
        sn.SNURecurrentCell(5, 8, parameters(8)),
        sn.SNURecurrentCell(8, 7, parameters(7), autapses=True),
    )
    return net.eval()


def convolutional() -> nn.Module:
    net: nn.Module = norse.SequentialState(
        nn.Conv2d(2, 4, (3, 2), padding=1),
        sn.SNUCell(sn.SNUParameters(torch.rand(4, 1, 1), 0.25)),
        nn.AvgPool2d(2, stride=1),
        nn.Conv2d(4, 4, 2, groups=4, stride=(1, 2)),
        sn.SNUCell(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(36, 3),
        sn.SNUCell(sn.SNUParameters(threshold=0.1)),
    )
    return net.eval()


def soft() -> nn.Module:
    net: nn.Module = norse.SequentialState(
        nn.Linear(6, 5),
        sn.sSNURecurrentCell(5, 4, parameters(4, g="leaky_relu", slope=0.2)),
        sn.SNUCell(parameters(4, g="relu")),
        nn.Linear(4, 3),
        sn.sSNUCell(),
    )
    return net.eval()


NETWORKS = [
    (feed_forward, (6,)),
    (recurrent, (6,)),
    (convolutional, (2, 5, 6)),
    (soft, (6,)),
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_export_to_a_file_and_import_loses_nothing(
    make: Callable[[], nn.Module], shape: tuple[int, ...], ties: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    net = on_a_grid(make()) if ties else make()
    x = spikes(40, 3, *shape)
    graph.write(tmp_path / "net.nir", sn.to_nir(net, x[0]))
    again = sn.from_nir(tmp_path / "net.nir")
    expected, _ = norse.Lift(net)(x)
    for batch in (slice(0, 3), slice(1, 2)):
        assert torch.equal(norse.Lift(again)(x[:, batch])[0], expected[:, batch])
    reference, _ = graph.network(graph.read(tmp_path / "net.nir"))(x)
    if make is soft:  # a fused sigmoid may round the last bit differently
        torch.testing.assert_close(reference, expected)
    else:
        assert torch.equal(reference, expected)
    assert expected.unique().numel() > 1


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_an_imported_network_leaves_as_the_same_network(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(2)
    first = sn.from_nir(sn.to_nir(make(), spikes(1, *shape)))
    second = sn.from_nir(sn.to_nir(first, spikes(1, *shape), dt=2**-13))
    x = spikes(20, 2, *shape)
    assert torch.equal(norse.Lift(second)(x)[0], norse.Lift(first)(x)[0])
    assert isinstance(second, norse.SequentialState)


def test_two_sequences_and_segments_through_an_imported_network() -> None:
    net = sn.from_nir(sn.to_nir(recurrent()))
    x = spikes(20, 2, 6)
    whole, _ = norse.Lift(net)(x)
    first, state = norse.Lift(net)(x[:7])
    second, _ = norse.Lift(net)((x[7:], state))
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(norse.Lift(net)(x)[0], whole)


def test_layers_over_time_leave_as_cells_do() -> None:
    torch.manual_seed(3)
    net = norse.SequentialState(
        norse.Lift(nn.Conv2d(1, 2, 3)),
        sn.SNU(),
        nn.Flatten(2),
        sn.SNURecurrent(18, 6, parameters(6)),
        norse.Lift(nn.Linear(6, 4)),
        sn.sSNU(),
    )
    x = spikes(12, 2, 1, 5, 5)
    expected, _ = net(x)
    torch.testing.assert_close(norse.Lift(sn.from_nir(sn.to_nir(net, x)))(x)[0], expected)


def test_recurrent_sequential_leaves_with_its_feedback() -> None:
    torch.manual_seed(4)
    loop = norse.RecurrentSequential(
        sn.SNURecurrentCell(5, 8, parameters(8)), nn.Linear(8, 5), sn.SNUCell(parameters(5))
    )
    net = norse.SequentialState(nn.Linear(6, 5), loop, nn.Linear(5, 4), sn.SNUCell())
    x = spikes(40, 3, 6)
    exported = sn.to_nir(net, x)
    assert ("1.module.2", "1.module.0.w_in") in exported.edges
    assert torch.equal(graph.network(exported)(x)[0], norse.Lift(net)(x)[0])


def test_a_users_own_module_with_a_loop_leaves() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.cell = nn.Linear(6, 5), sn.SNURecurrentCell(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for x_t in x:
                y, state = self.cell(self.fc(x_t), state)
                outputs.append(y)
            return torch.stack(outputs)

    net, x = Net(), spikes(20, 3, 6)
    assert torch.equal(graph.network(sn.to_nir(net, x))(x)[0], net(x))


def test_a_snu_leaves_as_plain_lif_with_complete_shapes() -> None:
    exported = sn.to_nir(convolutional(), spikes(1, 2, 5, 6), strict=True)
    lif = exported.nodes["1"]
    assert isinstance(lif, nir.LIF)
    assert {v.shape for v in (lif.tau, lif.r, lif.v_leak, lif.v_threshold)} == {(4, 5, 7)}
    assert lif.tau.dtype == np.float64
    assert graph.declared(exported)["dt"] == 2**-10
    assert graph.declared(sn.to_nir(feed_forward(), dt=1e-3))["dt"] == 1e-3


def test_export_changes_nothing_and_shares_nothing() -> None:
    net = recurrent()
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    exported = sn.to_nir(net)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(1)
    assert torch.equal(torch.get_rng_state(), random)
    np.testing.assert_array_equal(exported.nodes["0"].weight, before["0.weight"].numpy())
    np.testing.assert_array_equal(
        exported.nodes["2.snu.w_rec"].weight, before["2.recurrent_weights"].numpy()
    )
    assert type(net.get_submodule("1")) is sn.SNURecurrentCell


def test_absent_autapses_leave_as_zeros() -> None:
    cell = sn.SNURecurrentCell(2, 2, None, torch.eye(2), torch.ones(2, 2))
    weight = sn.to_nir(cell).nodes["snu.w_rec"].weight
    np.testing.assert_array_equal(weight, 1 - np.eye(2))


def test_import_shares_no_memory_and_draws_no_random_numbers() -> None:
    exported = sn.to_nir(recurrent())
    before, random = copy.deepcopy(exported.nodes["0"].weight), torch.get_rng_state()
    net = sn.from_nir(exported)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
    np.testing.assert_array_equal(exported.nodes["0"].weight, before)


def test_an_imported_network_trains() -> None:
    net = sn.from_nir(sn.to_nir(recurrent()))
    norse.Lift(net)(spikes(20, 3, 6))[0].sum().backward()
    gradients = {name: value.grad for name, value in net.named_parameters()}
    assert {"0.weight", "0.bias", "2.p.threshold", "2.recurrent_weights"} <= gradients.keys()
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
    assert any(bool(g.any()) for g in gradients.values() if g is not None)


def test_an_imported_network_survives_pickle_and_copy() -> None:
    made = chain(any_neuron("CubaLIF", (3,), 3), any_neuron("LI", (3,), 4), shape=(3,))
    looped = copy.deepcopy(made)
    looped.edges.append(("n1", "n0"))
    x = spikes(12, 2, 3)
    for source in (made, looped):
        net = sn.from_nir(source)
        expected, _ = norse.Lift(net)(x)
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(norse.Lift(twin)(x)[0], expected)


def test_an_imported_network_follows_torchs_default_type() -> None:
    exported = sn.to_nir(recurrent())
    torch.set_default_dtype(torch.float64)
    try:
        net = sn.from_nir(exported)
        y = sn.simulate(exported, spikes(5, 2, 6).numpy())
    finally:
        torch.set_default_dtype(torch.float32)
    assert {v.dtype for v in net.state_dict().values()} == {torch.float64}
    assert y.dtype == np.float64


def chain(*nodes: nir.NIRNode, shape: tuple[int, ...]) -> nir.NIRGraph:
    """A chain that declares dt = 2^-10; nir checks no types, because it gets some wrong."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    ends = nir.Input({"input": np.array(shape)}), nir.Output({"output": None})
    every = dict(zip(names, (ends[0], *nodes, ends[1]), strict=True))
    edges = list(pairwise(names))
    return graph.stamp(nir.NIRGraph(every, edges, metadata={}, type_check=False), 2**-10)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, high, shape)


def any_neuron(kind: str, shape: tuple[int, ...], seed: int) -> nir.NIRNode:
    terms = {
        "tau": uniform(0.001, 0.02, *shape, seed=seed),
        "tau_mem": uniform(0.001, 0.02, *shape, seed=seed),
        "tau_syn": uniform(0.001, 0.02, *shape, seed=seed + 1),
        "r": uniform(0.5, 9, *shape, seed=seed + 2),
        "v_leak": uniform(-0.2, 0.2, *shape, seed=seed + 3),
        "v_threshold": uniform(0.1, 0.6, *shape, seed=seed + 4),
        "v_reset": uniform(-0.3, 0.1, *shape, seed=seed + 5),
        "w_in": uniform(0.5, 9, *shape, seed=seed + 6),
    }
    if kind in ("IF", "I"):
        terms["r"] = terms["r"] * 100
    make = getattr(nir, kind)
    return make(**{f: terms[f] for f in make.__dataclass_fields__ if f in terms})


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["LIF", "IF", "LI", "I", "CubaLIF", "CubaLI"]),
    size=st.integers(1, 7),
    seed=st.integers(0, 999),
    loop=st.booleans(),
)
def test_any_neuron_runs_as_in_the_strict_reference(
    kind: str, size: int, seed: int, loop: bool
) -> None:
    weight = uniform(-1, 2, size, 4, seed=seed)
    made = chain(nir.Affine(weight, weight[:, 0]), any_neuron(kind, (size,), seed), shape=(4,))
    if loop:
        made.nodes["back"] = nir.Linear(uniform(-0.5, 0.5, size, size, seed=seed))
        made.edges += [("n1", "back"), ("back", "n1")]
    x = spikes(25, 3, 4, seed=seed)
    expected = graph.network(made)(x)[0].detach()
    np.testing.assert_array_equal(sn.simulate(made, x.numpy()), expected.numpy())
    moved = sn.to_nir(sn.from_nir(made), x[0], dt=2**-7)
    np.testing.assert_array_equal(sn.simulate(moved, x.numpy()), expected.numpy())


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (nir.Scale(uniform(-1, 2, 4)), (4,)),
        (nir.Threshold(uniform(-1, 1, 4)), (4,)),
        (nir.Delay(np.array([0.0, 1, 2, 5]) * 2**-10), (4,)),
        (nir.SumPool2d(np.array([2, 3]), np.array([1, 2]), np.array([1, 1])), (2, 5, 6)),
        (nir.AvgPool2d(np.array([2, 3]), np.array([1, 2]), np.array([1, 1])), (2, 5, 6)),
        (nir.Flatten({"input": np.array([2, 3, 4])}, 1, 2), (2, 3, 4)),
        (nir.Flatten({"input": np.array([2, 3, 4])}, 0, -1), (2, 3, 4)),
        (nir.Conv1d(9, uniform(-1, 1, 6, 1, 3), 2, 1, 2, 2, uniform(-1, 1, 6)), (2, 9)),
        (
            nir.Conv2d((9, 8), uniform(-1, 1, 6, 2, 3, 5), 1, "same", 1, 1, np.zeros(6)),
            (2, 9, 8),
        ),
        (nir.Linear(uniform(-1, 1, 3, 4)), (4,)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nir.NIRNode) else None,
)
def test_every_other_node_runs_as_in_the_strict_reference(
    node: nir.NIRNode, shape: tuple[int, ...]
) -> None:
    made = chain(node, shape=shape)
    x = torch.randn((9, 3, *shape), generator=torch.Generator().manual_seed(5))
    expected = graph.network(made)(x)[0].detach()
    np.testing.assert_array_equal(sn.simulate(made, x.numpy()), expected.numpy())
    if isinstance(node, nir.Flatten):
        return  # alone it is no module that could leave
    again = sn.to_nir(sn.from_nir(made), x[0])
    np.testing.assert_array_equal(sn.simulate(again, x.numpy()), expected.numpy())


def public(name: str) -> nir.NIRGraph:
    if not (GRAPHS / name).exists():
        pytest.skip(f"{GRAPHS / name} is absent")
    return graph.read(GRAPHS / name)


@pytest.mark.parametrize(
    ("name", "dt"),
    [("lif_norse.nir", 1e-4), ("conv_if_sumpool.nir", 1.0), ("two_lif_neurons.nir", 1e-4)],
)
def test_public_graphs_run_as_in_the_strict_reference(name: str, dt: float) -> None:
    read = public(name)
    net = graph.network(read, dt)
    (shape,) = (net.discrete.shapes[name] for name in net.discrete.inputs)
    x = spikes(50, 2, *shape) * 2
    expected = net(x)[0].detach()
    np.testing.assert_array_equal(sn.simulate(read, x.numpy(), dt), expected.numpy())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: graph.to_node(sn.SNUCell(parameters(5)), shape=(4,), dt=1.0),
            ValueError,
            r"p\.decay has shape \(5,\); it must broadcast to the layer's, \(4,\)",
        ),
        (
            lambda: sn.to_nir(norse.SequentialState(nn.Linear(3, 2), norse.LSNNCell())),
            TypeError,
            "1: no NIR rule for LSNNCell",
        ),
        (
            lambda: sn.to_nir(soft(), strict=True),
            ValueError,
            "1.snu: standard NIR cannot say this unit",
        ),
        (
            lambda: sn.to_nir(
                sn.SNUCell(sn.SNUParameters(lateral_inhibition="sample")), spikes(2, 4)
            ),
            ValueError,
            "lateral_inhibition",
        ),
        (
            lambda: sn.to_nir("net.nir"),  # type: ignore[arg-type]
            TypeError,
            "net is str; it must be a torch module",
        ),
        (lambda: sn.to_nir(sn.SNUCell()), ValueError, "pass sample"),
        (
            lambda: sn.to_nir(
                norse.RecurrentSequential(nn.Flatten(), nn.Linear(4, 4)), spikes(2, 4)
            ),
            ValueError,
            r"module\.0: Flatten is no node of its own.*RecurrentSequential",
        ),
        (
            lambda: sn.to_nir(norse.RecurrentSequential(nn.Linear(4, 3)), spikes(2, 4)),
            ValueError,
            r"the model: RecurrentSequential feeds shape \[3\] back to a layer that takes \[4\]",
        ),
        (
            lambda: sn.to_nir(
                norse.RecurrentSequential(nn.Linear(4, 4), output_modules=[0]), spikes(2, 4)
            ),
            ValueError,
            r"output_modules=\[0\]; one module can feed back",
        ),
        (
            lambda: graph.to_node(sn.SNURecurrentCell(2, 3), shape=(2,), dt=1.0),
            ValueError,
            "export the network with snu_norse.to_nir",
        ),
        (lambda: sn.from_nir("absent.nir"), FileNotFoundError, "absent.nir"),
        (
            lambda: sn.simulate_stock(sn.to_nir(soft()), spikes(3, 2, 6).numpy(), 2**-10),
            ValueError,
            "node '1.snu.lif' is an extension node, which nir.read refuses",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_recurrent_sequential_comes_back_wired(tmp_path: Path) -> None:
    torch.manual_seed(8)
    loop = norse.RecurrentSequential(nn.Linear(5, 5), sn.SNUCell(parameters(5)))
    net = norse.SequentialState(nn.Linear(6, 5), loop, nn.Linear(5, 4), sn.SNUCell())
    x = spikes(40, 3, 6)
    graph.write(tmp_path / "net.nir", sn.to_nir(net, x))
    again = sn.from_nir(tmp_path / "net.nir")
    expected, _ = norse.Lift(net)(x)
    assert torch.equal(norse.Lift(again)(x)[0], expected)
    _, state = norse.Lift(again)(x[:9])
    assert torch.equal(norse.Lift(again)((x[9:], state))[0], expected[9:])
    assert isinstance(again[0], sn.GraphCell)
    norse.Lift(again)(x)[0].sum().backward()
    assert all(p.grad is not None for p in again.parameters())
    assert torch.equal(graph.network(sn.to_nir(again))(x)[0], expected)


def test_a_wired_network_leaves_as_a_part_of_another() -> None:
    torch.manual_seed(8)
    loop = norse.RecurrentSequential(nn.Linear(5, 5), sn.SNUCell(parameters(5)))
    wired = sn.from_nir(sn.to_nir(norse.SequentialState(nn.Linear(5, 5), loop)))[0]
    net = norse.SequentialState(nn.Linear(6, 5), wired, nn.Linear(5, 4), sn.SNUCell())
    x = spikes(40, 3, 6)
    left = sn.to_nir(net, x[0])
    assert "1.1.module.0" in left.nodes
    assert torch.equal(graph.network(left)(x)[0], norse.Lift(net)(x)[0])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), more=st.sets(st.integers(0, 24), max_size=6), bias=st.booleans())
def test_any_wiring_runs_as_in_the_strict_reference(seed: int, more: set[int], bias: bool) -> None:
    kinds = ("LIF", "Linear", "CubaLIF", "Linear", "LIF")
    weight = uniform(-1, 1, 3, 3, seed=seed)
    linear = nir.Affine(weight, weight[0]) if bias else nir.Linear(weight)
    nodes = [linear if k == "Linear" else any_neuron(k, (3,), seed) for k in kinds]
    made = chain(*copy.deepcopy(nodes), shape=(3,))
    pairs = [(f"n{i}", f"n{j}") for i in range(5) for j in range(5)]
    made.edges += [pairs[i] for i in sorted(more) if pairs[i] not in made.edges]
    try:
        reference = graph.network(made)
    except ValueError:
        return  # e.g. a cycle without a state
    x = spikes(25, 2, 3, seed=seed)
    expected = reference(x)[0].detach()
    np.testing.assert_array_equal(sn.simulate(made, x.numpy()), expected.numpy())
    torch.testing.assert_close(norse.Lift(sn.from_nir(made))(x)[0].detach(), expected)


def test_several_inputs_and_outputs_are_named_by_dicts() -> None:
    made = chain(nir.Linear(uniform(-1, 1, 3, 3)), any_neuron("LIF", (3,), 1), shape=(3,))
    made.nodes |= {"more": copy.deepcopy(made.nodes["input"])}
    made.nodes |= {"drive": nir.Output({"output": None})}
    made.edges += [("more", "n1"), ("n0", "drive")]
    net, x = sn.from_nir(made), {"input": spikes(1, 2, 3), "more": spikes(1, 2, 3, seed=1)}
    y, state = net({name: value[0] for name, value in x.items()})
    expected, _ = graph.network(made)(x)
    assert y.keys() == expected.keys() == {"output", "drive"}
    for name, value in y.items():
        torch.testing.assert_close(value, expected[name][0])
    with pytest.raises(ValueError, match=r"x is given for 'input'; the Inputs .* 'input', 'more'"):
        net(x["input"][0], state)
    with pytest.raises(ValueError, match="the Inputs of the graph are"):
        sn.simulate(made, x["input"].numpy())


def test_a_graph_that_needs_a_dt_asks_for_it() -> None:
    made = chain(any_neuron("LIF", (2,), 0), shape=(2,))
    made.metadata.clear()
    with pytest.raises(ValueError, match="give dt"):
        sn.from_nir(made)
    assert sn.from_nir(made, 2**-10)[0].dt == 2**-10


def test_norses_own_importer_is_run_as_its_users_get_it() -> None:
    torch.manual_seed(6)
    exported = sn.to_nir(feed_forward())
    before = copy.deepcopy(exported.nodes["1"].r)
    x = spikes(60, 3, 6).numpy()
    expected = sn.simulate(exported, x)
    stock = sn.simulate_stock(exported, x, 2**-10)
    assert stock.shape == expected.shape
    assert (stock != expected).mean() > 0.01  # docs/hosts.md#norse-ignores-r
    np.testing.assert_array_equal(exported.nodes["1"].r, before)
    folded = copy.deepcopy(exported)
    for affine, lif in (("0", "1"), ("2", "3")):
        gain = folded.nodes[lif].r
        node = folded.nodes[affine]
        node.weight = gain[:, None] * node.weight
        if hasattr(node, "bias"):
            node.bias = gain * node.bias
        folded.nodes[lif].r = np.ones_like(gain)
    assert (sn.simulate_stock(folded, x, 2**-10) != expected).mean() < 0.01


def test_what_feeds_back_through_a_bias_leaves_as_it_begins_in_norse() -> None:
    weights = [nn.Linear(4, 4), nn.Linear(4, 4)]
    nn.init.constant_(weights[1].bias, 0.4)
    cell = sn.SNUCell(sn.SNUParameters(torch.tensor(0.8), torch.tensor(0.5)))
    net = norse.RecurrentSequential(weights[0], cell, weights[1], output_modules=2)
    exported = sn.to_nir(net, torch.rand(3, 4))
    assert {verdict.verdict for verdict in graph.check(exported)} == {"exact"}
    x, state, outputs = torch.rand(10, 3, 4), None, []
    for step in x:
        y, state = net(step, state)
        outputs.append(y)
    assert torch.allclose(graph.network(exported)(x)[0], torch.stack(outputs), atol=1e-6)


def test_a_network_in_float64_leaves_with_parameters_in_float32_as_norse_keeps_them() -> None:
    rates = torch.linspace(100.0, 900.0, 4)  # .double() does not reach what a tuple holds
    cell = norse.LIBoxCell(norse.LIBoxParameters(rates), dt=0.0005)
    net = norse.SequentialState(nn.Linear(3, 4), cell).double()
    x = torch.rand(12, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g = sn.to_nir(net, x[0])
    with torch.no_grad():
        torch.testing.assert_close(
            graph.network(g, dtype=torch.float64)(x)[0], norse.Lift(net)(x)[0], rtol=1e-6, atol=1e-6
        )
