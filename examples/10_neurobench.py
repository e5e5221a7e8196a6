"""Measure a network with SNUs by NeuroBench: its score, size, sparsity and operations."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import snu_snntorch as st


def main() -> None:
    """Print what NeuroBench finds on 64 made-up recordings of five classes."""
    from neurobench.benchmarks import Benchmark  # type: ignore[import-not-found, unused-ignore]
    from neurobench.metrics import static, workload  # type: ignore[import-not-found, unused-ignore]
    from neurobench.models import SNNTorchModel  # type: ignore[import-not-found, unused-ignore]

    torch.manual_seed(0)
    neuron: dict[str, Any] = {"beta": 0.8, "threshold": 0.3, "init_hidden": True}
    net = nn.Sequential(
        nn.Linear(20, 32), st.SNU(**neuron), nn.Linear(32, 5), st.SNU(**neuron, output=True)
    )
    labels = torch.arange(64) % 5
    rates = 0.05 + 0.4 * nn.functional.one_hot(labels, 5).repeat_interleave(4, 1)
    x = (torch.rand(64, 25, 20) < rates[:, None]).float()  # NeuroBench: batch first

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(30):
        st.reset(net)
        counts = torch.stack([net(x_t)[0] for x_t in x.transpose(0, 1)]).sum(0)
        loss = nn.functional.cross_entropy(counts, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    found = Benchmark(
        SNNTorchModel(net),
        DataLoader(TensorDataset(x, labels), 16),
        [],
        [lambda spikes: spikes.sum(1).argmax(-1)],
        [
            [static.ParameterCount, static.Footprint, static.ConnectionSparsity],
            [workload.ClassificationAccuracy, workload.ActivationSparsity],
        ],
    ).run(quiet=True)
    for name, value in found.items():
        print(f"{name}: {value:g}")


if __name__ == "__main__":
    main()
