"""A layer of Spiking Neural Units as a torch module."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.precision import wide
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.scan import snu_scan

LARGEST_DECAY = 1 - 2**-24
"""The largest float32 below 1: where a trained decay is held."""


class _Hold(torch.autograd.Function):
    """Clamp to [0, 1); block only the gradient that would push a held value further out."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clamp(0, LARGEST_DECAY)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, _: object) -> None:
        ctx.save_for_backward(*inputs)  # type: ignore[misc]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors  # type: ignore[attr-defined]
        outwards = ((value <= 0) & (grad > 0)) | ((value >= LARGEST_DECAY) & (grad < 0))
        return grad.masked_fill(outwards, 0)


def hold_decay(decay: Tensor) -> Tensor:
    """Return a trained decay held inside [0, 1); a gradient pointing back inside still passes.

    One of half precision, which has no number next to 1, is held in float32.
    """
    held: Tensor = _Hold.apply(wide(decay))
    return held


class Unit(nn.Module):
    """What ``SNU`` and ``sSNU`` share; use one of these."""

    threshold: Tensor
    decay: Tensor

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SNUConfig,
        *,
        recurrent: bool = False,
        impl: str | None = None,
    ) -> None:
        super().__init__()
        self.features = (features,) if isinstance(features, int) else tuple(features)
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features is {features!r}; it must be one or more positive numbers")
        if recurrent and len(self.features) > 1:
            raise ValueError(f"features is {features!r}; a recurrent layer takes one number")
        self.config = config
        self.impl = impl
        for name, learn in (("threshold", config.learn_threshold), ("decay", config.learn_decay)):
            value = torch.full(self.features, float(getattr(config, name)))
            if learn:
                setattr(self, name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.recurrent = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * self.features)))
            if recurrent
            else None
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the sequence ``x``, ``(T, B, ..., features)``, from ``state`` (``None``: zero)."""
        if x.shape[-len(self.features) :] != self.features or x.dim() < 2 + len(self.features):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (T, B, ..., "
                f"{', '.join(map(str, self.features))})"
            )
        return snu_scan(
            x,
            self.config,
            decay=hold_decay(self.decay) if self.config.learn_decay else self.decay,
            threshold=self.threshold,
            recurrent=self.recurrent,
            state=state,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        return f"{self.features}, {self.config}, recurrent={self.recurrent is not None}"


class SNU(Unit):
    """A layer of Spiking Neural Units: 0/1 outputs, reset to zero by the last output.

    ``y, state = layer(x, state=None)`` with ``x`` the weighted input, ``(T, B, ..., *features)``;
    the state is a value, never kept in the module. Equations: see ``snu_step``.

    Under autocast outputs have the precision of ``x`` and the state is float32. So it is where the
    layer itself was made ``half()`` or ``bfloat16()``, but that rounds its decays and thresholds:
    0.999 becomes 1 in bfloat16.

    Args:
        features: Units, or the trailing shape of the layer, e.g. ``(channels, height, width)``.
        config: Settings, ``soft=False``.
        recurrent: Add trained weights H from every unit to every unit, acting on the last step.
        impl: Implementation of the scan; ``None`` takes the fastest that can run.

    Raises:
        ValueError: For features that are not positive, or a soft ``config``.

    >>> layer = SNU(3, SNUConfig(decay=0.5))
    >>> y, state = layer(torch.ones(4, 2, 3))
    >>> y.shape, state.s.shape
    (torch.Size([4, 2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SNUConfig | None = None,
        *,
        recurrent: bool = False,
        impl: str | None = None,
    ) -> None:
        config = config or SNUConfig()
        if config.soft:
            raise ValueError("config.soft is True; SNU fires steps, use sSNU for soft outputs")
        super().__init__(features, config, recurrent=recurrent, impl=impl)


class sSNU(Unit):
    """A layer of soft SNU: outputs ``sigmoid(s - threshold)`` and a proportional reset.

    Called as ``SNU`` is; whatever ``config.soft`` says, the layer is soft.
    """

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SNUConfig | None = None,
        *,
        recurrent: bool = False,
        impl: str | None = None,
    ) -> None:
        config = replace(config or SNUConfig(), soft=True)
        super().__init__(features, config, recurrent=recurrent, impl=impl)
