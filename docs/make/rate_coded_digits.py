"""A rate-coded network for chips, and data to tune it on: ``rate_coded_digits.py DATA OUT``.

Trains 784-256-256-10, two layers of SNU and a linear read-out, on MNIST as spike trains, with noise
on the weights. OUT gets ``digits.nir`` and ``digits.npz``: 2,000 training images to learn from and
2,000 to choose by, none of them seen in training, and the first 4,000 test images, each coded once.
``snu tune OUT/digits.nir OUT/digits.npz --compare`` makes the table of docs/results.md. DATA is the
folder ``raw`` of MNIST. With ``--convolutional`` the network is 784-12c5/2-24c5/2-128-10.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from snu_plugin import graph
from snu_plugin.neuron import SNUConfig
from snu_plugin.tasks import digits
from snu_plugin.tasks.digits import Images
from snu_plugin.training import (
    ConvLayer,
    Robustness,
    UnitNetwork,
    convolutional,
    network,
)
from snu_plugin.training import train as fit
from snu_plugin.training.networks import linear_readout

SIZES = (784, 256, 256, 10)
CONVOLUTIONS, DENSE = (ConvLayer(12, 5, 2), ConvLayer(24, 5, 2)), 128
STEPS, GAIN = 20, 0.5
"""Steps of an image, and how often a white pixel fires in them."""
TUNED_ON, CHOSEN_BY = 2000, 2000
"""The last training images, kept from training."""
TESTED = 4000
"""Test images, the first: a chip takes seconds for a thousand."""
BATCH, LR = 100, 2e-3
LIMIT, NOISE = 0.3, 0.06
"""Of the weights in training; noise as a share of the limit. Ours."""


def made(shape: tuple[int, ...], draw: Generator) -> UnitNetwork:
    """Return an untrained network for images of this shape, a row or ``(1, 28, 28)``."""
    config = SNUConfig(decay=0.8)
    if len(shape) == 1:
        return network("snu", SIZES, config, readout=True, generator=draw)
    seeing = convolutional("snu", (1, 28), CONVOLUTIONS, (DENSE,), config, generator=draw)
    return UnitNetwork([*seeing.layers], linear_readout(DENSE, SIZES[-1], draw))


def coded(images: Images, shape: tuple[int, ...], draw: Generator) -> Tensor:
    """Return the images as spikes, bool, ``(STEPS, N, *shape)``."""
    pixels = images.pixels.reshape(-1, *shape)
    return digits.rate_code(pixels, STEPS, gain=GAIN, dtype=torch.bool, generator=draw)


def train_for(
    net: nn.Module, images: Images, shape: tuple[int, ...], epochs: int, draw: Generator
) -> None:
    """Train on images coded anew in every epoch, with noise on the weights, as devices have it."""

    def loss(part: Images) -> Tensor:
        return cross_entropy(net(coded(part, shape, draw).float())[0].mean(0), part.labels)

    fit(
        net,
        torch.optim.Adam(net.parameters(), lr=LR),
        epochs,
        batches=lambda: digits.shuffled(images, BATCH, draw),
        loss=loss,
        lr_factor=lambda gone: (1 + math.cos(math.pi * gone / epochs)) / 2,
        robustness=Robustness(weight_limit=LIMIT, weight_noise=NOISE),
        generator=draw,
        on_epoch=lambda epoch: print(f"epoch {epoch.number}: loss {epoch.loss:.4f}", flush=True),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--convolutional", action="store_true")
    given = parser.parse_args()
    shape = (1, 28, 28) if given.convolutional else (784,)
    given.out.mkdir(parents=True, exist_ok=True)
    draw = Generator().manual_seed(given.seed)
    data = digits.load(given.data)
    train, kept = data.hold_out(TUNED_ON + CHOSEN_BY)
    net = made(shape, draw)
    train_for(net, train, shape, given.epochs, draw)
    parts = {
        "train_": kept.take(slice(TUNED_ON)),
        "valid_": kept.take(slice(TUNED_ON, None)),
        "": data.test,
    }
    arrays: dict[str, Any] = {}
    for name, images in parts.items():
        arrays[f"{name}x"] = coded(images, shape, draw).numpy()
        arrays[f"{name}labels"] = images.labels.numpy()
    arrays["x"], arrays["labels"] = arrays["x"][:, :TESTED], arrays["labels"][:TESTED]
    np.savez_compressed(given.out / "digits.npz", **arrays)
    x = torch.from_numpy(arrays["x"])
    g = graph.to_nir(net.eval(), x[:, :2].float())
    graph.write(given.out / "digits.nir", g)
    reference, labels = graph.network(g), torch.from_numpy(arrays["labels"])
    with torch.no_grad():
        guess = [reference(part.float())[0].sum(0).argmax(1) for part in x.split(500, 1)]
    print(f"float: {float((torch.cat(guess) == labels).double().mean()):.4f}")


if __name__ == "__main__":
    main()
