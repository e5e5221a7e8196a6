"""Spiking Neural Units without recurrence as Norse's modules."""

from __future__ import annotations

from typing import Any

import torch
from norse.torch.module.snn import SNN, SNNCell
from torch import Tensor

from snu_norse.parameters import Parameters, fitting, held_decay
from snu_plugin.neuron import SNUConfig, State, narrow, snu_scan, snu_step, state_dtype

SNUState = State
"""Potential ``s`` before the reset and output ``y``, each ``(B, ..., features)``."""


def snu_feed_forward_step(
    input_tensor: Tensor, state: SNUState | None, p: Parameters, dt: float = 0.001
) -> tuple[Tensor, SNUState]:
    """Advance one step with an input that is weighted already; see ``snu_plugin.snu_step``.

    Args:
        input_tensor: Weighted input, ``(B, ..., features)``.
        state: State after the last step; ``None`` is zero.
        p: Parameters; ``p.config.soft`` makes the step a sSNU's.
        dt: Not used: a SNU is parametrised by its decay per step. Norse's convention.

    Returns:
        Output and new state.
    """
    return snu_step(input_tensor, state, p.config, decay=held_decay(p), threshold=p.threshold)


def told(layer: Any) -> str:
    """What a layer prints about itself; its parameters print themselves."""
    names = ("input_size", "hidden_size", "autapses", "dt")
    return ", ".join(f"{n}={getattr(layer, n)}" for n in names if hasattr(layer, n))


def config_of(layer: Any) -> SNUConfig:
    """The settings of the layer; what ``p`` holds as tensors rules."""
    config: SNUConfig = layer.p.config
    return config


class SNUCell(SNNCell):
    """One step of SNUs without recurrence: ``y, state = cell(x, state=None)``.

    ``x`` is the weighted input, ``(B, ..., features)``. Where it is float16 or bfloat16, as
    autocast makes it, ``y`` is too and the state is float32. Works in Norse's ``SequentialState``,
    ``Lift`` and ``RecurrentSequential``.

    Args:
        p: Parameters; ``None`` is ``SNUParameters()``.
        dt: Seconds per step that Norse's own export declares; no influence on the outputs.

    Raises:
        TypeError: If ``p`` lacks a decay, a threshold or a config.
        ValueError: If these are outside their range, or ``p`` is soft.

    >>> y, state = SNUCell()(torch.tensor([[1.5, 0.5]]))
    >>> y.tolist(), state.s.tolist()
    ([[1.0, 0.0]], [[1.5, 0.5]])
    """

    soft = False

    def __init__(self, p: Parameters | None = None, dt: float = 0.001) -> None:
        super().__init__(
            snu_feed_forward_step, self.initial_state, fitting(p, soft=self.soft), dt=dt
        )

    config = property(config_of)
    extra_repr = told

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        return zero_state(input_tensor, input_tensor.shape)


class sSNUCell(SNUCell):
    """One step of soft SNUs; as ``SNUCell``, but soft whatever ``p`` says."""

    soft = True


class SNU(SNN):
    """A layer of SNUs over a sequence: ``y, state = layer(x, state=None)``.

    ``x`` is the weighted input, ``(T, B, ..., features)``; runs on ``snu_plugin.snu_scan``.

    Args:
        p: Parameters; ``None`` is ``SNUParameters()``.
        dt: Seconds per step that Norse's own export declares; no influence on the outputs.
        record_states: Return the states of all steps, ``(T, B, ..., features)`` each, and not
            the last; runs step by step.
        impl: Implementation of the scan; ``None`` takes the fastest that can run.

    Raises:
        TypeError, ValueError: As ``SNUCell``.

    >>> y, state = SNU()(torch.full((6, 1, 1), 0.6))
    >>> y.flatten().tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """

    soft = False

    def __init__(
        self,
        p: Parameters | None = None,
        dt: float = 0.001,
        record_states: bool = False,
        *,
        impl: str | None = None,
    ) -> None:
        p = fitting(p, soft=self.soft)
        super().__init__(
            snu_feed_forward_step, self.initial_state, p, dt=dt, record_states=record_states
        )
        self.impl = impl

    config = property(config_of)
    extra_repr = told

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        return zero_state(input_tensor, input_tensor.shape[1:])

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        return sequence(self, input_tensor, state)


class sSNU(SNU):
    """A layer of soft SNUs over a sequence; as ``SNU``, but soft whatever ``p`` says."""

    soft = True


def zero_state(like: Tensor, shape: tuple[int, ...]) -> SNUState:
    zeros = like.new_zeros(shape, dtype=state_dtype(like))
    return SNUState(zeros, zeros)


def sequence(
    layer: Any, x: Tensor, state: SNUState | None, recurrent: Tensor | None = None
) -> tuple[Tensor, SNUState]:
    """Run a layer over the weighted inputs ``x``, ``(T, B, ..., features)``."""
    p = layer.p
    values = {"decay": held_decay(p), "threshold": p.threshold, "recurrent": recurrent}
    if not layer.record_states:
        return snu_scan(x, p.config, **values, state=state, impl=layer.impl)
    states = []
    for x_t in x:
        _, state = snu_step(x_t, state, p.config, **values)
        states.append(state)
    s, y = (torch.stack(v) for v in zip(*states, strict=True)) if states else (x, x)
    return narrow(y, x), SNUState(s, y)
