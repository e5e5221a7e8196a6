"""Networks that learn digits, events and chorales from spikes, of layers of torch or ours."""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.neuron import SNU, Conv2d, Linear, SNUConfig, laid_channels_last
from snu_plugin.tasks import chorales, digits, nmnist

DECAY = 0.8
STEPS, FRAME_US = 20, 15_000

Parts = list[tuple[Tensor, Tensor]]
"""Inputs ``(T, B, ...)`` and what is to be learnt of them."""


class Network(nn.Module):
    """Layers of products, each but the last with units, for inputs ``(T, B, ...)``."""

    def __init__(self, layers: list[nn.Module], units: list[SNU | None], pools: bool) -> None:
        super().__init__()
        self.layers, self.pools = nn.ModuleList(layers), pools
        self.units = nn.ModuleList([nn.Identity() if unit is None else unit for unit in units])

    def forward(self, x: Tensor, rates: list[float] | None = None) -> Tensor:
        """Return what the last layer gives at every step, ``(T, B, outputs)``."""
        h = x.flatten(0, 1)
        if isinstance(self.layers[0], Conv2d):
            h = laid_channels_last(h)
        for layer, unit in zip(self.layers, self.units, strict=True):
            if isinstance(layer, nn.Linear):
                h = h.flatten(1)
            if rates is not None:
                rates.append(float(h.detach().mean()))
            h = layer(h)
            if isinstance(unit, SNU):
                h = h.unflatten(0, x.shape[:2])
                h = (unit.pooled(h, (2, 2)) if self.pools else unit(h))[0].flatten(0, 1)
        y: Tensor = h.unflatten(0, x.shape[:2])
        return y


def dense(walks: bool, neurons: bool = True) -> Network:
    """Return 784-256-256-10 for rate-coded digits; without neurons its products alone."""
    kind = Linear if walks else nn.Linear
    sizes = (784, 256), (256, 256), (256, 10)
    units = [SNU(n, SNUConfig(decay=DECAY)) if neurons and n > 10 else None for _, n in sizes]
    return Network([kind(a, b) for a, b in sizes], units, pools=False)


def convolutional(walks: bool) -> Network:
    """Return 2 x 34 x 34 -> 16 -> 32 -> 64 channels -> 10 for frames of events."""
    kind: type[nn.Conv2d] = Conv2d if walks else nn.Conv2d
    layers = [kind(2, 16, 5, padding=2), kind(16, 32, 3, padding=1), kind(32, 64, 3, padding=1)]
    units = [SNU((c, n, n), SNUConfig(decay=DECAY)) for c, n in ((16, 34), (32, 17), (64, 8))]
    net = Network([*layers, nn.Linear(64 * 16, 10)], [*units, None], pools=True)
    return net.to(memory_format=torch.channels_last) if walks else net


def recurrent(walks: bool) -> Network:
    """Return 88-150-88 with recurrent units for chorales."""
    kind = Linear if walks else nn.Linear
    unit = SNU(150, SNUConfig(decay=DECAY), recurrent=True)
    return Network([kind(88, 150), kind(150, 88)], [unit, None], pools=False)


def learnt(data: Path) -> Iterator[tuple[str, Callable[[bool], Network], Parts, bool]]:
    """Yield name, network, what it learns and whether that is chords, of data below a folder."""
    random = torch.Generator().manual_seed(0)
    images = digits.load(data / "mnist/MNIST/raw").train
    mnist = [
        (digits.rate_code(part.pixels.flatten(1), STEPS, gain=0.5, generator=random), part.labels)
        for part in digits.shuffled(images, 100, random)[:300]
    ]
    found = chorales.load(data / "jsb/JSB_Chorales.mat").train
    pieces = [(b.x.float(), b.target.float()) for b in chorales.batches(found, 16, random)]
    (where, *_) = (*(data / "nmnist").glob("*.npz"), data / "nmnist")
    recordings = nmnist.load(where).train
    order = torch.randperm(len(recordings), generator=random)[:960].view(-1, 16)
    events = [
        (
            torch.stack([nmnist.frames(recordings[i], STEPS, FRAME_US) for i in some.tolist()], 1),
            recordings.labels[some],
        )
        for some in order
    ]
    yield "MNIST, 784-256-256-10", dense, mnist, False
    yield "N-MNIST, 2x34x34-16-32-64-10", convolutional, events, False
    yield "JSB, 88-150 (recurrent)-88", recurrent, pieces * 8, True


def train(net: Network, parts: Parts, chords: bool) -> list[float]:
    """Train for a pass over the parts; return the shares of spikes that layers receive."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for x, y in parts:
        optimizer.zero_grad()
        loss(net, x, y, chords).backward()
        optimizer.step()
    rates: list[float] = []
    net(parts[0][0], rates)
    return rates


def loss(net: Network, x: Tensor, y: Tensor, chords: bool) -> Tensor:
    found = net(x)
    if chords:
        return F.binary_cross_entropy_with_logits(found, y)
    return F.cross_entropy(found.mean(0), y)


def train_once(net: Network, x: Tensor, y: Tensor, chords: bool) -> None:
    net.zero_grad()
    loss(net, x, y, chords).backward()
