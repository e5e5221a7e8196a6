"""Our neurons inside networks of the hosts: fused by their own scans, with the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import norse.torch as norse
import pytest
import snntorch
import torch
from snntorch import surrogate, utils
from torch import Tensor, nn

import snu_norse as sn
import snu_plugin as sp
import snu_snntorch as st

STEPS = 7


def alike(net: nn.Module, fast: Any, *inputs: Tensor, expected: Any = None) -> None:
    """Hold outputs and all gradients of both to each other, to rounding."""
    found = []
    for run in (net if expected is None else expected, fast):
        net.zero_grad()
        given = [x.clone().requires_grad_() for x in inputs]
        outs = run(*given)
        generator = torch.Generator().manual_seed(2)
        weights = [torch.rand(out.shape, generator=generator).to(out) for out in outs]
        sum((out * w).sum() for out, w in zip(outs, weights, strict=True)).backward()
        learned = [torch.zeros(()) if p.grad is None else p.grad for p in net.parameters()]
        found.append([*(o.detach() for o in outs), *(x.grad for x in given), *learned])
        assert any(bool(g.any()) for g in learned)
    rtol, atol = (1e-4, 1e-5) if inputs[0].dtype == torch.float32 else (1e-7, 1e-9)
    torch.testing.assert_close(found[1], found[0], rtol=rtol, atol=atol)


class Loop(nn.Module):
    """Two layers as tutorial 5 writes them: the loop inside, the states handed on."""

    def __init__(self, neuron: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)
        self.one: Any = neuron(16)
        self.two: Any = neuron(5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        states1, states2 = self.one.reset_mem(), self.two.reset_mem()
        states1 = states1 if isinstance(states1, tuple) else (states1,)
        states2 = states2 if isinstance(states2, tuple) else (states2,)
        outs, potentials = [], []
        for x_t in x:
            spk, *after = self.one(self.fc1(x_t), *states1)
            states1 = (spk, *after)[-len(states1) :]
            out, *after = self.two(self.fc2(spk), *states2)
            states2 = (out, *after)[-len(states2) :]
            outs.append(out)
            potentials.append(after[-1])
        return torch.stack(outs), torch.stack(potentials)


UNITS: dict[str, Callable[[int], nn.Module]] = {
    "SNU": lambda n: st.SNU(0.8, 0.3),
    "trained": lambda n: st.SNU(
        torch.rand(n), torch.rand(n) / 2, learn_beta=True, learn_threshold=True
    ),
    "host's surrogate": lambda n: st.SNU(
        0.8, 0.3, spike_grad=surrogate.fast_sigmoid(), detach_reset=True
    ),
    "relu": lambda n: st.SNU(0.8, 0.3, g="relu"),
    "inhibited": lambda n: st.SNU(0.8, 0.3, lateral_inhibition="sample"),
    "graded": lambda n: st.SNU(
        0.8, 0.3, graded_spikes_factor=2.0, learn_graded_spikes_factor=True
    ),
    "sSNU": lambda n: st.sSNU(0.8, 0.3),
    "RSNU": lambda n: st.RSNU(0.8, linear_features=n, threshold=0.3),
    "RsSNU": lambda n: st.RsSNU(0.8, linear_features=n),
    "SRC": lambda n: st.SRC(-4.0),
}  # fmt: skip


class Ending(Loop):
    """Records spikes of the last layer at every step, and potentials after the last alone."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        spikes, potentials = super().forward(x)
        return spikes, potentials[-1]


@pytest.mark.parametrize("network", [Loop, Ending])
@pytest.mark.parametrize("unit", UNITS)
def test_own_units_run_fused_between_layers_of_a_host(unit: str, network: type[Loop]) -> None:
    torch.manual_seed(0)
    net = network(UNITS[unit]).double()
    net.fc1.weight.data *= 3
    net.fc2.weight.data *= 3
    x = 2 * torch.rand(STEPS, 4, 12).double()
    fast = sp.accelerate(net, x)
    assert fast.report == {"one": "fused", "two": "fused"}
    alike(net, fast, x)


def test_a_learned_decay_beyond_its_limit_is_accelerated_and_all_else_compared() -> None:
    torch.manual_seed(0)
    net = Loop(lambda width: st.SNU(torch.linspace(0.1, 0.9, width), learn_beta=True))
    with torch.no_grad():
        net.one.beta[3] = 1.01
        net.two.beta[:2] = torch.tensor([-0.02, 1.2])
    x = (torch.rand(STEPS, 6, 12) < 0.5).float()
    fast = sp.accelerate(net, x)
    assert fast.report == {"one": "fused", "two": "fused"}
    inside = [2, 3, 4]
    found = []
    for run in (net, fast):
        net.zero_grad()
        sum(out.square().sum() for out in run(x)).backward()
        weights: Any = net.fc1.weight.grad
        found.append((weights.clone(), net.two.beta.grad[inside]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_own_and_foreign_neurons_stand_side_by_side_and_hold_their_states() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(12, 16), st.SNU(0.8, 0.3, init_hidden=True),
                nn.Linear(16, 16), snntorch.Leaky(0.8, threshold=0.2, init_hidden=True),
                nn.Linear(16, 5),
                st.RSNU(0.8, linear_features=5, threshold=0.1, init_hidden=True, output=True),
            )  # fmt: skip

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            utils.reset(self.net)
            spikes, potentials = zip(*(self.net(x_t) for x_t in x), strict=True)
            return torch.stack(spikes), potentials[-1]

    torch.manual_seed(0)
    net, x = Net(), 3 * torch.rand(STEPS, 4, 12)  # spikes of snnTorch are float32
    fast = sp.accelerate(net, x)
    assert set(fast.report.values()) == {"fused"}
    alike(net, fast, x)
    held, last = net.net[1].mem, net.net[5].spk
    net(x)
    torch.testing.assert_close((held, last), (net.net[1].mem, net.net[5].spk))


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")  # snnTorch says so
def test_what_no_scan_has_is_stepped_and_said() -> None:
    torch.manual_seed(0)
    net = Loop(
        lambda n: (
            st.SNU(0.8, 0.3, inhibition=True) if n > 5 else st.RSNU(0.8, 0.4, all_to_all=False)
        )
    ).double()
    x = 4 * torch.rand(STEPS, 4, 12).double()
    fast = sp.accelerate(net, x)
    assert fast.report == {
        "one": "inhibition=True", "two": "its recurrent weights are no nn.Linear"
    }  # fmt: skip
    alike(net, fast, x)


def test_layers_of_ours_that_take_a_sequence_keep_their_call() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 5)
            self.one, self.two = st.SNUSequence(0.8, 0.3), st.SNUSequence(0.8, 0.1, output=True)
            self.src = st.SRCSequence(-4.0)

        def forward(self, x: Tensor, mem: Tensor) -> tuple[Tensor, ...]:
            out: tuple[Tensor, ...] = self.two(self.fc2(self.src(self.one(self.fc1(x)))), mem)
            return out

    torch.manual_seed(0)
    net, x = Net().double(), 3 * torch.rand(STEPS, 4, 12).double()
    mem = torch.rand(4, 5).double()
    fast = sp.accelerate(net, (x, mem))
    assert fast.report == {"one": "fused", "two": "fused", "src": "fused"}
    alike(net, fast, x, mem)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "cells": lambda: norse.SequentialState(
        nn.Linear(12, 16), sn.SNUCell(), nn.Linear(16, 5), sn.SNUCell()
    ),
    "soft": lambda: norse.SequentialState(
        nn.Linear(12, 16), sn.sSNUCell(), nn.Linear(16, 5), norse.LICell()
    ),
    "recurrent": lambda: norse.SequentialState(
        sn.SNURecurrentCell(12, 16), nn.Linear(16, 5),
        sn.SNUCell(sn.SNUParameters(0.7, 0.1, learn_decay=True)),
    ),
    "SRC": lambda: norse.SequentialState(nn.Linear(12, 16), sn.SRCCell(), sn.SRCCell()),
}  # fmt: skip


@pytest.mark.parametrize("cells", CELLS)
def test_own_cells_run_fused_in_a_sequence_of_norse(cells: str) -> None:
    torch.manual_seed(0)
    net, x = CELLS[cells]().double(), 4 * torch.rand(STEPS, 3, 12).double()
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 5

    def loop(x: Tensor) -> tuple[Tensor, Tensor]:
        outs: list[Tensor] = []
        state: Any = None
        for x_t in x:
            out, state = net(x_t, state)
            outs.append(out)
        return torch.stack(outs), state[-1][0]

    fast = sp.accelerate(net, x[0])
    assert set(fast.report.values()) == {"fused"}

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        out, state = fast(x)
        return out, state[-1][0]

    alike(net, run, x, expected=loop)


def test_own_layers_over_time_run_in_a_sequence_of_norse_with_all_their_states() -> None:
    torch.manual_seed(0)
    net = norse.SequentialState(
        nn.Linear(12, 16), sn.SNU(), sn.SNURecurrent(16, 8), sn.SNU(record_states=True), sn.sSNU()
    ).double()
    net[0].weight.data *= 6
    x = 3 * torch.rand(STEPS, 3, 12).double()

    def some(run: Any) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def call(x: Tensor) -> tuple[Tensor, ...]:
            out, states = run(x)
            return out, states[3].v, states[2].s

        return call

    fast = sp.accelerate(net, x)
    assert set(fast.report.values()) == {"fused"}
    alike(net, some(fast), x, expected=some(net))
