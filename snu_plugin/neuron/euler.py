"""One forward-Euler update that covers every neuron that NIR has and the SNU too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.precision import halves, narrow, wide
from snu_plugin.neuron.reference import activate, fire
from snu_plugin.neuron.scan import choose, takes_halves


@dataclass(frozen=True, kw_only=True)
class Euler:
    """The constants of one layer of neurons at one time step; each tensor has the layer's shape.

    ``i = synapse_decay i + synapse_gain x`` (no synapse: ``i = x``);
    ``s = g(decay v + gain i + offset)``; ``y = h(s - threshold)``; ``v = s (1 - y) + reset y``.
    Without a threshold the output is ``s`` and nothing resets. With ``decay = 1 - dt/tau``,
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
    config: SNUConfig = field(default_factory=SNUConfig)
    """Supplies only g, its slope, h (``soft``), the surrogate and ``detach_reset``."""

    def to(self, like: Tensor) -> Euler:
        """Return the same constants with the dtype and on the device of ``like``."""
        return self._each(lambda value: value.to(like))

    def wide(self) -> Euler:
        """Return the same constants, in float32 what has half precision."""
        return self._each(wide)

    def tensors(self) -> list[Tensor]:
        """Return every constant that is there."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Euler:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


class EulerState(NamedTuple):
    """Potential after the reset and synaptic current, each ``(B, ..., features)``."""

    v: Tensor
    i: Tensor | None

    def wide(self) -> EulerState:
        """Return the same state, in float32 what has half precision."""
        return EulerState(wide(self.v), wide(self.i))


def initial(x: Tensor, neuron: Euler) -> EulerState:
    """Return the state before the first step for a step's input ``x``, ``(B, ..., features)``."""
    v = torch.zeros_like(x) if neuron.start is None else neuron.start.expand_as(x)
    return EulerState(v, None if neuron.synapse_decay is None else torch.zeros_like(x))


def euler_step(x: Tensor, state: EulerState, neuron: Euler) -> tuple[Tensor, EulerState]:
    """Advance one step of ``Euler``; ``x`` is ``(B, ..., features)``; returns output and state."""
    if halves(x, *neuron.tensors(), *state):
        y, last = _advance(wide(x), state.wide(), neuron.wide())
        return narrow(y, x), last
    return _advance(x, state, neuron)


def _advance(x: Tensor, state: EulerState, neuron: Euler) -> tuple[Tensor, EulerState]:
    i = x
    if neuron.synapse_decay is not None and state.i is not None:
        driven = x if neuron.synapse_gain is None else neuron.synapse_gain * x
        i = neuron.synapse_decay * state.i + driven
    drive = i if neuron.gain is None else neuron.gain * i
    drive = drive if neuron.offset is None else drive + neuron.offset
    s = activate(drive + neuron.decay * state.v, neuron.config)
    kept = None if neuron.synapse_decay is None else i
    if neuron.threshold is None:
        return s, EulerState(s, kept)
    y = fire(s - neuron.threshold, neuron.config)
    blocked = y.detach() if neuron.config.detach_reset else y
    v = s * (1 - blocked)
    return y, EulerState(v if neuron.reset is None else v + neuron.reset * blocked, kept)


def euler_scan(
    x: Tensor, neuron: Euler, state: EulerState | None = None, *, impl: str | None = None
) -> tuple[Tensor, EulerState]:
    """Run ``euler_step`` over the first axis of ``x``, ``(T, B, ..., features)``.

    Where ``x`` is float16 or bfloat16 outputs are too, and all else is float32.

    Args:
        x: Inputs.
        neuron: Constants of the layer.
        state: State to start from; ``None`` is ``neuron.start`` without current.
        impl: As in ``snu_scan``; outputs of neurons that fire or only leak are bit by bit the same.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: For a named ``impl`` that cannot run this call.
        LookupError: For an unknown ``impl``.

    >>> leaky = Euler(decay=torch.tensor(0.5), threshold=torch.tensor(1.0))
    >>> euler_scan(torch.full((3, 1, 1), 0.75), leaky)[0].flatten()
    tensor([0., 1., 0.])
    """
    brief = x.shape[0] == 1 and not neuron.config.soft
    half = halves(x, *neuron.tensors(), *(state or ()))

    def refusal(fused: ModuleType) -> str:
        return fused.euler_refusal(x, neuron, state)  # type: ignore[no-any-return]

    if half and not takes_halves(x, impl, refusal, brief=brief):
        wider = None if state is None else state.wide()
        y, last = euler_scan(wide(x), neuron.wide(), wider, impl=impl)
        return narrow(y, x), last
    fused = choose(impl, refusal, brief=brief)
    if fused is not None:
        y, last = fused.euler_scan(x, neuron, state)
        return y, last
    if state is None:
        state = initial(x.new_zeros(x.shape[1:]), neuron)
    outputs = []
    for x_t in x:
        y, state = _advance(x_t, state, neuron)
        outputs.append(y)
    return torch.stack(outputs) if outputs else torch.empty_like(x), state
