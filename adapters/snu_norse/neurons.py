"""Spiking Neural Units as Norse's modules, without and with recurrence."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor

from snu_norse.parameters import (
    Parameters,
    check,
    check_kind,
    feedback,
    held_decay,
    parameters_for,
    weight,
    weights,
)
from snu_plugin.accepted import by_known_names
from snu_plugin.neuron import (
    SNUConfig,
    State,
    check_product,
    check_tensor,
    narrow,
    snu_scan,
    snu_states,
    snu_step,
    state_dtype,
)

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
    check_kind(p)
    return snu_step(input_tensor, state, p.config, decay=held_decay(p), threshold=p.threshold)


def snu_recurrent_step(
    input_tensor: Tensor,
    state: SNUState | None,
    input_weights: Tensor,
    recurrent_weights: Tensor,
    p: Parameters,
    dt: float = 0.001,
) -> tuple[Tensor, SNUState]:
    """Advance one step of recurrent units; see ``snu_feed_forward_step``.

    Args:
        input_tensor: Input, ``(B, ..., input_size)``.
        state: State after the last step; ``None`` is zero.
        input_weights: W, ``(hidden_size, input_size)``: row = receiving unit, as in ``nn.Linear``.
        recurrent_weights: H, ``(hidden_size, hidden_size)``, likewise; acts on the last output.
        p: Parameters.
        dt: Not used.

    Returns:
        Output and new state, ``(B, ..., hidden_size)``.
    """
    check_kind(p)
    check_product(input_tensor, input_weights)
    return snu_step(
        F.linear(input_tensor, input_weights),
        state,
        p.config,
        decay=held_decay(p),
        threshold=p.threshold,
        recurrent=recurrent_weights,
    )


class _Units:
    """What all modules of SNUs share."""

    p: Parameters
    hidden_size: int | None = None
    """Units of a layer with input weights; others have as many as they have inputs."""

    soft: ClassVar[bool] = False
    time_axes: ClassVar[int] = 0
    """Axes of an input before its batch: 1 for a sequence."""

    @property
    def config(self) -> SNUConfig:
        """The settings of the layer; what ``p`` holds as tensors rules."""
        return self.p.config

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        """Return the state before the first step, zeros of the shape of a step.

        >>> import torch
        >>> from snu_norse import SNUCell
        >>> SNUCell().initial_state(torch.ones(1, 2)).s
        tensor([[0., 0.]])
        """
        check_tensor("x", input_tensor)
        shape: tuple[int, ...] = input_tensor.shape[self.time_axes :]
        if self.hidden_size is not None:
            shape = (*shape[:-1], self.hidden_size)
        zeros = input_tensor.new_zeros(shape, dtype=state_dtype(input_tensor))
        return SNUState(zeros, zeros)

    def extra_repr(self) -> str:
        names = ("input_size", "hidden_size", "autapses", "dt")  # parameters print themselves
        values = {name: getattr(self, name, None) for name in names}
        return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


@by_known_names
class SNUCell(_Units, SNNCell):
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

    >>> import torch
    >>> y, state = SNUCell()(torch.tensor([[1.5, 0.5]]))
    >>> y.tolist(), state.s.tolist()
    ([[1.0, 0.0]], [[1.5, 0.5]])
    """

    def __init__(self, p: Parameters | None = None, dt: float = 0.001) -> None:
        super().__init__(
            snu_feed_forward_step, self.initial_state, parameters_for(p, soft=self.soft), dt=dt
        )


class sSNUCell(SNUCell):
    """One step of soft SNUs; as ``SNUCell``, but soft whatever ``p`` says."""

    soft = True


@by_known_names
class SNURecurrentCell(_Units, SNNRecurrentCell):
    """One step of SNUs with input and recurrent weights: ``y, state = cell(x, state=None)``.

    ``x`` is ``(B, ..., input_size)``, the output ``(B, ..., hidden_size)``.

    Args:
        input_size: Inputs.
        hidden_size: Units.
        p: Parameters; ``None`` is ``SNUParameters()``.
        input_weights: W, ``(hidden_size, input_size)``: row = receiving unit, as in ``nn.Linear``;
            ``None`` draws normal numbers of variance ``2 / hidden_size`` as Norse does. An
            ``nn.Parameter`` is used itself, any other tensor is copied into one.
        recurrent_weights: H, ``(hidden_size, hidden_size)``, likewise; acts on the last output.
        autapses: Let units feed themselves. Norse's default is False; the published SNU does.
            Without, the diagonal of H takes no part; that of a given tensor keeps its values.
        dt: Seconds per step that Norse's own export declares; no influence on the outputs.

    Raises:
        TypeError: As ``SNUCell``.
        ValueError: As ``SNUCell``, and for sizes below 1 and weights of another shape.
    """

    hidden_size: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: Parameters | None = None,
        input_weights: Tensor | None = None,
        recurrent_weights: Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
    ) -> None:
        super().__init__(
            snu_recurrent_step, self.initial_state, input_size, hidden_size,
            parameters_for(p, soft=self.soft),
            *weights(input_size, hidden_size, input_weights, recurrent_weights),
            autapses=True,  # With False Norse zeroes the diagonal of the caller's own tensor.
            dt=dt,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.autapses = input_size, hidden_size, autapses

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        h = feedback(self.recurrent_weights, self.autapses)
        return snu_recurrent_step(input_tensor, state, self.input_weights, h, self.p, self.dt)


class sSNURecurrentCell(SNURecurrentCell):
    """One step of recurrent soft SNUs; as ``SNURecurrentCell``, but soft whatever ``p`` says."""

    soft = True


@by_known_names
class SNUFeedbackCell(_Units, SNNCell):
    """One step of SNUs that feed back to each other: ``y, state = cell(x, state=None)``.

    What ``SNURecurrentCell`` is without its input weights: ``x`` is the weighted input,
    ``(B, ..., features)``. Networks read from NIR hold their recurrent layers in this form, behind
    an ``nn.Linear`` of their own.

    Args:
        p: Parameters; ``p.config.soft`` makes it a layer of soft SNUs.
        recurrent_weights: H, ``(features, features)``: row = receiving unit; acts on the last
            output. An ``nn.Parameter`` is used itself, any other tensor is copied into one.
        dt: Seconds per step that Norse's own export declares; no influence on the outputs.

    Raises:
        TypeError, ValueError: As ``SNUCell``, and for weights that are not square.
    """

    def __init__(self, p: Parameters, recurrent_weights: Tensor, dt: float = 0.001) -> None:
        check(p)
        super().__init__(snu_feed_forward_step, self.initial_state, p, dt=dt)
        size = len(recurrent_weights)
        self.recurrent_weights = weight("recurrent_weights", recurrent_weights, (size, size))

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        p, h = self.p, self.recurrent_weights
        return snu_step(
            input_tensor, state, p.config, decay=held_decay(p), threshold=p.threshold, recurrent=h
        )


@by_known_names
class SNU(_Units, SNN):
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

    >>> import torch
    >>> y, state = SNU()(torch.full((6, 1, 1), 0.6))
    >>> y.flatten().tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    """

    time_axes = 1

    def __init__(
        self,
        p: Parameters | None = None,
        dt: float = 0.001,
        record_states: bool = False,
        *,
        impl: str | None = None,
    ) -> None:
        p = parameters_for(p, soft=self.soft)
        super().__init__(
            snu_feed_forward_step, self.initial_state, p, dt=dt, record_states=record_states
        )
        self.impl = impl

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        return _scan(self, input_tensor, state)


class sSNU(SNU):
    """A layer of soft SNUs over a sequence; as ``SNU``, but soft whatever ``p`` says."""

    soft = True


@by_known_names
class SNURecurrent(_Units, SNNRecurrent):
    """Recurrent SNUs over a sequence: ``y, state = layer(x, state=None)``.

    ``x`` is ``(T, B, ..., input_size)``, the output ``(T, B, ..., hidden_size)``. Arguments and
    errors as ``SNURecurrentCell``, ``record_states`` and ``impl`` as ``SNU``.
    """

    time_axes = 1

    hidden_size: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        p: Parameters | None = None,
        input_weights: Tensor | None = None,
        recurrent_weights: Tensor | None = None,
        autapses: bool = False,
        dt: float = 0.001,
        record_states: bool = False,
        *,
        impl: str | None = None,
    ) -> None:
        super().__init__(
            snu_recurrent_step, self.initial_state, input_size, hidden_size,
            parameters_for(p, soft=self.soft),
            *weights(input_size, hidden_size, input_weights, recurrent_weights),
            autapses=True,  # With False Norse zeroes the diagonal of the caller's own tensor.
            dt=dt, record_states=record_states,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.autapses = input_size, hidden_size, autapses
        self.impl = impl

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        check_product(input_tensor, self.input_weights)
        x = F.linear(input_tensor, self.input_weights)
        return _scan(self, x, state, feedback(self.recurrent_weights, self.autapses))


class sSNURecurrent(SNURecurrent):
    """Recurrent soft SNUs over a sequence; as ``SNURecurrent``, but soft whatever ``p`` says."""

    soft = True


def _scan(
    layer: SNU | SNURecurrent, x: Tensor, state: SNUState | None, recurrent: Tensor | None = None
) -> tuple[Tensor, SNUState]:
    """Run a layer over the weighted inputs ``x``, ``(T, B, ..., features)``."""
    p = layer.p
    settings: dict[str, Any] = {"decay": held_decay(p), "threshold": p.threshold}
    settings |= {"recurrent": recurrent, "state": state}
    if not layer.record_states:
        return snu_scan(x, p.config, impl=layer.impl, **settings)
    states = snu_states(x, p.config, **settings)
    return narrow(states.y, x), states
