"""Measures online learning against back-propagation through time: gradients, memory, time.

    python docs/make/online_learning.py

Prints the tables of docs/neurons.md, online learning. Each row runs in a process of its own on one
thread; memory is the most that this process held, Python and torch included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

import nir
import numpy as np
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.hil import Online, fine_tune
from snu_plugin.neuron import SNUConfig
from snu_plugin.training import UnitNetwork, network, online

BATCH, SEGMENT = 16, 10


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spikes(steps: int) -> Tensor:
    return torch.rand(steps, BATCH, 88, generator=Generator().manual_seed(0)) < 0.05


def squared(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().mean()


def learn(net: UnitNetwork, x: Tensor, how: str) -> None:
    if how == "through time":
        y, _ = net(x.float())
        y.square().mean().backward()
        return
    parts, state = torch.split(x, SEGMENT if "segments" in how else 1), None
    method: Literal["ostl", "eprop"] = "eprop" if "e-prop" in how else "ostl"
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        y, state = online(net, part.float(), state, method=method, last=last)
        (y.square().mean() * len(part) / len(x)).backward()


def in_software(how: str, steps: int, recurrent: bool) -> dict[str, float]:
    draw = Generator().manual_seed(0)
    config = SNUConfig(decay=0.6, learn_decay=True)
    net = network("snu", (88, 150, 88), config, readout=True, recurrent=recurrent, generator=draw)
    x = spikes(steps)
    learn(net, x[:20], how)  # compiled by then
    net.zero_grad()
    began = time.perf_counter()
    learn(net, x, how)
    took, memory = time.perf_counter() - began, peak_mib()
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    if steps > 1000 or "e-prop" in how:
        return {"ms": 1e3 * took / steps, "mib": memory}
    learn(net, x, "through time")
    wanted = [p.grad for p in net.parameters() if p.grad is not None]
    pairs = zip(found, wanted, strict=True)
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return {"ms": 1e3 * took / steps, "mib": memory, "apart": apart}


def on_chip(how: str, steps: int) -> dict[str, float]:
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([88])}),
        "fc1": nir.Linear(draw.uniform(-0.3, 0.3, (150, 88))),
        "snu": encode_snu(SNUConfig(), 0.6, np.ones(150), dt=2.0**-10),
        "fc2": nir.Affine(draw.uniform(-0.3, 0.3, (88, 150)), np.zeros(88)),
        "out": nir.Output({"output": np.array([88])}),
    }
    edges = [("in", "fc1"), ("fc1", "snu"), ("snu", "fc2"), ("fc2", "out")]
    chip = Accelerator(compile(stamp(nir.NIRGraph(nodes, edges), 2.0**-10), PCM), 0)
    chip.program()
    gradient = None if how == "through time" else Online(steps=SEGMENT)

    def tune(x: Tensor, updates: int) -> None:
        batches = [(x, torch.zeros(BATCH, 88))] * updates
        fine_tune(chip, batches, squared, gradient=gradient, hold_back=0.2)

    tune(spikes(20), 1)
    x = spikes(steps)
    began = time.perf_counter()
    tune(x, 1)
    return {"ms": 1e3 * (time.perf_counter() - began) / steps, "mib": peak_mib()}


CASES: dict[str, tuple[Callable[..., dict[str, float]], tuple[object, ...]]] = {
    f"{layer}, {how}": (in_software, (how, layer == "recurrent"))
    for layer, hows in {
        "88-150-88": ("through time", "by step", "in segments"),
        "recurrent": ("through time", "e-prop by step", "OSTL in segments"),
    }.items()
    for how in hows
} | {f"on the chip, {how}": (on_chip, (how,)) for how in ("through time", "in segments")}


def main() -> None:
    if len(sys.argv) > 2:
        torch.set_num_threads(1)
        measure, (how, *rest) = CASES[sys.argv[1]]
        print(json.dumps(measure(how, int(sys.argv[2]), *rest)))
        return
    print("| what | ms a step, T = 40 | MiB, T = 40 | MiB, T = 4,000 | apart from BPTT |")
    print("|---|---|---|---|---|")
    for name in CASES:
        # Where units are recurrent OSTL multiplies 150 x 150 by 16 x 150 x 35,850 numbers.
        lengths = (40,) if "OSTL" in name else (40, 4000)
        found = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-W", "ignore", __file__, name, str(steps)],
                    check=True, capture_output=True, text=True,
                ).stdout
            )
            for steps in lengths
        ]  # fmt: skip
        long = f"{found[1]['mib']:.0f}" if len(found) > 1 else "-"
        apart = f"{found[0]['apart']:.1e}" if "apart" in found[0] else "-"
        print(f"| {name} | {found[0]['ms']:.2f} | {found[0]['mib']:.0f} | {long} | {apart} |")


if __name__ == "__main__":
    main()
