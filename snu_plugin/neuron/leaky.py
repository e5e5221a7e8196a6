"""The front door to whole sequences of hosts' leaky neurons, which round as the hosts do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snu_plugin.neuron.lif import LIF, LIFParts, Recurrence
from snu_plugin.neuron.memory import Order
from snu_plugin.neuron.operators import is_eager
from snu_plugin.neuron.pool import CHANNELS_LAST, max_pool2d
from snu_plugin.neuron.scan import find


def lif_scan(
    x: Tensor,
    neuron: LIF,
    v: Tensor | None = None,
    i: Tensor | None = None,
    *,
    recurrence: Recurrence | None = None,
    potential: bool = True,
    current: bool = False,
    pool: tuple[int, int] | None = None,
) -> LIFParts:
    """Run ``LIF`` over the first axis of ``x``, ``(T, B, ...)``, in one compiled loop.

    Args:
        x: Inputs, float32 or float64, on a processor.
        neuron: What it computes.
        v: Potentials to start from, ``x.shape[1:]`` or less; ``None`` is zero.
        i: Currents to start from, likewise.
        recurrence: What the outputs of the step before add to ``x``, of neurons that fire and whose
            ``leak`` is ``None`` or ``"current"``.
        potential: Whether the potential of all steps is wanted, else that after the last alone.
        current: The same of the current.
        pool: Rows and columns of windows, side by side, of which the largest outputs are wanted in
            place of ``y``, for images ``(T, B, channels, rows, columns)``.

    Returns:
        The parts, each of the shape of ``x``, ``(1, B, ...)`` where but the last step is wanted;
        all of them differentiable. A neuron without a synapse has no current.

    Raises:
        ValueError: If ``lif_refusal`` names a reason.
    """
    engine = find("numba")
    why = lif_refusal(x, neuron, recurrence)
    if why or isinstance(engine, str) or engine.lif is None:
        raise ValueError(f"this call of a neuron cannot run fused: {why}")
    order = Order.of(x) if recurrence is None else None
    if pool is not None:
        plain = recurrence is None and not (potential or current)
        if order == CHANNELS_LAST and plain and x.numel() and engine.lif_pooled:
            laid, begin = _laid(order, neuron, v, i)
            found = engine.lif_pooled(order.lay(x), laid, *begin, pool)
            if found is not None:
                return _stood(order, found)
        found = lif_scan(
            x, neuron, v, i, recurrence=recurrence, potential=potential, current=current
        )
        pools = max_pool2d(found.y.flatten(0, 1), pool)
        return found._replace(y=pools.view(*x.shape[:2], *pools.shape[1:]))
    if order is None:
        return engine.lif(x, neuron, v, i, recurrence, potential, current)
    laid, begin = _laid(order, neuron, v, i)
    return _stood(order, engine.lif(order.lay(x), laid, *begin, None, potential, current))


def _laid(
    order: Order, neuron: LIF, v: Tensor | None, i: Tensor | None
) -> tuple[LIF, list[Tensor | None]]:
    """Return a neuron, and the states that it starts from, in the order of its inputs."""
    laid = {k: order.lay_step(c) for k, c in vars(neuron).items() if isinstance(c, Tensor)}
    as_it_lies: Any = replace(neuron, **laid)  # type: ignore[arg-type]  # tensors for tensors
    return as_it_lies, [None if s is None else order.lay_step(s) for s in (v, i)]


def _stood(order: Order, found: LIFParts) -> LIFParts:
    y, *states = found
    return LIFParts(order.stand(y), *(None if s is None else order.stand(s) for s in states))


def lif_refusal(x: Tensor, neuron: LIF, recurrence: Recurrence | None = None) -> str:
    """Return why ``lif_scan`` cannot run a call, ``""`` where it can."""
    engine = find("numba")
    if isinstance(engine, str):
        return engine
    others = [*neuron.tensors(), *(recurrence.tensors() if recurrence else ())]
    if not all(t.is_cpu for t in (x, *others)):
        return f"a tensor is on {x.device}; the fused loops run on processors"
    if x.dtype not in (torch.float32, torch.float64):
        return f"its input is {x.dtype}; the fused loops take float32 and float64"
    if x.layout is not torch.strided:
        return "its input is sparse"
    if not is_eager(x, *others):
        return "a compiler, tracer or transform of torch's sees the call"
    kept = neuron.tensors() if neuron.leak is not None else (neuron.reset_to, neuron.rest)
    if any(c is not None and c.requires_grad for c in kept):
        return "a constant of the neuron is trained"
    if recurrence and (neuron.leak in ("box", "none") or neuron.threshold is None):
        return "neurons of this kind have no recurrent loop"
    return ""
