"""One forward-Euler update that covers every neuron that NIR has and the SNU too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.precision import halves, in_float32, wide
from snu_plugin.neuron.reference import activate, fire

LINEAR = SNUConfig()
"""Settings without an activation, as of neurons of NIR and of synapses."""


@dataclass(frozen=True, kw_only=True)
class Euler:
    """The constants of one layer of neurons at one time step; each tensor has the layer's shape.

    ``i = synapse_decay i + synapse_gain x`` (no synapse: ``i = x``);
    ``s = g(decay v + gain i + offset)``; ``y = h(s - threshold)``; ``v = s (1 - y) + reset y``.
    Without a threshold the output is ``s`` and nothing resets, but what ``s`` loses in the step
    after it lay above a level: ``s = g(...) - drop [v > level]``. With ``decay = 1 - dt/tau``,
    ``gain = r dt/tau`` and ``offset = v_leak dt/tau`` this is strict forward Euler of
    ``tau dv/dt = v_leak - v + r i``, spike, then reset, as NIR's nodes define them.
    ``None`` stands for a term that is absent: gain 1, offset 0, reset 0, start 0.
    """

    decay: Tensor
    gain: Tensor | None = None
    offset: Tensor | None = None
    threshold: Tensor | None = None
    reset: Tensor | None = None
    start: Tensor | None = None
    synapse_decay: Tensor | None = None
    synapse_gain: Tensor | None = None
    level: Tensor | None = None
    drop: Tensor | None = None
    """What is subtracted in the step after ``s`` lay above ``level``; both are there, or none."""
    config: SNUConfig = LINEAR
    """Supplies only g, its slope, h (``soft``), the surrogate and ``detach_reset``."""

    def to(self, like: Tensor) -> Euler:
        """Return the same constants with the dtype and on the device of ``like``."""
        return self.each(lambda value: value.to(like))

    def wide(self) -> Euler:
        """Return the same constants, in float32 what has half precision."""
        return self.each(wide)

    def tensors(self) -> list[Tensor]:
        """Return every constant that is there."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def each(self, change: Callable[[Tensor], Tensor]) -> Euler:
        """Return the same neurons with every constant changed."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class EulerState(NamedTuple):
    """Potential after the reset and synaptic current, each ``(B, ..., features)``."""

    v: Tensor
    i: Tensor | None


def initial(x: Tensor, neuron: Euler) -> EulerState:
    """Return the state before the first step for a step's input ``x``, ``(B, ..., features)``."""
    v = torch.zeros_like(x) if neuron.start is None else neuron.start.expand_as(x)
    return EulerState(v, None if neuron.synapse_decay is None else torch.zeros_like(x))


def euler_step(x: Tensor, state: EulerState, neuron: Euler) -> tuple[Tensor, EulerState]:
    """Advance one step of ``Euler``; ``x`` is ``(B, ..., features)``; returns output and state."""
    if halves(x, *neuron.tensors(), *state):
        return in_float32(advance, x, state, neuron)
    return advance(x, state, neuron)


def advance(x: Tensor, state: EulerState, neuron: Euler) -> tuple[Tensor, EulerState]:
    """Do what ``euler_step`` does, for tensors of one precision."""
    i = x
    if neuron.synapse_decay is not None and state.i is not None:
        driven = x if neuron.synapse_gain is None else neuron.synapse_gain * x
        i = neuron.synapse_decay * state.i + driven
    drive = i if neuron.gain is None else neuron.gain * i
    drive = drive if neuron.offset is None else drive + neuron.offset
    s = activate(drive + neuron.decay * state.v, neuron.config)
    if neuron.drop is not None and neuron.level is not None:
        above = fire(state.v - neuron.level, neuron.config)
        s = s - neuron.drop * (above.detach() if neuron.config.detach_reset else above)
    kept = None if neuron.synapse_decay is None else i
    if neuron.threshold is None:
        return s, EulerState(s, kept)
    y = fire(s - neuron.threshold, neuron.config)
    blocked = y.detach() if neuron.config.detach_reset else y
    v = s * (1 - blocked)
    return y, EulerState(v if neuron.reset is None else v + neuron.reset * blocked, kept)
