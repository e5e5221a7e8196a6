"""Whether tuning ever harms: ``python docs/make/never_worse.py [--runs 100] [--seed 0]``.

Each run draws a network that knew nothing of a chip (recurrent CubaLIF, convolutional IF or four
layers of LIF, of random sizes), trains it in software, writes it to a chip that is drawn too, lets
it age, recalibrates it and tunes it with the defaults of ``fine_tune`` and a loss of a random kind
and scale. In every fifth run the labels for tuning are drawn at random. What counts is the loss on
data that neither the training nor the tuning saw, before and after, each read several times in
turn. It prints a line for each run and the table of docs/foreign_networks.md.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Tensor, nn

import page_tables
from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.hil import Adapter, Correct, fine_tune

DT, READS, TESTED = 1e-3, 4, 300
AGES = {"fresh": 0.0, "1 h": 3600.0, "1 d": 86_400.0, "30 d": 30 * 86_400.0}
CHIPS = {
    "ideal": IDEAL,
    "PCM": PCM,
    "PCM, 4 devices": replace(PCM, devices_per_weight=4),
    "PCM, 6-bit outputs": replace(PCM, adc_bits=6),
}
CrossEntropy = nn.functional.cross_entropy
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda y, t: CrossEntropy(y.sum(0), t),
    "sum": lambda y, t: CrossEntropy(y.sum(0), t, reduction="sum"),
    "x1000": lambda y, t: 1000 * CrossEntropy(y.sum(0), t),
    "rate": lambda y, t: CrossEntropy(10 * y.mean(0), t),
    "squares": lambda y, t: (y.mean(0) - nn.functional.one_hot(t, y.shape[-1])).square().mean(),
}


@dataclass(frozen=True)
class Task:
    """Classes that differ by the rates of their inputs, ``T`` steps of spikes each."""

    rates: Tensor
    steps: int

    def draw(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return spikes ``(T, count, ...)`` and labels."""
        labels = torch.randint(len(self.rates), (count,), generator=draw)
        mixed = self.rates[labels] + 0.15 * torch.randn(self.rates[labels].shape, generator=draw)
        rates = mixed.clamp(0, 0.9).expand(self.steps, *mixed.shape)
        return (torch.rand(rates.shape, generator=draw) < rates).float(), labels


def drawn(kind: str, classes: int, draw: np.random.Generator) -> tuple[nir.NIRGraph, list[int]]:
    """Return an untrained graph and the shape of its inputs."""

    def matrix(*shape: int) -> np.ndarray:
        return draw.normal(0, 2.0 / math.sqrt(math.prod(shape[1:])), shape)

    def lif(count: int) -> nir.LIF:
        one = np.ones(count)
        return nir.LIF(tau=draw.uniform(3, 20) * DT * one, r=4 * one, v_leak=0 * one,
                       v_threshold=one, v_reset=0 * one)  # fmt: skip

    size, width = int(draw.integers(9, 40)), int(draw.integers(17, 80))
    if kind == "convolutional IF":
        side, channels = int(draw.integers(8, 13)), int(draw.integers(3, 9))
        inner = (side - 2) // 2
        fire = [
            nir.IF(r=np.full(s, 1 / DT), v_threshold=np.ones(s), v_reset=np.zeros(s))
            for s in ((channels, side - 2, side - 2), (width,))
        ]
        two, none = np.array([2, 2]), np.array([0, 0])
        bias = np.zeros(channels)
        layers = [
            nir.Conv2d((side, side), matrix(channels, 1, 3, 3), 1, 0, 1, 1, bias), fire[0],
            nir.AvgPool2d(two, two, none),
            nir.Flatten({"input": np.array([channels, inner, inner])}, 0),
            nir.Linear(matrix(width, channels * inner * inner)), fire[1],
        ]  # fmt: skip
        shape = [1, side, side]
    elif kind == "recurrent CubaLIF":
        one = np.ones(width)
        nodes = {
            "input": nir.Input(np.array([size])),
            "fc1": nir.Affine(matrix(width, size), np.zeros(width)),
            "neurons": nir.CubaLIF(
                tau_syn=draw.uniform(2, 6) * DT * one, tau_mem=draw.uniform(4, 12) * DT * one,
                r=one, v_leak=0 * one, w_in=4 * one, v_threshold=one, v_reset=0 * one,
            ),
            "back": nir.Linear(0.3 * matrix(width, width)),
            "fc2": nir.Affine(matrix(classes, width), np.zeros(classes)),
            "output": nir.Output(np.array([classes])),
        }  # fmt: skip
        edges = [("input", "fc1"), ("fc1", "neurons"), ("neurons", "back"), ("back", "neurons"),
                 ("neurons", "fc2"), ("fc2", "output")]  # fmt: skip
        return nir.NIRGraph(nodes, edges), [size]
    else:
        widths = [size, *(int(draw.integers(17, 60)) for _ in range(3)), width]
        layers, shape = [], [size]
        for before, after in pairwise(widths):
            layers += [nir.Affine(matrix(after, before), np.zeros(after)), lif(after)]
    layers.append(nir.Affine(matrix(classes, width), np.zeros(classes)))
    ends = nir.Input(np.array(shape)), nir.Output(np.array([classes]))
    return nir.NIRGraph.from_list(ends[0], *layers, ends[1]), shape


def trained(
    g: nir.NIRGraph, task: Task, loss: Callable[[Tensor, Tensor], Tensor], draw: torch.Generator
) -> nir.NIRGraph:
    """Return the graph after 150 updates in software."""
    net = graph.network(g, dt=DT)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(150):
        x, labels = task.draw(64, draw)
        optimizer.zero_grad()
        loss(net(x)[0], labels).backward()
        optimizer.step()
    return net.to_nir()


class Result(NamedTuple):
    """One run."""

    what: str
    note: str
    before: float
    """Loss on unseen data after recalibration, and after tuning."""
    after: float
    error: float
    """Standard error of their difference."""
    right: tuple[float, float]
    """Share of unseen sequences told right, before and after."""
    noise: float
    """What ``fine_tune`` stated."""
    changed: bool
    """Whether any digital value is another than before; no default spends a pulse."""

    @property
    def worse(self) -> bool:
        return self.changed and self.after - self.before > self.noise + 2 * self.error


def run(seed: int, rank: int = 0) -> Result:
    """Draw everything from a seed and tune once, or correct by adapters of that rank instead."""
    draw, other = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kind = ("recurrent CubaLIF", "convolutional IF", "four layers of LIF")[seed % 3]
    classes, steps = int(draw.integers(2, 8)), int(draw.choice([5, 10, 20, 50, 100]))
    if seed % 10 == 7:
        steps = 1000
    g, shape = drawn(kind, classes, draw)
    task = Task(0.4 * torch.rand([classes, *shape], generator=other), min(steps, 100))
    named, age, scaled = (str(draw.choice(list(d))) for d in (CHIPS, AGES, LOSSES))
    loss, chip = LOSSES[scaled], CHIPS[named]
    g = trained(g, task, loss, other)
    task = replace(task, steps=steps)
    count, size = int(draw.integers(3, 12)), int(draw.choice([16, 32, 64, 128]))
    batches = [task.draw(size, other) for _ in range(count)] * int(draw.integers(1, 6))
    random_labels = seed % 5 == 4
    if random_labels:
        mixed = (torch.randint(classes, (size,), generator=other) for _ in batches)
        batches = [(x, labels) for (x, _), labels in zip(batches, mixed, strict=True)]
    board = Accelerator(compile(g, chip, dt=DT, sample=batches[0][0]), seed)
    board.program()
    board.wait(AGES[age])
    board.calibrate()
    x, labels = task.draw(TESTED if steps <= 100 else 60, other)

    def measured() -> tuple[Tensor, float]:
        """Return the loss of each unseen sequence and the share told right."""
        y = board.run(x)[0]
        each = torch.stack([loss(y[:, i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
        return each.double(), float((y.sum(0).argmax(1) == labels).double().mean())

    if rank:
        Adapter(rank=rank, where="all").begin(board)  # of zeros
    first = dict(board.registers)
    if rank:
        Correct(rank=rank, sample=batches[0][0]).begin(board)
        note, stated = f"corrected by rank {rank}", 0.0
    else:
        history = fine_tune(board, batches, loss)
        note, stated = history.note, float(history.noise or 0.0)
    last = dict(board.registers)
    changed = any(not torch.equal(last[name], value) for name, value in first.items())
    found: dict[bool, list[tuple[Tensor, float]]] = {False: [], True: []}
    with torch.no_grad():
        for _ in range(READS):  # in turn: a chip ages while it is measured
            for tuned, values in ((False, first), (True, last)):
                board.set_registers(values)
                found[tuned].append(measured())
    losses = [torch.stack([each for each, _ in found[tuned]]) for tuned in (False, True)]
    apart = losses[1].mean(0) - losses[0].mean(0)
    reads = sum(float(part.mean(1).var()) / READS for part in losses)
    error = max(math.sqrt(reads), float(apart.std()) / math.sqrt(len(apart)))
    # A summed loss is that of the batches that are held back, whose parts hold fewer sequences.
    told = [float(np.mean([right for _, right in found[tuned]])) for tuned in (False, True)]
    what = f"{kind}, T {steps}, {classes} classes, {named}, {age}, {scaled}, {count} x {size}"
    noise = 0.0 if scaled == "sum" else stated
    means = [float(each.mean()) for each in losses]
    what += ", labels at random" * random_labels
    right = told[0], told[1]
    return Result(what, note, means[0], means[1], error, right, noise, changed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--correct", type=int, default=0, help="rank of a correction, in its place")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # converters of six bits saturate, and are meant to
    torch.set_num_threads(1)
    rows: list[Result] = []
    for seed in range(given.seed, given.seed + given.runs):
        begun = time.monotonic()
        row = run(seed, given.correct)
        rows.append(row)
        share = (row.after - row.before) / row.error if row.error else 0.0
        print(
            f"{seed} {row.what}: {row.note}; unseen {row.before:.4g} to {row.after:.4g} "
            f"({share:+.1f} standard errors, right {row.right[0]:.3f} to {row.right[1]:.3f}), "
            f"{time.monotonic() - begun:.0f} s" + (" WORSE" if row.worse else ""),
            flush=True,
        )
    print(table(rows))


def table(rows: list[Result]) -> str:
    """Return how many runs helped, changed nothing and harmed, by whether the labels were true."""
    heads = "labels", "runs", "kept", "better by > 2 s.e.", "worse by > 2 s.e.", "worse than stated"
    lines = []
    for name, random in (("true", False), ("at random", True)):
        some = [row for row in rows if row.what.endswith("at random") == random]
        if some:
            gain: list[Any] = [(row.before - row.after) / (row.error or math.inf) for row in some]
            cells = (
                name,
                len(some),
                sum(row.note.startswith("kept") for row in some),
                sum(g > 2 for g in gain),
                sum(g < -2 for g in gain),
                sum(row.worse for row in some),
                *(f"{np.mean([row.right[k] for row in some]):.3f}" for k in (0, 1)),
            )
            lines.append(cells)
    return page_tables.table((*heads, "told right before", "after"), lines)


if __name__ == "__main__":
    main()
