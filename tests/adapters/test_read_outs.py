"""What of a neuron a network returns: spikes, membrane or both, in loops as users write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import norse.torch
import pytest
import snntorch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snu_norse as sn
import snu_snntorch as st
from same_process import simulators_here
from snu_plugin import graph


class Recorded(nn.Module):
    """Weights, a neuron of snnTorch in a loop, and what is recorded of its states."""

    def __init__(self, neuron: nn.Module, record: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.neuron, self.record = nn.Linear(4, 3), neuron, record

    def forward(self, x: Tensor) -> Any:
        reset = self.neuron.reset_mem()  # type: ignore[operator]
        states = list(reset) if isinstance(reset, tuple) else [reset]
        kept = []
        for x_t in x:
            spk, *states = self.neuron(self.fc(x_t), *states)
            kept.append(self.record(spk, states))
        if isinstance(kept[0], Tensor):
            return torch.stack(kept)
        return tuple(torch.stack(steps) for steps in zip(*kept, strict=True))


def data() -> Tensor:
    return 4 * torch.rand((20, 2, 4), generator=torch.Generator().manual_seed(1)) - 1


def outputs(net: nn.Module, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a network gives, and what its graph does after a file."""
    graph.write(folder / "g.nir", st.to_nir(net, data()))
    found = graph.network(graph.read(folder / "g.nir"))(data())[0]
    with torch.no_grad():
        given = net(data())
    values = list(found.values()) if isinstance(found, dict) else [found]
    return list(given) if isinstance(given, tuple) else [given], values


NEVER = {"reset_mechanism": "none"}
NEURONS = {
    "Leaky": lambda: snntorch.Leaky(beta=0.8),
    "Leaky none": lambda: snntorch.Leaky(beta=0.8, **NEVER),
    "Lapicque none": lambda: snntorch.Lapicque(beta=0.8, threshold=0.2, **NEVER),
    "Synaptic": lambda: snntorch.Synaptic(alpha=0.5, beta=0.8),
    "Synaptic none": lambda: snntorch.Synaptic(alpha=0.5, beta=0.8, **NEVER),
}


@pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
@pytest.mark.parametrize(
    "record",
    [
        lambda spk, states: states[-1],
        lambda spk, states: (spk, states[-1]),
        lambda spk, states: (states[-1], spk),
        lambda spk, states: (spk, states[0], states[-1]),
    ],
    ids=["membrane", "both", "membrane first", "every state"],
)
def test_membranes_leave_as_the_integrators_that_they_are(
    neuron: Callable[[], nn.Module], record: Callable[..., Any], tmp_path: Path
) -> None:
    expected, found = outputs(Recorded(neuron(), record), tmp_path)
    assert len(expected) == len(found)
    for y, z in zip(expected, found, strict=True):
        assert y.any()
        torch.testing.assert_close(z, y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: snntorch.Leaky(beta=0.8, reset_mechanism="zero"),
        lambda: snntorch.Leaky(beta=0.8, reset_delay=False),
        lambda: snntorch.Synaptic(alpha=0.5, beta=0.8, reset_mechanism="zero", reset_delay=False),
        lambda: st.SNU(beta=0.8),
    ],
)
def test_a_membrane_that_no_node_has_is_refused_and_beside_the_spikes_left_out(
    neuron: Callable[[], nn.Module],
) -> None:
    with pytest.raises(ValueError, match=r"'output' receives a state of 'neuron' \(mem\), whose"):
        st.to_nir(Recorded(neuron(), lambda spk, states: states[-1]), data())
    both = st.to_nir(Recorded(neuron(), lambda spk, states: (spk, states[-1])), data())
    alone = st.to_nir(Recorded(neuron(), lambda spk, states: spk), data())
    assert both.nodes.keys() == alone.nodes.keys()
    assert "a state of 'neuron' (mem)" in graph.declared(both)["left_out"]["output_1"]


def test_a_membrane_that_feeds_another_layer_leaves(tmp_path: Path) -> None:
    class Deep(Recorded):
        def __init__(self) -> None:
            super().__init__(NEURONS["Leaky"](), alone)
            self.out = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Any:
            mem, y = self.neuron.reset_mem(), []  # type: ignore[operator]
            for x_t in x:
                spk, mem = self.neuron(self.fc(x_t), mem)
                y.append(self.out(mem + spk))
            return torch.stack(y)

    expected, found = outputs(Deep(), tmp_path)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)


def alone(spk: Tensor, states: Any) -> Tensor:
    return spk


@pytest.mark.parametrize(
    "give",
    [
        lambda net, x: net.neuron(net.fc(x))[1],
        lambda net, x: (net.neuron(net.fc(x)), net.neuron.mem)[1],
        lambda net, x: dict(zip(("spikes", "membrane"), net.neuron(net.fc(x)), strict=True)),
    ],
    ids=["returned", "held", "by name"],
)
def test_a_network_of_one_step_gives_its_membrane(give: Callable[..., Any]) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(4, 3)
            self.neuron = snntorch.Leaky(beta=0.8, init_hidden=True, output=True)

        def forward(self, x: Tensor) -> Any:
            return give(self, x)

    net, x = Step(), data()
    found = graph.network(st.to_nir(net, x[0]))(x)[0]
    st.reset(net)
    with torch.no_grad():
        steps = [net(x_t) for x_t in x]
    if isinstance(found, dict):
        assert found.keys() == {"spikes", "membrane"}
    for name in found if isinstance(found, dict) else [None]:
        expected = torch.stack([y if name is None else y[name] for y in steps])
        actual = found[name] if isinstance(found, dict) else found
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_a_state_for_the_next_call_beside_the_spikes_is_no_output() -> None:
    net = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.8, init_hidden=True, output=True))
    found = graph.network(st.to_nir(net, data()[0]))(data())[0]
    assert isinstance(found, Tensor)


def test_norses_integrator_gives_its_potential_and_a_maximum_of_its_spikes_leaves() -> None:
    torch.manual_seed(0)
    p = norse.torch.LIFBoxParameters(v_th=torch.tensor(0.05))
    net = norse.torch.SequentialState(
        nn.Conv2d(1, 2, 3), norse.torch.LIFBoxCell(p), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 3), norse.torch.LICell(),
    )  # fmt: skip
    x = 4 * torch.rand(20, 2, 1, 6, 6)
    with torch.no_grad():
        expected = norse.torch.Lift(net)(x)[0]
    found = graph.network(sn.to_nir(net, x[0]))(x)[0]
    assert expected.any()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_graph_of_spikes_and_membrane_is_verified_with_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulators_here(monkeypatch)
    net = Recorded(snntorch.Leaky(beta=0.8), lambda spk, states: (spk, states[-1]))
    report = graph.verify(st.to_nir(net, data()), data(), simulators=["snntorch"])
    ours = [run for run in report.runs if run.importer == "plugin"]
    assert [run.status for run in ours] == ["exact"]
    assert report.expected is not None
    assert report.expected.shape == (20, 2, 3 + 3)


class Convolutional(nn.Module):
    """A network of default neurons that sees one image in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.lif1 = nn.Conv2d(1, 4, 5, padding="same"), snntorch.Leaky(beta=0.9)
        self.conv2, self.lif2 = nn.Conv2d(4, 6, 5, padding="same"), snntorch.Leaky(beta=0.9)
        self.fc, self.lif3 = nn.Linear(54, 5), snntorch.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m1, m2, m3 = (lif.reset_mem() for lif in (self.lif1, self.lif2, self.lif3))
        spikes, membranes = [], []
        for _ in range(8):
            y, m1 = self.lif1(F.avg_pool2d(self.conv1(x), 2), m1)
            y, m2 = self.lif2(F.avg_pool2d(self.conv2(y), 2), m2)
            y, m3 = self.lif3(self.fc(y.flatten(1)), m3)
            spikes.append(y)
            membranes.append(m3)
        return torch.stack(spikes), torch.stack(membranes)


def test_a_network_that_sees_one_image_in_every_step_leaves_with_spikes_and_membranes() -> None:
    torch.manual_seed(1)
    net, x = Convolutional(), 2 * torch.rand(3, 1, 12, 12)
    for p in net.parameters():
        p.data.mul_(2 if p.dim() > 1 else 1)
    found = graph.network(st.to_nir(net, x))(x.expand(8, *x.shape))[0]
    with torch.no_grad():
        spikes, membranes = net(x)
    assert isinstance(found, dict)
    assert spikes.any()
    assert torch.equal(found["output"], spikes)
    torch.testing.assert_close(found["output_1"], membranes, atol=1e-5, rtol=1e-5)
