"""What a layer of neurons costs beside its matrix product, forward and backward."""

from __future__ import annotations

import importlib
import json as jsons
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin import plugins
from snu_plugin.bench.alternate import Timing, alternate
from snu_plugin.neuron import SNU, implementations, sSNU

PRODUCT = "product alone"
Layer = Callable[[Tensor], Tensor]
"""What comes after the product: ``(T, B, N)`` to ``(T, B, N)``."""


class Workload(NamedTuple):
    """Sizes of one linear layer with neurons."""

    steps: int
    batch: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"{self.steps} x {self.batch}, {self.inputs} -> {self.outputs}"


WORKLOADS = (Workload(100, 64, 784, 256), Workload(100, 16, 88, 150), Workload(500, 16, 512, 512))
"""Rate-coded MNIST, Bach chorales, and a long sequence."""


class Result(NamedTuple):
    """One candidate on one workload."""

    workload: Workload
    candidate: str
    timing: Timing
    ratio: float
    """Median time in units of the product alone."""


def run(
    json: bool = False,
    *,
    seconds: float = 20.0,
    workloads: Sequence[Workload] = WORKLOADS,
    threads: int | None = None,
) -> str:
    """Time products, neurons and both together; returns a table, or JSON.

    Candidates: the product alone, SNU and sSNU after it in every implementation that can run here,
    the neurons alone, three copies of ``(T, B, N)`` (the six tensors that a neuron cannot but
    move), the leaky neurons of the simulators that are installed, LSTM and GRU. All in float32,
    forward and backward, gradients of weights and thresholds included.

    Args:
        json: Return JSON with every number in seconds.
        seconds: Time to spend on each workload.
        workloads: Sizes to run.
        threads: Threads of torch; ``None`` leaves them as they are.

    Raises:
        ValueError: If ``seconds`` or ``threads`` is not positive.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads!r}; it must be a positive number or None")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        results = [r for workload in workloads for r in measure(workload, seconds)]
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    if json:
        return jsons.dumps({"threads": used, "results": [_record(r) for r in results]}, indent=1)
    return "\n".join(_lines(results, used))


def measure(workload: Workload, seconds: float) -> list[Result]:
    """Return the timings of every candidate on one workload."""
    timings = alternate(_candidates(workload), seconds)
    product = timings[PRODUCT].median
    return [Result(workload, name, t, t.median / product) for name, t in timings.items()]


def _candidates(workload: Workload) -> dict[str, Callable[[], object]]:
    steps, batch, inputs, outputs = workload
    random = torch.Generator().manual_seed(0)
    x = torch.rand(steps, batch, inputs, generator=random)
    drive = torch.randn(steps, batch, outputs, generator=random).requires_grad_()
    gradient = torch.randn(steps, batch, outputs, generator=random)
    linear = nn.Linear(inputs, outputs)
    calls: dict[str, Callable[[], object]] = {PRODUCT: _call(linear, x, gradient)}
    for name, unit in _units(outputs).items():
        calls[f"product, {name}"] = _call(nn.Sequential(linear, unit), x, gradient)
    for name, unit in _units(outputs).items():
        if "reference" not in name:
            calls[f"{name} alone"] = _call(unit, drive, gradient)
    calls["three copies"] = lambda: [gradient.clone() for _ in range(3)]
    for name, layer in _hosts():
        calls[f"product, {name}"] = _call(nn.Sequential(linear, layer), x, gradient)
    for kind in (nn.LSTM, nn.GRU):
        calls[f"nn.{kind.__name__}"] = _call(First(kind(inputs, outputs)), x, gradient)
    return calls


class First(nn.Module):
    """The outputs of a layer that returns outputs and state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y


class Stepped(nn.Module):
    """A cell ``y, state = step(x, state)`` run over time by Python."""

    def __init__(self, step: Callable[[Tensor, Any], tuple[Tensor, Any]]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x:
            y, state = self.step(x_t, state)
            outputs.append(y)
        return torch.stack(outputs)


def _call(layer: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], None]:
    wanted = [*layer.parameters(), *([x] if x.requires_grad else [])]

    def forward_and_backward() -> None:
        torch.autograd.grad(layer(x), wanted, gradient)

    return forward_and_backward


def _units(features: int) -> dict[str, nn.Module]:
    usable = [name for name, found in implementations().items() if found.available]
    return {
        f"{kind.__name__} ({impl})": First(kind(features, impl=impl))
        for impl in usable
        for kind in (SNU, sSNU)
    }


def _snntorch(host: ModuleType) -> nn.Module:
    leaky = host.Leaky(beta=0.8, reset_mechanism="zero")
    return Stepped(lambda x, mem: leaky(x, leaky.reset_mem() if mem is None else mem))


def _norse(host: ModuleType) -> nn.Module:
    return Stepped(host.LIFBoxCell())


HOSTS = {"snntorch": ("snntorch", _snntorch), "norse": ("norse.torch", _norse)}
"""By the name of the adapter: the simulator's package, and its own neuron nearest to the SNU."""


def _hosts() -> list[tuple[str, nn.Module]]:
    """Return the simulators' own neurons; those that are not installed are left out."""
    found = []
    for name in plugins.adapters():
        if name not in HOSTS:
            continue
        package, neuron = HOSTS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a host warns of at import is its own affair
            try:
                plugins.adapter(name)
            except ImportError:
                continue
            found.append((f"neuron of {name}", neuron(importlib.import_module(package))))
    return found


def _record(result: Result) -> dict[str, Any]:
    return {
        "workload": result.workload._asdict(),
        "candidate": result.candidate,
        **result.timing._asdict(),
        "ratio": result.ratio,
    }


def _lines(results: Sequence[Result], threads: int) -> list[str]:
    width = max(len(result.candidate) for result in results)
    lines = [f"milliseconds, forward and backward, {threads} threads: median (quartiles), ratio"]
    for workload in dict.fromkeys(result.workload for result in results):
        lines.append(f"{workload}")
        for _, name, timing, ratio in (r for r in results if r.workload == workload):
            median, low, high = (1e3 * value for value in timing[:3])
            lines.append(f"  {name:<{width}} {median:9.3f} ({low:.3f}-{high:.3f})  x{ratio:.2f}")
    return lines
