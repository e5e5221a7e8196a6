"""The two scans said in the one update that fused implementations run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.euler import Euler, EulerState, initial
from snu_plugin.neuron.precision import carried
from snu_plugin.neuron.reference import State, blocked
from snu_plugin.neuron.scan import broadcasts

Update = Callable[
    [Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None, SNUConfig],
    tuple[Tensor, Tensor, Tensor],
]
"""``s = g(x + decay v)``, ``y = h(s - threshold)``, ``v = s (1 - y) + reset y`` over time.

Takes the drive ``x``, ``(T, B, ..., features)`` with ``T >= 1``, then ``v``, decay, threshold and
reset, which broadcast to ``x.shape[1:]``, and a config that supplies g, its slope, h and
``detach_reset``. Without ``v`` it starts at zero, without a threshold the output is ``s`` and
nothing resets, without a reset it goes to zero. Returns outputs and the last ``s`` and ``y``.
"""

LINEAR = SNUConfig()
"""What a synapse reads of a config: no activation."""


def snu(
    update: Update,
    x: Tensor,
    config: SNUConfig,
    decay: Tensor | None,
    threshold: Tensor | None,
    state: State | None,
) -> tuple[Tensor, State]:
    """Run ``snu_plugin.snu_scan`` without recurrent weights."""
    kind = carried(x)
    if not x.shape[0]:
        zeros = x.new_zeros(x.shape[1:], dtype=kind)
        return torch.empty_like(x), state or State(zeros, zeros)
    v = None
    if state is not None:
        v = state.s * (1 - blocked(state.y, config))
    decay = x.new_full((), config.decay, dtype=kind) if decay is None else decay
    threshold = x.new_full((), config.threshold, dtype=kind) if threshold is None else threshold
    y, s_last, y_last = update(x, v, decay, threshold, None, config)
    return y, State(s_last, y_last)


def euler(
    update: Update, x: Tensor, neuron: Euler, state: EulerState | None
) -> tuple[Tensor, EulerState]:
    """Run ``snu_plugin.neuron.euler_scan``."""
    if state is None:
        state = initial(x.new_zeros(x.shape[1:], dtype=carried(x)), neuron)
    if not x.shape[0]:
        return torch.empty_like(x), state
    i, i_last = x, None
    if any(term is not None for term in (neuron.synapse_decay, neuron.gain, neuron.offset)):
        i = x.to(carried(x))
    if neuron.synapse_decay is not None:
        driven = i if neuron.synapse_gain is None else neuron.synapse_gain * i
        i, i_last, _ = update(driven, state.i, neuron.synapse_decay, None, None, LINEAR)
    drive = i if neuron.gain is None else neuron.gain * i
    drive = drive if neuron.offset is None else drive + neuron.offset
    y, s, fired = update(
        drive, state.v, neuron.decay, neuron.threshold, neuron.reset, neuron.config
    )
    y = y.to(x.dtype)
    if neuron.threshold is None:
        return y, EulerState(s, i_last)
    blocked = fired.detach() if neuron.config.detach_reset else fired
    v = s * (1 - blocked)
    return y, EulerState(v if neuron.reset is None else v + neuron.reset * blocked, i_last)


def euler_operands(neuron: Euler, state: EulerState | None) -> list[Tensor]:
    """Return every tensor of a call of ``euler_scan`` besides its input."""
    return [*neuron.tensors(), *(t for t in state or () if t is not None)]


def euler_refusal(x: Tensor, neuron: Euler, state: EulerState | None) -> str:
    """Return why no fused implementation runs these arguments, ``""`` where one may."""
    step = x.shape[1:]
    if not all(broadcasts(t.shape, step) for t in euler_operands(neuron, state)):
        return f"constants or state are larger than one step of x, {tuple(step)}"
    if neuron.reset is not None and neuron.reset.requires_grad:
        return "a trained reset is not fused"
    return ""
