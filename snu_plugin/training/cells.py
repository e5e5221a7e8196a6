"""The Spiking Recurrent Cell, a spiking unit whose every step is differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

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
        if self.gate not in get_args(Gate):
            raise ValueError(
                f"gate is {self.gate!r}; it must be one of {', '.join(get_args(Gate))}"
            )
        for name in ("alpha", "z", "z_hyp", "z_dep"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value!r}; it must lie in [0, 1]")
        if not (math.isfinite(self.rho) and self.rho > 0):
            raise ValueError(f"rho is {self.rho!r}; it must be a finite number above 0")
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


class _ReLU(torch.autograd.Function):
    """ReLU whose gradient is 1 everywhere (``surrogate_relu`` of the published configuration)."""

    @staticmethod
    def forward(h: Tensor) -> Tensor:
        return h.clamp(min=0)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        pass

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return grad


class _AtMost(torch.autograd.Function):
    """Clamp from above; block only the gradient that would push a held value further up."""

    @staticmethod
    def forward(value: Tensor, limit: float) -> Tensor:
        return value.clamp(max=limit)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        value, limit = inputs  # type: ignore[misc]
        ctx.save_for_backward(value >= limit)  # type: ignore[has-type]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (held,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad.masked_fill(held & (grad < 0), 0), None


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
    the slow state would never move.

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
    y: Tensor = _ReLU.apply(new)
    return y, SRCState(i, new, z_s * h_s + (1 - z_s) * h)


def src_scan(
    x: Tensor,
    config: SRCConfig | None = None,
    *,
    bias: Tensor | None = None,
    state: SRCState | None = None,
) -> tuple[Tensor, SRCState]:
    """Run ``src_step`` over the first axis of ``x``, ``(T, B, ..., features)``.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: If ``x`` has fewer than two axes, or ``state`` another shape.
        TypeError: If ``x`` is not floating point.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; it must be floating point")
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (T, B, ..., features)")
    zero = x.new_zeros(x.shape[1:])
    last = SRCState(zero, zero, zero) if state is None else state
    if any(part.shape != x.shape[1:] for part in last):
        shapes = [tuple(part.shape) for part in last]
        raise ValueError(f"state has shapes {shapes}; all must be {tuple(x.shape[1:])}")
    outputs = []
    for x_t in x:
        y, last = src_step(x_t, last, config, bias=bias)
        outputs.append(y)
    return torch.stack(outputs) if outputs else torch.empty_like(x), last


def rest(config: SRCConfig | None = None, bias: float | None = None) -> float:
    """Return the potential at which a cell without input stays, ``h = h_s``.

    Solved by bisection of ``h = tanh((r + r_s) h + b)``; -0.902689 with the published values.

    >>> round(rest(), 6)
    -0.902689
    """
    config = config or SRCConfig()
    b = config.bias if bias is None else bias
    low, high = -1.0, 1.0
    for _ in range(60):
        h = (low + high) / 2
        low, high = (h, high) if math.tanh((config.r + config.r_s) * h + b) > h else (low, h)
    return (low + high) / 2


class SRC(nn.Module):
    """A layer of Spiking Recurrent Cells.

    ``y, state = layer(x, state=None)`` with ``x`` the weighted input, ``(T, B, ..., *features)``.
    Equations: see ``src_step``.

    Args:
        features: Cells, or the trailing shape of the layer, e.g. ``(channels, height, width)``.
        config: Settings; ``None`` is ``SRCConfig()``.

    >>> layer = SRC(3)
    >>> y, state = layer(torch.ones(4, 2, 3))
    >>> y.shape, state.h.shape
    (torch.Size([4, 2, 3]), torch.Size([2, 3]))
    """

    def __init__(self, features: int | tuple[int, ...], config: SRCConfig | None = None) -> None:
        super().__init__()
        self.features = (features,) if isinstance(features, int) else tuple(features)
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features is {features!r}; it must be one or more positive numbers")
        self.config = config or SRCConfig()
        self.free_bias = nn.Parameter(torch.full(self.features, float(self.config.bias)))

    @property
    def bias(self) -> Tensor:
        """What the cells use: the trained value, held at or below ``config.bias_max``."""
        held: Tensor = _AtMost.apply(self.free_bias, self.config.bias_max)
        return held

    def forward(self, x: Tensor, state: SRCState | None = None) -> tuple[Tensor, SRCState]:
        """Run the sequence ``x``, ``(T, B, ..., *features)``, from ``state`` (``None``: zero)."""
        if x.shape[-len(self.features) :] != self.features or x.dim() < 2 + len(self.features):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (T, B, ..., "
                f"{', '.join(map(str, self.features))})"
            )
        return src_scan(x, self.config, bias=self.bias, state=state)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.config}"
