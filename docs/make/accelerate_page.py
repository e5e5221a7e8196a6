"""The table and the picture of what ``sp.accelerate`` gains.

``python docs/make/accelerate_page.py`` measures on one thread and writes ``docs/accelerate.md`` and
``docs/accelerate.png``; with a word, it prints the rows whose name has it.

The networks are those of ``tutorial_networks``. Each row compares a training step, forward and
backward, of the network, of the accelerated one, and of nothing but the matrix products and
convolutions that the network does at every step.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import norse.torch as norse
import snntorch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import page_tables
import snu_plugin as sp
from snu_plugin import files
from tutorial_networks import (
    Convolutional,
    Dense,
    NorseConvolutional,
    NorseMemory,
    NorseRecurrent,
    Recurrent,
    Regression,
    Synaptic,
    events,
    norse_intro,
    norse_over_time,
    population,
)

REPEATS = 3
"""Turns of each; the shortest time counts."""

PAGE = Path(__file__).parents[1] / "accelerate.md"

EPOCHS = {"tutorial 3": 937, "tutorial 5": 468, "tutorial 6": 1875}
"""Training steps of an epoch of MNIST, 60,000 images, in the batches of these rows."""


class Row(NamedTuple):
    """One network, and what it is called with."""

    name: str
    shape: str
    net: Callable[[], nn.Module]
    sample: Callable[[], Tensor]
    stepped: bool = False


ROWS = [
    Row("tutorial 3", "784-1000-10, 50 × 64", lambda: Dense(None), lambda: _events(50, 64, 784)),
    Row("tutorial 5", "784-1000-10, 25 × 128", lambda: Dense(25), lambda: torch.rand(128, 784)),
    Row("tutorial 6", "12C5-64C5-10, 50 × 32", lambda: Convolutional(50),
        lambda: torch.rand(32, 1, 28, 28)),
    Row("tutorial 7", "2-12C5-32C5-10, 50 × 32", events, lambda: _events(50, 32, 2, 34, 34), True),
    Row("regression 1", "1-128-128-1, 50 × 1", Regression, lambda: torch.rand(50, 1, 1)),
    Row("regression 2", "784-1000r-10r, 25 × 128", lambda: Recurrent(25),
        lambda: torch.rand(128, 784)),
    Row("population coding", "784-128-500, 25 × 128", population,
        lambda: _events(25, 128, 784), True),
    Row("Synaptic, skip", "700-256-256-20, 50 × 64", Synaptic, lambda: _events(50, 64, 700)),
    Row("Norse, MNIST", "784-100r-10, 32 × 128", NorseRecurrent, lambda: _events(32, 128, 784)),
    Row("Norse, MNIST", "20C5-50C5-500-10, 32 × 16", NorseConvolutional,
        lambda: 3 * torch.rand(32, 16, 1, 28, 28)),
    Row("Norse, intro", "20C5-50C5-10, 32 × 16", norse_intro,
        lambda: 3 * torch.rand(32, 16, 1, 28, 28), True),
    Row("Norse, memory", "8-80r-3, 100 × 32", NorseMemory, lambda: _events(32, 100, 8)),
    Row("Norse, parameters", "200-300-50, 100 × 32", norse_over_time,
        lambda: 3 * torch.rand(100, 32, 200)),
]  # fmt: skip


def _events(*shape: int) -> Tensor:
    return (torch.rand(*shape) < 0.2).float()


class Steps(nn.Module):
    """The loop that users write around a network that makes one step a call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        net: Any = self.net
        for neuron in net.modules():
            if isinstance(neuron, snntorch.SpikingNeuron):
                neuron.reset_mem()
        if isinstance(net, norse.SequentialState):
            outs, state = [], None
            for x_t in x:
                out, state = net(x_t, state)
                outs.append(out)
            return torch.stack(outs)
        spikes, potentials = zip(*(net(x_t) for x_t in x), strict=True)
        return torch.stack(spikes), torch.stack(potentials)


def tensors(value: Any) -> Iterator[Tensor]:
    """Return the tensors of a result that have a gradient, states beside it left out."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def training_step(run: Callable[[Tensor], Any], net: nn.Module, x: Tensor) -> None:
    """Run a network forward, and back from the mean of all that it returns."""
    net.zero_grad()
    sum(part.mean() for part in tensors(run(x))).backward()  # type: ignore[union-attr]


def products(net: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> Callable[[], None]:
    """Return what does the products of one training step of a network, and nothing else."""
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    functions = {name: getattr(F, name) for name in ("linear", "conv2d")}

    def noted(name: str) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            calls.append((functions[name], args))
            out: Tensor = functions[name](*args)
            return out

        return call

    try:
        for name in functions:
            setattr(F, name, noted(name))
        run(x)
    finally:
        for name, function in functions.items():
            setattr(F, name, function)
    fresh = [
        (f, (a[0].detach().clone().requires_grad_(a[0].requires_grad), *a[1:])) for f, a in calls
    ]
    with torch.no_grad():
        grads = [torch.rand_like(f(*a)) for f, a in fresh]

    def do() -> None:
        net.zero_grad()
        outs = [f(*a) for f, a in fresh]
        torch.autograd.backward(outs, grads)

    return do


def seconds(*calls: Callable[[], None], repeats: int) -> list[float]:
    """Return the shortest processor time of each call, taken in turn so that a slow spell hits all.

    On one thread it is what a clock shows, less what others had of the processor meanwhile.
    """
    found: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, times in zip(calls, found, strict=True):
            start = time.process_time()
            call()
            if repeat:
                times.append(time.process_time() - start)
    return [statistics.median(times) if repeats > 20 else min(times) for times in found]


def measured(row: Row, repeats: int) -> list[str]:
    """Return the cells of a row."""
    torch.manual_seed(0)
    net, x = row.net(), row.sample()
    fast: Any = sp.accelerate(net, x[0] if row.stepped else x)
    stock: Any = Steps(net) if row.stepped else net
    if isinstance(net, norse.SequentialState):
        inner, whole = stock, fast
        stock = (lambda x: inner(x)) if row.stepped else (lambda x: net(x)[0])
        fast = lambda x: whole(x)[0]  # noqa: E731
    bare = products(net, stock, x)
    calls = (lambda: training_step(stock, net, x), lambda: training_step(fast, net, x), bare)
    before, after, product = (1e3 * t for t in seconds(*calls, repeats=repeats))
    cells = [f"{before:.1f}", f"{product:.1f}", f"{after:.1f}"]
    ratios = [f"{before / product:.1f}", f"{after / product:.2f}", f"{before / after:.1f}"]
    return [row.name, row.shape, *cells, *ratios]


def picture(rows: Sequence[Sequence[str]]) -> bytes:
    """Return the time of a training epoch of the tutorials on MNIST, before and after, as a PNG."""
    from matplotlib.figure import Figure

    taken = [row for row in rows if row[0] in EPOCHS]
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(taken):
        before, products, after = (float(cell) / 1e3 * EPOCHS[row[0]] / 60 for cell in row[2:5])
        bars = ((before, "tab:gray", "as it is written"), (after, "tab:blue", "accelerated"))
        for offset, (minutes, colour, label) in zip((-0.19, 0.19), bars, strict=True):
            label = label if place == 0 else "_"
            axes.barh(place + offset, minutes, 0.36, color=colour, label=label)
            axes.text(minutes, place + offset, f" {minutes:.1f}", va="center", fontsize=8)
        axes.plot([products] * 2, [place - 0.4, place + 0.4], "k:", lw=1,
                  label="its products alone" if place == 0 else "_")  # fmt: skip
    axes.set_yticks(range(len(taken)), [f"{row[0]}\n{row[1]}" for row in taken], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("minutes for an epoch of MNIST, one thread")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=110)
    return found.getvalue()


def main() -> None:
    """Measure and write page and picture, or print the rows whose name has a word that is given."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    rows = []
    for row in ROWS:
        if word in row.name:
            rows.append(measured(row, repeats=REPEATS))
            print(page_tables.line(rows[-1]), flush=True)
    if word:
        return
    files.write(PAGE, page_tables.renewed(PAGE.read_text(), rows).encode())
    files.write(PAGE.with_suffix(".png"), picture(rows))


if __name__ == "__main__":
    main()
