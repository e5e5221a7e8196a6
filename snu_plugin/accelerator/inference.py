"""One run of sequences through a chip, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator.crossbar import Count, observe
from snu_plugin.accelerator.energy import Cost, cost
from snu_plugin.accelerator.program import Digital, Neurons, Product, Program
from snu_plugin.accelerator.state import ChipState
from snu_plugin.neuron import euler_scan
from snu_plugin.schedule import Node
from snu_plugin.schedule import run as run_wired


@dataclass(frozen=True)
class Trace:
    """Counts, cost and, if asked for, the values the host saw."""

    program: Program
    counts: Mapping[str, Count]
    """What each crossbar did, by node."""
    spikes_per_step: Mapping[str, float]
    """Sum of the outputs of each layer of neurons, mean over steps and batch."""
    seconds: float
    """Time the run took on the chip."""
    products: Mapping[str, Tensor]
    """Digitised outputs of the crossbars, ``(T, B, out)``; empty unless recorded."""
    steps: int
    """Time steps of a sequence."""

    @cached_property
    def cost(self) -> Cost:
        """Mean cost of a time step."""
        return cost(self.program, self.counts)

    @property
    def inference(self) -> Cost:
        """Mean cost of a sequence."""
        return self.cost.of(self.steps)

    @property
    def saturated(self) -> float:
        """Share of conversions that hit the end of the range."""
        converted = sum(count.conversions for count in self.counts.values())
        return sum(c.saturated for c in self.counts.values()) / converted if converted else 0.0


def run(
    state: ChipState, x: Any, *, record: bool, step_by_step: bool
) -> tuple[Mapping[str, Tensor], Trace]:
    """Run sequences ``(T, B, ...)`` on the chip as it is now.

    Returns the outputs of all nodes, ``(T, B, ...)``, and a trace; see ``Accelerator.run``.
    """
    state.programmed_s()
    program = state.program
    inputs = checked_inputs(program, x)
    steps, batch = next(iter(inputs.values())).shape[:2]
    seconds = steps * batch * program.step_s
    arrays = {name: observe(state, name, seconds) for name in program.products}
    nodes: dict[str, Node] = {
        name: digital_node(op, state.registers.get(f"{name}.threshold"))
        for name, op in program.ops.items()
        if not isinstance(op, Product)
    }
    nodes |= arrays
    parts, carried = [], None
    at_once = 1 if step_by_step else steps
    for t in range(0, steps, at_once):
        now = {name: value[t : t + at_once] for name, value in inputs.items()}
        part, carried = run_wired(program.wiring, nodes, now, program.shapes, carried)
        parts.append(part)
    values = parts[0]
    if len(parts) > 1:
        values = {name: torch.cat([part[name] for part in parts]) for name in values}
    counts = {name: array.count for name, array in arrays.items()}
    again = (c.repeats * program.chips[name].step_ns for name, c in counts.items())
    took = seconds + sum(again) * 1e-9
    state.clock_s += took
    firing = {
        name: float(values[name].contiguous().sum()) / (steps * batch)
        for name, op in program.ops.items()
        if isinstance(op, Neurons) and op.euler.threshold is not None
    }
    products = {name: values[name] for name in counts} if record else {}
    return values, Trace(program, counts, firing, took, products, steps)


def checked_inputs(program: Program, x: Any) -> dict[str, Tensor]:
    """Return inputs ``(T, B, ...)`` by node, float32; raises ``ValueError`` for other shapes."""
    names = program.inputs
    found = dict(x) if isinstance(x, Mapping) else {names[0]: x}
    if set(found) != set(names):
        raise ValueError(f"inputs are {', '.join(found)}; the graph has {', '.join(names)}")
    for name, value in found.items():
        shape = program.shapes[name]
        if value.shape[2:] != shape or 0 in value.shape[:2]:
            raise ValueError(
                f"input {name} has shape {tuple(value.shape)}; it must be (T, B, "
                f"{', '.join(map(str, shape))}) with at least one step and one sequence"
            )
    return {name: value.float() for name, value in found.items()}


def digital_node(op: Neurons | Digital, threshold: Tensor | None) -> Node:
    """Return what a digital operation computes; ``threshold`` replaces the compiled one."""
    if isinstance(op, Digital):
        return op.compute
    euler = op.euler if threshold is None else replace(op.euler, threshold=threshold)
    return lambda x, state: euler_scan(x, euler, state)
