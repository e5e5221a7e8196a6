"""A layer of Spiking Recurrent Cells as a torch module."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn

from snu_plugin.neuron.precision import halves, narrow, wide
from snu_plugin.neuron.scan import broadcasts, ready
from snu_plugin.neuron.src import SRCConfig, SRCState, src_step


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


def at_most(value: Tensor, limit: float) -> Tensor:
    """Return a trained value held at or below ``limit``; a gradient pointing down still passes."""
    held: Tensor = _AtMost.apply(value, limit)
    return held


def src_scan(
    x: Tensor,
    config: SRCConfig | None = None,
    *,
    bias: Tensor | None = None,
    state: SRCState | None = None,
    impl: str | None = None,
) -> tuple[Tensor, SRCState]:
    """Run ``src_step`` over the first axis of ``x``, ``(T, B, ..., features)``.

    Where ``x`` is float16 or bfloat16 outputs are too, and all else is float32.

    Args:
        x: Weighted inputs, floating point.
        config: Settings; ``None`` is ``SRCConfig()``.
        bias: Biases that replace ``config.bias``; must broadcast to ``x.shape[1:]``.
        state: State to start from; ``None`` is zero.
        impl: ``numba`` (fused, on processors) or ``reference``; ``None`` takes the former where it
            can run. They differ by rounding.

    Returns:
        Outputs ``(T, B, ..., features)`` and the state after the last step.

    Raises:
        ValueError: If ``x`` has fewer than two axes, ``bias`` or ``state`` another shape, or a
            named ``impl`` cannot run this call.
        TypeError: If ``x`` is not floating point.
        LookupError: For an unknown ``impl``.
    """
    config = config or SRCConfig()
    if halves(x, bias, *(state or ())):
        wider = None if state is None else SRCState(*map(wide, state))
        y, last = src_scan(wide(x), config, bias=wide(bias), state=wider, impl=impl)
        return narrow(y, x), last
    bias, last = _checked(x, config, bias, state)
    fused = _fused(impl, x, bias, *last)
    if fused is not None:
        y, last = fused.src_scan(x, config, bias, last)
        return y, last
    outputs = []
    for x_t in x:
        y, last = src_step(x_t, last, config, bias=bias)
        outputs.append(y)
    return torch.stack(outputs) if outputs else torch.empty_like(x), last


def _fused(impl: str | None, *tensors: Tensor) -> ModuleType | None:
    """Return the module with the fused scan, or ``None`` for the reference."""
    if impl not in (None, "numba", "reference"):
        raise LookupError(f"impl is {impl!r}; it must be one of numba, reference")
    if impl == "reference":
        return None
    compiling = torch.compiler.is_compiling()
    reason = "torch.compile sees the reference" if compiling else ready("numba")[1]
    if not reason:
        from snu_plugin.neuron.numba_scan import src

        reason = src.refusal(*tensors)
        if not reason:
            return src
    if impl is not None:
        raise ValueError(f"impl={impl!r} cannot run this call: {reason}")
    return None


def _checked(
    x: Tensor, config: SRCConfig, bias: Tensor | None, state: SRCState | None
) -> tuple[Tensor, SRCState]:
    """Return bias and state with nothing left out, of shapes that fit ``x``."""
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; it must be floating point")
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (T, B, ..., features)")
    step = x.shape[1:]
    if bias is not None and not broadcasts(bias.shape, step):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must broadcast to {tuple(step)}")
    if state is not None and any(part.shape != step for part in state):
        shapes = [tuple(part.shape) for part in state]
        raise ValueError(f"state has shapes {shapes}; all must be {tuple(step)}")
    if state is None:
        zero = x.new_zeros(step)
        state = SRCState(zero, zero, zero)
    return x.new_tensor(config.bias) if bias is None else bias, state


class SRC(nn.Module):
    """A layer of Spiking Recurrent Cells.

    ``y, state = layer(x, state=None)`` with ``x`` the weighted input, ``(T, B, ..., *features)``.
    Equations: see ``src_step``.

    Args:
        features: Cells, or the trailing shape of the layer, e.g. ``(channels, height, width)``.
        config: Settings; ``None`` is ``SRCConfig()``.
        impl: Implementation of the scan; ``None`` takes the fastest that can run.

    >>> layer = SRC(3)
    >>> y, state = layer(torch.ones(4, 2, 3))
    >>> y.shape, state.h.shape
    (torch.Size([4, 2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        features: int | tuple[int, ...],
        config: SRCConfig | None = None,
        *,
        impl: str | None = None,
    ) -> None:
        super().__init__()
        self.features = (features,) if isinstance(features, int) else tuple(features)
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features is {features!r}; it must be one or more positive numbers")
        self.config = config or SRCConfig()
        self.impl = impl
        self.free_bias = nn.Parameter(torch.full(self.features, float(self.config.bias)))

    @property
    def bias(self) -> Tensor:
        """What the cells use: the trained value, held at or below ``config.bias_max``."""
        return at_most(self.free_bias, self.config.bias_max)

    def forward(self, x: Tensor, state: SRCState | None = None) -> tuple[Tensor, SRCState]:
        """Run the sequence ``x``, ``(T, B, ..., *features)``, from ``state`` (``None``: zero)."""
        if x.shape[-len(self.features) :] != self.features or x.dim() < 2 + len(self.features):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (T, B, ..., "
                f"{', '.join(map(str, self.features))})"
            )
        return src_scan(x, self.config, bias=self.bias, state=state, impl=self.impl)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.config}"
