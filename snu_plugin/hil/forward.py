"""One pass through the loop: values from the chip, gradients from a twin of what was read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from snu_plugin.accelerator import (
    Board,
    Geometry,
    Product,
    Trace,
    adapter_of,
    adapter_output,
    checked_inputs,
    digital_node,
)
from snu_plugin.neuron import spike_linear
from snu_plugin.schedule import Node, run

Target = TypeVar("Target")


def batch_axis(target: Any, x: Tensor) -> int | None:
    """Return the axis of a target that is the batch of ``x``, ``(T, B, ...)``; ``None``: unknown.

    >>> x = torch.zeros(7, 3, 5)
    >>> batch_axis(torch.zeros(3), x), batch_axis(torch.zeros(7, 3), x), batch_axis("?", x)
    (0, 1, None)
    """
    if not isinstance(target, Tensor) or not target.dim():
        return None
    if target.shape[:2] == x.shape[:2]:
        return 1
    return 0 if len(target) == x.shape[1] else None


class _Measured(torch.autograd.Function):
    """The measured value forward, bit for bit; the gradient goes to the twin's value."""

    @staticmethod
    def forward(ctx: Any, twin: Tensor, measured: Tensor) -> Tensor:
        return measured

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Through(torch.autograd.Function):
    """The measured value forward; the gradient goes through a product ``x W^T`` to ``x``.

    The product itself, which nobody would see, is not computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, measured: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return measured

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return grad @ weight, None, None


def with_value(twin: Tensor, value: Tensor) -> Tensor:
    """Return a copy of ``value``, whose gradient goes to the ``twin``."""
    shown: Tensor = _Measured.apply(twin, value)
    return shown.clone()


@dataclass(frozen=True)
class Pass:
    """What one batch showed."""

    output: Tensor
    """The chip's output, ``(T, B, ...)``; differentiable through the twin."""
    weights: Mapping[str, Tensor]
    """Weights as read back by node, in the graph's shapes; leaves of the gradient."""
    registers: Mapping[str, Tensor]
    """Digital values, leaves of the gradient."""
    trace: Trace


def forward(
    board: Board, x: Tensor, weights: Mapping[str, Tensor], *, learn_weights: bool = True
) -> Pass:
    """Run ``x`` on the chip and pair every measured value with the twin's gradient.

    The twin multiplies by ``weights``, a reading, and its digital neurons see the products that
    the chip measured; so its states, spikes and outputs are the chip's own, exactly. Gains act on
    what was measured, so that their gradient is the chip's own.

    Args:
        board: The chip.
        x: Inputs ``(T, B, ...)``, as ``board.run`` takes them.
        weights: A reading from ``board.read_weights()``; may be older than the run.
        learn_weights: Whether gradients of the weights are asked for; they cost a product each.
    """
    layout = board.layout
    inputs = checked_inputs(layout, x)
    _, trace = board.run(x, record=True)
    leaves = {n: w.detach() for n, w in weights.items()}
    if learn_weights:
        leaves = {n: w.clone().requires_grad_() for n, w in leaves.items()}
    digital = {name: v.detach().clone().requires_grad_() for name, v in board.registers.items()}
    nodes: dict[str, Node] = {}
    for name, op in layout.ops.items():
        if isinstance(op, Product):
            gain = digital[f"{name}.gain"] / board.registers[f"{name}.gain"]
            bias, measured = digital.get(f"{name}.bias"), trace.products[name]
            adapter = adapter_of(digital, name)
            nodes[name] = _product(op, leaves[name], gain, bias, adapter, measured)
        else:
            nodes[name] = digital_node(op, digital.get(f"{name}.threshold"))
    (output,) = layout.outputs
    values, _ = run(layout.wiring, nodes, inputs, layout.shapes, keep=(output,))
    # A copy, which a loss may change.
    return Pass(values[output].clone(), leaves, digital, trace)


def _product(
    op: Product,
    weight: Tensor,
    gain: Tensor,
    bias: Tensor | None,
    adapter: tuple[Tensor, Tensor] | None,
    measured: Tensor,
) -> Node:
    """Return a product whose value is ``measured``, step after step."""
    at, geometry = 0, op.geometry
    # Gains act on what devices hold, not on outliers beside them.
    outliers = None if op.outliers is None else op.outliers.reshape(weight.shape)

    def node(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        nonlocal at
        seen = measured[at : at + x.shape[0]]
        at += x.shape[0]
        beside = [] if outliers is None else [geometry.multiply(x, outliers, None)]
        beside += [] if bias is None else [geometry.columns(bias)]
        beside += [] if adapter is None else [adapter_output(geometry, *adapter, x)]
        y = seen
        for part in beside:
            y = y - part.detach()
        if x.requires_grad or weight.requires_grad:
            held = weight if outliers is None else weight - outliers
            # Spikes may be walked: only gradients come from here, the value is the measured one.
            plain = type(geometry) is Geometry and geometry.groups == 1
            if plain and not weight.requires_grad:
                y = _Through.apply(x, held, y)
            else:
                twin = spike_linear(x, held) if plain else geometry.multiply(x, held, None)
                y = _Measured.apply(twin, y)
        y = y * geometry.columns(gain)
        for part in beside:
            y = y + part
        return _Measured.apply(y, seen), state

    return node


@torch.no_grad()
def input_moments(board: Board, x: Tensor) -> dict[str, Tensor]:
    """Run inputs on the chip and return the mean of ``z z^T`` of what each crossbar was given.

    The host computes it: its digital neurons see the products that the chip measured.

    Args:
        board: The chip.
        x: Inputs ``(T, B, ...)``, as ``board.run`` takes them.

    Returns:
        ``(in, in)`` by node, float64, all steps, sequences and positions of a kernel alike.
    """
    layout, inputs = board.layout, checked_inputs(board.layout, x)
    _, trace = board.run(x, record=True)
    moments = dict[str, Tensor]()
    nodes: dict[str, Node] = {}
    for name, op in layout.ops.items():
        if isinstance(op, Product):
            nodes[name] = _heard(name, op, trace.products[name], moments)
        else:
            nodes[name] = digital_node(op, board.registers.get(f"{name}.threshold"))
    run(layout.wiring, nodes, inputs, layout.shapes, keep=tuple(layout.outputs))
    return moments


def _heard(name: str, op: Product, measured: Tensor, moments: dict[str, Tensor]) -> Node:
    """Return a product of the value ``measured`` that adds to the moments of its inputs."""
    at, rows = 0, len(measured)

    def node(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        nonlocal at
        seen = measured[at : at + x.shape[0]]
        at += x.shape[0]
        given = op.geometry.rows(x).flatten(0, -2)
        moment = (given.T @ given).double() * (x.shape[0] / rows / len(given))
        moments[name] = moments.get(name, 0.0) + moment
        return seen, state

    return node


class Learnt(NamedTuple):
    """What a batch taught."""

    loss: float
    weights: Mapping[str, Tensor]
    """Gradients of the weights by node, in the graph's shapes; none where not asked for."""
    registers: Mapping[str, Tensor]
    """Gradients of the digital values."""
    saturated: float
    """Share of conversions at the end of the range."""


def learn_through_time(
    board: Board,
    x: Tensor,
    target: Target,
    loss: Callable[[Tensor, Target], Tensor],
    weights: Mapping[str, Tensor],
    *,
    learn_weights: bool = True,
) -> Learnt:
    """Run a batch and propagate its loss back through all steps; arguments as for ``forward``."""
    shown = forward(board, x, weights, learn_weights=learn_weights)
    value = loss(shown.output, target)
    go_back(value)
    return Learnt(
        float(value.detach()),
        gradients(shown.weights) if learn_weights else {},
        gradients(shown.registers),
        shown.trace.saturated,
    )


def go_back(loss: Tensor) -> None:
    """Propagate a loss back.

    Raises:
        ValueError: For one that no gradient follows.
    """
    if not loss.requires_grad:
        raise ValueError(
            "the loss has no gradient; compute it from the outputs by operations that have one, "
            "without detach, item, comparisons or whole numbers"
        )
    loss.backward()  # type: ignore[no-untyped-call]


def gradients(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what arrived at leaves; zeros where nothing did."""
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
