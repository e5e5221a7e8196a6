"""How long a chip takes beside the product it models, all in one run."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import torch
from torch import Generator

from snu_plugin.accelerator import PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.bench.timing import (
    check_device,
    check_parts,
    table,
    threads_of_torch,
    time_in_turns,
)
from snu_plugin.compiler import compile
from snu_plugin.graph import encode_snu
from snu_plugin.hil import READ_EVERY, DigitalOnly, Loop, MixedPrecision, Rule
from snu_plugin.neuron import SNU, EventLinear, SNUConfig

SHAPES = ((88, 150), (784, 256))
"""Inputs and outputs of the layers."""
STEPS, BATCH, RATE = 100, 64, 0.1
DEVICES = 52_800
TUNED, TUNED_STEPS = (784, 256, 10), 20
"""Network and steps of a step of tuning."""
RULES: dict[str, Rule] = {"digital": DigitalOnly(), "mixed": MixedPrecision(lr=3.0, evidence=5.0)}
"""What a step of tuning is timed with: the default, and one that writes devices besides."""
SIZES = (10**4, 10**5, 10**6, 10**7)
"""Devices of the chips whose growth is timed."""
YEAR_S = 365 * 86_400.0
ROWS = 500
"""Inputs of their matrices."""
PARTS = ("layers", "devices", "tuning", "growth")

# One row of tiles, so that one product stands against one product.
PLAIN = replace(PCM, tile_rows=1024, wire_ohm=None, read_noise=None)
CHIPS: dict[str, Chip] = {
    "converters and output noise": PLAIN,
    "and read noise": replace(PLAIN, read_noise=1.0),
    "and IR drop": replace(PLAIN, read_noise=1.0, wire_ohm=0.35),
}
"""What is timed beside a folded ``nn.Linear``."""


def run(
    seconds: float = 10.0, *, device: str = "cpu", parts: Sequence[str] = PARTS[:3]
) -> dict[str, Any]:
    """Time layers, devices and program-verify on one thread; JSON can hold the answer.

    Args:
        seconds: About how long all timings take.
        device: ``cuda`` times chips and products there.
        parts: Which of ``PARTS``; ``growth`` takes 2 GB and a minute besides.

    Returns:
        ``layers``: for each shape the milliseconds of a folded ``nn.Linear`` and, by chip and
        input, milliseconds and their ratio to it; ``devices_ms`` of reading 52,800 devices
        again, soon after a reading, and ``renewed_ms`` after a wait that renews all of their read
        noise; ``bytes_per_device``; ``verify_ms`` of writing 128 x 128 weights by pulses and
        reading them back; ``tuning``: milliseconds of a step of training in software, with layers
        that walk spikes and with ``nn.Linear``, and by rule of one with the chip in the loop, with
        its ratio to the first; on processors alone. ``growth``: for
        chips of 10,000 to 10,000,000 devices the least nanoseconds a device that writing, reading
        and one step took, and the bytes a device held.

    Raises:
        ValueError: For an unknown part, or a device that is not here.
    """
    check_parts(parts, PARTS)
    check_device(device)
    share = seconds / (len(SHAPES) + 2)
    answer: dict[str, Any] = {"steps": STEPS, "batch": BATCH, "device": device}
    with threads_of_torch(1):
        if "layers" in parts:
            answer["layers"] = {f"{i}x{o}": _layer(i, o, share, device) for i, o in SHAPES}
        if "devices" in parts:
            answer |= _devices(share, device)
        if "tuning" in parts and device == "cpu":  # the host's twin runs there
            answer["tuning"] = _tuning(share)
        if "growth" in parts:
            answer["growth"] = [_grown(size, device) for size in SIZES]
    return answer


def text(answer: dict[str, Any]) -> str:
    """Return the answer of ``run`` as a table."""
    where = "one thread" if answer["device"] == "cpu" else answer["device"]
    lines = [f"{answer['steps']} steps, batch {answer['batch']}, {where}"]
    for shape, found in answer.get("layers", {}).items():
        lines.append(f"{shape}: folded nn.Linear {found['linear_ms']:.2f} ms")
        lines += [
            f"  {name:40}{beside['ratio']:6.2f} x{beside['ms']:9.2f} ms"
            for name, beside in found.items()
            if name != "linear_ms"
        ]
    if "devices_ms" in answer:
        lines += _of_devices(answer)
    if "tuning" in answer:
        lines += _of_tuning(answer["tuning"])
    if "growth" in answer:
        rows = [[f"{one.pop('devices'):,}", *(f"{v:.1f}" for v in one.values())]
                for one in map(dict, answer["growth"])]  # fmt: skip
        lines.append(table(("devices", *GROWTH), rows))
    return "\n".join(lines)


GROWTH = (
    "ns to write",
    "to read again",
    "after a year",
    "a step",
    "bytes when new",
    "after ten years",
)
"""Heads of the columns of what grows, all for each device."""


def _of_devices(answer: dict[str, Any]) -> list[str]:
    return [
        f"{DEVICES:,} devices read: {answer['devices_ms']:.2f} ms soon after a reading, "
        f"{answer['renewed_ms']:.2f} ms after a wait that renews all of their noise",
        f"{answer['bytes_per_device']:.0f} bytes a device, after years",
        f"128 x 128 pairs written by pulses and verified: {answer['verify_ms']:.1f} ms",
    ]


def _of_tuning(found: Mapping[str, Any]) -> list[str]:
    rules, sizes = dict(found), "-".join(map(str, TUNED))
    software, dense = rules.pop("software_ms"), rules.pop("dense_ms")
    return [
        f"{sizes}, {TUNED_STEPS} steps: software {software:.2f} ms a step, "
        f"{dense:.2f} ms with nn.Linear",
        *(
            f"  {'tuned, ' + rule:40}{took['ratio']:6.2f} x{took['ms']:9.2f} ms"
            for rule, took in rules.items()
        ),
    ]


def _layer(inputs: int, outputs: int, seconds: float, device: str) -> dict[str, Any]:
    values = torch.rand(STEPS, BATCH, inputs, generator=Generator().manual_seed(0)).to(device)
    spikes = (values < RATE).float()
    linear = torch.nn.Linear(inputs, outputs).requires_grad_(False).to(device)
    candidates: dict[str, Any] = {"linear": lambda: linear(values.view(-1, inputs))}
    for name, chip in CHIPS.items():
        made = _chip(inputs, outputs, chip, device)
        for kind, x in (("values", values), ("spikes", spikes)):
            candidates[f"{name}, {kind}"] = lambda made=made, x=x: made.run(x)
    candidates = {name: _ended(call, device) for name, call in candidates.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what saturates takes no longer
        found = time_in_turns(candidates, seconds)
    base = found.pop("linear").median
    beside = {n: {"ms": t.median * 1e3, "ratio": t.median / base} for n, t in found.items()}
    return {"linear_ms": base * 1e3} | beside


def _devices(seconds: float, device: str) -> dict[str, float]:
    read = _chip(176, DEVICES // 2 // 176, PCM, device)
    pulsed = _chip(128, 128, PCM_PULSED, device)
    weight = pulsed.layout.products["fc"].weight

    def read_after(wait_s: float) -> None:
        read.wait(wait_s)
        read.read_weights()

    def write() -> None:
        pulsed.write({"fc": weight})
        pulsed.read_weights()

    read_after(86_400.0)
    calls = {
        "devices_ms": lambda: read_after(0.0),
        "renewed_ms": lambda: read_after(1e7),
        "verify_ms": write,
    }
    found = time_in_turns({name: _ended(call, device) for name, call in calls.items()}, seconds)
    state = read.state
    held = (*state.cells["fc"], *state.slow["fc"].values)
    return {name: timing.median * 1e3 for name, timing in found.items()} | {
        "bytes_per_device": float(sum(field.element_size() for field in held))
    }


def _tuning(seconds: float) -> dict[str, Any]:
    """Time a step of Adam on the fused network, and one of tuning its chip, on the same batch.

    A step of tuning is what ``fine_tune`` does with a batch: the run on the chip with its
    converters and all of its noise, the gradient of the twin, the update of what is digital and,
    with a rule that writes devices, its pulses.

    Means of ``READ_EVERY`` steps, so that what is read once in so many counts by its share.
    """
    draw = Generator().manual_seed(0)
    x = (torch.rand(TUNED_STEPS, BATCH, TUNED[0], generator=draw) < RATE).float()
    target = torch.randint(TUNED[2], (BATCH,), generator=draw)
    config = SNUConfig(decay=0.8)
    first, last = EventLinear(TUNED[0], TUNED[1], bias=False), torch.nn.Linear(*TUNED[1:])

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(output.mean(0), target)

    def trained(layer: torch.nn.Linear) -> Callable[[], None]:
        unit, readout = SNU(TUNED[1], config), copy.deepcopy(last)
        layers = torch.nn.ModuleList((layer, unit, readout))
        optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)

        def steps() -> None:
            for _ in range(READ_EVERY):
                optimizer.zero_grad()
                loss(readout(unit(layer(x))[0]), target).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        return steps

    threshold = np.full(TUNED[1], config.threshold)
    nodes = {
        "in": nir.Input({"input": np.array([TUNED[0]])}),
        "fc1": nir.Linear(first.weight.detach().numpy().copy()),
        "snu": encode_snu(config, config.decay, threshold, dt=1.0),
        "fc2": nir.Linear(last.weight.detach().numpy().copy()),
        "out": nir.Output({"output": np.array([TUNED[2]])}),
    }
    graph = nir.NIRGraph(nodes, list(pairwise(nodes)))
    plain = torch.nn.Linear(TUNED[0], TUNED[1], bias=False)
    candidates: dict[str, Any] = {
        "software": trained(copy.deepcopy(first)),
        "dense": trained(plain),
    }
    for name, rule in RULES.items():
        made = Accelerator(compile(graph, PCM, dt=1.0, sample=x))
        made.program()
        loop = Loop(rule=rule)
        state = [loop.start(made)]

        def tuned(loop: Loop = loop, made: Accelerator = made, state: list[Any] = state) -> None:
            for _ in range(READ_EVERY):
                state[0], _ = loop.update(made, state[0], x, target, loss)

        candidates[name] = tuned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = time_in_turns(candidates, seconds)
    base, dense = (found.pop(name).median for name in ("software", "dense"))
    ms = 1e3 / READ_EVERY
    beside = {name: {"ms": t.median * ms, "ratio": t.median / base} for name, t in found.items()}
    return {"software_ms": base * ms, "dense_ms": dense * ms, **beside}


def _grown(devices: int, device: str) -> dict[str, float]:
    """Return what a chip of so many devices takes, nanoseconds and bytes for each of them."""
    chip = _chip(ROWS, devices // 2 // ROWS, replace(PCM, tiles=1000), device)
    x = torch.rand(1, 1, ROWS, generator=Generator().manual_seed(0)).to(device)
    found: dict[str, float] = {"devices": devices}

    def timed(name: str, call: Callable[[], object], before: Callable[[], object]) -> None:
        took: list[float] = []
        while len(took) < 3 or (sum(took) < 0.2 and len(took) < 50):
            before()
            start = time.perf_counter()
            call()
            took.append(time.perf_counter() - start)
        found[name] = min(took) * 1e9 / devices  # what else the machine does only adds

    def held() -> float:
        state = chip.state
        tensors = [*state.cells["fc"], *(v for v in state.slow["fc"].values)]
        return float(sum(t.numel() * t.element_size() for t in tensors)) / devices

    read = _ended(chip.read_conductances, device)
    timed("write_ns", _ended(chip.program, device), lambda: None)
    read()
    fresh = held()
    timed("read_ns", read, lambda: None)
    timed("year_ns", read, lambda: chip.wait(YEAR_S))
    timed("step_ns", _ended(lambda: chip.run(x), device), lambda: None)
    chip.program()
    chip.wait(10 * YEAR_S)
    read()
    return found | {"fresh_bytes": fresh, "old_bytes": held()}


def _ended(call: Callable[[], object], device: str) -> Callable[[], object]:
    """Return a call that comes back when the device is done."""
    if device == "cpu":
        return call

    def whole() -> None:
        call()
        torch.cuda.synchronize()

    return whole


def _chip(inputs: int, outputs: int, chip: Chip, device: str) -> Accelerator:
    weight = np.random.default_rng(0).normal(size=(outputs, inputs))
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Linear(weight),
        "out": nir.Output({"output": np.array([outputs])}),
    }
    graph = nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])
    made = Accelerator(compile(graph, chip, dt=1.0), device=device)
    made.program()
    return made
