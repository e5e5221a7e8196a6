"""Networks of the hosts' tutorials, trained with each neuron in its place: ``docs/swapped.md``.

``python docs/make/swapped_page.py DATA`` trains every row and writes the table; with words behind
it, prints the rows whose names begin so. DATA is a folder with ``mnist``, ``fashion``, ``nmnist``
(``snu_plugin.tasks.digits`` and ``nmnist``). Networks, losses and optimisers are the tutorials'; of
the training data so many updates are taken as the table says. All run under ``sp.accelerate``.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import norse.torch as norse
import snntorch
import torch
import torch.nn.functional as F
from snntorch import functional, surrogate
from torch import Tensor, nn

import page_tables
import snu_norse as sn
import snu_plugin as sp
import snu_snntorch as st
from snu_plugin import files
from snu_plugin.tasks import digits, nmnist
from tutorial_networks import (
    Convolutional,
    Dense,
    NorseRecurrent,
    Recurrent,
    Regression,
    events,
    population,
)

PAGE = Path(__file__).parents[1] / "swapped.md"

SEEDS = 0, 1

ATAN = surrogate.atan()
LEAKY: dict[str, Any] = {
    "Leaky": snntorch.Leaky,
    "Leaky, zero": partial(snntorch.Leaky, reset_mechanism="zero"),
    "SNU, host's surrogate": partial(st.SNU, spike_grad=ATAN, detach_reset=True),
    "SNU": st.SNU,
}
"""Neurons by the table's columns; where a tutorial gives its surrogate, that is taken."""
RLEAKY: dict[str, Any] = {
    "Leaky": snntorch.RLeaky,
    "Leaky, zero": partial(snntorch.RLeaky, reset_mechanism="zero", reset_delay=False),
    "SNU, host's surrogate": partial(st.RSNU, spike_grad=ATAN, detach_reset=True),
    "SNU": st.RSNU,
}
CELLS: dict[str, Any] = {"Leaky": norse.LIFRecurrentCell, "SNU": sn.SNURecurrentCell}

Batches = list[tuple[Tensor, Tensor]]


class Row(NamedTuple):
    """One tutorial: its network with each neuron, what it learns, and how it is scored."""

    name: str
    neurons: dict[str, Any]
    net: Callable[[Any], nn.Module]
    data: Callable[[Path, int], tuple[Batches, Batches]]
    """Batches to train on, drawn by a seed, and to score by."""
    loss: Callable[[Any, Tensor], Tensor]
    score: Callable[[Any, Tensor], Any]
    rate: float
    """Of Adam."""
    stepped: bool = False


def of(images: digits.Images, size: int, count: int, shown: Callable[[Tensor], Tensor]) -> Batches:
    """Return so many batches of images, as a network is shown them."""
    parts = zip(images.pixels.split(size), images.labels.split(size), strict=True)
    return [(shown(pixels.float()), labels.long()) for pixels, labels in list(parts)[:count]]


def pictures(
    folder: str, size: int, count: int, shown: Callable[[Tensor], Tensor]
) -> Callable[[Path, int], tuple[Batches, Batches]]:
    """Return what loads so many batches of MNIST or Fashion-MNIST, and the first 2,000 to score."""

    def load(data: Path, seed: int) -> tuple[Batches, Batches]:
        (raw,) = (data / folder).glob("*/raw")
        both = digits.load(raw)
        order = torch.randperm(60000, generator=torch.Generator().manual_seed(seed))[: size * count]
        drawn = digits.Images(both.train.pixels[order], both.train.labels[order])
        return of(drawn, size, count, shown), of(both.test, 500, 4, shown)

    return load


def recordings(size: int, epochs: int) -> Callable[[Path, int], tuple[Batches, Batches]]:
    """Return what loads the subset of N-MNIST as 30 frames of 10 ms."""

    def frames(some: nmnist.Recordings, order: Iterator[int]) -> list[tuple[Tensor, int]]:
        return [(nmnist.frames(some.read(n), 30, 10_000), int(some.labels[n])) for n in order]

    def joined(some: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        maps, labels = zip(*some, strict=True)
        return torch.stack(maps, 1).float(), torch.tensor(labels)

    def load(data: Path, seed: int) -> tuple[Batches, Batches]:
        both = nmnist.load(data / "nmnist" / "nmnist_first1000_100.npz")
        generator = torch.Generator().manual_seed(seed)
        seen = frames(both.train, iter(range(len(both.train))))
        batches = []
        for _ in range(epochs):
            order = torch.randperm(len(seen), generator=generator).split(size)
            batches += [joined([seen[n] for n in part.tolist()]) for part in order]
        return batches, [joined(frames(both.test, iter(range(len(both.test)))))]

    return load


def numbers(data: Path, seed: int) -> tuple[Batches, Batches]:
    """Return the straight line of regression 1, shown again and again."""
    line = torch.linspace(0, 0.5, 50).view(50, 1, 1)
    return [(line, line)] * 600, [(line, line)]


def membranes(out: Any, labels: Tensor) -> Tensor:
    """The loss of tutorial 5: cross-entropy of the potentials of every step."""
    found: Tensor = sum(F.cross_entropy(mem, labels) for mem in out[1])  # type: ignore[assignment]
    return found


def of_spikes(loss: Any) -> Callable[[Any, Tensor], Tensor]:
    return lambda out, labels: loss(out[0], labels)


def counted(out: Any, labels: Tensor) -> Any:
    return (out[0].sum(0).argmax(1) == labels).float().mean()


def by_groups(out: Any, labels: Tensor) -> Any:
    return (out[0].sum(0).unflatten(1, (10, 50)).sum(2).argmax(1) == labels).float().mean()


def constant(pixels: Tensor) -> Tensor:
    """Norse's encoding of MNIST: spikes of a neuron that a pixel's current drives, 32 steps."""
    encoded: Tensor = norse.ConstantCurrentLIFEncoder(32)(2 * pixels.flatten(1))
    return encoded


POPULATION = functional.mse_count_loss(
    correct_rate=1.0, incorrect_rate=0.0, population_code=True, num_classes=10
)
COUNT = functional.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
ROWS = [
    Row("tutorial 5, loss of membranes", LEAKY, lambda neuron: Dense(25, neuron),
        pictures("mnist", 128, 120, lambda p: p.flatten(1)), membranes, counted, 5e-4),
    Row("tutorial 5, loss of spikes", LEAKY, lambda neuron: Dense(25, neuron),
        pictures("mnist", 128, 120, lambda p: p.flatten(1)),
        of_spikes(functional.ce_count_loss()), counted, 5e-4),
    Row("tutorial 6", LEAKY, lambda neuron: Convolutional(20, neuron),
        pictures("mnist", 64, 40, lambda p: p.view(-1, 1, 28, 28)),
        of_spikes(functional.ce_rate_loss()), counted, 1e-2),
    Row("tutorial 7", LEAKY, events, recordings(64, 2), of_spikes(COUNT), counted, 2e-2, True),
    Row("regression 1, error", LEAKY, Regression, numbers, F.mse_loss,
        lambda out, line: (out - line).abs().mean(), 1e-3),
    Row("regression 2", RLEAKY, lambda neuron: Recurrent(25, 128, neuron),
        pictures("mnist", 128, 240, lambda p: p.flatten(1)), of_spikes(COUNT), counted, 1e-3),
    Row("population coding", LEAKY, population,
        pictures("fashion", 128, 240, lambda p: p.expand(1, *p.shape)),
        of_spikes(POPULATION), by_groups, 2e-3, True),
    Row("Norse, MNIST", CELLS, NorseRecurrent, pictures("mnist", 128, 120, constant),
        lambda out, labels: F.nll_loss(F.log_softmax(out, 1), labels),
        lambda out, labels: (out.argmax(1) == labels).float().mean(), 2e-3),
]  # fmt: skip


def trained(row: Row, neuron: Any, data: Path, seed: int) -> float:
    """Train a network as its tutorial does, and return its score."""
    batches, tests = row.data(data, seed)
    torch.manual_seed(seed)
    net = row.net(neuron)
    fast = sp.accelerate(net, batches[0][0][0] if row.stepped else batches[0][0])
    optimizer = torch.optim.Adam(net.parameters(), lr=row.rate)
    for x, labels in batches:
        loss = row.loss(fast(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return mean(float(row.score(fast(x), labels)) for x, labels in tests)


def cells(row: Row, data: Path) -> list[str]:
    """Return the cells of a row: how many updates, and the score with each neuron."""
    found = [row.name, str(len(row.data(data, 0)[0]))]
    for column in LEAKY:
        if column not in row.neurons:
            found.append("")
            continue
        scores = [trained(row, row.neurons[column], data, seed) for seed in SEEDS]
        print(row.name, column, scores, flush=True)
        found.append(" ".join(f"{score:.3f}".removeprefix("0") for score in scores))
    return found


def main() -> None:
    """Train all rows and write the page, or print those that are named."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data, words = Path(sys.argv[1]), sys.argv[2:]
    rows = []
    for row in ROWS:
        if not words or any(row.name.startswith(word) for word in words):
            rows.append(cells(row, data))
            print(page_tables.line(rows[-1]), flush=True)
    if words:
        return
    files.write(PAGE, page_tables.renewed(PAGE.read_text(), rows).encode())


if __name__ == "__main__":
    main()
