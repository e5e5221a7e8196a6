"""snnTorch's own functions on our neurons as they are, without ``register()``."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest
import snntorch
import torch
from snntorch import functional, surrogate, utils
from snntorch.export_nir import export_to_nir
from torch import Tensor, nn

import snu_snntorch as st

SIZE = 5


def each(value: float) -> Tensor:
    return torch.full((SIZE,), value)


KINDS: dict[str, Callable[..., Any]] = {
    "SNU": lambda **s: st.SNU(each(0.9), each(0.3), **s),
    "SNU, ReLU": lambda **s: st.SNU(each(0.9), each(0.9), g="relu", **s),
    "SNU that fires at rest": lambda **s: st.SNU(each(0.9), each(-0.1), **s),
    "sSNU": lambda **s: st.sSNU(each(0.9), each(0.3), **s),
    "RSNU": lambda **s: st.RSNU(each(0.9), linear_features=SIZE, threshold=-0.1, **s),
    "RSNU, one to one": lambda **s: st.RSNU(0.9, each(0.5), False, threshold=each(0.3), **s),
    "RsSNU": lambda **s: st.RsSNU(each(0.9), linear_features=SIZE, **s),
    "SRC": lambda **s: st.SRC(-4.0, **s),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([net(x_t) for x_t in x])


def imported() -> dict[str, nn.Module]:
    """Networks from graphs that no layer of snnTorch computes: a node alone, and a branch."""
    leaky = nir.LIF(*(np.full(SIZE, v) for v in (0.01, 1.0, 0.1, 0.3)), v_reset=np.full(SIZE, 0.1))
    port = {"input": np.array([SIZE])}
    nodes = {
        "input": nir.Input(port),
        "leaky": leaky,
        "add": nir.Linear(np.eye(SIZE)),
        "output": nir.Output({"output": np.array([SIZE])}),
    }
    edges = [("input", "leaky"), ("input", "add"), ("leaky", "add"), ("add", "output")]
    one = nir.NIRGraph.from_list(nir.Linear(np.eye(SIZE)), leaky)
    branch = nir.NIRGraph(nodes, edges)
    return {"a node": st.from_nir(one, dt=1e-3), "a branch": st.from_nir(branch, dt=1e-3)}


@kinds
def test_reset_begins_a_new_sequence(kind: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, SIZE), KINDS[kind](init_hidden=True))
    x = 2 * torch.rand(9, 3, 4)
    first = run(net, x)
    assert not torch.equal(run(net, x), first)
    utils.reset(net)
    assert torch.equal(run(net, x), first)


@pytest.mark.parametrize("kind", ["a node", "a branch"])
def test_reset_begins_a_new_sequence_for_what_came_from_a_graph(kind: str) -> None:
    torch.manual_seed(0)
    net, x = imported()[kind], 4 * torch.rand(9, 3, SIZE)
    first = run(net, x)
    assert first.std() > 0.1
    assert not torch.equal(run(net, x), first)
    utils.reset(net)
    assert torch.equal(run(net, x), first)


def test_a_state_set_by_hand_is_what_a_neuron_goes_on_from() -> None:
    torch.manual_seed(0)
    neuron, x = st.RSNU(linear_features=SIZE, init_hidden=True, threshold=0.3), torch.rand(6, 2, 5)
    run(neuron, x[:3])
    spk, mem = neuron.spk.clone(), neuron.mem.clone()
    expected = run(neuron, x[3:])
    neuron.spk, neuron.mem = spk, mem
    assert spk.any()
    assert torch.equal(run(neuron, x[3:]), expected)


def backprop(name: str) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        function: Callable[..., Any] = getattr(importlib.import_module("snntorch.backprop"), name)
    return function


def trained(name: str, *neurons: nn.Module, **settings: Any) -> list[Tensor]:
    """Return what a network is after some steps of training by a function of ``backprop``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, SIZE), neurons[0], nn.Linear(SIZE, SIZE), neurons[1])
    data = [(3 * torch.rand(8, 4), torch.randint(0, SIZE, (8,))) for _ in range(3)]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
    backprop(name)(net, data, optimizer, loss, num_steps=6, time_var=False, **settings)
    return [p.detach() for p in net.parameters()]


WAYS = [("BPTT", {}), ("TBPTT", {"K": 2}), ("TBPTT", {"K": 4}), ("RTRL", {})]


@kinds
@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_backprop_trains_them(name: str, settings: dict[str, int], kind: str) -> None:
    last = KINDS[kind] if kind != "SRC" else KINDS["SNU"]
    neurons = KINDS[kind](init_hidden=True), last(init_hidden=True, output=True)
    after = trained(name, *neurons, **settings)
    before = trained(name, *(snntorch.Leaky(0.9, init_hidden=True, output=o) for o in (0, 1)))
    assert all(p.isfinite().all() for p in after)
    assert not torch.equal(after[0], before[0])


@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_backprop_trains_an_snu_as_leaky_that_resets_to_zero(
    name: str, settings: dict[str, int]
) -> None:
    same: dict[str, Any] = {"spike_grad": surrogate.atan(), "init_hidden": True}
    outputs = False, True
    ours = trained(
        name, *(st.SNU(0.9, output=o, detach_reset=True, **same) for o in outputs), **settings
    )
    theirs = trained(
        name,
        *(snntorch.Leaky(0.9, output=o, reset_mechanism="zero", **same) for o in outputs),
        **settings,
    )
    torch.testing.assert_close(ours, theirs)


def test_recurrent_units_of_one_network_are_cut_together_with_the_others() -> None:
    ours = KINDS["SNU"](init_hidden=True), KINDS["RSNU"](init_hidden=True, output=True)
    assert all(p.isfinite().all() for p in trained("TBPTT", *ours, K=2))


@kinds
@pytest.mark.parametrize("place", ["last", "hidden", "first"])
@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
def test_the_hosts_export_fails_and_writes_no_other_neuron(kind: str, place: str) -> None:
    neuron = KINDS[kind](init_hidden=True)
    known = snntorch.Leaky(each(0.9), threshold=each(1.0), init_hidden=True)
    first, second = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, SIZE)
    layers = {
        "last": (first, neuron),
        "hidden": (first, neuron, second, known),
        "first": (neuron, first, known),
    }
    with pytest.raises(AttributeError, match="NoneType"):
        export_to_nir(nn.Sequential(*layers[place]), torch.rand(2, SIZE), ignore_dims=[0])


def test_a_setting_that_is_refused_leaves_nothing_behind_for_reset_to_stumble_over() -> None:
    wrong: list[Callable[[], object]] = [
        lambda: st.SNU(g="tanh"),
        lambda: st.SNU(beta=2.0),
        lambda: st.SNU(graded_spikes_factor=float("nan")),
        lambda: st.RSNU(linear_features=2, reset_mechanism="none"),
        lambda: st.RSNU(V=float("inf"), all_to_all=False),
        lambda: st.SNU(inhibition=True),
    ]
    for build in wrong:
        with pytest.raises((ValueError, UserWarning), match=r"must|resets|unstable"):
            build()
    utils.reset(nn.Sequential(st.SNU()))


def test_what_nir_cannot_say_of_them_is_refused_also_where_the_nearest_would_do() -> None:
    net = nn.Sequential(nn.Linear(4, SIZE), st.SNU(init_hidden=True, state_quant=torch.round))
    with pytest.raises(ValueError, match="1: state_quant is set"):
        st.to_nir(net, torch.rand(3, 2, 4), approximate=True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (st.SNU, snntorch.Leaky), (st.sSNU, snntorch.Leaky),
        (st.RSNU, snntorch.RLeaky), (st.RsSNU, snntorch.RLeaky),
    ],
)  # fmt: skip
def test_the_arguments_are_the_hosts_in_its_order(ours: type, theirs: type) -> None:
    names = list(inspect.signature(theirs).parameters)
    found = inspect.signature(ours).parameters
    assert list(found)[: len(names)] == names
    own = list(found.values())[len(names) :]
    assert {p.name for p in own} == {"g", "slope", "detach_reset", "lateral_inhibition"}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in own)


def test_the_hosts_names_for_states_act_on_all_neurons_of_a_class() -> None:
    neuron, loop = st.SNU(0.9, 1.0, None, False, True), st.RSNU(linear_features=SIZE)
    x = torch.ones(2, SIZE)
    neuron(x.requires_grad_())
    loop(x)
    st.SNU.detach_hidden()
    assert not neuron.mem.requires_grad
    assert loop.mem.requires_grad
    st.SNU.reset_hidden()
    assert not neuron.mem.any()
    assert loop.mem.any()
    assert not neuron.init_leaky().any()
    assert not any(state.any() for state in loop.init_rleaky())
