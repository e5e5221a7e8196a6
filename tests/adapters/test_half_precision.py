"""Neurons of both hosts where inputs have half precision, as under autocast: states are float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

snntorch = pytest.importorskip("snntorch")
norse = pytest.importorskip("norse.torch")
import snu_norse as sn  # noqa: E402
import snu_snntorch as st  # noqa: E402

HALF = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
SIZE = 5


def inputs(half: torch.dtype) -> Tensor:
    return torch.randn(9, 2, SIZE, generator=torch.Generator().manual_seed(0)).to(half)


def h() -> Tensor:
    return torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def each(value: float) -> Tensor:
    return torch.full((SIZE,), value)


STEPS: dict[str, Callable[..., Any]] = {
    "SNU": lambda **s: st.SNU(0.9, 0.5, **s),
    "SNU, each": lambda **s: st.SNU(each(0.9), each(0.5), **s),
    "SNU, ReLU": lambda **s: st.SNU(0.9, 0.5, g="relu", **s),
    "SNU, surrogate": lambda **s: st.SNU(0.9, 0.5, snntorch.surrogate.atan(), **s),
    "sSNU": lambda **s: st.sSNU(0.9, learn_beta=True, **s),
    "RSNU": lambda **s: st.RSNU(0.9, linear_features=SIZE, threshold=0.5, **s),
    "RSNU, one to one": lambda **s: st.RSNU(0.9, all_to_all=False, threshold=0.5, **s),
    "SRC": lambda **s: st.SRC(-4.0, **s),
}


def kept(neuron: nn.Module, x: Tensor) -> Tensor:
    """Step a neuron that keeps its states."""
    return torch.stack([neuron(x_t) for x_t in x])


@HALF
@pytest.mark.parametrize("kind", STEPS)
def test_neurons_of_snntorch_are_those_of_the_same_numbers_in_float32(
    kind: str, half: torch.dtype
) -> None:
    torch.manual_seed(0)
    neuron = STEPS[kind](init_hidden=True)
    other, x = copy.deepcopy(neuron), inputs(half).requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, expected = kept(neuron, x), kept(other, wide)
    assert y.dtype == half
    assert torch.equal(y, expected.to(half))
    assert neuron.mem.dtype == torch.float32
    assert torch.equal(neuron.mem, other.mem)
    (found,) = torch.autograd.grad(y.float().sum(), x)
    (exact,) = torch.autograd.grad(expected.sum(), wide)
    place = torch.finfo(half).eps  # the order of sums may differ
    torch.testing.assert_close(found, exact.to(half), rtol=place, atol=place)


@HALF
@pytest.mark.parametrize("kind", STEPS)
def test_neurons_of_snntorch_that_are_handed_their_states_return_them_in_float32(
    kind: str, half: torch.dtype
) -> None:
    neuron, other = STEPS[kind](), STEPS[kind]()
    other.load_state_dict(neuron.state_dict())
    x, given, wide = inputs(half), (), ()
    for x_t in x:
        y, *states = neuron(x_t, *given)
        expected, *others = other(x_t.float(), *wide)
        recurrent = isinstance(neuron, st.RSNU)
        given = (y, *states) if recurrent else tuple(states)
        wide = (expected, *others) if recurrent else tuple(others)
        assert y.dtype == half
        assert torch.equal(y, expected.to(half))
        assert all(state.dtype == torch.float32 for state in states)
        assert all(map(torch.equal, states, others))


@HALF
@pytest.mark.parametrize("kind", [k for k in STEPS if k != "SRC"])
def test_networks_of_half_precision_keep_their_states_in_float32(
    kind: str, half: torch.dtype
) -> None:
    net = nn.Sequential(nn.Linear(SIZE, SIZE), STEPS[kind](init_hidden=True)).to(half)
    y = kept(net, inputs(half))
    assert y.dtype == half
    assert net.get_buffer("1.mem").dtype == torch.float32
    grads = torch.autograd.grad(y.float().sum(), list(net.parameters()))
    assert all(grad.dtype == half for grad in grads)


@HALF
@pytest.mark.parametrize("kind", [st.SNUSequence, st.sSNUSequence])
def test_sequences_of_snntorch_do_the_same(kind: Any, half: torch.dtype) -> None:
    layer, x = kind(0.9, output=True), inputs(half)
    y, mem = layer(x)
    expected, last = layer(x.float())
    assert (y.dtype, mem.dtype) == (half, torch.float32)
    assert torch.equal(y, expected.to(half))
    assert torch.equal(mem, last)
    again, _ = layer(x, mem.to(half))
    assert torch.equal(again, layer(x.float(), mem.to(half).float())[0].to(half))


def parameters() -> Any:
    return sn.SNUParameters(0.9, 0.5)


NORSE: dict[str, Callable[[], nn.Module]] = {
    "SNUCell": lambda: sn.SNUCell(parameters()),
    "sSNUCell": lambda: sn.sSNUCell(parameters()),
    "SNUFeedbackCell": lambda: sn.SNUFeedbackCell(parameters(), h()),
    "SRCCell": lambda: sn.SRCCell(),
    "SNU": lambda: sn.SNU(parameters()),
    "sSNU": lambda: sn.sSNU(parameters()),
    "SNU, reference": lambda: sn.SNU(parameters(), impl="reference"),
    "SNU, recorded": lambda: sn.SNU(parameters(), record_states=True),
    "sSNU, recorded": lambda: sn.sSNU(parameters(), record_states=True),
    "SRC": lambda: sn.SRC(),
}


@HALF
@pytest.mark.parametrize("kind", NORSE)
def test_norses_are_those_of_the_same_numbers_in_float32(kind: str, half: torch.dtype) -> None:
    layer, x = NORSE[kind](), inputs(half)
    layer = norse.Lift(layer) if kind.endswith("Cell") else layer
    y, state = layer(x)
    expected, last = layer(x.float())
    assert y.dtype == half
    assert torch.equal(y, expected.to(half))
    assert all(part.dtype == torch.float32 for part in state)
    assert all(map(torch.equal, state, last))


@pytest.mark.parametrize(
    "layer",
    [
        sn.SNURecurrentCell(SIZE, 4, parameters()),
        sn.SNURecurrent(SIZE, 4, parameters()),
        sn.sSNURecurrent(SIZE, 4, parameters(), record_states=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_recurrent_layers_of_norse_run_under_autocast(layer: nn.Module) -> None:
    x = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
    assert (y.dtype, state.s.dtype) == (torch.bfloat16, torch.float32)
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_autocast_rounds_nothing_inside_a_recurrent_neuron_of_snntorch() -> None:
    neuron, x = st.RSNU(0.9, linear_features=SIZE, init_hidden=True), inputs(torch.float32)
    expected = kept(neuron, x)
    neuron.reset_mem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kept(neuron, x), expected)


@pytest.mark.parametrize("adapter", [st, sn])
def test_networks_from_graphs_gather_small_currents_under_autocast(adapter: Any) -> None:
    values = (np.array([v]) for v in (1.0, 1000.0, 0.0, 1.0))
    leaky = nir.LIF(*values, v_reset=np.array([0.01]))
    net = adapter.from_nir(nir.NIRGraph.from_list(nir.Linear(np.eye(1)), leaky), dt=1e-3)
    x = torch.full((2000, 1, 1), 0.002)

    def spikes() -> float:
        state, total = None, 0.0
        for x_t in x:
            y = net(x_t) if adapter is st else net(x_t, state)
            if adapter is sn:
                y, state = y
            total += float(y)
        return total

    with torch.no_grad():
        expected = spikes()
        if adapter is st:
            st.reset(net)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert spikes() == expected
    assert expected > 0
