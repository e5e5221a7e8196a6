"""What PyTorch offers around a module works on the neurons of both hosts, a step a call too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

import snu_norse as sn
import snu_snntorch as st
from few import few_of
from gradients import currents, learned, transforms_agree

UNITS = 4


class Steps(nn.Module):
    """A neuron of snnTorch that keeps its states, run over a sequence."""

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        self.neuron.reset_mem()
        return torch.stack([self.neuron(x_t) for x_t in x])


class Handed(nn.Module):
    """A neuron that is handed its states and returns them, run over a sequence."""

    def __init__(self, neuron: nn.Module, start: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.neuron, self.start = neuron, start

    def forward(self, x: Tensor) -> Tensor:
        states: Any = [torch.zeros_like(x[0]) for _ in self.start] or [None]
        outputs = []
        for x_t in x:
            y, *states = self.neuron(x_t, *states)
            outputs.append(y)
        return torch.stack(outputs)


class First(nn.Module):
    """A layer over time without its state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        y: Tensor = found[0] if isinstance(found, tuple) else found
        return y


def snntorch_units(**settings: Any) -> dict[str, Callable[[], nn.Module]]:
    return {
        "SNU": lambda: st.SNU(0.8, **settings),
        "SNU, trained": lambda: st.SNU(0.8, learn_beta=True, learn_threshold=True, **settings),
        "SNU, atan": lambda: st.SNU(0.8, spike_grad=surrogate.atan(), **settings),
        "SNU, inhibited": lambda: st.SNU(0.8, lateral_inhibition=True, **settings),
        "sSNU": lambda: st.sSNU(0.8, **settings),
        "RSNU": lambda: st.RSNU(0.8, linear_features=UNITS, **settings),
        "RSNU, one to one": lambda: st.RSNU(0.8, all_to_all=False, **settings),
        "RsSNU": lambda: st.RsSNU(0.8, linear_features=UNITS, **settings),
        "SRC": lambda: st.SRC(-4.0, **settings),
    }


def kept(build: Callable[[], nn.Module]) -> nn.Module:
    return Steps(build())


def handed(build: Callable[[], Any]) -> nn.Module:
    neuron = build()
    return Handed(neuron, getattr(neuron, "states", ()))


def over_time(build: Callable[[], nn.Module]) -> nn.Module:
    return First(build())


LEARNED = sn.SNUParameters(learn_decay=True)
CELLS: dict[str, Callable[[], nn.Module]] = {
    "SNUCell": sn.SNUCell,
    "SNUCell, trained": lambda: sn.SNUCell(copy.deepcopy(LEARNED)),
    "sSNUCell": sn.sSNUCell,
    "SNURecurrentCell": lambda: sn.SNURecurrentCell(UNITS, UNITS),
    "sSNURecurrentCell": lambda: sn.sSNURecurrentCell(UNITS, UNITS),
    "SRCCell": sn.SRCCell,
    "SequentialState": lambda: norse.SequentialState(nn.Linear(UNITS, UNITS), sn.SNUCell()),
}
OVER_TIME: dict[str, Callable[[], nn.Module]] = {
    "SNUSequence": lambda: st.SNUSequence(0.8),
    "SNUSequence, atan": lambda: st.SNUSequence(0.8, 0.9, surrogate.atan(), output=True),
    "sSNUSequence": lambda: st.sSNUSequence(0.8),
    "SRCSequence": lambda: st.SRCSequence(-4.0),
    "Norse's SNU": sn.SNU,
    "Norse's SNU, recorded": lambda: sn.SNU(record_states=True),
    "Norse's SNURecurrent": lambda: sn.SNURecurrent(UNITS, UNITS),
    "Norse's SRC": sn.SRC,
    "Norse's Lift": lambda: norse.Lift(sn.SNUCell()),
}
KEPT, HANDED = snntorch_units(init_hidden=True), snntorch_units() | CELLS
NETS: dict[str, Callable[[], nn.Module]] = {
    **{f"{name}, kept": partial(kept, build) for name, build in KEPT.items()},
    **{name: partial(handed, build) for name, build in HANDED.items()},
    **{name: partial(over_time, build) for name, build in OVER_TIME.items()},
}
nets = pytest.mark.parametrize("kind", NETS)
COMPILED = few_of(
    NETS, "RSNU, kept", "SNU, trained", "SNU, inhibited", "SNUCell", "sSNURecurrentCell",
    "SequentialState", "SNUSequence, atan", "Norse's SNU, recorded",
)  # fmt: skip


def net_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[kind]()


@pytest.mark.parametrize("kind", COMPILED)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of a state that is kept
def test_a_compiled_network_is_one_graph_that_learns_the_same(kind: str) -> None:
    torch.compiler.reset()
    net, x = net_of(kind), currents(2, 3, UNITS)  # each step is traced
    expected = learned(net, net, x)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(learned(compiled, net, x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), net(x))


@nets
def test_transforms_find_the_gradients_of_autograd(kind: str) -> None:
    net, x = net_of(kind), currents(4, 3, UNITS)
    transforms_agree(net, x)


@nets
def test_a_mapped_network_runs_each_sample_alone_again_and_again(kind: str) -> None:
    net, x = net_of(kind), currents(3, 4, 2, UNITS)
    grad = torch.func.grad(lambda one: net(one).sum())
    for run in (net, grad):
        expected = torch.stack([run(one) for one in x])
        torch.testing.assert_close(torch.vmap(run)(x), expected)


@nets
def test_copies_and_anomaly_mode_change_nothing(kind: str) -> None:
    net, x = net_of(kind), currents(4, 3, UNITS)
    expected = learned(net, net, x)
    twin = copy.deepcopy(net)
    torch.testing.assert_close(learned(twin, twin, x), expected)
    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly():
        torch.testing.assert_close(learned(net, net, x), expected)


@nets
def test_a_batch_of_no_sequences_gives_empty_outputs(kind: str) -> None:
    net = net_of(kind)
    y, *grads = learned(net, net, torch.zeros(4, 0, UNITS))
    assert y.shape == (4, 0, UNITS)
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("kind", OVER_TIME)
def test_no_steps_give_empty_outputs(kind: str) -> None:
    if kind == "Norse's Lift":
        pytest.skip("Norse's own loop stacks nothing")
    net = net_of(kind)
    y, *grads = learned(net, net, torch.zeros(0, 3, UNITS))
    assert y.shape == (0, 3, UNITS)
    assert not any(grad.any() for grad in grads)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_parametrised_decays_are_held_as_trained_ones_are() -> None:
    neuron = st.SNU(torch.tensor(2.0).clamp(max=1), init_hidden=True, learn_beta=True)
    nn.utils.parametrize.register_parametrization(neuron, "beta", Halved())
    neuron(torch.ones(1, 1))
    assert neuron.decay == 0.5
    with torch.no_grad():
        neuron.parametrizations.beta.original.fill_(4.0)
    assert 0.99 < neuron.decay < 1
    p = sn.SRCParameters()
    nn.utils.parametrize.register_parametrization(p, "bias", Halved())
    assert p.held_bias == -3.0 or p.held_bias == p.config.bias_max


def test_what_torch_vmap_left_in_a_neuron_is_reset_as_anything_else() -> None:
    neuron = st.SNU(0.8, init_hidden=True)
    torch.vmap(neuron)(torch.ones(3, 2, UNITS))
    snntorch_zero = st.RSNU(0.8, linear_features=UNITS, init_hidden=True)
    torch.vmap(snntorch_zero)(torch.ones(3, 2, UNITS))
    st.reset(nn.Sequential(neuron, snntorch_zero))
    assert not neuron.mem.any()
    assert not snntorch_zero.spk.any()


def test_a_surrogate_of_the_host_has_no_second_derivative_inside_transforms() -> None:
    slope = torch.func.grad(lambda v: st.SNU(0.8, spike_grad=surrogate.atan())(v, v)[0].sum())
    with pytest.raises(RuntimeError, match="no derivative"):
        torch.func.grad(lambda v: slope(v).sum())(torch.ones(2, 3))


def test_a_neuron_without_a_surrogate_says_so_to_the_core_too() -> None:
    v = torch.ones(3)
    assert not st.SNU(surrogate_disable=True).config.surrogate(v).any()
    assert snntorch.Leaky(0.8, surrogate_disable=True).spike_grad(v).all()


@pytest.mark.parametrize("kind", [kind for kind in HANDED if kind not in CELLS])
def test_an_exported_step_that_is_handed_its_states_takes_any_batch(kind: str) -> None:
    neuron: Any = snntorch_units()[kind]()
    batch = torch.export.Dim("batch", min=1)
    given = tuple(currents(3, UNITS) for _ in (0, *neuron.states))
    sizes: Any = tuple({0: batch} for _ in given)
    if kind == "SRC":
        sizes = sizes[0], sizes[1:]  # it takes its states as *states
    program = torch.export.export(neuron, given, dynamic_shapes=sizes).module()
    for size in (1, 5):
        given = tuple(currents(size, UNITS) for _ in given)
        torch.testing.assert_close(program(*given), neuron(*given))


# Not SRCCell: torch 2.14 writes the guard of state.h_s with the name of state.h in it.
@pytest.mark.parametrize("kind", [kind for kind in CELLS if "SNU" in kind])
def test_an_exported_cell_takes_any_batch(kind: str) -> None:
    cell = CELLS[kind]()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        y, state = cell(currents(3, UNITS))
    sizes: Any = {0: batch}, type(state)(*({0: batch} for _ in state))
    program = torch.export.export(cell, (y, state), dynamic_shapes=sizes).module()
    for size in (1, 5):
        x = currents(size, UNITS)
        given = type(state)(*(x for _ in state))
        torch.testing.assert_close(program(x, given)[0], cell(x, given)[0])
