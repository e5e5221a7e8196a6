"""The table and the picture of what ``sp.accelerate`` gains.

``python docs/make/accelerate_page.py`` measures on one thread and writes ``docs/accelerate.md`` and
``docs/accelerate.png``; with a word, it prints the rows whose name has it.

Networks of the hosts' tutorials at their own sizes, as they are written there. Each row compares a
training step, forward and backward, of the network, of the accelerated one, and of nothing but the
matrix products and convolutions that the network does at every step.
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
from norse.torch.module.leaky_integrator import LILinearCell
from snntorch import surrogate
from torch import Tensor, nn

import snu_plugin as sp
from snu_plugin import files

REPEATS = 3
"""Turns of each; the shortest time counts."""

PAGE = Path(__file__).parents[1] / "accelerate.md"

EPOCHS = {"tutorial 3": 937, "tutorial 5": 468, "tutorial 6": 1875}
"""Training steps of an epoch of MNIST, 60,000 images, in the batches of these rows."""


class Dense(nn.Module):
    """Tutorials 3 (a sequence) and 5 (a static image)."""

    def __init__(self, steps: int | None, Leaky: Any = snntorch.Leaky) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, 1000), nn.Linear(1000, 10)
        self.lif1, self.lif2 = Leaky(beta=0.95), Leaky(beta=0.95)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in range(self.steps or len(x)):
            cur1 = self.fc1(x if self.steps else x[step])
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class Convolutional(nn.Module):
    """Tutorial 6, as a class."""

    def __init__(self, steps: int, Leaky: Any = snntorch.Leaky) -> None:
        super().__init__()
        slope = surrogate.fast_sigmoid(slope=25)
        self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), Leaky(beta=0.5, spike_grad=slope)
        self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), Leaky(beta=0.5, spike_grad=slope)
        self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), Leaky(beta=0.5, spike_grad=slope)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        mem3 = self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        batch_size = x.size(0)
        for _ in range(self.steps):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.view(batch_size, -1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


def events(Leaky: Any = snntorch.Leaky) -> nn.Module:
    """Return the network of tutorial 7, which makes one step a call."""
    leaky = {"beta": 0.5, "spike_grad": surrogate.atan(), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(2, 12, 5), Leaky(**leaky), nn.MaxPool2d(2),
        nn.Conv2d(12, 32, 5), Leaky(**leaky), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 5 * 5, 10), Leaky(**leaky, output=True),
    )  # fmt: skip


class Regression(nn.Module):
    """Regression 1: the potential of a neuron that never resets is read."""

    def __init__(self, Leaky: Any = snntorch.Leaky, hidden: int = 128) -> None:
        super().__init__()
        slope = surrogate.fast_sigmoid()

        def leaky(kind: Any, n: int, **settings: Any) -> Any:
            return kind(beta=torch.rand(n), learn_beta=True, spike_grad=slope, **settings)

        self.fc_in, self.fc_hidden = nn.Linear(1, hidden), nn.Linear(hidden, hidden)
        self.lif_in = leaky(Leaky, hidden, threshold=torch.rand(hidden))
        self.lif_hidden = leaky(Leaky, hidden, threshold=torch.rand(hidden))
        self.fc_out = nn.Linear(hidden, 1)
        self.out = leaky(snntorch.Leaky, 1, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        mem_1, mem_2 = self.lif_in.init_leaky(), self.lif_hidden.init_leaky()
        mem_3, recorded = self.out.init_leaky(), []
        for step in range(x.shape[0]):
            spk_1, mem_1 = self.lif_in(self.fc_in(x[step]), mem_1)
            spk_2, mem_2 = self.lif_hidden(self.fc_hidden(spk_1), mem_2)
            _, mem_3 = self.out(self.fc_out(spk_2), mem_3)
            recorded.append(mem_3)
        return torch.stack(recorded)


class Recurrent(nn.Module):
    """Regression 2: classification with recurrent neurons."""

    def __init__(self, steps: int, hidden: int = 1000, RLeaky: Any = snntorch.RLeaky) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(784, hidden), nn.Linear(hidden, 10)
        self.rlif1 = RLeaky(beta=0.9, linear_features=hidden)
        self.rlif2 = RLeaky(beta=0.9, linear_features=10)
        self.steps = steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (spk1, mem1), (spk2, mem2) = self.rlif1.init_rleaky(), self.rlif2.init_rleaky()
        spk2_rec, mem2_rec = [], []
        for _ in range(self.steps):
            spk1, mem1 = self.rlif1(self.fc1(x), spk1, mem1)
            spk2, mem2 = self.rlif2(self.fc2(spk1), spk2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec), torch.stack(mem2_rec)


def population(Leaky: Any = snntorch.Leaky) -> nn.Module:
    """Return the network of population coding, which makes one step a call."""
    leaky = {"beta": 0.9, "spike_grad": surrogate.fast_sigmoid(slope=75), "init_hidden": True}
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), Leaky(**leaky),
        nn.Linear(128, 500), Leaky(**leaky, output=True),
    )  # fmt: skip


class Synaptic(nn.Module):
    """Two layers with synapses, batch normalisation and dropout, a skip connection around one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(700, 256), nn.Linear(256, 256), nn.Linear(256, 20)
        self.norm, self.drop = nn.BatchNorm1d(256), nn.Dropout(0.2)
        self.one, self.two = (snntorch.Synaptic(0.9, 0.8, reset_mechanism="zero") for _ in "12")
        self.out = snntorch.Leaky(0.9, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        (syn1, mem1), (syn2, mem2) = self.one.reset_mem(), self.two.reset_mem()
        mem3, recorded = self.out.reset_mem(), []
        for x_t in x:
            spk1, syn1, mem1 = self.one(self.norm(self.fc1(x_t)), syn1, mem1)
            spk2, syn2, mem2 = self.two(self.drop(self.fc2(spk1)) + spk1, syn2, mem2)
            _, mem3 = self.out(self.fc3(spk2), mem3)
            recorded.append(mem3)
        return torch.stack(recorded).mean(0)


class NorseRecurrent(nn.Module):
    """Norse's MNIST task with recurrent cells."""

    def __init__(self, Cell: Any = norse.LIFRecurrentCell, hidden: int = 100) -> None:
        super().__init__()
        self.l1 = Cell(784, hidden, dt=1e-3)
        self.fc_out, self.out = nn.Linear(hidden, 10, bias=False), norse.LICell(dt=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        s1 = so = None
        voltages = []
        for step in range(x.shape[0]):
            z, s1 = self.l1(x[step].view(-1, 784), s1)
            voltage, so = self.out(self.fc_out(z), so)
            voltages.append(voltage)
        return torch.stack(voltages).max(0)[0]


class NorseConvolutional(nn.Module):
    """Norse's convolutional MNIST classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.lif0, self.lif1, self.lif2 = (norse.LIFCell(dt=1e-3) for _ in "123")
        self.out = LILinearCell(500, 10, dt=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = s2 = so = None
        voltages = torch.zeros(x.shape[0], x.shape[1], 10)
        for step in range(x.shape[0]):
            z, s0 = self.lif0(self.conv1(x[step, :]), s0)
            z = F.max_pool2d(z, 2, 2)
            z, s1 = self.lif1(10 * self.conv2(z), s1)
            z = F.max_pool2d(z, 2, 2).view(-1, 4 * 4 * 50)
            z, s2 = self.lif2(self.fc1(z), s2)
            v, so = self.out(F.relu(z), so)
            voltages[step, :, :] = v
        return voltages[-1]


class NorseMemory(nn.Module):
    """Norse's memory task."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.readout = norse.LIFRecurrentCell(8, 80), LILinearCell(80, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sl = sr = None
        spikes, read = [], []
        for x_step in x.unbind(1):
            z, sl = self.layer(x_step, sl)
            voltage, sr = self.readout(z, sr)
            spikes.append(z)
            read.append(voltage)
        return torch.stack(spikes), torch.stack(read).mean(0)


def norse_intro() -> nn.Module:
    """Return the network of Norse's introduction, which makes one step a call."""
    net: nn.Module = norse.SequentialState(
        nn.Conv2d(1, 20, 5, 1), norse.LIFCell(), nn.MaxPool2d(2, 2), nn.Conv2d(20, 50, 5, 1),
        norse.LIFCell(), nn.MaxPool2d(2, 2), nn.Flatten(1), nn.Linear(800, 10), norse.LICell(),
    )  # fmt: skip
    return net


def norse_over_time() -> nn.Module:
    """Return a network of Norse's layers over time, as its notebook on parameters has it."""
    layers = nn.Linear(200, 300), norse.LIF(), nn.Linear(300, 50), norse.LIF()
    net: nn.Module = norse.SequentialState(*layers)
    return net


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
            print(_line(rows[-1]), flush=True)
    if word:
        return
    top, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    head = rest.partition("|---")[0]
    tail = rest.partition("<!-- end -->")[2]
    line = "|---|---|---|---|---|---|---|---|\n"
    table = head + line + "\n".join(map(_line, rows)) + "\n<!-- end -->" + tail
    files.write(PAGE, (top + "<!-- table -->\n" + table).encode())
    files.write(PAGE.with_suffix(".png"), picture(rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
