"""Training shared by processes learns what one process learns from the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

TRAINING = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from snu_plugin import SNUConfig, sSNU

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
layer = sSNU(7, SNUConfig(learn_decay=True), recurrent=True, impl="numba")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights, self.unit = torch.nn.Linear(5, 7), layer

    def forward(self, x):
        return self.unit(self.weights(x))[0]


net = Net()
x = torch.randn(9, 4, 5)
own = x.chunk(world, 1)[rank]
model = net
if world > 1:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    model = DistributedDataParallel(net)
optimizer = torch.optim.SGD(net.parameters(), 0.5)
for _ in range(3):
    optimizer.zero_grad()
    model(own).square().mean().backward()
    optimizer.step()
torch.save(net.state_dict(), f"{folder}/{world}-{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


def trained(world: int, folder: Path) -> list[dict[str, torch.Tensor]]:
    """Return what each of so many processes has learned."""
    if world > 1 and not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    command = [sys.executable, "-W", "ignore", "-c", TRAINING]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)]) for rank in range(world)
    ]
    assert [each.wait(timeout=120) for each in ranks] == [0] * world
    files = [folder / f"{world}-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path: Path) -> None:
    (alone,) = trained(1, tmp_path)
    first, second = trained(2, tmp_path)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value)
