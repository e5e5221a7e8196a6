"""What walking spikes saves: layers, products alone, convolutions, trained networks, in turns.

``spike_networks.py DATA`` prints tables; DATA holds MNIST (``mnist/MNIST/raw``), the JSB chorales
(``jsb/JSB_Chorales.mat``) and N-MNIST (``nmnist``, the official folders or their subset in one
file). ``--threads 1,2``: all of it on one thread, then on two what more threads change.
``--processor-time`` counts the time of one thread's processor instead, on a machine that does other
things besides.
"""

# Some of torch's functions have no types.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.bench import spikes
from snu_plugin.bench.isolated import memory, settled
from snu_plugin.bench.neuron import WORKLOADS
from snu_plugin.bench.timing import counted, table, time_in_turns
from snu_plugin.neuron import SNU, Linear, SNUConfig, laid_channels_last, spike_conv2d, spike_linear
from snu_plugin.neuron.numba_scan import spike_product
from spiking_networks import dense, learnt, train, train_once

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
ANY_SHARE = (0.0, 0.75, 1.0)
"""Shares of ones at the ends of what is walked and beyond."""

SHARED = "layers", "products", "convolutions"
"""Parts that are run on several threads, too."""

Call = Callable[[], object]
Clock = Callable[[], float]


class Timer(NamedTuple):
    """Times calls in turns for so many seconds."""

    clock: Clock
    seconds: float

    def __call__(self, calls: Mapping[str, Call], unit: str) -> dict[str, tuple[float, float]]:
        """Return the median in ms of each call, and the median of its ratio to ``unit``."""
        found = time_in_turns(calls, self.seconds, self.clock)
        return {name: (1e3 * took.median, took.over(found[unit])) for name, took in found.items()}


def drawn(share: float, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=random) < share).float()


def layers(threads: int, seconds: float) -> str:
    """Return the table of ``snu bench neuron --parts spikes``."""
    return spikes.text(spikes.run(WORKLOADS, [threads], seconds * len(SHARES)))


def products(timer: Timer) -> str:
    """Return the forward pass alone of ``nn.Linear`` and of ``sp.Linear``."""
    rows = []
    for samples, inputs, outputs in ((6400, 784, 256), (8000, 512, 512), (1600, 88, 150)):
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))
        for share in SHARES:
            x = drawn(share, samples, inputs)
            words = spike_product.pack(x, 1.0)
            assert words is not None
            calls: dict[str, Call] = {
                "dense": partial(F.linear, x, weight),
                "sp.Linear": partial(spike_linear, x, weight),
                "bits": partial(spike_product.product, words, weight, None),
            }
            found = timer(calls, "dense")
            ratios = (f"{found[name][1]:.2f}" for name in ("sp.Linear", "bits"))
            size = f"{samples} x {inputs} -> {outputs}"
            rows.append((size, f"{share:.0%}", f"{found['dense'][0]:.3g}", *ratios))
    return table(("forward alone", "spikes", "dense, ms", "sp.Linear", "given the bits"), rows)


def bounded(timer: Timer) -> str:
    """Return a layer fed by units whose surrogate is a rectangle, their own time taken off.

    784 units feed 256 through a product, 100 steps of 64 sequences. Rectangles are so wide that a
    share of the senders lies within.
    """
    random = torch.Generator().manual_seed(0)
    x = (torch.randn(100, 64, 784, generator=random) * 0.5).requires_grad_()
    g = torch.randn(100, 64, 256, generator=random)
    torch.manual_seed(0)
    walking, usual, receiver = Linear(784, 256), nn.Linear(784, 256), SNU(256)
    away = distances(x.detach())
    rows = []
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0):
        half = float(away.quantile(share)) if share < 1 else 1e9
        sender = SNU(784, SNUConfig(surrogate=partial(rectangle, half)))
        calls: dict[str, Call] = {
            "product": partial(_product_and_back, x.detach().flatten(0, 1), usual.weight, g),
            "sender": partial(_fed_and_back, sender, None, receiver, x, g),
            "dense": partial(_fed_and_back, sender, usual, receiver, x, g),
            "two": partial(_fed_and_back, sender, walking, receiver, x, g),
            "into": partial(_fed_and_back, sender, walking, receiver, x, g, into=True),
        }
        found = timer(calls, "product")
        own = found["sender"][0]
        layers = ((found[n][0] - own) / found["product"][0] for n in ("dense", "two", "into"))
        cells = f"{found['product'][0]:.3g}", f"{own:.3g}", *(f"{n:.2f}" for n in layers)
        rows.append((f"{share:.0%}", *cells))
    head = "product alone, ms", "senders alone, ms", "nn.Linear", "sp.Linear", "SNU.into"
    return table(("senders within the support", *head), rows)


def rectangle(half: float, v: Tensor) -> Tensor:
    return (v.abs() < half).to(v.dtype)


def distances(x: Tensor) -> Tensor:
    """Return how far units with the usual settings are from their threshold, some of them."""
    far: list[Tensor] = []

    def surrogate(v: Tensor) -> Tensor:
        far.append(v.detach().abs().flatten()[::8])
        return torch.ones_like(v)

    leaf = x.requires_grad_()
    SNU(x.shape[-1], SNUConfig(surrogate=surrogate))(leaf)[0].sum().backward()
    return torch.cat(far)[:1_000_000]


def _fed_and_back(
    sender: SNU, layer: nn.Linear | None, receiver: SNU, x: Tensor, g: Tensor, into: bool = False
) -> object:
    """Run units, what they feed and its units forward and back; without a layer units alone."""
    if layer is None:
        y, _ = sender(x)
        return torch.autograd.grad(y, [x, sender.threshold], y.detach())
    fed = sender.into(layer, x)[0] if into else layer(sender(x)[0])
    learnt = x, sender.threshold, *layer.parameters(), receiver.threshold
    return torch.autograd.grad(receiver(fed)[0], learnt, g)


def _product_and_back(rows: Tensor, weight: Tensor, g: Tensor) -> object:
    """Multiply forward and back, densely, with both gradients."""
    g = g.flatten(0, 1)
    return F.linear(rows, weight), g @ weight, g.t() @ rows


def convolutions(timer: Timer) -> str:
    """Return convolutions of torch in its faster order in memory, and of ``sp.Conv2d``."""
    rows = []
    for channels, side, outputs, kernel in (
        (64, 16, 64, 3), (32, 16, 64, 3), (16, 17, 32, 3), (2, 34, 16, 5),
    ):  # fmt: skip
        layer = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False)
        weight = layer.weight
        for share in SHARES:
            planes = drawn(share, 320, channels, side, side)
            last = laid_channels_last(planes)
            gradient = torch.randn_like(layer(last).detach())

            cells = []
            for call in (_convolve, _convolve_and_back):
                calls: dict[str, Call] = {
                    "planes": partial(call, F.conv2d, planes, weight, gradient),
                    "last": partial(call, F.conv2d, last, weight, gradient),
                    "sp": partial(call, spike_conv2d, last, weight, gradient),
                }
                found = timer(calls, "last")
                faster = min(found["planes"][0], found["last"][0])
                cells += [f"{faster:.3g}", f"{found['sp'][0] / faster:.2f}"]
            size = f"320 x {channels} x {side} x {side} -> {outputs}, {kernel} x {kernel}"
            rows.append((size, f"{share:.0%}", *cells))
    head = "forward, ms", "sp.Conv2d", "training step, ms", "sp.Conv2d"
    return table(("convolution", "spikes", *head), rows)


def _convolve(function: Any, x: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    middle = weight.shape[2] // 2
    found: Tensor = function(x, weight, None, (1, 1), (middle, middle))
    return found


def _convolve_and_back(function: Any, x: Tensor, weight: Tensor, gradient: Tensor) -> object:
    """Convolve an inner layer, whose images have a gradient."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(_convolve(function, x, weight, gradient), [x, weight], gradient)


def any_share(timer: Timer) -> str:
    """Return training steps of inner layers where few, many or other inputs than spikes are 1."""
    rows = []
    for samples, inputs, outputs in ((6400, 784, 256), (8000, 512, 512), (1600, 88, 150)):
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1))
        gradient = torch.randn(samples, outputs, generator=torch.Generator().manual_seed(2))
        size = f"{samples} x {inputs} -> {outputs}"
        for name, x in _of_any_share(samples, inputs):
            calls: dict[str, Call] = {
                "dense": partial(_fed_back, F.linear, x, weight, gradient),
                "sp": partial(_fed_back, spike_linear, x, weight, gradient),
            }
            rows.append((size, name, *_against(timer(calls, "dense"))))
    for channels, side, outputs, kernel in ((64, 16, 64, 3), (2, 34, 16, 5)):
        weight = nn.Conv2d(channels, outputs, kernel).weight.detach()
        for name, x in _of_any_share(320, channels, side, side):
            last = laid_channels_last(x)
            gradient = torch.randn_like(_convolve(F.conv2d, last, weight, last))
            calls = {
                "dense": partial(_convolve_and_back, F.conv2d, last, _leaf(weight), gradient),
                "sp": partial(_convolve_and_back, spike_conv2d, last, _leaf(weight), gradient),
            }
            size = f"320 x {channels} x {side} x {side} -> {outputs}, {kernel} x {kernel}"
            rows.append((size, name, *_against(timer(calls, "dense"))))
    return table(("a training step", "inputs", "dense, ms", "walked or left to torch"), rows)


def _of_any_share(*shape: int) -> list[tuple[str, Tensor]]:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    few = drawn(0.1, *shape)
    few.view(-1)[-1] = 2.0
    spiking = [(f"{share:.0%}", drawn(share, *shape)) for share in ANY_SHARE]
    return [*spiking, ("10%, the last one 2", few), ("numbers", values)]


def _against(found: Mapping[str, tuple[float, float]]) -> tuple[str, str]:
    return f"{found['dense'][0]:.3g}", f"{found['sp'][1]:.2f}"


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _fed_back(function: Any, x: Tensor, weight: Tensor, gradient: Tensor) -> object:
    x, weight = _leaf(x), _leaf(weight)
    return torch.autograd.grad(function(x, weight), [x, weight], gradient)


def networks(timer: Timer, data: Path) -> str:
    """Return a training step of trained networks, and its peak memory."""
    rows = []
    for name, make, parts, chords in learnt(data):
        torch.manual_seed(0)
        ours, usual = make(True), make(False)
        rates = train(ours, parts, chords)
        usual.load_state_dict(ours.state_dict())
        x, y = parts[-1]
        nets = {"today": usual, "ours": ours}
        if make is dense:
            nets["products"] = dense(walks=False, neurons=False)
        calls: dict[str, Call] = {
            kind: partial(train_once, net, x, y, chords) for kind, net in nets.items()
        }
        timed = timer(calls, "products" if make is dense else "today")
        peaks = {kind: peak(calls[kind]) for kind in ("today", "ours")}
        rows.append(
            (
                name,
                ", ".join(f"{rate:.0%}" for rate in rates),
                f"{timed['products'][0]:.3g}" if make is dense else "",
                f"{timed['today'][0]:.3g}",
                f"{timed['ours'][0]:.3g}",
                f"{timed['ours'][1]:.2f}" if make is dense else "",
                f"{timed['ours'][0] / timed['today'][0]:.2f}",
                *(f"{peaks[kind]:.1f}" for kind in ("today", "ours")),
            )
        )
    head = "spikes that layers receive", "products, ms", "today, ms", "walked, ms", "x products"
    return table(("trained network", *head, "x today", "peak today, MB", "walked, MB"), rows)


def peak(call: Call) -> float:
    """Return how many MB a call needs at its peak beside what is there; NaN if nobody says so."""
    call()
    before = settled()
    call()
    most = memory("VmHWM")
    return float("nan") if before is None or most is None else (most - before) / 1e6


def recurrent_products(timer: Timer) -> str:
    """Return the product of one step's own spikes, dense and walked."""
    rows = []
    for batch, units in ((16, 150), (64, 256), (16, 512), (64, 512), (64, 1024)):
        weight = torch.randn(units, units, generator=torch.Generator().manual_seed(1))
        turned = weight.t().contiguous()
        for share in (0.05, 0.1, 0.2):
            y = drawn(share, batch, units)
            calls: dict[str, Call] = {
                "dense": partial(torch.mm, y, turned),
                "walked": partial(spike_linear, y, weight, impl="numba"),
            }
            found = timer(calls, "dense")
            size, took = f"{batch} x {units} -> {units}", f"{1e3 * found['dense'][0]:.3g}"
            rows.append((size, f"{share:.0%}", took, f"{found['walked'][1]:.2f}"))
    return table(("a step of a recurrent layer", "spikes", "dense, us", "walked"), rows)


def main(arguments: list[str] | None = None) -> int:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--threads", default="1", help="numbers of them (1), such as 1,2")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (2)")
    parser.add_argument(
        "--parts",
        help="of layers, products, any, bounded, convolutions, networks, recurrent (all)",
    )
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args(arguments)
    numbers = [int(number) for number in options.threads.split(",")]
    if options.processor_time and numbers != [1]:
        parser.error("processor time is that of one thread; leave out --threads")
    timer = Timer(
        time.thread_time if options.processor_time else time.perf_counter, options.seconds
    )
    parts: dict[str, Callable[[int], str]] = {
        "layers": partial(layers, seconds=options.seconds),
        "products": lambda _: products(timer),
        "any": lambda _: any_share(timer),
        "bounded": lambda _: bounded(timer),
        "convolutions": lambda _: convolutions(timer),
        "networks": lambda _: networks(timer, options.data),
        "recurrent": lambda _: recurrent_products(timer),
    }
    asked = options.parts.split(",") if options.parts else list(parts)
    for number in numbers:
        torch.set_num_threads(number)
        for name in asked if number == numbers[0] else [name for name in asked if name in SHARED]:
            print(
                f"{name}, {counted(number)}",
                parts[name](number),
                sep="\n\n",
                end="\n\n",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
