"""Networks of snnTorch to NIR files and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch
import torch
from snntorch import utils
from snntorch.export_nir import export_to_nir
from torch import Tensor, nn

import snu_snntorch as st
from snu_plugin.graph import SNU as SNUNode
from snu_plugin.graph import check, declared, network, read, write


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Run a network that keeps its states over one sequence."""
    st.reset(net)
    with torch.no_grad():
        return torch.stack([net(x_t) for x_t in x])


def low(**settings: Any) -> dict[str, Any]:
    """Settings of a neuron that keeps its state and fires often."""
    return {"init_hidden": True, "threshold": 0.2} | settings


def feed_forward() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 7), st.SNU(beta=torch.rand(7), **low(learn_beta=True)), nn.Dropout(0.3),
        nn.Linear(7, 4, bias=False), st.SNU(beta=1.0, **low(threshold=torch.rand(4))),
    )  # fmt: skip


def recurrent() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 7), st.RSNU(linear_features=7, **low()), nn.Linear(7, 4),
        st.RSNU(V=torch.randn(4), all_to_all=False, **low()),
    )  # fmt: skip


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), padding=(1, 2), groups=2), st.SNU(**low()), nn.AvgPool2d(2),
        st.SNU(beta=torch.rand(4, 1, 1), **low()), nn.Flatten(), nn.Linear(48, 3), st.SNU(**low()),
    )  # fmt: skip


def extended() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 7), st.SNU(**low(g="relu")), nn.Linear(7, 7),
        st.SNU(**low(g="leaky_relu", slope=0.3)), nn.Linear(7, 4), st.sSNU(init_hidden=True),
        nn.Linear(4, 4), st.RsSNU(linear_features=4, init_hidden=True),
    )  # fmt: skip


NETWORKS = [(feed_forward, (5,)), (recurrent, (5,)), (convolutional, (2, 6, 8)), (extended, (5,))]


@pytest.mark.parametrize(("build", "shape"), NETWORKS)
def test_a_network_and_its_file_give_the_same_outputs_at_every_step(
    build: Callable[[], nn.Sequential], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = build().eval()
    write(tmp_path / "net.nir", st.to_nir(net, torch.rand(2, *shape)))
    again = st.from_nir(tmp_path / "net.nir")
    reference = network(read(tmp_path / "net.nir"))
    for seed in (1, 2):
        torch.manual_seed(seed)
        x = 3 * torch.rand(20, 3, *shape) - 0.5
        expected = run(net, x)
        assert 0.02 < expected.mean() < 0.98
        assert torch.equal(run(again, x), expected)
        actual, _ = reference(x)
        if build is extended:  # fused kernels have an exp of their own
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
        else:
            assert torch.equal(actual, expected)
        assert np.array_equal(st.simulate(read(tmp_path / "net.nir"), x.numpy()), expected)


def test_what_comes_back_is_made_of_the_hosts_own_layers() -> None:
    net = st.from_nir(st.to_nir(nn.Sequential(*feed_forward(), *recurrent()[1:])[:4]))
    assert [type(m) for m in net] == [nn.Linear, st.SNU, nn.Linear]
    net = st.from_nir(st.to_nir(convolutional(), torch.rand(1, 2, 6, 8)))
    kinds = [nn.Conv2d, st.SNU, nn.AvgPool2d, st.SNU, nn.Flatten, nn.Linear, st.SNU]
    assert [type(m) for m in net] == kinds
    net = st.from_nir(st.to_nir(extended()))
    assert [type(m) for m in net][1::2] == [st.SNU, st.SNU, st.sSNU, st.RsSNU]
    assert all(m.init_hidden and not m.output for m in list(net)[1::2])


def test_a_module_with_its_own_loop_leaves_as_what_it_steps_through() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(5, 6), st.SNU(threshold=0.2)
            self.fc2, self.lif2 = nn.Linear(6, 3), st.RSNU(linear_features=3, threshold=0.2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mem1 = self.lif1.reset_mem()
            spk2, mem2 = self.lif2.reset_mem()
            spikes, potentials = [], []
            for x_t in x:
                spk1, mem1 = self.lif1(self.fc1(x_t), mem1)
                spk2, mem2 = self.lif2(self.fc2(spk1), spk2, mem2)
                spikes.append(spk2)
                potentials.append(mem2)
            return torch.stack(spikes), torch.stack(potentials)

    torch.manual_seed(0)
    net = Net()
    x = 3 * torch.rand(20, 2, 5)
    with torch.no_grad():
        expected, _ = net(x)
    graph = st.to_nir(net)
    assert list(graph.nodes) == [
        "input", "fc1", "lif1", "fc2", "lif2.lif", "lif2.w_rec", "output",
    ]  # fmt: skip
    assert 0 < expected.mean() < 1
    assert torch.equal(run(st.from_nir(graph), x), expected)


def test_a_network_of_whole_sequences_leaves_as_the_same_graph_as_one_of_steps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), st.SNUSequence(), nn.Linear(7, 4), st.sSNUSequence())
    steps = nn.Sequential(
        net[0], st.SNU(init_hidden=True), net[2], st.sSNU(init_hidden=True)
    )  # fmt: skip
    for sample in (None, torch.rand(4, 2, 5)):
        graph, expected = st.to_nir(net, sample), st.to_nir(steps)
        assert graph.edges == expected.edges
        for name, node in graph.nodes.items():
            for field, value in node.to_dict().items():
                np.testing.assert_array_equal(value, expected.nodes[name].to_dict()[field])
    layer = st.SNUSequence()
    graph = st.to_nir(layer, torch.rand(4, 2, 5))
    assert graph.nodes["snusequence"].tau.shape == (5,)


def test_the_state_of_the_network_is_left_alone_and_gradients_do_not_matter() -> None:
    net = nn.Sequential(nn.Linear(3, 4), st.SNU(init_hidden=True, learn_beta=True))
    net(torch.rand(2, 3))
    mem = net[1].mem
    assert mem.requires_grad
    st.to_nir(net)
    assert net[1].mem is mem


def test_plain_snus_leave_as_standard_nodes_and_the_others_as_extensions() -> None:
    graph = st.to_nir(feed_forward())
    assert [type(n) for n in graph.nodes.values()][2::2] == [nir.LIF, nir.IF]
    st.to_nir(recurrent(), strict=True)
    graph = st.to_nir(extended())
    assert all(isinstance(graph.nodes[n], SNUNode) for n in ("1", "3", "5", "7.lif"))
    with pytest.raises(ValueError, match="1: standard NIR cannot say this unit"):
        st.to_nir(extended(), strict=True)


def test_a_lif_with_leak_and_reset_potentials_comes_back_to_the_last_bit() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tau, r, leak, threshold, reset = (rng.uniform(0.1, 1, 6) for _ in range(5))
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    lif = nir.LIF(tau=tau + 1, r=4 * r, v_leak=leak, v_threshold=threshold + 1, v_reset=-reset)
    nodes = {"w": nir.Linear(weight), "lif": lif}
    graph = nir.NIRGraph.from_list(*nodes.values())
    x = 3 * torch.rand(50, 4, 5)
    expected, _ = network(graph, dt=1.0)(x)
    assert 0 < expected.mean() < 1
    net = st.from_nir(graph, dt=1.0)
    assert [type(m).__name__ for m in net] == ["Linear", "Node"]
    assert torch.equal(run(net, x), expected)


@pytest.mark.parametrize(
    ("r", "kinds"), [(1.25, ["Linear", "SNU"]), (1.0, ["Linear", "Scale", "SNU"])]
)
def test_a_gain_moves_into_the_weights_only_if_that_rounds_nothing(
    r: float, kinds: list[str]
) -> None:
    lif = nir.LIF(*(np.full(6, value) for value in (2.5, r, 0.0, 0.5, 0.0)))
    graph = nir.NIRGraph.from_list(nir.Linear(np.eye(6)), lif)
    assert [type(m).__name__ for m in st.from_nir(graph, dt=1.0)] == kinds


def test_a_gain_without_weights_before_it_and_a_sum_pool_come_back_too() -> None:
    rng = np.random.default_rng(0)
    shape = (2, 3, 3)
    zero = np.zeros(shape)
    gain = rng.uniform(1, 2, shape)
    lif = nir.LIF(tau=zero + 2, r=gain, v_leak=zero, v_threshold=zero + 1, v_reset=zero)
    pool = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([1, 1]))
    graph = nir.NIRGraph(
        {"input": nir.Input({"input": np.array((2, 5, 5))}), "pool": pool, "lif": lif,
         "output": nir.Output({"output": np.array(shape)})},
        [("input", "pool"), ("pool", "lif"), ("lif", "output")], type_check=False,
    )  # fmt: skip
    x = torch.rand(30, 2, 2, 5, 5)
    expected, _ = network(graph, dt=1.0)(x)
    net = st.from_nir(graph, dt=1.0)
    assert torch.equal(run(net, x), expected)
    again, _ = network(st.to_nir(net, x[0]))(x)
    assert torch.equal(again, expected)


def test_graded_spikes_leave_as_a_scale_behind_them() -> None:
    factor = torch.tensor([0.5, 2.0, -1.0])
    for neuron in (st.SNU, st.sSNU):
        unit = neuron(threshold=0.3, graded_spikes_factor=factor, init_hidden=True)
        linear = nn.Linear(2, 3, bias=False)
        nn.init.constant_(linear.weight, 0.2)
        net = nn.Sequential(linear, unit)
        x = torch.rand(20, 2, 2)
        exported = st.to_nir(net, x[0])
        st.reset(net)
        with torch.no_grad():
            expected = torch.stack([net(step) for step in x])
        found = network(exported)(x)[0]
        assert torch.allclose(found, expected, atol=1e-6, rtol=0)
        assert len(set(expected.flatten().tolist())) > 3


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (st.SNU(state_quant=torch.floor, init_hidden=True), "1: state_quant is set; not yet"),
        (st.SNU(lateral_inhibition="sample", init_hidden=True), "1: config.lateral_inhibition"),
        (nn.Softmax(-1), r"the model's output receives softmax\(\) of '0'"),
    ],
)
def test_what_does_not_leave_is_refused_with_the_modules_name(
    neuron: nn.Module, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        st.to_nir(nn.Sequential(nn.Linear(2, 3), neuron))


def test_inhibition_and_recurrence_over_maps_are_refused() -> None:
    with pytest.warns(UserWarning, match="Inhibition"):
        winner = st.SNU(inhibition=True, init_hidden=True)
    with pytest.raises(ValueError, match="1: inhibition is True; not yet supported"):
        st.to_nir(nn.Sequential(nn.Linear(2, 3), winner))
    maps = nn.Sequential(nn.Conv2d(1, 1, 1), st.RSNU(all_to_all=False, init_hidden=True))
    with pytest.raises(ValueError, match=r"1: a recurrent layer of shape \(1, 2, 2\)"):
        st.to_nir(maps, torch.rand(1, 1, 2, 2))


def lif(**fields: Any) -> nir.LIF:
    values = {"tau": 2.0, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0} | fields
    return nir.LIF(**{name: np.full(2, value) for name, value in values.items()})


def cuba(size: int = 4, **fields: Any) -> nir.CubaLIF:
    plain = {"r": 1.5, "v_leak": 0.1, "v_threshold": 0.2, "v_reset": -0.1, "w_in": 1.2}
    values = {"tau_syn": 2.0, "tau_mem": 3.0} | plain | fields
    return nir.CubaLIF(**{name: np.full(size, value) for name, value in values.items()})


def affine(rows: int = 4, columns: int = 4) -> nir.Affine:
    rng = np.random.default_rng(rows)
    return nir.Affine(rng.normal(size=(rows, columns)), rng.normal(size=rows) / 4)


OTHERS: list[tuple[str, Callable[[], list[nir.NIRNode]], list[str]]] = [
    ("LI", lambda: [affine(), nir.LI(np.full(4, 2.0), np.ones(4), np.full(4, 0.3))],
     ["Linear", "Node"]),
    ("CubaLI", lambda: [nir.CubaLI(np.full(4, 2.0), np.full(4, 3.0), np.ones(4), np.zeros(4))],
     ["Node"]),
    ("CubaLIF", lambda: [affine(), cuba(), affine(3), lif_of(3)], ["Linear", "Node", "Linear",
     "SNU"]),
    ("CubaLIF with gains of 1",
     lambda: [affine(), cuba(r=3.0, w_in=2.0, v_leak=0.0, v_reset=0.0)], ["Linear", "Synaptic"]),
    ("Threshold", lambda: [affine(), nir.Threshold(np.full(4, 0.1))], ["Linear", "Node"]),
    ("Delay", lambda: [affine(), nir.Delay(np.array([0.0, 1.0, 2.0, 5.0])), lif_of(4)],
     ["Linear", "Node", "SNU"]),
    ("I", lambda: [nir.I(np.full(4, 0.3))], ["Node"]),
]  # fmt: skip


def lif_of(size: int) -> nir.LIF:
    zero = np.zeros(size)
    return nir.LIF(zero + 2.0, zero + 2.0, zero, zero + 0.3, zero)


@pytest.mark.parametrize(("name", "make", "kinds"), OTHERS, ids=[name for name, *_ in OTHERS])
def test_every_node_comes_back_as_what_the_reference_computes(
    name: str, make: Callable[[], list[nir.NIRNode]], kinds: list[str]
) -> None:
    torch.manual_seed(0)
    graph = nir.NIRGraph.from_list(*make())
    x = 2 * torch.rand(30, 3, 4) - 0.5
    expected = network(graph, dt=1.0)(x)[0].detach()
    assert expected.unique().numel() > 1
    net = st.from_nir(graph, dt=1.0)
    assert [type(m).__name__ for m in net] == kinds
    rounding = 0.0 if expected.unique().numel() == 2 else 1e-6  # of sums, a step or all at once
    for actual in (run(net, x), run(net, x), network(st.to_nir(net, x[0]))(x)[0]):
        torch.testing.assert_close(actual, expected, atol=rounding, rtol=0)


def wired_graph(**extra: Any) -> nir.NIRGraph:
    """Return two neurons that feed each other, with a way past the second."""
    nodes = {
        "input": nir.Input({"input": np.array([4])}), "a": affine(), "lif": lif_of(4),
        "b": nir.Linear(affine().weight.T), "cuba": cuba(), "back": nir.Linear(affine().weight),
        "output": nir.Output({"output": np.array([4])}),
    } | extra  # fmt: skip
    edges = [
        ("input", "a"), ("a", "lif"), ("lif", "b"), ("b", "cuba"), ("cuba", "back"),
        ("back", "lif"), ("cuba", "output"), ("lif", "output"),
    ]  # fmt: skip
    return nir.NIRGraph(nodes, edges, type_check=False)


def test_a_graph_that_is_no_chain_comes_back_wired() -> None:
    torch.manual_seed(0)
    graph = wired_graph()
    x = 2 * torch.rand(30, 3, 4)
    expected = network(graph, dt=1.0)(x)[0].detach()
    assert expected.unique().numel() == 3
    net = st.from_nir(graph, dt=1.0)
    assert [type(m).__name__ for m in net] == ["GraphNetwork"]
    assert torch.equal(run(net, x), expected)
    assert torch.equal(run(net, x), expected)
    assert not torch.equal(torch.stack([net(x_t) for x_t in x]), expected)
    again = st.to_nir(net)
    assert again.nodes.keys() == graph.nodes.keys()
    assert declared(again)["dt"] == 1.0
    assert torch.equal(network(again)(x)[0], expected)


def test_a_wired_network_leaves_with_what_it_has_learned_and_inside_another() -> None:
    torch.manual_seed(0)
    graph, x = wired_graph(), 2 * torch.rand(30, 3, 4)
    net = st.from_nir(graph, dt=1.0)
    with torch.no_grad():
        next(net.parameters()).mul_(0.5)
    assert torch.equal(network(st.to_nir(net))(x)[0], run(net, x))
    longer = nn.Sequential(nn.Linear(4, 4), net[0], nn.Linear(4, 3), st.SNU(**low()))
    left = st.to_nir(longer, x[0], dt=2**-10)
    assert {"0", "1.lif", "1.cuba", "2", "3"} <= left.nodes.keys()
    assert torch.equal(network(left)(x)[0], run(longer, x))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_few_sequences_are_rounded_as_in_the_strict_reference(batch: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(150, 88).numpy()
    nodes = [nir.Linear(weight), nir.LI(*(np.full(150, v) for v in (4.0, 1.0, 0.0)))]
    graph = nir.NIRGraph.from_list(*nodes, type_check=False)
    x = (torch.rand(50, batch, 88) < 0.1).float()
    assert torch.equal(run(st.from_nir(graph, dt=1.0), x), network(graph, dt=1.0)(x)[0])


def test_a_file_of_a_layer_with_a_recurrent_bias_runs_as_it_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = {"beta": torch.full((6,), 0.8), "threshold": torch.full((6,), 0.5)}
    zero = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    layer = snntorch.RLeaky(linear_features=6, **full, **zero)
    torch.nn.init.uniform_(layer.recurrent.bias, 0.3, 0.9)
    net = nn.Sequential(nn.Linear(5, 6), layer)
    x = torch.rand(40, 3, 5)
    with pytest.warns(DeprecationWarning, match="nirtorch.extract_nir_graph"):
        stock = export_to_nir(net, x[0, 0])
    write(tmp_path / "stock.nir", stock)
    graph = read(tmp_path / "stock.nir")
    expected = run(net, x)
    assert torch.equal(run(st.from_nir(graph, feedback="biased"), x), expected)
    assert not torch.equal(run(st.from_nir(graph), x), expected)


def test_a_recurrent_layer_with_currents_comes_back_and_leaves_again() -> None:
    torch.manual_seed(0)
    nodes = {"a": affine(), "cuba": cuba(), "w": nir.Linear(affine().weight)}
    ends = {"input": nir.Input({"input": np.array([4])}),
            "output": nir.Output({"output": np.array([4])})}  # fmt: skip
    edges = [("input", "a"), ("a", "cuba"), ("cuba", "w"), ("w", "cuba"), ("cuba", "output")]
    graph = nir.NIRGraph(nodes | ends, edges, type_check=False)
    x = 2 * torch.rand(30, 3, 4)
    expected = network(graph, dt=1.0)(x)[0].detach()
    net = st.from_nir(graph, dt=1.0)
    assert torch.equal(run(net, x), expected)
    assert 0 < expected.mean() < 1
    assert torch.equal(network(st.to_nir(net, x[0]))(x)[0], expected)


def test_several_inputs_and_outputs_go_by_name() -> None:
    graph = wired_graph(second=nir.Input({"input": np.array([4])}))
    graph.edges.append(("second", "cuba"))
    x = {"input": torch.rand(9, 2, 4), "second": torch.rand(9, 2, 4)}
    expected = network(graph, dt=1.0)(x)[0]
    net = st.from_nir(graph, dt=1.0)
    y = [net({name: value[t] for name, value in x.items()}) for t in range(9)]
    assert torch.equal(torch.stack(y), expected)
    with pytest.raises(ValueError, match="the Inputs of the graph are 'input', 'second'"):
        net(x["input"][0])


def test_a_graph_without_one_meaning_is_refused_with_the_nodes_name() -> None:
    with pytest.raises(ValueError, match=r"'lif': tau is 0\.5"):
        st.from_nir(nir.NIRGraph.from_list(lif(tau=0.5)), dt=1.0)


def test_a_missing_or_broken_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.nir"):
        st.from_nir(tmp_path / "none.nir")
    (tmp_path / "broken.nir").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(ValueError, match=r"broken\.nir"):
        st.from_nir(tmp_path / "broken.nir")


def test_simulate_stock_hands_the_graph_over_as_it_is_and_leaves_it_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    torch.manual_seed(0)
    x = 3 * torch.rand(30, 2, 5)
    net = nn.Sequential(nn.Linear(5, 7), st.SNU(beta=0.9, init_hidden=True))
    expected = run(net, x).numpy()
    assert np.array_equal(st.simulate_stock(st.to_nir(net, dt=1e-4), x.numpy(), 1e-4), expected)
    other = st.to_nir(net, dt=2**-10)
    assert not np.array_equal(st.simulate_stock(other, x.numpy()), expected)
    assert type(other.nodes["1"]) is nir.LIF
    assert capfd.readouterr().out == ""
    with pytest.raises(ValueError, match="SNU"):
        st.simulate_stock(st.to_nir(extended()), x.numpy())


def own_neuron(kind: str) -> nn.Module:
    zero: dict[str, Any] = low(reset_mechanism="zero", reset_delay=False)
    if kind == "leaky":
        return snntorch.Leaky(beta=torch.rand(6), **zero)  # type: ignore[no-any-return]
    if kind == "leaky, delayed":
        return snntorch.Leaky(beta=0.9, **zero | {"reset_delay": True})  # type: ignore[no-any-return]
    if kind == "rleaky":
        return snntorch.RLeaky(beta=0.8, linear_features=6, **zero)  # type: ignore[no-any-return]
    if kind == "rleaky, one to one":
        return snntorch.RLeaky(beta=0.8, V=torch.randn(6), all_to_all=False, **zero)  # type: ignore[no-any-return]
    return snntorch.Synaptic(alpha=torch.rand(6), beta=0.7, **zero)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind", ["leaky", "leaky, delayed", "rleaky", "rleaky, one to one", "synaptic"]
)
def test_the_hosts_own_neurons_leave_exactly(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), own_neuron(kind), nn.Linear(6, 3), st.SNU(**low()))
    write(tmp_path / "net.nir", st.to_nir(net, strict=True))
    x = torch.rand(40, 3, 5) - 0.2
    expected = run(net, x)
    assert 0.02 < expected.mean() < 0.98
    actual, _ = network(read(tmp_path / "net.nir"))(x)
    assert torch.equal(actual, expected)
    assert torch.equal(run(st.from_nir(tmp_path / "net.nir"), x), expected)


@pytest.mark.parametrize(
    "kind", ["leaky", "leaky, delayed", "rleaky", "rleaky, one to one", "synaptic", "SNU", "RSNU"]
)
def test_a_state_on_its_threshold_fires_nowhere(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = {
        "SNU": st.SNU(beta=0.9, **low()),
        "RSNU": st.RSNU(beta=0.9, linear_features=6, **low()),
    }
    neuron = ours[kind] if kind in ours else own_neuron(kind)
    net = nn.Sequential(nn.Linear(5, 6), neuron, nn.Linear(6, 3), st.SNU(**low()))
    for name, value in net.state_dict().items():
        whole = (4 * value).round() / 4  # weights, decays and thresholds on a grid
        value.copy_(whole.clamp(max=0.75) if "beta" in name or "alpha" in name else whole)
    write(tmp_path / "net.nir", st.to_nir(net, strict=True))
    graph = read(tmp_path / "net.nir")
    x = (torch.rand(40, 3, 5) < 0.4).float()
    expected = run(net, x)
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(network(graph)(x)[0], expected)
    assert torch.equal(run(st.from_nir(graph), x), expected)
    for name in ("1", "1.lif", "3"):
        if name in graph.nodes:  # now a tie fires
            graph.nodes[name].v_threshold = graph.nodes[name].v_threshold - 1e-6
    assert not torch.equal(network(graph)(x)[0], expected)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (snntorch.Leaky(beta=0.9, threshold=-0.5), "1: a threshold is negative.*not yet supported"),
        (snntorch.Leaky(beta=0.9, state_quant=torch.round), "1: state_quant is set; not yet"),
        (snntorch.Alpha(alpha=0.9, beta=0.8), "1: it resets by 'zero', and a spike of Alpha sets"),
        (snntorch.Lapicque(beta=0.3), r"1: it keeps -0\.203973 of its potential"),
        (snntorch.LeakyParallel(3, 3), "1: LeakyParallel has no form .*its potential is rectified"),
    ],
)
def test_the_hosts_neurons_that_nir_cannot_say_are_refused(neuron: nn.Module, message: str) -> None:
    neuron.init_hidden = True  # type: ignore[assignment]
    with pytest.raises((ValueError, TypeError), match=message):
        st.to_nir(nn.Sequential(nn.Linear(2, 3), neuron), torch.rand(4, 2))


@pytest.mark.parametrize(
    ("neuron", "membrane"),
    [
        (lambda: snntorch.Leaky(beta=torch.rand(6), **low(reset_mechanism="none")), nir.LI),
        (lambda: snntorch.Leaky(beta=1.0, **low(reset_mechanism="none")), nir.I),
        (
            lambda: snntorch.Synaptic(0.6, 0.7, **low(reset_mechanism="none", reset_delay=False)),
            nir.LI,
        ),
    ],
)
def test_a_neuron_without_a_reset_leaves_as_its_membrane_and_a_threshold(
    neuron: Callable[[], nn.Module], membrane: type[nir.NIRNode], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), neuron(), nn.Linear(6, 3), st.SNU(**low()))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_((8 * p).round() / 8)  # states land on thresholds
    write(tmp_path / "net.nir", st.to_nir(net, strict=True))
    graph = read(tmp_path / "net.nir")
    assert type(graph.nodes["1.mem"]) is membrane
    x = (torch.rand(40, 3, 5) < 0.4).float()
    expected = run(net, x)
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(network(graph)(x)[0], expected)
    assert torch.equal(run(st.from_nir(graph), x), expected)


def test_a_relabelled_leaky_leaves_as_what_it_computes() -> None:
    torch.manual_seed(0)
    leaky = snntorch.Leaky(beta=0.9, **low())
    leaky.reset_mechanism = "zero"
    net = nn.Sequential(nn.Linear(5, 6), leaky)
    x = torch.rand(40, 3, 5)
    assert torch.equal(network(st.to_nir(net))(x)[0], run(net, x))
    leaky.reset_delay = False
    with pytest.raises(ValueError, match="1: it was built to reset by 'subtract' and is labelled"):
        st.to_nir(net)


class Derived(snntorch.Leaky):  # type: ignore[misc]
    """A neuron of a user's own that computes what snnTorch's does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(beta=0.9, init_hidden=True, **settings)
        self.note = "mine"


class Doubled(Derived):
    """One that computes something else."""

    def fire(self, mem: Tensor) -> Tensor:
        spikes: Tensor = super().fire(mem)
        return 2 * spikes


def test_a_neuron_derived_from_the_hosts_leaves_if_it_replaces_nothing_of_theirs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), Derived(threshold=0.3))
    x = torch.rand(40, 3, 5)
    assert torch.equal(network(st.to_nir(net))(x)[0], run(net, x))
    for neuron, name in ((Doubled(), "fire"), (Derived(), "state_function"), (Derived(), "fire")):
        if type(neuron) is Derived:
            setattr(neuron, name, lambda x: x)
        with pytest.raises(TypeError, match=f"1: .* snnTorch's neurons and has {name}.. of its"):
            st.to_nir(nn.Sequential(nn.Linear(2, 3), neuron))


class ForgettingNet(nn.Module):
    """Resets its neurons as snnTorch's function does that, before each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(5, 6), snntorch.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        spikes: Tensor = self.lif(self.fc(x))
        return spikes


def test_a_reset_by_the_list_of_all_neurons_is_seen() -> None:
    net, other = ForgettingNet(), snntorch.Leaky(beta=0.9, init_hidden=True)
    x = 3 * torch.rand(4, 3, 5)
    net(x[0])
    other(torch.ones(3))
    states = net.lif.mem, other.mem
    before = list(snntorch.SpikingNeuron.instances)
    with pytest.raises(ValueError, match=r"'lif': mem that goes into step 2 is not as"):
        st.to_nir(net, x[0])
    assert net.lif.mem is states[0]
    assert other.mem is states[1]
    after = snntorch.SpikingNeuron.instances
    assert len(after) == len(before)
    assert all(a is b for a, b in zip(after, before, strict=True))


def test_what_nir_cannot_say_leaves_on_demand_with_its_measured_cost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), snntorch.Alpha(alpha=0.9, beta=0.7, **low()))
    x = 2 * torch.rand(40, 3, 5) - 0.5
    with pytest.raises(ValueError, match=r"^1: "):
        st.to_nir(net)
    write(tmp_path / "net.nir", st.to_nir(net, x, approximate=True))
    graph = read(tmp_path / "net.nir")
    share = (network(graph)(x)[0] != run(net, x)).double().mean().item()
    assert 0 < share < 0.7
    (said,) = [v for v in check(graph) if v.verdict == "approximate"]
    assert (said.name, said.kind) == ("1", "CubaLIF")
    assert f"{share:.2%} of the graph's outputs differed, over 40 steps of 3" in said.reason


def test_an_approximation_is_measured_in_a_loop_over_time_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(5, 6), snntorch.Alpha(0.9, 0.7, threshold=0.2)

        def forward(self, x: Tensor) -> Tensor:
            states, spikes = self.lif.reset_mem(), []
            for x_t in x:
                spk, *states = self.lif(self.fc(x_t), *states)
                spikes.append(spk)
            return torch.stack(spikes)

    torch.manual_seed(0)
    net, x = Net(), 2 * torch.rand(40, 3, 5) - 0.5
    graph = st.to_nir(net, x, approximate=True)
    told = declared(graph)["approximate"]
    assert told["differing"] == (network(graph)(x)[0] != net(x)).double().mean().item() > 0
    with pytest.raises(ValueError, match=r"of shape \(3, 5\); approximate=True measures"):
        st.to_nir(net, x[0], approximate=True)


def test_an_approximation_changes_nothing_about_what_is_exact() -> None:
    x = torch.rand(4, 2, 5)
    assert "approximate" not in declared(st.to_nir(feed_forward(), x, approximate=True))
    neuron = snntorch.Leaky(beta=0.9, state_quant=torch.round, init_hidden=True)
    with pytest.raises(ValueError, match="state_quant"):
        st.to_nir(nn.Sequential(nn.Linear(5, 3), neuron), x, approximate=True)


def test_a_membrane_that_stands_beside_the_spikes_before_the_states_leaves() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(4, 3), snntorch.Leaky(0.5, reset_mechanism="none")

        def forward(self, x: Tensor, states: Any = None) -> Any:
            mem = self.lif.init_leaky() if states is None else states
            spk, mem = self.lif(self.fc(x), mem)
            return (spk, mem), mem

    g = st.to_nir(Net(), torch.rand(2, 4))
    assert sum(isinstance(node, nir.Output) for node in g.nodes.values()) == 2
