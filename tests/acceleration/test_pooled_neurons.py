"""Neurons of a network that are pooled: as the network has them, and the outputs never made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import snu_plugin as sp
from snu_plugin.neuron.scan import find

snn: Any = pytest.importorskip("snntorch")
norse: Any = pytest.importorskip("norse.torch")
snu_norse: Any = pytest.importorskip("snu_norse")
snu_snntorch: Any = pytest.importorskip("snu_snntorch")
pytest.importorskip("numba")

STEPS = 19


class Tutorial(nn.Module):
    """Convolutions, neurons, and pools behind these, as snnTorch's users write them."""

    def __init__(self, neuron: Any, pool: nn.Module, records: bool = False) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 6, 3), nn.Linear(6 * 5 * 5, 4)
        self.lif1, self.lif2, self.pool, self.records = neuron(), neuron(), pool, records

    def forward(self, x: Tensor) -> Any:
        first, second = self.lif1.reset_mem(), self.lif2.reset_mem()
        state1 = first if isinstance(first, tuple) else (first,)
        state2 = second if isinstance(second, tuple) else (second,)
        spikes, potentials = [], []
        for t in range(len(x)):
            spk, *state1 = self.lif1(self.conv(x[t]), *state1)
            spk, *state2 = self.lif2(self.fc(self.pool(spk).flatten(1)), *state2)
            spikes.append(spk)
            potentials.append(state1[-1] if self.records else state2[-1])
        return torch.stack(spikes), torch.stack(potentials), state1[-1]


def norse_network(neuron: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return norse.SequentialState(  # type: ignore[no-any-return]
        norse.Lift(nn.Conv2d(2, 6, 3)), neuron, norse.Lift(nn.MaxPool2d(2)),
        nn.Flatten(2), nn.Linear(6 * 5 * 5, 4), norse.LI(),
    )  # fmt: skip


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Says of each scan with pools whether it was one call."""
    engine: Any = find("numba")
    real, calls = engine.lif_pooled, []

    def watched(*args: Any) -> Any:
        found = real(*args)
        calls.append(found is not None)
        return found

    monkeypatch.setitem(vars(engine), "lif_pooled", watched)
    return calls


def outcome(run: Any, net: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    net.zero_grad()
    found = run(x)
    outs = [t for t in (found if isinstance(found, tuple) else (found,)) if isinstance(t, Tensor)]
    loss: Any = sum((out * torch.arange(out.numel()).view(out.shape).sin()).sum() for out in outs)
    loss.backward()
    grads = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return outs, torch.cat(grads)


def check(net: nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in net.parameters():
            weights.mul_(4 if weights.dim() > 1 else 1)
    x = 3 * torch.rand(STEPS, 3, 2, 12, 12)
    fast = sp.accelerate(net, x)
    expected, gradients = outcome(net, net, x)
    found, fast_gradients = outcome(fast, net, x)
    assert expected[0].ne(0).float().mean() > 0.02
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert (fast_gradients - gradients).norm() <= 2e-6 * gradients.norm()


@pytest.mark.parametrize(
    "neuron",
    [
        lambda: snn.Leaky(beta=0.8),
        lambda: snn.Leaky(beta=0.8, learn_beta=True, learn_threshold=True, reset_mechanism="zero"),
        lambda: snn.Synaptic(alpha=0.5, beta=0.8),
        lambda: snn.Lapicque(beta=0.8, threshold=0.1),
    ],
)
def test_neurons_behind_convolutions_are_pooled_at_once(neuron: Any, pooled: list[bool]) -> None:
    torch.manual_seed(0)
    check(Tutorial(neuron, nn.MaxPool2d(2)))
    assert pooled
    assert all(pooled)


def test_units_of_ours_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = find("numba")
    real, calls = engine.snu_pooled, []

    def watched(*args: Any) -> Any:
        calls.append(True)
        return real(*args)

    monkeypatch.setitem(vars(engine), "snu_pooled", watched)
    torch.manual_seed(0)
    check(Tutorial(lambda: snu_snntorch.SNU(beta=0.8), nn.MaxPool2d(2)))
    check(norse_network(snu_norse.SNU()))
    assert len(calls) > 1


def test_norses_are_too(pooled: list[bool]) -> None:
    check(norse_network(norse.LIF()))
    assert pooled
    assert all(pooled)


@pytest.mark.parametrize(
    ("neuron", "pool", "records"),
    [
        (lambda: snn.Leaky(beta=0.8), nn.MaxPool2d(2), True),
        (lambda: snn.Leaky(beta=0.8), nn.MaxPool2d(3, stride=2, padding=1), False),
        (lambda: snn.Leaky(beta=0.8), nn.AvgPool2d(2), False),
        (lambda: snn.Leaky(beta=0.8, graded_spikes_factor=-2.0), nn.MaxPool2d(2), False),
        (lambda: snn.Alpha(alpha=0.9, beta=0.8), nn.MaxPool2d(2), False),
    ],
)
def test_others_are_pooled_behind_them(
    neuron: Any, pool: nn.Module, records: bool, pooled: list[bool]
) -> None:
    torch.manual_seed(0)
    check(Tutorial(neuron, pool, records))
    assert not any(pooled)
