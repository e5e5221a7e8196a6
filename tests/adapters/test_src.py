"""What the Spiking Recurrent Cell promises in both adapters: the strict reference's outputs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from snu_plugin import graph, simulators
from snu_plugin.neuron import SRCConfig, SRCState, src_scan
from snu_plugin.training.networks import network

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")
from norse.torch import SequentialState  # noqa: E402

import snu_norse as sn  # noqa: E402
import snu_snntorch as st  # noqa: E402

ODD: dict[str, Any] = {
    "gate": "cur", "alpha": 0.8, "rho": 2.5, "z": 0.1, "r": 2.2, "r_s": -6.5, "z_hyp": 0.85,
    "z_dep": 0.05,
}  # fmt: skip


def trained() -> nir.NIRGraph:
    """Return 12-100-100-4 with biases of their own."""
    draw = Generator().manual_seed(3)
    net = network("src", (12, 20, 15, 4), SRCConfig(**ODD), readout=True, generator=draw)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("free_bias"):
                p.uniform_(-6, -4, generator=draw)
            if name.endswith("weights.weight"):
                p.abs_()
    return graph.to_nir(net)


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=Generator().manual_seed(1)) < 0.3).float()


def biases(count: int) -> Tensor:
    return torch.linspace(-6, -4, count)


@pytest.mark.parametrize("adapter", [st, sn])
def test_a_deep_network_runs_as_the_strict_reference_does_and_leaves_again(
    adapter: ModuleType, tmp_path: Path
) -> None:
    g, x = trained(), spikes(50, 3, 12)
    expected = graph.network(g)(x)[0]
    assert isinstance(expected, Tensor)
    assert expected.std() > 0.01
    assert np.array_equal(adapter.simulate(g, x.numpy()), expected.detach().numpy())
    back = adapter.to_nir(adapter.from_nir(g), x[0])
    graph.write(tmp_path / "back.nir", back)
    assert torch.equal(graph.network(graph.read(tmp_path / "back.nir"))(x)[0], expected)
    with pytest.raises(ValueError, match="SRC extension node"):
        adapter.to_nir(adapter.from_nir(g), x[0], strict=True)


def test_what_comes_in_are_the_adapters_own_neurons() -> None:
    kinds = [type(m) for m in st.from_nir(trained())]
    assert kinds == [nn.Linear, st.SRC, nn.Linear, st.SRC, nn.Linear]
    assert [type(m) for m in sn.from_nir(trained())] == [
        nn.Linear, sn.SRCCell, nn.Linear, sn.SRCCell, nn.Linear
    ]  # fmt: skip


@pytest.mark.slow
def test_verify_finds_both_adapters_exact() -> None:
    report = graph.verify(trained(), spikes(40, 2, 12), simulators.adapters())
    assert report.exact
    assert report.active > 0.1


def test_snntorch_cells_step_by_step_are_the_scan() -> None:
    x, bias = 3 * spikes(30, 2, 5), biases(5)
    expected, last = src_scan(x, SRCConfig(**ODD), bias=bias)
    assert (expected > 0.5).any()
    neuron, states = st.SRC(bias, **ODD), ()
    outputs = []
    for x_t in x:
        spk, *states = neuron(x_t, *states)
        outputs.append(spk)
    assert torch.equal(torch.stack(outputs), expected)
    hidden = st.SRC(bias, init_hidden=True, **ODD)
    assert torch.equal(torch.stack([hidden(x_t) for x_t in x]), expected)
    assert torch.equal(hidden.slow, last.h_s)
    st.reset(hidden)
    assert torch.equal(hidden(x[0]), expected[0])
    y, *states = st.SRCSequence(bias, output=True, **ODD)(x)
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(states, last, strict=True))


def test_norse_cells_step_by_step_are_the_scan() -> None:
    x, p = 3 * spikes(30, 2, 5), sn.SRCParameters(biases(5), **ODD)
    expected, last = src_scan(x, SRCConfig(**ODD), bias=biases(5))
    y, state = norse.Lift(norse.SequentialState(sn.SRCCell(p)))(x)
    assert torch.equal(y, expected)
    assert torch.equal(state[-1].h_s, last.h_s)
    for record in (False, True):
        y, state = sn.SRC(p, record_states=record)(x)
        assert torch.equal(y, expected)
        assert isinstance(state, SRCState)
        assert torch.equal(state.h[-1] if record else state.h, last.h)


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.SRC(biases(3), init_hidden=True, learn_bias=True),
        lambda: st.SRCSequence(biases(3), learn_bias=True),
        lambda: sn.SRC(sn.SRCParameters(biases(3))),
        lambda: sn.SRCCell(sn.SRCParameters(biases(3))),
    ],
    ids=["st.SRC", "st.SRCSequence", "sn.SRC", "sn.SRCCell"],
)
def test_cells_train_their_bias_up_to_its_limit_and_survive_copies(make: Any) -> None:
    layer = make()
    (bias,) = layer.parameters()
    x = 3 * spikes(6, 2, 3)

    def run(cells: Any) -> Tensor:
        sequence = isinstance(cells, (st.SRCSequence, sn.SRC))
        outputs = cells(x) if sequence else cells(x[0])
        y: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return y

    y = run(layer)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert (bias.grad > 0).any()
    with torch.no_grad():
        bias += 100
    st.reset(layer)
    at_limit = run(layer)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        st.reset(twin)
        assert torch.equal(run(twin), at_limit)
    fresh = make()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(run(fresh), at_limit)
    export = st.to_nir if isinstance(layer, (st.SRC, st.SRCSequence)) else sn.to_nir
    container = SequentialState if isinstance(layer, sn.SRCCell) else nn.Sequential
    net = container(nn.Linear(4, 3), layer)
    sample = torch.zeros(2, 1, 4) if isinstance(layer, (st.SRCSequence, sn.SRC)) else None
    (node,) = [n for n in export(net, sample).nodes.values() if isinstance(n, graph.SRC)]
    assert np.array_equal(node.bias, [-4.0, -4.0, -4.0])


def test_wrong_states_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gate is 'next'"):
        st.SRC(gate="next")
    with pytest.raises(ValueError, match="bias is"):
        sn.SRCParameters(-1.0)
    x = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="give syn, mem and slow"):
        st.SRC()(x, x)
    with pytest.raises(TypeError, match="init_hidden=True"):
        st.SRC(init_hidden=True)(x, x, x, x)
    with pytest.raises(ValueError, match="bias has shape"):
        st.to_nir(nn.Sequential(nn.Linear(4, 3), st.SRC(biases(2))), torch.zeros(1, 4))


@pytest.mark.filterwarnings("ignore:nirtorch:DeprecationWarning")  # snnTorch calls it
def test_registered_snntorch_resets_exports_and_imports_cells() -> None:
    from snntorch import utils
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    with st.registered():
        net = nn.Sequential(nn.Linear(4, 3), snntorch.SRC(biases(3), init_hidden=True))
        x = 3 * spikes(20, 2, 4)
        expected = torch.stack([net(x_t) for x_t in x])
        utils.reset(net)
        assert not net.get_buffer("1.mem").any()
        assert torch.equal(torch.stack([net(x_t) for x_t in x]), expected)
        again, state = import_from_nir(export_to_nir(net, x[0, 0])), None
        outputs = []
        for x_t in x:
            y, state = again(x_t, state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs), expected)
    assert not hasattr(snntorch, "SRC")


def test_registered_norse_exports_and_imports_cells() -> None:
    with sn.registered():
        net = norse.SequentialState(nn.Linear(4, 3), norse.SRCCell())
        found = norse.to_nir(net, torch.zeros(2, 4))
        x = 3 * spikes(20, 2, 4)
        again = norse.from_nir(found)
        assert torch.equal(norse.Lift(again)(x)[0], norse.Lift(net)(x)[0])
    assert not hasattr(norse, "SRCCell")
