"""Eligibility traces: what a layer's parameters did to its state, carried forward in time.

The gradient of a loss ``E = sum_t E_t`` with respect to a parameter ``p`` of a layer with states
``s_t`` is cut at the steps ``t_0 < t_1 < ...`` at which segments of a sequence begin:

    dE/dp = sum over segments of  [dE/dp inside the segment] + [dE/ds at its start] * e,
    e = ds/dp at its start,  e' = (ds'/ds) e + ds'/dp  at its end.

``e`` is the eligibility trace; what multiplies it, the learning signal, comes by back-propagation
inside the segment. Segments of one step are OSTL as published (Bohnstingl, Woźniak, Pantazi,
Eleftheriou, "Online Spatio-Temporal Learning in Deep Neural Networks", IEEE TNNLS 2022, arXiv
2007.12723, eqs. 4 to 9). What a layer's parameters did to states of later layers, their mixed
residual R, has no trace: with one layer of units, whatever without states follows it, the gradient
is that of back-propagation through time; with more it is inside segments, and the published
approximation from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Cells(Protocol):
    """The units of a layer."""

    @property
    def carried(self) -> int:
        """How many of the states, the first ones, hold all that the past does to the future."""

    def __call__(
        self, drive: Tensor, start: tuple[Tensor, ...], constants: Mapping[str, Tensor], /
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run ``drive``, ``(K, B, ...)``, from the states ``start``, ``(B, ...)`` each.

        ``constants`` replace trained ones by name, and broadcast to ``(B, ...)``. Returns the
        outputs and the states after the last step.
        """


class Weights(NamedTuple):
    """Trained weights: ``rows @ weight.T`` is added to what drives a layer."""

    value: Tensor
    """``(units, ...)``, as many inputs as ``rows`` have."""
    rows: Tensor
    """``(K, N, inputs)``; N is the batch, or all positions at which the product is used."""
    units: Callable[[Tensor], Tensor] = lambda x: x
    """Makes ``(K, N, units)`` of what belongs to the units of the layer, ``(K, B, ...)``."""

    def grown(self, a: Tensor) -> Tensor:
        """Return what the segment adds to the trace, ``(N, units, inputs)``."""
        return torch.bmm(self.units(a).permute(1, 2, 0), self.rows.transpose(0, 1))

    def kept(self, trace: Tensor, through: Tensor) -> Tensor:
        """Return what is left of the trace at the end of the segment."""
        return trace * self.units(through[None])[0].unsqueeze(-1)

    def gradient(self, trace: Tensor, signal: Tensor) -> Tensor:
        """Return the sum of learning signal times trace."""
        return torch.einsum("nu,nui->ui", self.units(signal[None])[0], trace)


class PerUnit(NamedTuple):
    """A trained value by unit: ``value * of`` is added to what drives a layer."""

    value: Tensor
    """Broadcasts to ``(B, ...)``."""
    of: Tensor | None = None
    """``(K, B, ...)``; ``None`` is 1, as for a bias."""

    def grown(self, a: Tensor) -> Tensor:
        """Return what the segment adds to the trace, ``(B, ...)``."""
        return (a if self.of is None else a * self.of).sum(0)

    def kept(self, trace: Tensor, through: Tensor) -> Tensor:
        """Return what is left of the trace at the end of the segment."""
        return trace * through

    def gradient(self, trace: Tensor, signal: Tensor) -> Tensor:
        """Return learning signal times trace, by sample and unit."""
        return signal * trace


Source = Weights | PerUnit


class Traces(NamedTuple):
    """Where a layer stands, and how it came there."""

    state: tuple[Tensor, ...]
    """``(B, ...)`` each."""
    of: tuple[tuple[Tensor, ...], ...]
    """By parameter, sources first, then constants: the derivative of each state that is carried.
    Of a product ``(N, units, inputs)``, else ``(B, ...)``; ``(B, units of the state, ...)`` where
    ``full``."""
    full: bool
    """Whether units of the layer act on each other, and the traces hold what each does to each."""


def recall(
    before: Traces, parts: Sequence[Source], constants: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Return the states that a segment starts from, so that their gradient reaches the past.

    Args:
        before: What ``carry`` returned after the last segment.
        parts: The trained parts of what drives the layer; their rows are not looked at.
        constants: The trained constants of its units.
    """
    every = [*parts, *map(PerUnit, constants.values())]
    carried = len(before.of[0]) if before.of else 0
    values = [part.value for part in every]
    begin = _History.apply(before, every, *before.state[:carried], *values) if carried else ()
    return (*begin, *before.state[carried:])


@torch.no_grad()
def carry(
    before: Traces | None,
    cells: Cells,
    drive: Tensor,
    start: tuple[Tensor, ...],
    end: tuple[Tensor, ...],
    parts: Sequence[Source],
    constants: Mapping[str, Tensor],
    *,
    full: bool = False,
) -> Traces:
    """Return the traces at the end of a segment: ``e' = (ds'/ds) e + ds'/dp``.

    Args:
        before: Those at its start; ``None`` at the beginning of a sequence.
        cells: The units.
        drive: What drove them, ``(K, B, ...)``.
        start: The states at the start, ``(B, ...)`` each.
        end: Those at the end.
        parts: The trained parts of ``drive``.
        constants: Trained constants of the units, by name.
        full: Let traces hold what each unit does to each. For B sequences and P parameters of a
            layer of n units they take ``B n P`` numbers instead of ``B P``.
    """
    changes = _sensitivity(cells, drive, start, constants, full) if parts or constants else []
    every = [*parts, *map(PerUnit, constants.values())]
    of = []
    for number, part in enumerate(every):
        traces = []
        for change in changes:
            if number >= len(parts):
                trace = change.constants[number - len(parts)]
            else:
                trace = _full_grown(part, change.drive) if full else part.grown(change.drive)
            for through, e in zip(change.states, before.of[number] if before else (), strict=False):
                kept = (through @ e.flatten(2)).view_as(e) if full else part.kept(e, through)
                trace = trace + kept
            traces.append(trace)
        of.append(tuple(traces))
    return Traces(tuple(state.detach() for state in end), tuple(of), full)


def _full_grown(part: Source, a: Tensor) -> Tensor:
    """Return what a segment adds to a trace of all units on each; ``a`` is ``(K, B, n, n)``."""
    if isinstance(part, Weights):
        return torch.einsum("kbmn,kbi->bmni", a, part.rows)
    return (a if part.of is None else a * part.of.unsqueeze(2)).sum(0)


class _Change(NamedTuple):
    """The derivative of a state at the end of a segment, where units act on themselves alone.

    Where they act on each other there is an axis of the units of the state after the batch.
    """

    drive: Tensor
    """With respect to what drives the layer, ``(K, B, ...)``."""
    states: tuple[Tensor, ...]
    """With respect to the states at the start, ``(B, ...)``."""
    constants: tuple[Tensor, ...]


@torch.enable_grad()
def _sensitivity(
    cells: Cells,
    drive: Tensor,
    start: tuple[Tensor, ...],
    constants: Mapping[str, Tensor],
    full: bool,
) -> list[_Change]:
    """Differentiate each carried state, of every sample by itself.

    Where a unit acts on itself alone, one backward pass of the sum of all units gives the
    derivative of each. Else the layer runs once for every unit, side by side.
    """
    batch, shape = drive.shape[1], drive.shape[2:]
    copies = prod(shape) if full else 1

    def spread(value: Tensor, axis: int) -> Tensor:
        value = value.detach()
        if full:
            sizes = [1] * value.dim()
            sizes[axis] = copies
            return value.repeat(sizes)
        return value.unsqueeze(axis)  # the batch becomes a part of the layer, as constants see it

    x = spread(drive, 1).requires_grad_()
    states = tuple(spread(state, 0) for state in start)
    for state in states[: cells.carried]:
        state.requires_grad_()
    each = {
        name: spread(value.detach().expand(batch, *shape), 0).squeeze(0).clone().requires_grad_()
        for name, value in constants.items()
    }
    _, end = cells(x, states, each)
    changes = []
    for state in end[: cells.carried]:
        of = torch.ones_like(state)
        if full:
            of = torch.eye(copies, dtype=state.dtype, device=state.device)
            of = of.repeat_interleave(batch, 0).view_as(state)
        leaves = [x, *states[: cells.carried], *each.values()]
        grads = torch.autograd.grad(
            state, leaves, of, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if full:
            grads = tuple(
                g.view(*g.shape[:-2], copies, batch, copies).transpose(-2, -3) for g in grads
            )
        else:
            grads = (grads[0].squeeze(1), *(g.view(batch, *shape) for g in grads[1:]))
        through = grads[1 : 1 + cells.carried]
        changes.append(_Change(grads[0], through, grads[1 + cells.carried :]))
    return changes


class _History(torch.autograd.Function):
    """States as they are, whose gradient reaches parameters through the traces."""

    @staticmethod
    def forward(
        ctx: Any, traces: Traces, parts: Sequence[Source], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.traces, ctx.parts = traces, parts
        return tuple(t.clone() for t in tensors[: len(tensors) - len(parts)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *signals: Tensor) -> tuple[Any, ...]:
        found = []
        for part, traces in zip(ctx.parts, ctx.traces.of, strict=True):
            total: Any = 0
            for signal, e in zip(signals, traces, strict=True):
                if ctx.traces.full:
                    gone = (signal.unsqueeze(1) @ e.flatten(2)).view(len(e), *e.shape[2:])
                    total = total + (gone.sum(0) if isinstance(part, Weights) else gone)
                else:
                    total = total + part.gradient(e, signal)
            shape = part.value.shape
            if isinstance(part, Weights):
                found.append(total.view(shape))
            else:
                found.append(total.sum_to_size(shape))
        return (None, None, *[None] * len(signals), *found)
