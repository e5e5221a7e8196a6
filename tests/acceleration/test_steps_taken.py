"""However a loop takes its steps out of a sequence, its network is followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snu_plugin as sp

snn: Any = pytest.importorskip("snntorch")
pytest.importorskip("snu_snntorch")
pytest.importorskip("numba")

Steps = Callable[[Tensor], Sequence[Tensor]]
WAYS: dict[str, Steps] = {
    "an index": lambda x: [x[t] for t in range(len(x))],
    "an index before all the rest": lambda x: [x[t, ...] for t in range(len(x))],
    "an index behind all the rest": lambda x: [x.movedim(0, -1)[..., t] for t in range(len(x))],
    "a tensor": lambda x: [x[torch.tensor(t)] for t in range(len(x))],
    "select": lambda x: [x.select(0, t) for t in range(len(x))],
    "unbind": lambda x: x.unbind(),
    "chunk": lambda x: [part.squeeze(0) for part in x.chunk(len(x))],
}


class Loop(nn.Module):
    """Two layers and a neuron, over the steps that ``steps`` takes."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps, self.first, self.second = steps, nn.Linear(6, 8), nn.Linear(8, 4)
        self.neuron = snn.Leaky(beta=0.5)
        with torch.no_grad():
            for weights in self.parameters():  # sums are exact in any order
                weights.copy_((8 * weights).round() / 8)

    def forward(self, x: Tensor) -> Tensor:
        mem, spikes = self.neuron.reset_mem(), []
        for x_t in self.steps(x):
            h = F.relu(self.first(x_t), inplace=True)
            spk, mem = self.neuron(3 * self.second(h), mem)
            spikes.append(spk)
        return torch.stack(spikes)


@pytest.mark.parametrize("way", WAYS)
def test_the_spikes_are_those_of_the_network(way: str) -> None:
    torch.manual_seed(0)
    net, x = Loop(WAYS[way]), torch.rand(7, 3, 6).round()
    fast = sp.accelerate(net, x)
    assert fast.report == {"neuron": "fused"}
    expected = net(x)
    assert 0.05 < float(expected.detach().mean()) < 0.95
    assert torch.equal(fast(x), expected)
