"""Spiking Neural Units with recurrence as Norse's modules."""

from __future__ import annotations

import torch.nn.functional as F
from norse.torch.module.snn import SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor

from snu_norse.neurons import SNUState, config_of, sequence, snu_feed_forward_step, told, zero_state
from snu_norse.parameters import Parameters, check, feedback, fitting, held_decay, weight, weights
from snu_plugin.neuron import snu_step


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
    return snu_step(
        F.linear(input_tensor, input_weights),
        state,
        p.config,
        decay=held_decay(p),
        threshold=p.threshold,
        recurrent=recurrent_weights,
    )


class SNURecurrentCell(SNNRecurrentCell):
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

    soft = False

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
            snu_recurrent_step,
            self.initial_state,
            input_size,
            hidden_size,
            fitting(p, soft=self.soft),
            *weights(input_size, hidden_size, input_weights, recurrent_weights),
            autapses=True,  # With False Norse zeroes the diagonal of the caller's own tensor.
            dt=dt,
        )
        self.input_size, self.hidden_size, self.autapses = input_size, hidden_size, autapses

    config = property(config_of)
    extra_repr = told

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        return zero_state(input_tensor, (*input_tensor.shape[:-1], self.hidden_size))

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        h = feedback(self.recurrent_weights, self.autapses)
        return snu_recurrent_step(input_tensor, state, self.input_weights, h, self.p, self.dt)


class sSNURecurrentCell(SNURecurrentCell):
    """One step of recurrent soft SNUs; as ``SNURecurrentCell``, but soft whatever ``p`` says."""

    soft = True


class SNURecurrent(SNNRecurrent):
    """Recurrent SNUs over a sequence: ``y, state = layer(x, state=None)``.

    ``x`` is ``(T, B, ..., input_size)``, the output ``(T, B, ..., hidden_size)``. Arguments and
    errors as ``SNURecurrentCell``, ``record_states`` and ``impl`` as ``SNU``.
    """

    soft = False

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
            snu_recurrent_step,
            self.initial_state,
            input_size,
            hidden_size,
            fitting(p, soft=self.soft),
            *weights(input_size, hidden_size, input_weights, recurrent_weights),
            autapses=True,  # With False Norse zeroes the diagonal of the caller's own tensor.
            dt=dt,
            record_states=record_states,
        )
        self.input_size, self.hidden_size, self.autapses = input_size, hidden_size, autapses
        self.impl = impl

    config = property(config_of)
    extra_repr = told

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        return zero_state(input_tensor, (*input_tensor.shape[1:-1], self.hidden_size))

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        x = F.linear(input_tensor, self.input_weights)
        return sequence(self, x, state, feedback(self.recurrent_weights, self.autapses))


class sSNURecurrent(SNURecurrent):
    """Recurrent soft SNUs over a sequence; as ``SNURecurrent``, but soft whatever ``p`` says."""

    soft = True


class SNUFeedbackCell(SNNCell):
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

    config = property(config_of)
    extra_repr = told

    def initial_state(self, input_tensor: Tensor) -> SNUState:
        return zero_state(input_tensor, input_tensor.shape)

    def forward(
        self, input_tensor: Tensor, state: SNUState | None = None
    ) -> tuple[Tensor, SNUState]:
        return snu_step(
            input_tensor,
            state,
            self.config,
            decay=held_decay(self.p),
            threshold=self.p.threshold,
            recurrent=self.recurrent_weights,
        )
