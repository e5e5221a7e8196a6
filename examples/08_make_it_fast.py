"""Run a network of snnTorch as it is written, faster, with its own outputs and parameters."""

import time

import snntorch as snn
import torch
from torch import Tensor, nn

import snu_plugin as sp


class Net(nn.Module):
    """As in snnTorch's tutorials: step by step, membranes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(100, 200), snn.Leaky(beta=0.9)
        self.fc2, self.lif2 = nn.Linear(200, 10), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        """Return spikes ``(T, B, 10)`` of ``(T, B, 100)``."""
        mem1, mem2, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for x_t in x:
            spk, mem1 = self.lif1(self.fc1(x_t), mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            spikes.append(spk)
        return torch.stack(spikes)


def main() -> None:
    """Print whether spikes are the same, and the time of a training step of each."""
    torch.manual_seed(0)
    net, x = Net(), (torch.rand(100, 32, 100) < 0.2).float()
    fast = sp.accelerate(net, x)
    print("the same spikes:", torch.equal(fast(x), net(x)))
    for name, model in (("as written", net), ("accelerated", fast)):
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            model(x).sum().backward()
            best = min(best, time.perf_counter() - begin)
        print(f"{name:12} {1e3 * best:6.1f} ms")


if __name__ == "__main__":
    main()
