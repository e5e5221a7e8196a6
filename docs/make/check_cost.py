"""What the proof of ``to_nir(check=True)`` costs: ``python docs/make/check_cost.py``.

Networks of the hosts' tutorials in their sizes, rebuilt with the hosts' defaults. In processor
time, in turn: ``to_nir`` with and without its check, and a run of the model over the steps and
sequences that the check compares. Allowed are four such runs and 50 ms.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from types import ModuleType
from typing import Any

import norse.torch as norse
import snntorch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import page_tables
import snu_norse
import snu_snntorch
from snu_plugin.graph import declared
from tutorial_networks import Dense

ALLOWED_RUNS, ALLOWED_SECONDS = 4, 0.05


class Steps(nn.Module):
    """A network of one step, run over a sequence."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            if isinstance(layer, snntorch.SpikingNeuron):
                layer.reset_mem()
        return torch.stack([self.net(x_t) for x_t in x])


class Convolutional(nn.Module):
    """snnTorch's tutorials 6 and 7, their pools behind the neurons."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 12, 5), nn.Conv2d(12, 32, 5)
        self.lif1, self.lif2, self.lif3 = (snntorch.Leaky(beta=0.5) for _ in range(3))
        left = ((size - 4) // 2 - 4) // 2
        self.fc = nn.Linear(32 * left * left, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, mem3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
        outputs = []
        for x_t in x:
            spk1, mem1 = self.lif1(self.conv1(x_t), mem1)
            spk2, mem2 = self.lif2(self.conv2(F.max_pool2d(spk1, 2)), mem2)
            spk3, mem3 = self.lif3(self.fc(F.max_pool2d(spk2, 2).flatten(1)), mem3)
            outputs.append(spk3)
        return torch.stack(outputs)


def leaky(beta: float = 0.9, **settings: Any) -> nn.Module:
    made: nn.Module = snntorch.Leaky(beta=beta, init_hidden=True, **settings)
    return made


def networks() -> dict[str, tuple[ModuleType, nn.Module, Tensor]]:
    """Return each network with its adapter and a sample."""
    box = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(100.0))
    lift = norse.Lift(
        norse.SequentialState(
            nn.Conv2d(1, 20, 5), norse.LIFCell(), nn.Conv2d(20, 50, 5), norse.LIFCell(),
            nn.Flatten(), nn.Linear(50 * 20 * 20, 10), norse.LICell(),
        )
    )  # fmt: skip
    cells = norse.SequentialState(nn.Linear(784, 100), norse.LIFBoxCell(box), nn.Linear(100, 10))
    looped = snntorch.RLeaky(beta=0.9, linear_features=128, init_hidden=True)
    recurrent = Steps(nn.Linear(784, 128), looped, nn.Linear(128, 10), leaky())
    spikes = (torch.rand(25, 4, 784) < 0.3).float()
    return {
        "tutorial 5": (snu_snntorch, Dense(25), torch.rand(4, 784)),
        "tutorial 6": (snu_snntorch, Convolutional(1, 28), torch.rand(25, 4, 1, 28, 28)),
        "tutorial 7": (snu_snntorch, Convolutional(2, 32), torch.rand(25, 4, 2, 32, 32).round()),
        "regression 1": (
            snu_snntorch,
            Steps(nn.Linear(1, 128), leaky(), nn.Linear(128, 128), leaky(), nn.Linear(128, 1)),
            torch.rand(50, 4, 1),
        ),
        "regression 2": (snu_snntorch, recurrent, spikes),
        "Norse, mnist_classifiers": (snu_norse, lift, spikes.reshape(25, 4, 1, 28, 28)),
        "Norse, intro_norse": (snu_norse, norse.Lift(cells), spikes),
    }


def spent(function: Callable[[], Any]) -> float:
    """Return the processor time of a call, in seconds."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def figures(adapter: Any, model: nn.Module, x: Tensor, times: int) -> dict[str, float]:
    """Return the medians for a network, in seconds of processor time."""
    checked = declared(adapter.to_nir(model, x))["checked"]
    steps, batch = checked["steps"], checked["batch"]
    like = x if x.dim() == 2 else x[torch.arange(steps) % len(x)][:, :batch]
    calls = -(-steps // 25) if x.dim() == 2 else 1

    @torch.no_grad()
    def run() -> None:
        for _ in range(calls):
            model(like)

    found: dict[str, list[float]] = {"run": [], "checked": [], "unchecked": []}
    for _ in range(times):
        found["run"].append(spent(run))
        found["unchecked"].append(spent(lambda: adapter.to_nir(model, x, check=False)))
        found["checked"].append(spent(lambda: adapter.to_nir(model, x)))
    return {name: median(values) for name, values in found.items()}


def main() -> int:
    """Print the table; 1 if a check costs more than is allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    heads = ("network", "a run, ms", "the check adds, ms", "allowed, ms", "runs")
    print(page_tables.table(heads, ()))
    over = False
    for name, (adapter, model, x) in networks().items():
        found = figures(adapter, model, x, options.times)
        adds, run = found["checked"] - found["unchecked"], found["run"]
        allowed = ALLOWED_RUNS * run + ALLOWED_SECONDS
        over |= adds > allowed
        cells = (f"{1e3 * value:.0f}" for value in (run, adds, allowed))
        print(page_tables.line((name, *cells, f"{adds / run:.1f}")), flush=True)
    return int(over)


if __name__ == "__main__":
    raise SystemExit(main())
