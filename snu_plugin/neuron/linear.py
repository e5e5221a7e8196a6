"""A linear layer whose product costs less where its inputs are spikes, 0 and 1 and mostly 0."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from snu_plugin.neuron.engine import Engine, SpikeProduct
from snu_plugin.neuron.operators import batched, is_eager
from snu_plugin.neuron.scan import choose, find

LEAST = 10_000_000
"""Multiplications a thread, 0.2 ms, below which looking for spikes is not worth it: at 10 % spikes
the walk takes about as long at 4 million and half as long here, but a look in vain 15 us."""

ROWS = 256
"""Samples a thread below which weights are not worth to be turned over and copied."""

COLUMNS = 64
"""Inputs, and outputs, below which spikes are not worth to be packed."""


class Linear(nn.Linear):
    """``nn.Linear``, cheaper where its input is spikes.

    Arguments, parameters, ``state_dict`` and gradients are those of ``nn.Linear``. On processors
    with Numba, inputs of 0 and 1 that are mostly 0 are packed into bits, and rows of the weights
    are added up where a bit is set; so is the gradient of the weights. Sums come in another order
    than those of the dense product, so results differ by rounding; for a shape and a number of
    threads they are always the same. All else is ``nn.Linear``: see ``spike_linear``.

    The input may be ``torch.bool`` as well.

    Args:
        in_features: Inputs.
        out_features: Outputs.
        bias: Whether a bias is added and learnt.
        device: Where parameters are made.
        dtype: Their type.
        impl: ``numba``, ``reference`` or ``None``; see ``spike_linear``.

    >>> layer = Linear(3, 1, bias=False)
    >>> spikes = torch.tensor([[True, False, True]])
    >>> bool(layer(spikes) == layer(spikes.float()))
    True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        impl: str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.impl = impl

    def forward(self, input: Tensor) -> Tensor:
        """Return ``W x + b`` over the last axis of ``input``, ``(..., in_features)``."""
        return spike_linear(input, self.weight, self.bias, impl=self.impl)


def spike_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str | None = None
) -> Tensor:
    """Return ``x @ weight.T + bias``, the product cheaper where ``x`` is spikes.

    With ``impl=None`` spikes are walked where all of this holds; else the product is dense, that of
    ``torch.nn.functional.linear``:

    * tensors are float32 or float64 (``x`` may be bool) and on a processor, Numba is installed, and
      neither autocast nor a transform of ``torch.func`` is at work;
    * there are at least ``COLUMNS`` inputs and outputs and, for each of torch's threads, ``ROWS``
      samples and ``LEAST`` multiplications;
    * ``x`` is 0 and 1 alone, and at most a share of it 1: on x86-64 a quarter, on AMD's Zen 5 with
      MKL, which leaves half of its registers unused, three quarters; elsewhere, where nothing was
      measured, none;
    * every weight is finite.

    Then the gradient of the weights is walked, too, unless incoming gradients are not finite, which
    become NaN where they meet 0 in the dense product. Nothing is timed: a call does the same each
    time.

    Args:
        x: Inputs, ``(..., inputs)``.
        weight: ``(outputs, inputs)``.
        bias: ``(outputs,)``.
        impl: ``numba`` walks spikes of any number and share, ``reference`` is the dense product;
            ``None`` takes what costs less.

    Raises:
        ValueError: For ``impl="numba"`` where it cannot run this call.
        LookupError: For an unknown ``impl``.
    """
    if x.dtype == torch.bool:
        x = x.to(weight.dtype)
    compiling = torch.compiler.is_compiling()
    pays = impl is not None or compiling or _pays(x, len(weight))
    engine = choose(impl, not pays, lambda one: _refusal(one, x, weight, bias), ("numba",))
    if engine is None or engine.spikes is None or not x.numel() * weight.numel():
        return F.linear(x, weight, bias)
    if compiling:
        y: Tensor = torch.ops.snu_plugin.spike_linear(x, weight, bias, impl is not None)
        return y
    words = engine.spikes.pack(_rows(x), 1.0 if impl else engine.spikes.most())
    if words is None:
        if impl:
            raise ValueError(f"impl={impl!r} cannot run this call: x is not 0 and 1 alone")
        return F.linear(x, weight, bias)
    learns = any(t is not None and t.requires_grad for t in (x, weight, bias))
    if learns and torch.is_grad_enabled():
        y = _Product.apply(x, weight, bias, words, engine.spikes, impl)
        return y
    return _forward(x, weight, bias, words, engine.spikes, impl)


def _pays(x: Tensor, outputs: int) -> bool:
    """Tell whether a product is large enough, in every direction, that spikes may pay."""
    inputs, threads = x.shape[-1] if x.dim() else 0, torch.get_num_threads()
    if min(inputs, outputs) < COLUMNS or x.numel() < ROWS * inputs * threads:
        return False
    return x.numel() * outputs >= LEAST * threads


def _refusal(engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """Return why an engine cannot multiply spikes in this call, ``""`` where it can."""
    if engine.spikes is None:
        return "it has no product of spikes"
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_cpu:
            return f"{name} is on {tensor.device}, all must be on the cpu"
    dtypes = {tensor.dtype for tensor in (x, weight, bias) if tensor is not None}
    if dtypes not in ({torch.float32}, {torch.float64}):
        return f"x, weight and bias must all be float32 or all float64; x is {x.dtype}"
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        return f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}"
    if bias is not None and bias.shape != weight.shape[:1]:
        return f"bias has shape {tuple(bias.shape)} and weight {tuple(weight.shape)}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is at work"
    if torch.compiler.is_compiling():
        inside = torch._C._are_functorch_transforms_active()
    else:
        inside = not is_eager(x, weight, bias) or forward_ad._current_level >= 0
    return "a tracer or transform of torch's sees the call" if inside else ""


def _rows(x: Tensor) -> Tensor:
    return x.detach().resolve_neg().reshape(-1, x.shape[-1])


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    words: Tensor,
    spikes: SpikeProduct,
    impl: str | None,
) -> Tensor:
    y = spikes.product(words, weight.detach(), None if bias is None else bias.detach())
    if y is not None:
        return y.view(*x.shape[:-1], len(weight))
    if impl:
        raise ValueError(f"impl={impl!r} cannot run this call: a weight is not finite")
    return F.linear(x, weight, bias)


class _Product(torch.autograd.Function):
    """The product in eager torch, given the bits of ``x``; derivatives of any order.

    ``x`` itself is kept where it has a gradient, to which a second derivative leads.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        words: Tensor,
        spikes: SpikeProduct,
        impl: str | None,
    ) -> Tensor:
        learns = ctx.needs_input_grad[1]
        ctx.save_for_backward(x if learns and ctx.needs_input_grad[0] else None, weight)
        ctx.words, ctx.spikes, ctx.shape = words if learns else None, spikes, x.shape
        return _forward(x, weight, bias, words, spikes, impl)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        gx = g @ weight if needs_x else None
        gb = g.reshape(-1, g.shape[-1]).sum(0) if needs_bias else None
        gw = None
        if needs_weight:
            rows = g.reshape(-1, g.shape[-1])
            if not (torch.is_grad_enabled() or batched(g)):
                gw = ctx.spikes.weight_grad(ctx.words, rows, ctx.shape[-1])
            if gw is None:
                if x is None:
                    x = unpacked(ctx.words, ctx.shape[-1]).to(g.dtype)
                gw = rows.t() @ x.reshape(-1, ctx.shape[-1])
        return gx, gw, gb, None, None, None


def unpacked(words: Tensor, columns: int) -> Tensor:
    """Return the bits of ``SpikeProduct`` as a matrix of 0 and 1, ``(rows, columns)``.

    >>> unpacked(torch.tensor([[5, 2]]), 3)
    tensor([[1, 0, 1],
            [0, 1, 0]])
    """
    bits = words.t().unsqueeze(-1) >> torch.arange(64) & 1
    return bits.flatten(1)[:, :columns]


# Operators for compilers, who cannot see what is in ``x``: what is packed forward is packed again
# for the gradient. Not ``torch.library.custom_op``: its first call imports torch's compiler.


@torch.no_grad()
def _operator(x: Tensor, weight: Tensor, bias: Tensor | None, named: bool) -> Tensor:
    return spike_linear(x, weight, bias, impl="numba" if named else None)


@torch.no_grad()
def _operator_weight_grad(g: Tensor, x: Tensor, named: bool) -> Tensor:
    rows, engine = _rows(g), find("numba")
    if isinstance(engine, Engine) and engine.spikes and (named or _pays(x, g.shape[-1])):
        words = engine.spikes.pack(_rows(x), 1.0 if named else engine.spikes.most())
        found = None if words is None else engine.spikes.weight_grad(words, rows, x.shape[-1])
        if found is not None:
            return found
    return rows.t() @ _rows(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.named = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
    gw = None
    if needs_weight:
        gw = torch.ops.snu_plugin.spike_linear_weight_grad(g, x, ctx.named)
    gb = g.reshape(-1, g.shape[-1]).sum(0) if needs_bias else None
    return g @ weight if needs_x else None, gw, gb, None


def _register() -> None:
    name, grad = "snu_plugin::spike_linear", "snu_plugin::spike_linear_weight_grad"
    torch.library.define(name, "(Tensor x, Tensor weight, Tensor? bias, bool named) -> Tensor")
    torch.library.define(grad, "(Tensor g, Tensor x, bool named) -> Tensor")
    torch.library.impl(name, "cpu")(_operator)
    torch.library.impl(grad, "cpu")(_operator_weight_grad)
    torch.library.register_fake(name)(
        lambda x, weight, bias, named: x.new_empty((*x.shape[:-1], weight.shape[0]))
    )
    torch.library.register_fake(grad)(lambda g, x, named: g.new_empty((g.shape[-1], x.shape[-1])))
    torch.library.register_autograd(name, _backward, setup_context=_setup)


_register()
