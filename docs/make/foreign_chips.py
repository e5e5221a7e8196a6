"""Networks trained without a chip in mind, on chips: ``python docs/make/foreign_chips.py DATA``.

Three kinds that others publish: a convolutional network converted to integrate-and-fire neurons, a
recurrent network of current-based LIF neurons on images read row by row, and soft SNUs on chorales.
For each, the score on an ideal chip, on one whose devices alone are modelled, on a fresh chip with
ranges from data, and what age and recalibration do. It prints the table of
docs/foreign_networks.md; DATA is a folder with MNIST and the chorales in ``mnist`` and ``jsb``.

``--recordings NIR`` takes recordings of N-MNIST instead, ``nmnist`` in DATA: NIR is the published
network ``paper/02_cnn/cnn_sinabs.nir`` of github.com/neuromorphs/NIR, and beside it stand
``events-ssnu`` of the zoo and a recurrent network that is trained on the recordings. Their chips
are a month old when they are recalibrated, corrected, tuned in digital values or written again.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import page_tables
import snu_snntorch as st
from snu_plugin import graph, zoo
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, Program
from snu_plugin.compiler import compile
from snu_plugin.experiments.datasets import Sequences
from snu_plugin.experiments.passes import fitted
from snu_plugin.hil import Correct, DigitalOnly, Recalibrate, Rewrite, Way, fine_tune, shown_inputs
from snu_plugin.tasks import chorales, digits, nmnist
from snu_plugin.tasks.nmnist import NMNIST, Recordings

DT = 1e-3
DEVICES_ALONE = replace(PCM, dac_bits=None, adc_bits=None, output_noise=None, wire_ohm=None)
IMAGES = 200
"""That a convolutional network reads in 100 steps each; 0.06 s of a core for one on a chip."""
AGES = {"1 h": 3600.0, "1 d": 86_400.0, "30 d": 30 * 86_400.0}


@dataclass(frozen=True)
class Case:
    """A trained network with data that it has not seen."""

    name: str
    graph: nir.NIRGraph
    sample: Tensor
    """Of the training data, for the ranges."""
    x: Tensor
    score: Callable[[Tensor], float]
    """Of the outputs for ``x``: per cent, or nats."""


def learn(
    net: nn.Module, count: int, passes: int, batch: int, loss: Callable[[Tensor], Tensor]
) -> None:
    """Train by Adam; ``loss`` takes the places of a batch."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(passes):
        for at in torch.randperm(count).split(batch):
            optimizer.zero_grad()
            loss(at).backward()
            optimizer.step()


def convolutional(folder: Path, seed: int) -> Case:
    """A convolutional network trained with ReLUs and converted to IF neurons, on MNIST.

    Weights are normalised by the largest activations (Rueckauer et al., Front. Neurosci. 11, 2017,
    equation 6, at the 99th percentile); images come as a constant current for 100 steps.
    """
    torch.manual_seed(seed)
    data = digits.load(folder / "mnist" / "MNIST" / "raw")
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(12, 24, 5, bias=False), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24 * 16, 10, bias=False), nn.ReLU(),
    )  # fmt: skip
    train = data.train
    x = train.pixels.reshape(-1, 1, 28, 28) / 255
    learn(net, len(x), 2, 128, lambda at: cross_entropy(net(x[at]), train.labels[at]))
    with torch.no_grad():
        before, seen = 1.0, x[:1000]
        weights = iter(net.parameters())
        for layer in net:
            seen = layer(seen)
            if isinstance(layer, nn.ReLU):
                top = float(seen.flatten().sort().values[int(0.99 * seen.numel())])
                next(weights).mul_(before / top)
                before = top
    kernels = [w.detach().numpy() for w in net.parameters()]

    def fire(*shape: int) -> nir.IF:
        return nir.IF(r=np.full(shape, 1 / DT), v_threshold=np.ones(shape), v_reset=np.zeros(shape))

    def conv(w: Any, shape: tuple[int, int]) -> nir.Conv2d:
        bias = np.zeros(len(w))
        return nir.Conv2d(shape, w, stride=1, padding=0, dilation=1, groups=1, bias=bias)

    def pool() -> nir.AvgPool2d:
        return nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))

    g = nir.NIRGraph.from_list(
        nir.Input(np.array([1, 28, 28])),
        conv(kernels[0], (28, 28)), fire(12, 24, 24), pool(),
        conv(kernels[1], (12, 12)), fire(24, 8, 8), pool(),
        nir.Flatten({"input": np.array([24, 4, 4])}, start_dim=0),
        nir.Linear(kernels[2]), fire(10),
        nir.Output(np.array([10])),
    )  # fmt: skip
    labels = data.test.labels[:IMAGES]
    return Case(
        "convolutional IF, 100 steps, MNIST, %",
        g,
        x[:16].expand(100, -1, -1, -1, -1),
        (data.test.pixels[:IMAGES].reshape(-1, 1, 28, 28) / 255).expand(100, -1, -1, -1, -1),
        lambda y: 100 * float((y.sum(0).argmax(1) == labels).float().mean()),
    )


def cuba(inputs: int, scale: float, seed: int) -> nir.NIRGraph:
    """Return 128 recurrent current-based LIF neurons with a leaky read-out of ten classes."""
    units, draw = 128, np.random.default_rng(seed)

    def matrix(out: int, inputs: int, scale: float) -> np.ndarray:
        return draw.normal(0, scale / inputs**0.5, (out, inputs))

    def constant(value: float, count: int) -> np.ndarray:
        return np.full(count, value)

    nodes = {
        "input": nir.Input(np.array([inputs])),
        "fc1": nir.Affine(matrix(units, inputs, scale), constant(0.0, units)),
        "neurons": nir.CubaLIF(
            tau_syn=constant(4 * DT, units), tau_mem=constant(8 * DT, units),
            r=constant(1.0, units), v_leak=constant(0.0, units), w_in=constant(4.0, units),
            v_threshold=constant(1.0, units), v_reset=constant(0.0, units),
        ),
        "back": nir.Linear(matrix(units, units, 0.5)),
        "fc2": nir.Affine(matrix(10, units, 1.0), constant(0.0, 10)),
        "readout": nir.LI(constant(20 * DT, 10), constant(20.0, 10), constant(0.0, 10)),
        "output": nir.Output(np.array([10])),
    }  # fmt: skip
    edges = [
        ("input", "fc1"), ("fc1", "neurons"), ("neurons", "back"), ("back", "neurons"),
        ("neurons", "fc2"), ("fc2", "readout"), ("readout", "output"),
    ]  # fmt: skip
    return nir.NIRGraph(nodes, edges)


def recurrent(folder: Path, seed: int) -> Case:
    """Recurrent current-based LIF neurons and a leaky read-out, images row by row."""
    torch.manual_seed(seed)
    data = digits.load(folder / "mnist" / "MNIST" / "raw")
    net = graph.network(cuba(28, 3.0, seed), dt=DT)
    rows = data.train.pixels / 255

    def loss(at: Tensor) -> Tensor:
        return cross_entropy(net(rows[at].transpose(0, 1))[0][-1], data.train.labels[at])

    learn(net, len(rows), 2, 128, loss)
    x = data.test.pixels[:2000].transpose(0, 1) / 255
    labels = data.test.labels[:2000]
    return Case(
        "recurrent CubaLIF, 28 steps, MNIST by rows, %",
        net.to_nir(),
        rows[:256].transpose(0, 1),
        x,
        lambda y: 100 * float((y[-1].argmax(1) == labels).float().mean()),
    )


def soft(folder: Path, seed: int) -> Case:
    """Soft SNUs that learn to continue chorales, trained plainly."""
    torch.manual_seed(seed)
    data = chorales.load(folder / "jsb" / "JSB_Chorales.mat")
    first, last = nn.Linear(88, 150, bias=False), nn.Linear(150, 88)
    unit = st.sSNUSequence(beta=0.8, threshold=torch.zeros(150), learn_threshold=True)
    for layer in (first, last):
        nn.init.xavier_uniform_(layer.weight)
    net = nn.Sequential(OrderedDict(fc1=first, unit=unit, fc2=last))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    pieces, valid, test = (
        [chorales.pad([p]) for p in data.train],
        *map(chorales.pad, (data.valid, data.test)),
    )
    best, kept = np.inf, net.state_dict()
    for _ in range(30):
        for i in torch.randperm(len(pieces)).tolist():
            optimizer.zero_grad()
            (chorales.nll(net(pieces[i].x), pieces[i].target) / 88).backward()
            optimizer.step()
        with torch.no_grad():
            now = float(chorales.nll(net(valid.x), valid.target, valid.mask))
        if now < best:
            best, kept = now, {n: v.clone() for n, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return Case(
        "sSNU, chorales, nats",
        st.to_nir(net, pieces[0].x),
        valid.x,
        test.x,
        lambda y: float(chorales.nll(y, test.target, test.mask)),
    )


@torch.no_grad()
def scores(case: Case, chips: int) -> dict[str, list[float]]:
    """Return the score of a network, by what runs it, on so many chips."""
    usual = compile(case.graph, PCM)
    from_data = compile(case.graph, PCM, sample=case.sample)

    def made(program: Program, seed: int) -> Accelerator:
        written = Accelerator(program, seed)
        written.program()
        return written

    def on(chip: Accelerator) -> float:
        return case.score(chip.run(case.x)[0])

    alone = compile(case.graph, DEVICES_ALONE)
    found: dict[str, list[float]] = {"ideal chip": [on(made(compile(case.graph, IDEAL), 0))]}
    for seed in range(chips):
        found.setdefault("devices alone", []).append(on(made(alone, seed)))
        found.setdefault("fresh, usual ranges", []).append(on(made(usual, seed)))
        chip = made(from_data, seed)
        uncalibrated = chip.registers
        found.setdefault("fresh, ranges from data", []).append(on(chip))
        chip.calibrate()
        found.setdefault("and recalibrated", []).append(on(chip))
        for age, seconds in AGES.items():
            chip.set_registers(uncalibrated)
            chip.wait(seconds - chip.age_s)
            found.setdefault(f"after {age}", []).append(on(chip))
            chip.calibrate()
            found.setdefault(f"after {age}, recalibrated", []).append(on(chip))
    return found


@dataclass(frozen=True)
class Recorded:
    """A trained network with recordings: to learn from, and to judge on."""

    name: str
    graph: nir.NIRGraph
    train: Sequences
    test: Sequences
    batch: int
    """Recordings that an update of tuning learns from."""
    dt: float | None = None
    """Seconds of a step; ``None``: as the graph says."""


MONTH_S = 30 * 86_400.0
AFTER_A_MONTH: Mapping[str, Sequence[Way]] = {
    "left alone": [],
    "recalibrated": [Recalibrate()],
    "corrected": [Recalibrate(), Correct()],
    "rewritten": [Rewrite()],
    "digital values": [Recalibrate(), DigitalOnly()],
}
"""What is done to a chip of that age, by name."""


def gathered(part: Recordings, count: int, step_us: int, *, binary: bool) -> Sequences:
    """Return the first recordings of a part as 300 ms of frames, with their labels."""
    steps = 300_000 // step_us
    seen = [nmnist.frames(part[i], steps, step_us, binary=binary) for i in range(count)]
    return Sequences("recordings", torch.stack(seen, 1), part.labels[:count])


def published(file: Path, data: NMNIST, seed: int) -> Recorded:
    """The convolutional network of the NIR paper: events counted in steps of 1 ms."""
    del seed  # it is trained
    g = graph.read(file)
    train, test = (
        gathered(*part, 1000, binary=False) for part in ((data.train, 96), (data.test, 100))
    )
    return Recorded(f"{file.name}, %", g, train, test, 8, dt=1.0)  # IF nodes, r = 1


def flat(part: Recordings, count: int) -> Sequences:
    """Return recordings as 30 frames of 2,312 pixels that saw a change or did not."""
    frames = gathered(part, count, 10_000, binary=True)
    return replace(frames, x=frames.x.flatten(2))


def shelved(file: Path, data: NMNIST, seed: int) -> Recorded:
    """``events-ssnu`` of the zoo, which learned from 900 of these recordings."""
    del file, seed  # it is trained, and comes along
    g = zoo.read("events-ssnu")
    return Recorded("events-ssnu, %", g, flat(data.train, 900), flat(data.test, 100), 50)


def recurrent_events(file: Path, data: NMNIST, seed: int) -> Recorded:
    """Recurrent current-based LIF neurons, trained on 1,000 recordings."""
    del file  # it is trained here
    torch.manual_seed(seed)
    train, test = flat(data.train, 1000), flat(data.test, 100)
    net = graph.network(cuba(2312, 10.0, seed), dt=DT)
    labels = train.labels
    assert labels is not None
    learn(net, len(train), 30, 50, lambda at: train.loss(net(train.x[:, at])[0] / 30, labels[at]))
    return Recorded("recurrent CubaLIF, %", net.to_nir(), train, test, 50)


RECORDED: Mapping[str, Callable[[Path, NMNIST, int], Recorded]] = {
    "zoo": shelved,
    "recurrent": recurrent_events,
    "published": published,
}


def percent(case: Recorded, chip: Accelerator) -> float:
    """Return the share of recordings that a chip tells right."""
    return 100 * case.test.score(lambda x: chip.run(x)[0])


def month_old(case: Recorded, chips: int) -> dict[str, list[float]]:
    """Return the score of a network on fresh chips and on chips of a month, by what was done."""
    from_data = compile(case.graph, PCM, sample=case.train.x[:, :16], dt=case.dt)
    found: dict[str, list[float]] = {}

    def look(row: str, program: Program, ways: Sequence[Way], seconds: float, count: int) -> None:
        found[row] = []
        for seed in range(count):
            chip = Accelerator(program, seed)
            chip.program()
            chip.wait(max(0.0, seconds - chip.age_s))
            change(chip, ways, case, seed)
            found[row].append(percent(case, chip))
        print(case.name, row, found[row], flush=True)

    look("ideal chip", compile(case.graph, IDEAL, dt=case.dt), [], 0.0, 1)
    look("fresh, usual ranges", compile(case.graph, PCM, dt=case.dt), [], 0.0, chips)
    look("fresh, ranges from data", from_data, [], 0.0, chips)
    for way, steps in AFTER_A_MONTH.items():
        look(f"30 days, {way}", from_data, steps, MONTH_S, chips)
    return found


def change(chip: Accelerator, ways: Sequence[Way], case: Recorded, seed: int) -> None:
    """Do to a chip what the ways say; what is tuned sees the recordings once."""
    if not ways or not isinstance(ways[-1], DigitalOnly):
        for way in ways:
            shown_inputs(way, case.train.x[:, :16]).begin(chip)
        return
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(case.train), generator=draw).split(case.batch)
    parts = [case.train.take(at) for at in order]
    with torch.no_grad():
        loss = fitted(chip, parts[0])
    fine_tune(chip, [(part.x, part.labels) for part in parts], loss, list(ways))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--chips", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recordings", type=Path, metavar="NIR", help="cnn_sinabs.nir")
    parser.add_argument("--networks", default=",".join(RECORDED), help="of the recordings")
    given = parser.parse_args()
    columns: dict[str, dict[str, list[float]]] = {}
    if given.recordings is None:
        for make in (convolutional, recurrent, soft):
            case = make(given.data, given.seed)
            columns[case.name] = scores(case, given.chips)
            print(case.name, columns[case.name], flush=True)
    else:
        data = nmnist.load(given.data / "nmnist" / "nmnist_first1000_100.npz")
        for name in given.networks.split(","):
            recorded = RECORDED[name](given.recordings, data, given.seed)
            columns[recorded.name] = month_old(recorded, given.chips)
    rows = []
    for row in next(iter(columns.values())):
        cells = [row]
        for name, column in columns.items():
            values = sorted(column[row], reverse=name.endswith("nats"))
            cells.append(f"{np.median(values):.2f} ({values[0]:.2f})")
        rows.append(cells)
    print(page_tables.table((f"{given.chips} chips, median (worst)", *columns), rows))


if __name__ == "__main__":
    main()
