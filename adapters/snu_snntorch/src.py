"""The Spiking Recurrent Cell as snnTorch layers, one time step or a whole sequence a call."""

from __future__ import annotations

from typing import Any

import nir
import torch
from torch import Tensor, nn

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
from snu_plugin.neuron import SRCConfig, SRCState, at_most, src_scan
from snu_snntorch.unit import Stateful


class _SRCUnit(nn.Module):
    """What ``SRC`` and ``SRCSequence`` share; use one of these."""

    bias: Tensor

    def __init__(
        self,
        bias: float | Tensor = -6.0,
        *,
        learn_bias: bool = False,
        output: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        value = torch.as_tensor(bias, dtype=torch.get_default_dtype()).detach().clone()
        self.config = SRCConfig(bias=float(value.max()), **settings)
        self.output = output
        self.learn_bias = learn_bias
        if learn_bias:
            self.bias = nn.Parameter(value)
        else:
            self.register_buffer("bias", value)

    @property
    def held_bias(self) -> Tensor:
        """What the cells use: a trained bias is held at or below ``config.bias_max``."""
        return at_most(self.bias, self.config.bias_max) if self.learn_bias else self.bias

    def scan(self, x: Tensor, state: SRCState | None) -> tuple[Tensor, SRCState]:
        """Run ``x``, ``(T, B, ...)``."""
        return src_scan(x, self.config, bias=self.held_bias, state=state)

    def extra_repr(self) -> str:
        return str(self.config)


class SRC(_SRCUnit, Stateful):
    """Spiking Recurrent Cell (De Geeter, Ernst, Drion, arXiv 2306.03623), called as ``Synaptic``.

    ``spk, syn, mem, slow = neuron(input_, syn, mem, slow)``: the output ReLU(mem), the input
    current, the potential and the slow state, all ``(B, ...)``; equations in
    ``snu_plugin.neuron.src_step``. With ``init_hidden=True`` ``spk = neuron(input_)``, or all four
    if ``output=True`` too. Every step is differentiable, so there is no surrogate to choose.

    Args:
        bias: Of the drive; a number, or a tensor per neuron.
        init_hidden: Keep the states in the neuron; ``reset_mem()`` or ``snu_snntorch.reset(net)``
            zeroes them.
        learn_bias: Train ``bias``, held at or below ``bias_max``.
        output: With ``init_hidden=True``, return the states too.
        settings: The other settings of ``snu_plugin.neuron.SRCConfig``, by name.

    Raises:
        ValueError: For a setting outside its range.

    >>> neuron = SRC(init_hidden=True)
    >>> neuron(torch.ones(1, 2))
    tensor([[0., 0.]])
    """

    states = "syn", "mem", "slow"

    syn: Tensor
    slow: Tensor

    def __init__(
        self, bias: float | Tensor = -6.0, *, init_hidden: bool = False, **settings: Any
    ) -> None:
        super().__init__(bias, **settings)
        self.init_hidden = init_hidden

    def forward(self, input_: Tensor, *states: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Advance one step; ``input_`` and the three ``states``, if given, are ``(B, ...)``."""
        if states and self.init_hidden:
            raise TypeError(
                "states are given to a neuron with init_hidden=True, which keeps its own; "
                "leave them out, or build the neuron with init_hidden=False"
            )
        if len(states) not in (0, 3):
            raise TypeError(f"{len(states)} states are given; give syn, mem and slow, or none")
        last = SRCState(*(states or self._last_states()))
        fresh = any(part.shape != input_.shape for part in last)
        (spk,), last = self.scan(input_[None], None if fresh else last)
        self._store(*last)
        return spk if self.init_hidden and not self.output else (spk, *last)


class SRCSequence(_SRCUnit):
    """Spiking Recurrent Cells over a whole sequence: what ``SRC`` gives step by step.

    ``spk = layer(input_)``, both ``(T, B, ...)``; with ``output=True`` ``spk, syn, mem, slow``, the
    states after the last step, which a next call takes: ``layer(input_, syn, mem, slow)``. Nothing
    is kept in the layer. Settings as for ``SRC``.
    """

    def forward(self, input_: Tensor, *states: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run ``input_``, ``(T, B, ...)``, from three ``states``, ``(B, ...)``; none: zero."""
        spk, last = self.scan(input_, SRCState(*states) if states else None)
        return (spk, *last) if self.output else spk


def src_neuron(node: SRCNode) -> SRC:
    """Return the neuron that computes what a node of NIR says."""
    bias, settings = src_arguments(node)
    return SRC(bias, init_hidden=True, **settings)


@to_node.register(SRC)
@to_node.register(SRCSequence)
def _src(module: _SRCUnit, *, shape: tuple[int, ...], dt: float) -> nir.NIRNode:
    return encode_src(module.config, array(module.held_bias), shape)


@batch_axes.register
def _(module: SRCSequence, x: Tensor) -> int | None:
    return 2
