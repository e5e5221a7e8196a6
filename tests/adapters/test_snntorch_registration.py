"""The neurons put into snnTorch's own functions, and taken out without a trace."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch
import torch
from snntorch import export_nir, functional, import_nir, utils
from torch import Tensor, nn

import snu_snntorch as st
from snu_plugin.graph import write

pytestmark = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")

NAMES = ("SNU", "sSNU", "RSNU", "RsSNU", "SNUSequence", "sSNUSequence", "SRC", "SRCSequence")


@pytest.fixture(autouse=True)
def _instances_as_before() -> Iterator[None]:
    count = len(snntorch.SpikingNeuron.instances)
    yield
    del snntorch.SpikingNeuron.instances[count:]


def everything() -> dict[str, Any]:
    """All globals of the modules of snnTorch that registration may touch."""
    modules = (snntorch, utils, export_nir, import_nir)
    return {f"{m.__name__}.{k}": v for m in modules for k, v in vars(m).items() if k[:3] != "is_"}


def backprop() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("snntorch.backprop")


def export(net: nn.Module, features: int) -> nir.NIRGraph:
    return export_nir.export_to_nir(net, torch.rand(2, features), ignore_dims=[0])


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([net(x_t) for x_t in x])


def run_imported(net: nn.Module, x: Tensor) -> Tensor:
    state: Any = None
    outputs = []
    with torch.no_grad():
        for x_t in x:
            y, state = net(x_t, state)
            outputs.append(y)
    return torch.stack(outputs)


def test_importing_the_adapter_changes_nothing_in_the_host() -> None:
    assert not any(hasattr(snntorch, name) for name in NAMES)


def test_unregister_restores_every_global() -> None:
    before = everything()
    st.register()
    st.register()
    assert snntorch.SNU is st.SNU
    assert snntorch.RsSNU is st.RsSNU
    changed = {k for k, v in everything().items() if v is not before.get(k)}
    assert changed == {
        *(f"snntorch.{name}" for name in NAMES), "snntorch.utils.reset",
        "snntorch.utils._final_layer_check", "snntorch.export_nir.export_to_nir",
            "snntorch.export_nir._extract_snntorch_module",
        "snntorch.import_nir.nirtorch",
        "snntorch.import_nir._replace_rnn_subgraph_with_nirgraph",
    }  # fmt: skip
    st.unregister()
    st.unregister()
    after = everything()
    assert after.keys() == before.keys()
    assert all(after[k] is before[k] for k in before)


def test_the_context_manager_restores_also_after_an_error_and_nests() -> None:
    before = everything()

    def fail() -> None:
        with st.registered():
            raise KeyError

    with st.registered():
        with pytest.raises(KeyError):
            fail()
        assert snntorch.SNU is st.SNU
    assert all(everything()[k] is before[k] for k in before)


def test_unregister_refuses_where_another_package_came_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    st.register()
    with monkeypatch.context() as patch:
        patch.setattr(utils, "reset", lambda net: None)
        with pytest.raises(RuntimeError, match=r"snntorch\.utils\.reset was replaced"):
            st.unregister()
        assert snntorch.SNU is st.SNU
    st.unregister()
    monkeypatch.setattr(snntorch, "SNU", object, raising=False)
    with pytest.raises(RuntimeError, match=r"snntorch\.SNU exists already"):
        st.register()
    assert not hasattr(snntorch, "sSNU")


def test_reset_of_the_host_reaches_our_neurons() -> None:
    inner = nn.Sequential(st.RSNU(linear_features=3, init_hidden=True, threshold=0.5))
    leaky = snntorch.Leaky(beta=0.5, init_hidden=True)
    net = nn.Sequential(st.SNU(init_hidden=True), inner, leaky)
    calls: list[Callable[[], None]] = [lambda: utils.reset(net), lambda: utils.reset(net=net)]
    for call in calls:
        net(3 * torch.ones(2, 3))
        with st.registered():
            call()
        states = [b for name, b in net.named_buffers() if name.split(".")[-1] in ("mem", "spk")]
        assert len(states) == 4
        assert not any(state.any() for state in states)


def layers(kind: Any, hidden: Any) -> list[nn.Module]:
    return [nn.Linear(4, 5), hidden, nn.Linear(5, 3), kind]


@pytest.mark.parametrize(
    "last",
    [
        st.SNU(init_hidden=True, output=True),
        st.sSNU(init_hidden=True, output=True),
        st.RSNU(linear_features=3, init_hidden=True, output=True),
        snntorch.Leaky(beta=0.8, init_hidden=True, output=True),
    ],
)
def test_backprop_through_time_of_the_host_trains_networks_with_our_neurons(
    last: nn.Module,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*layers(last, st.SNU(init_hidden=True, learn_threshold=True)))
    data = [(torch.rand(6, 8, 4), torch.randint(0, 3, (8,)))] * 3
    before = [p.detach().clone() for p in net.parameters()]
    with st.registered():
        loss = backprop().BPTT(
            net, data, torch.optim.SGD(net.parameters(), lr=0.1),
            functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2), time_var=True,
        )  # fmt: skip
    assert loss.isfinite()
    moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert all(moved[:4])


def test_networks_of_the_hosts_own_neurons_train_bit_for_bit_as_before() -> None:
    def train() -> list[Tensor]:
        torch.manual_seed(0)
        hidden = snntorch.Leaky(beta=0.9, init_hidden=True)
        last = snntorch.Leaky(beta=0.9, init_hidden=True, output=True)
        net = nn.Sequential(*layers(last, hidden))
        data = [(torch.rand(6, 8, 4), torch.randint(0, 3, (8,)))] * 3
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        backprop().BPTT(net, data, optimizer, functional.mse_count_loss(), time_var=True)
        return [p.detach() for p in net.parameters()]

    expected = train()
    with st.registered():
        actual = train()
    assert all(map(torch.equal, actual, expected))


def own() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), st.SNU(beta=0.7, threshold=0.2, init_hidden=True),
        nn.Linear(6, 5), st.RSNU(linear_features=5, threshold=0.2, init_hidden=True),
        nn.Linear(5, 3), st.sSNU(init_hidden=True),
    )  # fmt: skip


@pytest.mark.parametrize("count", [2, 4, 6])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_the_hosts_export_and_import_carry_our_neurons(
    count: int, through_a_file: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = own()[:count]
    x = 3 * torch.rand(25, 2, 4)
    with st.registered():
        graph = export(net, 4)
        if through_a_file and count < 6:
            nir.write(tmp_path / "g.nir", graph)
            graph = nir.read(tmp_path / "g.nir")
        imported = import_nir.import_from_nir(graph)
        st.reset(net)
        expected = run(net, x)
        actual = run_imported(imported, x)
    assert 0.02 < expected.mean() < 0.98
    differing = (
        (actual != expected).float().mean() if count < 6 else (actual - expected).abs().max()
    )
    assert differing < 1e-6
    write(tmp_path / "own.nir", graph)
    again = st.from_nir(tmp_path / "own.nir", dt=1e-4)
    torch.testing.assert_close(run(again, x), expected, atol=1e-6, rtol=0)


def test_an_unbatched_sample_is_enough_for_the_hosts_export() -> None:
    with st.registered():
        graph = export_nir.export_to_nir(own()[:2], torch.rand(4))
    assert graph.nodes["1"].tau.shape == (6,)


def test_a_layer_of_sequences_is_refused_by_the_hosts_export_of_steps() -> None:
    net = nn.Sequential(nn.Linear(4, 6), st.SNUSequence())
    with st.registered(), pytest.raises(ValueError, match=r"use snu_snntorch\.to_nir"):
        export_nir.export_to_nir(net, torch.rand(2, 3, 4))


def test_the_hosts_own_networks_are_exported_and_imported_as_before() -> None:
    def exchange() -> tuple[nir.NIRGraph, Tensor]:
        torch.manual_seed(0)
        leaky = snntorch.Leaky(
            beta=torch.full((6,), 0.8), threshold=torch.ones(6), init_hidden=True,
            reset_mechanism="zero",
        )  # fmt: skip
        recurrent = snntorch.RLeaky(beta=0.8, linear_features=3, init_hidden=True)
        graph = export(nn.Sequential(nn.Linear(4, 6), leaky, nn.Linear(6, 3), recurrent), 4)
        flat = {f"{n}.{k}": v for n, m in graph.nodes.items() for k, v in m.to_dict().items()}
        recurrent_too = import_nir.import_from_nir(graph)
        return flat, run_imported(recurrent_too, 3 * torch.rand(20, 2, 4))

    nodes, expected = exchange()
    with st.registered():
        ours, actual = exchange()
    assert torch.equal(actual, expected)
    assert ours.keys() == nodes.keys()
    for name, value in nodes.items():
        np.testing.assert_array_equal(ours[name], value)
