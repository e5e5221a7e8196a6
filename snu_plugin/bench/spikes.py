"""What a layer costs by the share of its inputs that are spikes, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.bench.candidates import DECAY, PRODUCT, Call, First, Workload
from snu_plugin.bench.timing import counted, table, threads_of_torch, time_in_turns
from snu_plugin.neuron import SNU, Linear, SNUConfig

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Of inputs that are 1."""

LAYERS = {"first layer": False, "inner layer": True}
"""Whether the input has a gradient."""


def run(
    works: Sequence[Workload],
    threads: Sequence[int],
    seconds: float,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time one layer on seeded inputs of 0 and 1.

    Args:
        works: Sizes; only those of one layer are run.
        threads: Numbers of threads of torch.
        seconds: About how long each size, as first and as inner layer, takes.
        progress: Is told what is going on.

    Returns:
        For each number of threads, size, place of the layer, share and candidate the quartiles in
        seconds, and the median, over rounds, of the ``ratio`` to the product alone.
    """
    found = []
    for number, work, layer in itertools.product(threads, works, LAYERS):
        if len(work.sizes) > 2:
            continue
        progress(f"spikes, {work}, {layer}, {counted(number)}")
        for share in SHARES:
            calls = _calls(work, share, LAYERS[layer])
            with threads_of_torch(number):
                timings = time_in_turns(calls, seconds / len(SHARES))
            about = {"threads": number, "workload": str(work), "layer": layer, "share": share}
            product = timings[PRODUCT]
            found += [
                {**about, "candidate": name, **timing._asdict(), "ratio": timing.over(product)}
                for name, timing in timings.items()
            ]
    return found


def _calls(work: Workload, share: float, inner: bool) -> dict[str, Call]:
    inputs, outputs = work.sizes
    drawn, gradient = work.draw()
    x = (drawn < share).float().requires_grad_(inner)

    def ours() -> nn.Module:
        return Linear(inputs, outputs)

    def snu() -> nn.Module:
        return First(SNU(outputs, SNUConfig(decay=DECAY)))

    nets: dict[str, nn.Module] = {
        PRODUCT: nn.Linear(inputs, outputs),
        "nn.ReLU": nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU()),
        "SNU": nn.Sequential(nn.Linear(inputs, outputs), snu()),
        "sp.Linear alone": ours(),
        "SNU, sp.Linear": nn.Sequential(ours(), snu()),
    }
    if not inner:
        nets["gather"] = Gather(inputs, outputs)
    return {name: _pass(net, x, gradient) for name, net in nets.items()}


def _pass(net: nn.Module, x: Tensor, gradient: Tensor) -> Call:
    wanted = [*net.parameters(), *([x] if x.requires_grad else [])]
    return lambda: torch.autograd.grad(net(x), wanted, gradient)


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
        return y.unflatten(0, x.shape[:-1])


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
            lines.append((f"{share:.0%}", f"{1e3 * found[PRODUCT]['median']:.3g}", *ratios))
        head = ("spikes", f"{PRODUCT}, ms", *names)
        blocks += [f"{work}, {layer}, {counted(threads)}", table(head, lines)]
    return "\n\n".join(blocks)
