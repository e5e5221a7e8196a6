"""Training shared by processes learns what one process learns from the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp

pytest.importorskip("numba")

TRAINING = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from snu_plugin import SNUConfig, sSNU

rank, world, folder, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
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
    if way == "DistributedDataParallel":
        model = DistributedDataParallel(net)
    elif way == "FullyShardedDataParallel":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        fully_shard(net.unit, mesh=mesh)
        fully_shard(net, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), 0.5)
for _ in range(3):
    optimizer.zero_grad()
    model(own).square().mean().backward()
    optimizer.step()
state = (model if way == "FullyShardedDataParallel" else net).state_dict()
whole = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in state.items()}
torch.save(whole, f"{folder}/{world}-{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""


def trained(world: int, folder: Path, way: str = "") -> list[dict[str, torch.Tensor]]:
    """Return what each of so many processes has learned, joined in a way of torch's."""
    if world > 1 and not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    command = [sys.executable, "-W", "ignore", "-c", TRAINING]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), str(folder), way])
        for rank in range(world)
    ]
    assert [each.wait(timeout=120) for each in ranks] == [0] * world
    files = [folder / f"{world}-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=True) for file in files]


WAYS = "DistributedDataParallel", "FullyShardedDataParallel", "fully_shard"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path: Path, way: str) -> None:
    if way == "fully_shard" and not hasattr(torch.distributed.fsdp, way):
        pytest.skip("torch has it under this name since 2.6")
    (alone,) = trained(1, tmp_path)
    first, second = trained(2, tmp_path, way)
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value)
