"""Long sequences in segments: what a scan keeps between its inputs and outputs is computed again.

Forward only the states before each segment are kept. Going back each segment runs once more from
there, then its gradients; what that takes still lies in the cache when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.memory import paged
from snu_plugin.neuron.operators import is_eager, once_differentiable, refuse_batched

Tensors = Sequence[Tensor | None]

Run = Callable[[Tensor, Tensors, Tensors], tuple[Tensors, Tensors]]
"""From inputs of some steps, states and constants to sequences and the states after them."""

STEPS = 64
"""Steps of a segment: so few that what it keeps stays in the cache, so many that the states before
segments are little."""

LONG = 2**22
"""Numbers of an input from which on it runs in segments, if it has two of them at least."""


def segment_of(x: Tensor) -> int:
    """Return the steps of a segment of ``x``, 0 where it runs whole."""
    return STEPS if x.numel() >= LONG and len(x) >= 2 * STEPS else 0


def in_segments(
    run: Run, x: Tensor, states: Tensors, constants: Tensors
) -> tuple[Tensors, Tensors]:
    """Return what ``run(x, states, constants)`` does, keeping less where ``x`` is long.

    Such a call on a processor in eager torch runs in segments of ``STEPS``; others run whole.

    Args:
        run: What computes it; for pieces of ``x`` in a row, each from the states of the one before,
            it gives what it gives for the whole.
        x: Inputs, ``(T, ...)``.
        states: What it starts from.
        constants: Other tensors that gradients go to.

    Returns:
        The sequences, ``(T, ...)`` each, and the states after the last step; some may be ``None``.
    """
    given = [t for t in (x, *states, *constants) if t is not None]
    size = segment_of(x)
    if not size or not x.is_cpu or not is_eager(*given):
        return run(x, states, constants)
    found = _Segments.apply(run, size, len(states), x, *states, *constants)
    return found[: -len(states)], found[-len(states) :]


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Run, size: int, count: int, x: Tensor, *rest: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        begin, constants = rest[:count], rest[count:]
        states: Tensors = begin
        whole: list[Tensor | None] = []
        ends: list[Tensor | None] = []
        for segment, first in enumerate(range(0, len(x), size)):
            parts, last = run(x[first : first + size], states, constants)
            if not whole:
                whole = [None if p is None else paged(_rows(p[0], len(x))) for p in parts]
                # One tensor for the states behind all segments: many small ones between what comes
                # and goes would hold half as much again.
                ends = [None if s is None else _rows(s, -(-len(x) // size)) for s in last]
            _put(parts, whole, slice(first, first + size))
            _put(last, ends, segment)
            states = tuple(None if kept is None else kept[segment] for kept in ends)
            del parts, last  # before there are others
        ctx.run, ctx.size, ctx.count = run, size, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *constants, *begin, *ends)
        return *whole, *(None if s is None else s.clone() for s in states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        refuse_batched(*grads)
        with torch.no_grad():
            found = _gradients(ctx, *grads)
        if torch.is_grad_enabled():
            found = once_differentiable((*grads, *ctx.saved_tensors), found)
        return None, None, None, *found


def _gradients(ctx: Any, *grads: Tensor | None) -> Tensors:
    """Return the gradients of inputs, states and constants."""
    count, size, needs = ctx.count, ctx.size, ctx.needs_input_grad[4 + ctx.count :]
    x, *others = ctx.saved_tensors
    constants, begin, ends = others[: len(needs)], others[len(needs) : -count], others[-count:]
    of_sequences, of_states = grads[: len(grads) - count], grads[len(grads) - count :]
    gx = paged(torch.empty_like(x)) if ctx.needs_input_grad[3] else None
    sums: Tensors = [None] * len(constants)
    for first in range((len(x) - 1) // size * size, -1, -size):
        here, segment = slice(first, first + size), first // size
        states = [None if s is None else s[segment - 1] for s in ends] if segment else begin
        leaves = [_leaf(x[here], gx is not None)]
        leaves += [_leaf(state, True) for state in states]
        leaves += [_leaf(c, need) for c, need in zip(constants, needs, strict=True)]
        given = *(None if g is None else g[here] for g in of_sequences), *of_states
        of_x, *found = _once_more(ctx.run, count, leaves, given)
        if gx is not None:
            gx[here] = 0 if of_x is None else of_x
        of_states = tuple(found[:count])
        sums = [_added(a, b) for a, b in zip(sums, found[count:], strict=True)]
        del leaves, of_x, found  # before there are others
    return gx, *of_states, *sums


def _once_more(run: Run, count: int, leaves: Tensors, given: Tensors) -> list[Tensor | None]:
    """Run a segment from its inputs, states and constants, and back; return their gradients."""
    x, *others = leaves
    with torch.enable_grad():
        parts, last = run(x, others[:count], others[count:])  # type: ignore[arg-type]
    pairs = [
        (out, g) for out, g in zip((*parts, *last), given, strict=True)
        if g is not None and out is not None and out.requires_grad
    ]  # fmt: skip
    asked = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    if not pairs or not asked:
        return [None] * len(leaves)
    outs, grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outs, asked, grads, allow_unused=True))
    return [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]


def _rows(row: Tensor, count: int) -> Tensor:
    """Return room for so many tensors like one."""
    return row.new_empty(count, *row.shape)


def _put(values: Tensors, into: Tensors, place: Any) -> None:
    for value, whole in zip(values, into, strict=True):
        if value is not None and whole is not None:
            whole[place] = value


def _leaf(tensor: Tensor | None, needs: bool) -> Any:
    return None if tensor is None else tensor.detach().requires_grad_(needs)


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
