"""How long a chip takes beside the product it models, all in one run."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import torch
from torch import Generator

from snu_plugin.accelerator import PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.bench.timing import threads_of_torch, time_in_turns
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu
from snu_plugin.hil import DigitalOnly, Loop, MixedPrecision, Rule
from snu_plugin.neuron import SNU, EventLinear, SNUConfig

SHAPES = ((88, 150), (784, 256))
"""Inputs and outputs of the layers."""
STEPS, BATCH, RATE = 100, 64, 0.1
DEVICES = 52_800
TUNED, TUNED_STEPS = (784, 256, 10), 20
"""Network and steps of a step of tuning."""
RULES: dict[str, Rule] = {"digital": DigitalOnly(), "mixed": MixedPrecision(lr=3.0, evidence=5.0)}
"""What a step of tuning is timed with."""

# One row of tiles, so that one product stands against one product.
PLAIN = replace(PCM, tile_rows=1024, wire_ohm=None, read_noise=None)
CHIPS: dict[str, Chip] = {
    "converters and output noise": PLAIN,
    "and read noise": replace(PLAIN, read_noise=1.0),
    "and IR drop": replace(PLAIN, read_noise=1.0, wire_ohm=0.35),
}
"""What is timed beside a folded ``nn.Linear``."""


def run(seconds: float = 10.0) -> dict[str, Any]:
    """Time layers, devices and program-verify on one thread; JSON can hold the answer.

    Args:
        seconds: About how long all timings take.

    Returns:
        ``layers``: for each shape the milliseconds of a folded ``nn.Linear`` and, by chip and
        input, milliseconds and their ratio to it; ``devices_ms`` of reading 52,800 devices
        again, soon after a reading, and ``renewed_ms`` after a wait that renews all of their read
        noise; ``bytes_per_device``; ``verify_ms`` of writing 128 x 128 weights by pulses and
        reading them back; ``tuning``: milliseconds of a step of training in software, and by rule
        of one with the chip in the loop, with its ratio to it.
    """
    share = seconds / (len(SHAPES) + 2)
    with threads_of_torch(1):
        layers = {f"{i}x{o}": _layer(i, o, share) for i, o in SHAPES}
        return {
            "steps": STEPS,
            "batch": BATCH,
            "layers": layers,
            **_devices(share),
            "tuning": _tuning(share),
        }


def text(answer: dict[str, Any]) -> str:
    """Return the answer of ``run`` as a table."""
    lines = [f"{answer['steps']} steps, batch {answer['batch']}, one thread"]
    for shape, found in answer["layers"].items():
        lines.append(f"{shape}: folded nn.Linear {found['linear_ms']:.2f} ms")
        lines += [
            f"  {name:40}{beside['ratio']:6.2f} x{beside['ms']:9.2f} ms"
            for name, beside in found.items()
            if name != "linear_ms"
        ]
    lines.append(
        f"{DEVICES:,} devices read: {answer['devices_ms']:.2f} ms soon after a reading, "
        f"{answer['renewed_ms']:.2f} ms after a wait that renews all of their noise"
    )
    lines.append(f"{answer['bytes_per_device']:.0f} bytes a device, after years")
    lines.append(f"128 x 128 pairs written by pulses and verified: {answer['verify_ms']:.1f} ms")
    tuning, sizes = dict(answer["tuning"]), "-".join(map(str, TUNED))
    lines.append(
        f"{sizes}, {TUNED_STEPS} steps: software {tuning.pop('software_ms'):.2f} ms a step"
    )
    for rule, found in tuning.items():
        lines.append(f"  {'tuned, ' + rule:40}{found['ratio']:6.2f} x{found['ms']:9.2f} ms")
    return "\n".join(lines)


def _layer(inputs: int, outputs: int, seconds: float) -> dict[str, Any]:
    values = torch.rand(STEPS, BATCH, inputs, generator=Generator().manual_seed(0))
    spikes = (values < RATE).float()
    linear = torch.nn.Linear(inputs, outputs).requires_grad_(False)
    candidates: dict[str, Any] = {"linear": lambda: linear(values.view(-1, inputs))}
    for name, chip in CHIPS.items():
        made = _chip(inputs, outputs, chip)
        for kind, x in (("values", values), ("spikes", spikes)):
            candidates[f"{name}, {kind}"] = lambda made=made, x=x: made.run(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what saturates takes no longer
        found = time_in_turns(candidates, seconds)
    base = found.pop("linear").median
    beside = {n: {"ms": t.median * 1e3, "ratio": t.median / base} for n, t in found.items()}
    return {"linear_ms": base * 1e3} | beside


def _devices(seconds: float) -> dict[str, float]:
    read, pulsed = _chip(176, DEVICES // 2 // 176, PCM), _chip(128, 128, PCM_PULSED)
    weight = pulsed.layout.products["fc"].weight

    def read_after(wait_s: float) -> None:
        read.wait(wait_s)
        read.read_weights()

    def write() -> None:
        pulsed.write({"fc": weight})
        pulsed.read_weights()

    read_after(86_400.0)
    found = time_in_turns(
        {
            "devices_ms": lambda: read_after(0.0),
            "renewed_ms": lambda: read_after(1e7),
            "verify_ms": write,
        },
        seconds,
    )
    state = read.state
    held = (*state.cells["fc"], *state.slow["fc"].values)
    return {name: timing.median * 1e3 for name, timing in found.items()} | {
        "bytes_per_device": float(sum(field.element_size() for field in held))
    }


def _tuning(seconds: float) -> dict[str, Any]:
    """Time a step of Adam on the fused network, and one of tuning its chip, on the same batch."""
    draw = Generator().manual_seed(0)
    x = (torch.rand(TUNED_STEPS, BATCH, TUNED[0], generator=draw) < RATE).float()
    target = torch.randint(TUNED[2], (BATCH,), generator=draw)
    config = SNUConfig(decay=0.8)
    first, unit = EventLinear(TUNED[0], TUNED[1], bias=False), SNU(TUNED[1], config)
    last = torch.nn.Linear(TUNED[1], TUNED[2])
    layers = torch.nn.ModuleList((first, unit, last))
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output.mean(0), target)

    def software() -> None:
        optimizer.zero_grad()
        loss(last(unit(first(x))[0]), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    threshold = np.full(TUNED[1], config.threshold)
    nodes = {
        "in": nir.Input({"input": np.array([TUNED[0]])}),
        "fc1": nir.Linear(first.weight.detach().numpy().copy()),
        "snu": encode_snu(config, config.decay, threshold, dt=1.0),
        "fc2": nir.Linear(last.weight.detach().numpy().copy()),
        "out": nir.Output({"output": np.array([TUNED[2]])}),
    }
    graph = nir.NIRGraph(nodes, list(pairwise(nodes)))
    candidates: dict[str, Any] = {"software": software}
    for name, rule in RULES.items():
        made = Accelerator(compile(graph, PCM, dt=1.0, sample=x))
        made.program()
        loop = Loop(rule=rule)
        state = [loop.start(made)]

        def tuned(loop: Loop = loop, made: Accelerator = made, state: list[Any] = state) -> None:
            state[0], _ = loop.update(made, state[0], x, target, loss)

        candidates[name] = tuned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = time_in_turns(candidates, seconds)
    base = found.pop("software").median
    beside = {name: {"ms": t.median * 1e3, "ratio": t.median / base} for name, t in found.items()}
    return {"software_ms": base * 1e3, **beside}


def _chip(inputs: int, outputs: int, chip: Chip) -> Accelerator:
    weight = np.random.default_rng(0).normal(size=(outputs, inputs))
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    graph = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(graph, chip, dt=1.0))
    made.program()
    return made
