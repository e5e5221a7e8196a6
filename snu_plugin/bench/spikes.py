"""What layers cost by the share of their inputs that are spikes, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.bench.candidates import DECAY, PRODUCT, First, Workload
from snu_plugin.bench.timing import counted, table, threads_of_torch, time_in_turns
from snu_plugin.neuron import SNU, Linear, SNUConfig

SPIKING = "SNU, sp.Linear"

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Of inputs that are 1."""

LAYERS = {"first layer": False, "inner layer": True}
"""Whether the input has a gradient."""

NETWORK = "network"
"""Several layers, the first of which gets the spikes that are drawn."""

GAIN = 5.0
"""By which torch's weights of a network are multiplied, so that its hidden neurons fire."""


def run(
    works: Sequence[Workload],
    threads: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time layers on seeded inputs of 0 and 1.

    Args:
        works: Sizes, of one layer or of a network.
        threads: Numbers of threads of torch.
        seconds: About how long each size takes, one layer as first and as inner layer.
        progress: Is told what is going on.

    Returns:
        For each number of threads, size, place of the layer, share and candidate the quartiles in
        seconds, the median, over rounds, of the ``ratio`` to the products alone, and of networks
        the shares of neurons that ``fire`` in their layers.
    """
    found = []
    for number, work in itertools.product(threads, works):
        for layer in LAYERS if len(work.sizes) == 2 else (NETWORK,):
            progress(f"spikes, {work}, {layer}, {counted(number)}")
            for share in SHARES:
                drawn, gradient = work.draw()
                x = (drawn < share).float().requires_grad_(LAYERS.get(layer, False))
                nets = _network(work) if layer == NETWORK else _layer(work, layer)
                calls = {name: work.passing(net, x, gradient) for name, net in nets.items()}
                with threads_of_torch(number):
                    timings = time_in_turns(calls, seconds / len(SHARES))
                product = timings[PRODUCT]
                found += [
                    {
                        "threads": number,
                        "workload": str(work),
                        "layer": layer,
                        "share": share,
                        "fire": _firing(nets[SPIKING], x) if layer == NETWORK else None,
                        "candidate": name,
                        **timing._asdict(),
                        "ratio": timing.over(product),
                    }
                    for name, timing in timings.items()
                ]
    return found


def _layer(work: Workload, layer: str) -> dict[str, nn.Module]:
    """Return one layer with whoever comes after it."""
    inputs, outputs = work.sizes
    nets: dict[str, nn.Module] = {
        PRODUCT: nn.Linear(inputs, outputs),
        "nn.ReLU": nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU()),
        "SNU": nn.Sequential(nn.Linear(inputs, outputs), _snu(outputs)),
        "sp.Linear alone": Linear(inputs, outputs),
        SPIKING: nn.Sequential(Linear(inputs, outputs), _snu(outputs)),
    }
    return nets if LAYERS[layer] else nets | {"gather": Gather(inputs, outputs)}


@torch.no_grad()
def _network(work: Workload) -> dict[str, nn.Module]:
    """Return networks of the same weights."""

    def stack(linear: type[nn.Linear], unit: Callable[[int], nn.Module] | None) -> nn.Module:
        torch.manual_seed(0)
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(work.sizes):
            layer = linear(inputs, outputs)
            layer.weight *= GAIN
            parts += [layer, *([unit(outputs)] if unit else [])]
        return nn.Sequential(*parts)

    with torch.random.fork_rng():
        return {
            PRODUCT: stack(nn.Linear, None),
            "nn.ReLU": stack(nn.Linear, lambda _: nn.ReLU()),
            "SNU": stack(nn.Linear, _snu),
            SPIKING: stack(Linear, _snu),
        }


def _snu(features: int) -> nn.Module:
    return First(SNU(features, SNUConfig(decay=DECAY)))


@torch.no_grad()
def _firing(net: nn.Module, x: Tensor) -> list[float]:
    """Return which share of its neurons fires in each layer of a network."""
    shares = []
    for part in net.children():
        x = part(x)
        if isinstance(part, First):
            shares.append(float(x.mean()))
    return shares


class Gather(nn.Module):
    """A product whose spikes are found, and their weights added up, by torch's ``embedding_bag``.

    Its input gets no gradient.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(nn.Linear(inputs, outputs).weight.detach().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with ``x`` of 0 and 1, ``(..., inputs)``."""
        rows = x.detach().flatten(0, -2)
        row, column = rows.nonzero(as_tuple=True)
        starts = torch.searchsorted(row, torch.arange(len(rows)))
        y = F.embedding_bag(column, self.columns, starts, mode="sum")
        return y.view(*x.shape[:-1], -1)


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the answer of ``run`` as tables: times in units of the product alone."""
    blocks = []
    for about in dict.fromkeys((r["threads"], r["workload"], r["layer"]) for r in rows):
        threads, work, layer = about
        mine = [r for r in rows if (r["threads"], r["workload"], r["layer"]) == about]
        names = [n for n in dict.fromkeys(r["candidate"] for r in mine) if n != PRODUCT]
        lines = []
        for share in dict.fromkeys(r["share"] for r in mine):
            found = {r["candidate"]: r for r in mine if r["share"] == share}
            ratios = (f"{found[name]['ratio']:.2f}" for name in names)
            fire = found[PRODUCT]["fire"]
            lines.append(
                (
                    f"{share:.0%}",
                    f"{1e3 * found[PRODUCT]['median']:.3g}",
                    *ratios,
                    *([] if fire is None else [", ".join(f"{each:.0%}" for each in fire)]),
                )
            )
        fires = ["neurons that fire"] if layer == NETWORK else []
        head = ("spikes", f"{PRODUCT}, ms", *names, *fires)
        blocks += [f"{work}, {layer}, {counted(threads)}", table(head, lines)]
    return "\n\n".join(blocks)
