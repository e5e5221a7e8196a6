"""Spiking Recurrent Cells as Norse's modules."""

from __future__ import annotations

from typing import Any

import nir
import torch
from norse.torch.module.snn import SNN, SNNCell
from torch import Tensor, nn

from snu_norse.host import check_step
from snu_plugin.accepted import by_known_names
from snu_plugin.graph.layers import (
    SRC as SRCNode,
)
from snu_plugin.graph.layers import (
    array,
    batch_axes,
    encode_src,
    src_arguments,
    to_node,
)
from snu_plugin.neuron import SRCConfig, SRCState, at_most, check_tensor, src_scan


@by_known_names
class SRCParameters(nn.Module):
    """The parameters of a layer, given to a module as ``p`` like Norse's own.

    Args:
        bias: Of the drive: a number, or a tensor that broadcasts to the layer, e.g.
            ``(features,)``. Trained if it is an ``nn.Parameter`` or unless ``learn_bias=False``,
            and then held at or below ``bias_max``.
        learn_bias: Whether ``bias`` is trained.
        settings: The other settings of ``snu_plugin.neuron.SRCConfig``, by name.

    Raises:
        ValueError: For a setting outside its range.
    """

    bias: Tensor

    def __init__(
        self, bias: float | Tensor = -6.0, *, learn_bias: bool = True, **settings: Any
    ) -> None:
        super().__init__()
        value = torch.as_tensor(bias, dtype=torch.get_default_dtype())
        self.config = SRCConfig(bias=float(value.max()), **settings)
        self.learn_bias = learn_bias or isinstance(bias, nn.Parameter)
        if self.learn_bias:
            self.bias = (
                bias if isinstance(bias, nn.Parameter) else nn.Parameter(value.detach().clone())
            )
        else:
            self.register_buffer("bias", value.detach().clone())

    @property
    def held_bias(self) -> Tensor:
        """What the cells use."""
        return at_most(self.bias, self.config.bias_max) if self.learn_bias else self.bias

    def extra_repr(self) -> str:
        return str(self.config)


def check_kind(p: object) -> None:
    """Raise ``TypeError`` unless ``p`` is what a step reads."""
    if not isinstance(getattr(p, "config", None), SRCConfig):
        raise TypeError(f"p is {type(p).__name__}; it must be SRCParameters")


def src_feed_forward_step(
    input_tensor: Tensor, state: SRCState | None, p: SRCParameters, dt: float = 0.001
) -> tuple[Tensor, SRCState]:
    """Advance one step; see ``snu_plugin.neuron.src_step``.

    Args:
        input_tensor: Weighted input, ``(B, ..., features)``.
        state: State after the last step; ``None`` is zero.
        p: Parameters.
        dt: Not used: the cell is parametrised per step. Norse's convention.

    Returns:
        Output and new state.
    """
    check_kind(p)
    check_tensor("x", input_tensor)
    (y,), state = src_scan(input_tensor[None], p.config, bias=p.held_bias, state=state)
    return y, state


@by_known_names
class SRCCell(SNNCell):
    """One step of Spiking Recurrent Cells: ``y, state = cell(x, state=None)``.

    ``x`` is the weighted input, ``(B, ..., features)``. Works in Norse's ``SequentialState``,
    ``Lift`` and ``RecurrentSequential``. De Geeter, Ernst, Drion, arXiv 2306.03623.

    Args:
        p: Parameters; ``None`` is ``SRCParameters()``.
        dt: Seconds per step that Norse's own export declares; no influence on the outputs.

    >>> y, state = SRCCell()(torch.ones(1, 2))
    >>> y.tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, p: SRCParameters | None = None, dt: float = 0.001) -> None:
        p = SRCParameters() if p is None else p
        check_kind(p)
        super().__init__(src_feed_forward_step, self.initial_state, p, dt=dt)

    def initial_state(self, input_tensor: Tensor) -> SRCState:
        return _zero(input_tensor, input_tensor.shape)


@by_known_names
class SRC(SNN):
    """A layer of Spiking Recurrent Cells over a sequence: ``y, state = layer(x, state=None)``.

    ``x`` is the weighted input, ``(T, B, ..., features)``; fused where it can be.

    Args:
        p: Parameters; ``None`` is ``SRCParameters()``.
        dt: As for ``SRCCell``.
        record_states: Return the states of all steps, ``(T, B, ..., features)`` each, and not
            the last; runs step by step.
    """

    def __init__(
        self, p: SRCParameters | None = None, dt: float = 0.001, record_states: bool = False
    ) -> None:
        super().__init__(
            src_feed_forward_step, self.initial_state, p or SRCParameters(), dt=dt,
            record_states=record_states,
        )  # fmt: skip

    def initial_state(self, input_tensor: Tensor) -> SRCState:
        return _zero(input_tensor, input_tensor.shape[1:])

    def forward(
        self, input_tensor: Tensor, state: SRCState | None = None
    ) -> tuple[Tensor, SRCState]:
        if self.record_states and len(input_tensor):
            y, states = super().forward(input_tensor, state)
            return y, states
        return src_scan(input_tensor, self.p.config, bias=self.p.held_bias, state=state)


def src_cell(node: SRCNode, dt: float | None) -> SRCCell:
    """Return the cell that computes what a node of NIR says."""
    bias, settings = src_arguments(node)
    p = SRCParameters(bias, **settings)
    return SRCCell(p) if dt is None else SRCCell(p, dt)


def _zero(like: Tensor, shape: tuple[int, ...]) -> SRCState:
    zero = like.new_zeros(shape)
    return SRCState(zero, zero, zero)


@to_node.register(SRCCell)
@to_node.register(SRC)
def _src(module: SRCCell | SRC, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    if isinstance(module, SRCCell):
        check_step(module, src_feed_forward_step)
    return encode_src(module.p.config, array(module.p.held_bias), shape)


@batch_axes.register
def _(module: SRC, x: Tensor) -> int | None:
    return min(2, x.dim() - 1)
