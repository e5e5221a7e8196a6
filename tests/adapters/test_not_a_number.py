"""What is not a number reaches the outputs of our neurons in both hosts, and of fused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snu_plugin as sp

NAN = float("nan")


def inputs() -> Tensor:
    x = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(0))
    x[2, 1, 3] = NAN
    return x


def kept(y: Tensor) -> bool:
    """Tell whether the unit that was given NaN gives it from then on, and no other unit does."""
    wanted = torch.zeros(6, 2, 5, dtype=torch.bool)
    wanted[2:, 1, 3] = True
    return torch.equal(y.isnan(), wanted)


@pytest.mark.parametrize("given", [None, "atan", "fast_sigmoid"])
@pytest.mark.parametrize("name", ["SNU", "sSNU", "SNUSequence", "sSNUSequence"])
def test_neurons_of_snntorch_keep_nan(name: str, given: str | None) -> None:
    snntorch = pytest.importorskip("snntorch")
    import snu_snntorch as st

    if given is not None and name.startswith("s"):
        pytest.skip("there is no surrogate to choose")
    more: dict[str, Any] = {}
    if given is not None:
        more["spike_grad"] = getattr(snntorch.surrogate, given)()
    if name.endswith("Sequence"):
        assert kept(getattr(st, name)(**more)(inputs()))
        return
    neuron = getattr(st, name)(init_hidden=True, **more)
    assert kept(torch.stack([neuron(x_t) for x_t in inputs()]))


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")  # snnTorch says so
@pytest.mark.parametrize("given", [None, "atan"])
def test_where_only_the_largest_may_fire_nan_is_kept_too(given: str | None) -> None:
    snntorch = pytest.importorskip("snntorch")
    import snu_snntorch as st

    slope = None if given is None else getattr(snntorch.surrogate, given)()
    neuron = st.SNU(init_hidden=True, inhibition=True, spike_grad=slope)
    assert kept(torch.stack([neuron(x_t) for x_t in inputs()]))


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
def test_snntorch_itself_loses_nan() -> None:
    snntorch = pytest.importorskip("snntorch")
    neuron, x = snntorch.Leaky(0.9, inhibition=True), torch.full((2, 5), 2.0)
    x[0, 1] = NAN
    spikes, _ = neuron(x, neuron.reset_mem())
    assert spikes.tolist() == [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_a_gradient_through_a_surrogate_of_snntorch_is_as_it_was() -> None:
    snntorch = pytest.importorskip("snntorch")
    import snu_snntorch as st

    surrogate = snntorch.surrogate.atan()
    mem = torch.linspace(-1, 3, 40).requires_grad_()
    (found,) = torch.autograd.grad(st.SNU(spike_grad=surrogate).fire_output(mem).sum(), mem)
    (wanted,) = torch.autograd.grad(surrogate(mem - 1).sum(), mem)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["SNUCell", "sSNUCell", "SNU", "sSNU"])
def test_neurons_of_norse_keep_nan(name: str) -> None:
    pytest.importorskip("norse")
    import snu_norse as sn

    neuron = getattr(sn, name)()
    if not name.endswith("Cell"):
        assert kept(neuron(inputs())[0])
        return
    state, outputs = None, []
    for x_t in inputs():
        y, state = neuron(x_t, state)
        outputs.append(y)
    assert kept(torch.stack(outputs))


def leaky() -> nn.Module:
    snntorch = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif = snntorch.Leaky(beta=0.9)

        def forward(self, x: Tensor) -> Tensor:
            mem, outputs = self.lif.init_leaky(), []
            for x_t in x:
                y, mem = self.lif(x_t, mem)
                outputs.append(y)
            return torch.stack(outputs)

    return Net()


@pytest.mark.parametrize("make", [leaky])
def test_accelerated_neurons_of_hosts_keep_nan_too(make: Callable[[], nn.Module]) -> None:
    fast = sp.accelerate(make(), inputs().nan_to_num(0.5))
    assert kept(fast(inputs()))
