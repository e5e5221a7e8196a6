"""The Spiking Recurrent Cell in plain torch: the specification of every faster form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from snu_plugin.accepted import NUMBER, POSITIVE, UNIT, one_of
from snu_plugin.neuron.precision import halves, in_float32

Gate = Literal["prev", "cur", "prev_hard", "cur_hard"]


@dataclass(frozen=True, kw_only=True)
class SRCConfig:
    """What a layer of Spiking Recurrent Cells computes; checked at birth.

    De Geeter, Ernst, Drion, arXiv 2306.03623; values: Harmel-lab/SRC---SNN---01 (the companion of
    arXiv 2605.10679).
    """

    gate: Gate = "prev"
    """What slows the slow state: the potential of the last step (``prev``: the authors' simulation
    code; its released weights score best so) or of this step (``cur``: their equations);
    ``_hard`` replaces the sigmoid by a step at 0.5. Which one the paper means is not known."""

    alpha: float = 0.9
    """Share of the input current kept from one step to the next, in [0, 1]."""

    rho: float = 3.0
    """Bound of the input, above 0: ``x = rho tanh(i / rho)``."""

    z: float = 0.0
    """Share of the potential kept from one step to the next, in [0, 1]."""

    r: float = 2.0
    """Weight of the last potential: fast positive feedback."""

    r_s: float = -7.0
    """Weight of the last slow state: slow negative feedback."""

    z_hyp: float = 0.9
    """Share of the slow state kept while the potential is low, in [0, 1]."""

    z_dep: float = 0.0
    """Share of the slow state kept while the potential is high, in [0, 1]."""

    bias: float = -6.0
    """Bias that training starts from."""

    bias_max: float = -4.0
    """Bias that training does not exceed."""

    detach: bool = True
    """Stop the gradient at the last potentials, so that it runs through time by the input current
    alone. A port of the published code does; whether the paper does is not known."""

    def __post_init__(self) -> None:
        one_of(*get_args(Gate)).check("gate", self.gate)
        for name in ("alpha", "z", "z_hyp", "z_dep"):
            UNIT.check(name, getattr(self, name))
        POSITIVE.check("rho", self.rho)
        for name in ("r", "r_s"):
            NUMBER.check(name, getattr(self, name))
        if not self.bias <= self.bias_max:
            raise ValueError(f"bias is {self.bias!r}; it must not exceed bias_max, {self.bias_max}")


class SRCState(NamedTuple):
    """What a cell carries from one step to the next, each ``(B, ..., features)``."""

    i: Tensor
    """Input current."""
    h: Tensor
    """Potential, in (-1, 1)."""
    h_s: Tensor
    """Slow state: follows ``h``, quickly while the cell fires."""

    @property
    def v(self) -> Tensor:
        """The potential ``h`` under the name that Norse's users and tools ask for."""
        return self.h


def src_step(
    x: Tensor,
    state: SRCState | None = None,
    config: SRCConfig | None = None,
    *,
    bias: Tensor | None = None,
) -> tuple[Tensor, SRCState]:
    """Advance one step.

    ::

        i   = alpha i' + x                                    x = W s_in
        h   = z h' + (1 - z) tanh(rho tanh(i / rho) + r h' + r_s h_s' + b)
        z_s = z_hyp - (z_hyp - z_dep) sigmoid(10 (u - 0.5))   u = h' or h, see ``config.gate``
        h_s = z_s h_s' + (1 - z_s) h'
        y   = ReLU(h)

    Source: Harmel-lab/SRC---SNN---01; its Word file prints h_s' in both terms of h_s, with which
    the slow state would never move. Where ``x`` is float16 or bfloat16 ``y`` is too, and all else
    is float32.

    Args:
        x: Weighted input, ``(B, ..., features)``.
        state: The last step's; ``None`` is zero.
        config: Settings; ``None`` is ``SRCConfig()``.
        bias: Biases that replace ``config.bias``; must broadcast to ``x``.

    Returns:
        The output ``y`` in [0, 1) and the new state.

    >>> y, state = src_step(torch.ones(1, 1))
    >>> state.h
    tensor([[-0.9999]])
    """
    config = config or SRCConfig()
    if halves(x, bias, *(state or ())):
        return in_float32(src_step, x, state, config, bias=bias)
    b = config.bias if bias is None else bias
    zero = torch.zeros_like(x)
    i, h, h_s = SRCState(zero, zero, zero) if state is None else state
    if config.detach:
        h, h_s = h.detach(), h_s.detach()
    i = config.alpha * i + x
    drive = config.rho * torch.tanh(i / config.rho)
    new = config.z * h + (1 - config.z) * torch.tanh(drive + config.r * h + config.r_s * h_s + b)
    u = h if config.gate.startswith("prev") else new
    fired = (u > 0.5).to(x.dtype) if config.gate.endswith("hard") else torch.sigmoid(10 * (u - 0.5))
    z_s = config.z_hyp - (config.z_hyp - config.z_dep) * fired
    # A ReLU whose gradient is 1 everywhere: ``surrogate_relu`` of the published configuration.
    y = new + (new.clamp(min=0) - new).detach()
    return y, SRCState(i, new, z_s * h_s + (1 - z_s) * h)
