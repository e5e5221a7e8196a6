"""Registering with Norse: our types work in its functions, all else stays as it was."""

import copy
from collections.abc import Iterator
from pathlib import Path

import h5py
import nir
import norse.torch as norse
import numpy as np
import pytest
import torch
from norse.torch.utils import export_nir, import_nir
from torch import Tensor, nn

import snu_norse as sn
from snu_norse.registration import NAMES
from snu_plugin import graph

pytestmark = pytest.mark.filterwarnings(
    "ignore:nirtorch:DeprecationWarning", "ignore:.*deprecated:DeprecationWarning"
)  # Norse calls nirtorch's old functions

HOOKED = (
    (norse, "to_nir"),
    (norse, "from_nir"),
    (export_nir, "_extract_norse_module"),
    (import_nir, "_import_norse_module"),
)
STOCK = [getattr(module, name) for module, name in HOOKED]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    sn.unregister()


def spikes(*shape: int) -> Tensor:
    return torch.bernoulli(torch.full(shape, 0.5), generator=torch.Generator().manual_seed(0))


def ours() -> nn.Module:
    torch.manual_seed(1)
    net: nn.Module = norse.SequentialState(
        nn.Linear(6, 5),
        sn.SNUCell(sn.SNUParameters(torch.rand(5), 0.2)),
        sn.SNURecurrentCell(5, 4),
        sn.sSNUCell(),
    )
    return net


def plain() -> nn.Module:
    torch.manual_seed(1)
    net: nn.Module = norse.SequentialState(
        nn.Linear(6, 5), sn.SNUCell(sn.SNUParameters(torch.rand(5), 0.2))
    )
    return net


def theirs() -> nn.Module:
    torch.manual_seed(2)
    p = norse.LIFBoxParameters(torch.full((5,), 80.0), torch.zeros(5), torch.full((5,), 0.4))
    net: nn.Module = norse.SequentialState(nn.Linear(6, 5), norse.LIFBoxCell(p))
    return net


def test_importing_the_adapter_registers_nothing() -> None:
    assert [getattr(module, name) for module, name in HOOKED] == STOCK
    assert not any(hasattr(norse, name) for name in NAMES)


def test_registering_adds_names_and_unregistering_takes_them_away() -> None:
    sn.register()
    sn.register()
    assert norse.SNU is sn.SNU
    assert all(getattr(norse, name) is getattr(sn, name) for name in NAMES)
    sn.unregister()
    sn.unregister()
    assert [getattr(module, name) for module, name in HOOKED] == STOCK
    assert not any(hasattr(norse, name) for name in NAMES)


def test_registered_undoes_what_it_did_also_after_an_error() -> None:
    with pytest.raises(KeyError, match="SNU"), sn.registered():
        raise KeyError(norse.SNU.__name__)
    assert norse.from_nir is STOCK[1]


def test_registered_leaves_an_earlier_registration() -> None:
    sn.register()
    with sn.registered():
        pass
    assert norse.SNUCell is sn.SNUCell


def test_norses_own_functions_carry_our_networks(tmp_path: Path) -> None:
    net, x = ours(), spikes(30, 2, 6)
    expected, _ = norse.Lift(net)(x)
    with sn.registered():
        exported = norse.to_nir(net, x[0])
        graph.write(tmp_path / "net.nir", exported)
        for given in (exported, graph.read(tmp_path / "net.nir"), str(tmp_path / "net.nir")):
            again = norse.from_nir(given)
            assert torch.equal(norse.Lift(again)(x)[0], expected)
    assert graph.declared(exported)["dt"] == 0.001


def test_a_graph_of_plain_lif_that_we_wrote_keeps_its_input_gain() -> None:
    net, x = plain(), spikes(30, 2, 6)
    expected, _ = norse.Lift(net)(x)
    with sn.registered():
        again = norse.from_nir(norse.to_nir(net, x[0]), dt=0.001)
    assert torch.equal(norse.Lift(again)(x)[0], expected)


def test_networks_without_our_types_take_norses_path_bit_for_bit() -> None:
    net, x = theirs(), spikes(20, 6)
    before = norse.to_nir(net, x[0])
    imported = norse.from_nir(copy.deepcopy(before), dt=1.0)
    with sn.registered():
        during = norse.to_nir(net, x[0])
        imported_during = norse.from_nir(copy.deepcopy(before), dt=1.0)
    assert [type(node) for node in during.nodes.values()] == [
        type(node) for node in before.nodes.values()
    ]
    assert during.edges == before.edges
    for name, field in (("0", "weight"), ("0", "bias"), ("1", "tau"), ("1", "v_threshold")):
        got, expected = (getattr(g.nodes[name], field) for g in (during, before))
        np.testing.assert_array_equal(got, expected)
    assert type(imported_during) is type(imported)
    states = [None, None]
    for x_t in x[:, None]:
        outputs = []
        for i, module in enumerate((imported, imported_during)):
            y, states[i] = module(x_t, states[i])
            outputs.append(y)
        assert torch.equal(*outputs)


def test_a_file_that_only_needed_repair_takes_norses_path(tmp_path: Path) -> None:
    full = (np.full(5, value) for value in (0.0125, 1.0, 0.0, 0.4, 0.0))
    made = nir.NIRGraph.from_list(nir.Linear(np.eye(5)), nir.LIF(*full))
    nir.write(tmp_path / "old.nir", made)
    with h5py.File(tmp_path / "old.nir", "a") as file:
        del file["node/nodes/lif/v_reset"]
    assert graph.declared(graph.read(tmp_path / "old.nir")) == {"no_v_reset": ["lif"]}
    expected = norse.from_nir(str(tmp_path / "old.nir"), dt=1e-3)
    with sn.registered():
        given = norse.from_nir(str(tmp_path / "old.nir"), dt=1e-3)
    assert [type(m) for m in given.modules()] == [type(m) for m in expected.modules()]
    assert not any(type(m).__module__.startswith("snu_norse") for m in given.modules())


def test_arguments_reach_norses_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(norse, "from_nir", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(norse, "to_nir", lambda *a, **k: calls.append((a, k)))
    node, x, net = nir.LI(*[np.ones(1)] * 3), spikes(1, 6), theirs()
    with sn.registered():
        norse.from_nir(node, True, dt=0.5)
        norse.from_nir(node, reset_method=abs)
        norse.to_nir(net, x, "name", dt=0.25)
    reset = import_nir.reset.reset_value
    assert calls == [
        ((node, True, reset, 0.5), {}),
        ((node, False, abs, 0.001), {}),
        ((net, x), {"model_name": "name", "dt": 0.25}),
    ]


def test_functions_bound_before_refuse_our_types_and_do_not_drop_them() -> None:
    exported = sn.to_nir(ours(), spikes(2, 6))
    with sn.registered():
        with pytest.raises(ValueError, match=r"SNU node came to a from_nir.*before register"):
            STOCK[1](exported)
        with pytest.raises(ValueError, match=r"SNUCell came to a to_nir.*before register"):
            STOCK[0](ours(), spikes(6))


def test_a_missing_file_fails_as_norse_fails() -> None:
    with sn.registered(), pytest.raises(FileNotFoundError):
        norse.from_nir("absent.nir")


def test_a_reset_method_for_our_graphs_is_refused() -> None:
    exported = sn.to_nir(ours())
    with sn.registered(), pytest.raises(ValueError, match="leave reset_method out"):
        norse.from_nir(exported, reset_method=import_nir.reset.reset_subtract)


def test_unregister_refuses_when_another_package_replaced_a_function_since() -> None:
    sn.register()
    mine = norse.from_nir
    norse.from_nir = abs
    try:
        with pytest.raises(RuntimeError, match=r"norse\.torch\.from_nir was replaced after"):
            sn.unregister()
        assert norse.SNU is sn.SNU
        assert import_nir._import_norse_module is not STOCK[3]
    finally:
        norse.from_nir = mine
    sn.unregister()
    assert norse.from_nir is STOCK[1]


def test_register_refuses_where_norse_has_the_names() -> None:
    norse.SNU = nn.Identity
    try:
        with pytest.raises(ValueError, match=r"norse\.torch has SNU already"):
            sn.register()
        assert norse.from_nir is STOCK[1]
    finally:
        del norse.SNU


def test_stock_simulation_is_norses_own_also_while_registered() -> None:
    exported = sn.to_nir(plain())
    x = spikes(20, 2, 6).numpy()
    expected = sn.simulate_stock(exported, x, 2**-10)
    with sn.registered():
        np.testing.assert_array_equal(sn.simulate_stock(exported, x, 2**-10), expected)
