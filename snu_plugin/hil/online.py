"""The twin's gradient as the sequence goes by: the chip runs in segments, traces carry the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator import (
    Board,
    Digital,
    Geometry,
    Neurons,
    Product,
    Program,
    Trace,
    adapter_of,
    adapter_output,
)
from snu_plugin.accepted import COUNT, by_known_names, one_of
from snu_plugin.hil.forward import Learnt, batch_axis, go_back, gradients, with_value
from snu_plugin.neuron import Euler, EulerState, euler_scan, initial
from snu_plugin.schedule import Node, WiringState, run
from snu_plugin.training import PerUnit, Source, Traces, Weights, carry, recall

Target = TypeVar("Target")


@by_known_names
@dataclass(frozen=True, kw_only=True)
class Online:
    """Online learning: OSTL, and e-prop where the network is recurrent (docs/neurons.md).

    Memory does not grow with the sequence: what is kept is one segment, and for B sequences and P
    parameters that drive neurons ``B P`` numbers of traces. The loss is taken of each segment.
    """

    steps: int = 10
    """Steps of a segment; 1, as published, where the graph has a way back, whatever it says. Longer
    ones cost less time a step, and with several layers of neurons come closer to the gradient
    through time. The default is ours."""
    over_time: Literal["mean", "sum"] = "mean"
    """What the loss does with the steps of an output. Gradients are then of the size that they
    have for the whole sequence."""

    def __post_init__(self) -> None:
        COUNT.check("steps", self.steps)
        one_of("mean", "sum").check("over_time", self.over_time)

    def learn(
        self,
        board: Board,
        x: Tensor,
        target: Target,
        loss: Callable[[Tensor, Target], Tensor],
        weights: Mapping[str, Tensor],
    ) -> Learnt:
        """Run a batch on the chip segment by segment, and add up the gradients of its twin.

        The twin is that of ``forward``: its values are the chip's own.

        Args:
            board: The chip.
            x: Inputs ``(T, B, ...)``.
            target: What ``loss`` takes. A tensor ``(T, B, ...)`` is cut as the input is; anything
                else is the target of every segment.
            loss: A scalar of an output ``(K, B, ...)`` and its target.
            weights: A reading from ``board.read_weights()``.

        Raises:
            ValueError: For a network whose gradient traces would miss a part of.
        """
        twin = _Twin(board.layout, board.registers, weights)
        total, saturated, state = 0.0, 0.0, None
        for part in self.segments(board, x, target):
            output, state = twin(part.x, part.trace.products, state)
            value = part.share * loss(output, part.target)
            go_back(value)
            total += float(value.detach())
            saturated += part.trace.saturated * len(part.x) / len(x)
        of_weights = gradients(twin.weights)
        digital = gradients(twin.digital) | _of_adapters(twin.digital, of_weights)
        return Learnt(total, of_weights, digital, saturated)

    def segments(
        self, board: Board, x: Tensor, target: Any, *, record: bool = True
    ) -> Iterator[Segment]:
        """Run a batch on the chip, one segment after the other; arguments as for ``learn``."""
        loops = any(block.delayed for block in board.layout.wiring.blocks)
        steps = 1 if loops else self.steps
        along = batch_axis(target, x) == 1
        for first in range(0, len(x), steps):
            part = x[first : first + steps]
            wanted = target[first : first + steps] if along else target
            output, trace = board.run(part, record=record, carry=first > 0)
            share = len(part) / len(x) if self.over_time == "mean" else 1.0
            yield Segment(part, wanted, output, trace, share)


class Segment(NamedTuple):
    """A part of a batch that was run."""

    x: Tensor
    """``(K, B, ...)``."""
    target: Any
    output: Tensor
    """``(K, B, ...)``."""
    trace: Trace
    share: float
    """What the loss of the segment counts in that of the whole."""


@dataclass(frozen=True)
class _EulerCells:
    """A layer of digital neurons; potential and current are all that they carry."""

    neuron: Euler
    carried: int

    def __call__(
        self, drive: Tensor, start: tuple[Tensor, ...], constants: Mapping[str, Tensor], /
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        state = EulerState(start[0], start[1] if self.carried > 1 else None)
        threshold = constants.get("threshold", self.neuron.threshold)
        y, last = euler_scan(drive, replace(self.neuron, threshold=threshold), state)
        return y, tuple(part for part in last if part is not None)


class _Twin:
    """The network of a reading, whose products have the values that the chip measured."""

    def __init__(
        self, layout: Program, registers: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> None:
        self.weights = {n: w.detach().clone().requires_grad_() for n, w in weights.items()}
        self.digital = {n: v.detach().clone().requires_grad_() for n, v in registers.items()}
        self._layout, self._registers = layout, registers
        self._measured: Mapping[str, Tensor] = {}
        self._driven: dict[str, list[Source]] = {}
        self._nodes: dict[str, Node] = {}
        blocks = layout.wiring.blocks
        self._late = {a for block in blocks for a, _ in block.delayed if a in layout.products}
        for name, op in layout.ops.items():
            if isinstance(op, Product):
                self._nodes[name] = self._product(name, op.geometry)
            elif isinstance(op, Neurons):
                self._nodes[name] = self._neurons(name, op.euler)
            else:
                self._nodes[name] = self._digital(name, op)

    def __call__(
        self, x: Tensor, products: Mapping[str, Tensor], state: WiringState | None
    ) -> tuple[Tensor, WiringState]:
        """Run a segment after the chip did; returns the output and what the next one needs."""
        layout = self._layout
        (input_name,), (output,) = layout.inputs, layout.outputs
        inputs = {input_name: x.float()}
        for name in self._late:
            # What arrives a step late was multiplied before the segment: this is its gradient.
            if state is not None:
                self._measured = {name: state.last[name][None]}
                state.last[name] = self._nodes[name](state.nodes[name], None)[0][0]
                continue
            shape, source = layout.shapes[name], layout.wiring.sources[name][0]
            nothing = x.new_zeros((1, x.shape[1], *shape), dtype=torch.float32)
            self._measured = {name: nothing}
            self._nodes[name](nothing.new_zeros((*nothing.shape[:2], *layout.shapes[source])), None)
            self._driven[name] = [
                part._replace(of=nothing) if isinstance(part, PerUnit) else part
                for part in self._driven[name]
            ]
        self._measured = products
        values, after = run(layout.wiring, self._nodes, inputs, layout.shapes, state, keep=[output])
        last = {name: value.detach() for name, value in after.last.items()}
        return values[output], WiringState(after.nodes, last)

    def _product(self, name: str, geometry: Geometry) -> Node:
        weight = self.weights[name]
        unit = self._registers[f"{name}.gain"]

        def node(x: Tensor, state: Any) -> tuple[Tensor, Any]:
            gain = geometry.columns(self.digital[f"{name}.gain"] / unit)
            bias = self.digital.get(f"{name}.bias")
            seen, beside = self._measured[name], list[Tensor]()
            parts = _weights(geometry, weight, x)
            if bias is not None:
                beside.append(geometry.columns(bias))
                parts.append(PerUnit(beside[0]))
            if (adapter := adapter_of(self._registers, name)) is not None:
                beside.append(adapter_output(geometry, *adapter, x))  # for what feeds the layer
            own = seen - sum(part.detach() for part in beside)
            parts.append(PerUnit(gain, own))
            y = with_value(geometry.multiply(x, weight, None), own) * gain
            y = y + sum(beside)
            self._driven[name] = parts
            return with_value(y, seen), x.detach() if name in self._late else None

        return node

    def _neurons(self, name: str, neuron: Euler) -> Node:
        carried = 1 if neuron.synapse_decay is None else 2
        sources = self._layout.wiring.sources[name]
        for source in sources:
            self._check(source, name)

        def node(x: Tensor, state: Traces | None) -> tuple[Tensor, Any]:
            threshold = self.digital.get(f"{name}.threshold")
            constants = {} if threshold is None else {"threshold": threshold}
            parts = [part for source in sources for part in self._driven.get(source, ())]
            cells = _EulerCells(neuron, carried)
            if state is None:
                first = initial(torch.zeros_like(x[0]).detach(), neuron)
                start = begin = tuple(part for part in first if part is not None)
            else:
                start, begin = state.state, recall(state, parts, constants)
            y, end = cells(x, begin, constants)
            return y, carry(state, cells, x.detach(), start, end, parts, constants)

        return node

    def _check(self, source: str, neurons: str) -> None:
        """Refuse what lies between a product and neurons, where no trace would see it."""
        op = self._layout.ops.get(source)
        if not isinstance(op, Digital):
            return
        above = set(self._layout.wiring.sources[source])
        while above:
            each = above.pop()
            op = self._layout.ops.get(each)
            if isinstance(op, Product):
                raise ValueError(
                    f"{source} lies between the weights of {each} and the neurons {neurons}, "
                    "where no trace follows; learn through time (gradient=None)"
                )
            if isinstance(op, Digital):
                above |= set(self._layout.wiring.sources[each])

    def _digital(self, name: str, op: Digital) -> Node:
        def node(x: Tensor, state: Any) -> tuple[Tensor, Any]:
            y, last = op.compute(x, state)
            if last is not None:
                raise ValueError(
                    f"{name} keeps values of past steps, whose gradient no trace follows; learn "
                    "through time (gradient=None)"
                )
            return y, None

        return node


def _of_adapters(
    registers: Mapping[str, Tensor], of_weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the gradients of adapters from those of the weights beside which they lie.

    ``adapter_out @ adapter_in`` is added to the weights, and the twin's gain is 1.
    """
    found: dict[str, Tensor] = {}
    for name, value in of_weights.items():
        if (adapter := adapter_of(registers, name)) is not None:
            (into, out), matrix = (v.detach() for v in adapter), value.flatten(1)
            found |= {f"{name}.adapter_in": out.T @ matrix, f"{name}.adapter_out": matrix @ into.T}
    return found


def _weights(geometry: Geometry, weight: Tensor, x: Tensor) -> list[Source]:
    """Return a matrix, or each of the groups of a convolution, as what drives neurons."""
    rows = geometry.rows(x.detach())
    rows = rows.reshape(*rows.shape[:2], -1, geometry.groups, rows.shape[-1])
    each = weight.reshape(geometry.groups, -1, rows.shape[-1])
    out = each.shape[1]
    found: list[Source] = []
    for group in range(geometry.groups):

        def units(a: Tensor, first: int = group * out) -> Tensor:
            return geometry.outputs(a)[..., first : first + out].flatten(1, 2)

        found.append(Weights(each[group], rows[:, :, :, group].flatten(1, 2), units))
    return found
