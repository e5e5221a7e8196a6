"""A linear layer whose product costs less where its inputs are spikes, 0 and 1 and mostly 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from snu_plugin.accepted import by_known_names
from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine, SpikeProduct, unpacked
from snu_plugin.neuron.fitting import SIZE, check_product
from snu_plugin.neuron.observer import OBSERVER, observer
from snu_plugin.neuron.operators import batched, is_eager, unfollowed
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.scan import choose, find
from snu_plugin.neuron.surrogate import tanh_derivative

LEAST = 10_000_000
"""Multiplications a thread, 0.2 ms, below which looking for spikes is not worth it: at 10 % spikes
the walk takes about as long at 4 million and half as long here, but a look in vain 15 us."""

ROWS = 256
"""Samples a thread below which weights are not worth to be turned over and copied."""

COLUMNS = 64
"""Inputs, and outputs, below which spikes are not worth to be packed."""


@by_known_names
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
        SIZE.check("in_features", in_features)
        SIZE.check("out_features", out_features)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.impl = impl

    _values = False

    def forward(self, input: Tensor) -> Tensor:
        """Return ``W x + b`` over the last axis of ``input``, ``(..., in_features)``."""
        return spike_linear(input, self.weight, self.bias, impl=self.impl, values=self._values)


class EventLinear(Linear):
    """``Linear``, cheaper also where its input is other numbers of which few are not 0.

    Called and made as ``Linear`` is.
    """

    _values = True


def spike_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    impl: str | None = None,
    values: bool = False,
) -> Tensor:
    """Return ``x @ weight.T + bias``, the product cheaper where ``x`` is spikes.

    With ``impl=None`` spikes are walked where all of this holds; else the product is dense, that of
    ``torch.nn.functional.linear``:

    * tensors are float32 or float64 (``x`` may be bool) and on a processor, Numba is installed, and
      neither autocast nor a transform of ``torch.func`` is at work;
    * there are at least ``COLUMNS`` inputs and outputs and, for each of torch's threads, ``ROWS``
      samples and ``LEAST`` multiplications;
    * ``x`` is 0 and 1 alone, and at most a share of it 1: on x86-64 a quarter, on AMD's Zen 5 and,
      from 256 inputs and outputs on, Zen 4 with MKL, which leaves half of their registers unused,
      three quarters; elsewhere, where nothing was measured, none;
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
        values: Walk ``x`` of other numbers than 0 and 1, too, where half of that share is not 0.

    Raises:
        ValueError: For ``impl="numba"`` where it cannot run this call.
        LookupError: For an unknown ``impl``.
    """
    check_product(x, weight)
    if x.dtype == torch.bool:
        x = x.to(weight.dtype)
    compiling = torch.compiler.is_compiling()
    watching = None if compiling else OBSERVER.get()
    if watching is not None and watching.dense(weight):
        return F.linear(x, weight, bias)
    if impl is None and not compiling and not _pays(x, len(weight)):
        return F.linear(x, weight, bias)
    engine = choose(impl, False, lambda one: _refusal(one, x, weight, bias), ("numba",))
    if engine is None or engine.spikes is None or not x.numel() * weight.numel():
        return F.linear(x, weight, bias)
    if compiling:
        y: Tensor = torch.ops.snu_plugin.spike_linear(x, weight, bias, impl is not None, values)
        return y
    packed = _pack(engine.spikes, _rows(x), len(weight), impl is not None, values)
    if packed is None:
        if impl:
            raise ValueError(f"impl={impl!r} cannot run this call: x is not 0 and 1 alone")
        return F.linear(x, weight, bias)
    learns = any(t is not None and t.requires_grad for t in (x, weight, bias))
    if learns and torch.is_grad_enabled():
        y = _Product.apply(x, weight, bias, packed, engine.spikes, impl)
        words, ones = packed
        if ones and x.requires_grad and weight.requires_grad:
            shape = x.shape
            keep_as_bits(y, x, lambda: unpacked(words, shape[-1]).view(shape))
    else:
        y = _forward(x, weight, bias, packed, engine.spikes, impl)
    if watching is not None:
        watching.linear(x, weight, bias, y)
    return y


def spike_bits(x: Tensor, outputs: int) -> Tensor | None:
    """Return where ``x`` is 1, as bits, if ``spike_linear`` would walk it to so many outputs.

    ``None`` where that product would be dense.

    Args:
        x: Inputs ``(..., inputs)``, on the way to no gradient.
        outputs: How many there are.

    Returns:
        Words ``(ceil(inputs / 64), rows)``, int64: word ``j`` of a row says which of its inputs
        from ``64 j`` on are 1, the lowest bit first.
    """
    if not _pays(x, outputs):
        return None
    engine = find("numba")
    if not isinstance(engine, Engine) or engine.spikes is None:
        return None
    if refusal_of_spikes(engine, x, x, None, lambda: ""):
        return None
    packed = _pack(engine.spikes, _rows(x), outputs, False, False)
    return None if packed is None else packed[0]


def snu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: SNUConfig,
    decay: Tensor,
    threshold: Tensor,
    state: State | None,
    impl: str | Engine | None,
) -> tuple[Tensor, State] | None:
    """Return ``spike_linear`` of what ``snu_scan`` returns, and the last state.

    On the way back outputs receive only what counts, where the surrogate's slope is not 0, if that
    is at few places: at most half of the share up to which spikes are walked.

    Args:
        x: Inputs of the units, ``(T, B, ..., features)``.
        weight: ``(outputs, features)``.
        bias: ``(outputs,)``.
        config: Settings of the units.
        decay: Decays, which broadcast to ``x.shape[1:]``.
        threshold: Thresholds, likewise.
        state: What it starts from.
        impl: As in ``snu_scan``.

    Returns:
        ``(T, B, ..., outputs)`` and the state; ``None`` where this call is none that runs at once:
        if units are soft, inhibit each other or have the published surrogate, whose slope is 0
        nowhere, if a product is none that ``spike_linear`` would walk, and if a compiler, a tracer
        or an observer sees the call.
    """
    others = decay, threshold, *(state or ())
    seen = observer() is not None or not unfollowed(x, weight, bias, *others)
    if seen or impl not in (None, "numba"):
        return None
    if config.soft or config.lateral_inhibition or config.surrogate is tanh_derivative:
        return None
    engine = find("numba")
    if not isinstance(engine, Engine) or engine.snu_linear is None or engine.spikes is None:
        return None
    if engine.refusal(x, config, None, others) or _refusal(engine, x, weight, bias):
        return None
    if not x.numel() * weight.numel() or not _pays(x, len(weight)):
        return None
    spikes = engine.spikes

    def pack(rows: Tensor) -> Tensor | None:
        packed = _pack(spikes, rows, len(weight), False, False)
        return None if packed is None else packed[0]

    return engine.snu_linear(x, config, decay, threshold, state, weight, bias, pack)


def _pack(
    spikes: SpikeProduct, rows: Tensor, outputs: int, named: bool, values: bool
) -> tuple[Tensor, bool] | None:
    """Return bits of what is not 0, and whether all that is 1; ``None``: multiply densely."""
    most = 1.0 if named else spikes.most(rows.shape[1], outputs)
    words = spikes.pack(rows, most, True)
    if words is not None or not values:
        return None if words is None else (words, True)
    words = spikes.pack(rows, most if named else most / 2, False)
    return None if words is None else (words, False)


def _pays(x: Tensor, outputs: int) -> bool:
    """Tell whether a product is large enough, in every direction, that spikes may pay."""
    inputs, threads = x.shape[-1] if x.dim() else 0, torch.get_num_threads()
    if min(inputs, outputs) < COLUMNS or x.numel() < ROWS * inputs * threads:
        return False
    return x.numel() * outputs >= LEAST * threads


def _refusal(engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """Return why an engine cannot multiply spikes in this call, ``""`` where it can."""

    def shapes() -> str:
        fit = weight.dim() == 2 and x.dim() >= 1 and x.shape[-1] == weight.shape[1]
        return "" if fit else f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}"

    return refusal_of_spikes(engine, x, weight, bias, shapes)


FLOATS = torch.float32, torch.float64
"""What spikes and weights may be of."""


def refusal_of_spikes(
    engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None, shapes: Callable[[], str]
) -> str:
    """Return why an engine cannot walk spikes in a call, ``""`` where it can.

    ``shapes`` returns what is wrong with those of ``x`` and ``weight``, ``""`` if nothing is.
    """
    if engine.spikes is None:
        return "it has no product of spikes"
    third = weight if bias is None else bias  # plain: a call that declines is to cost little
    if not (x.is_cpu and weight.is_cpu and third.is_cpu):
        which = {"x": x, "weight": weight, "bias": third}
        name = next(name for name, tensor in which.items() if not tensor.is_cpu)
        return f"{name} is on {which[name].device}, all must be on the cpu"
    dtype = x.dtype
    if dtype not in FLOATS or weight.dtype is not dtype or third.dtype is not dtype:
        return f"x, weight and bias must all be float32 or all float64; x is {x.dtype}"
    if wrong := shapes():
        return wrong
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
    packed: tuple[Tensor, bool],
    spikes: SpikeProduct,
    impl: str | None,
) -> Tensor:
    words, ones = packed
    offsets = None if bias is None else bias.detach()
    y = spikes.product(words, weight.detach(), offsets, None if ones else _rows(x), 0)
    if y is not None:
        return y.view(*x.shape[:-1], len(weight))
    if impl:
        raise ValueError(f"impl={impl!r} cannot run this call: a weight is not finite")
    return F.linear(x, weight, bias)


def keep_as_bits(y: Tensor, x: Tensor, unpack: Callable[[], Tensor]) -> None:
    """Have what made ``y`` keep the bits of ``x``, which it saved first, and let go of ``x``.

    Only a second derivative has to know where ``x`` came from, and only it gets numbers: those that
    ``unpack`` makes of bits. Others get a tensor of that shape without any.
    """
    shape, dtype = x.shape, x.dtype

    def numbers(_: None) -> Tensor:
        if torch.is_grad_enabled():
            return unpack().to(dtype)
        return torch.zeros((), dtype=dtype).expand(shape)

    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda _: None, numbers)  # type: ignore[union-attr]


class _Product(torch.autograd.Function):
    """The product in eager torch, given the bits of ``x``; derivatives of any order.

    ``x`` itself is kept where bits do not say it, and where it has a gradient, to which a second
    derivative leads; then ``keep_as_bits``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        packed: tuple[Tensor, bool],
        spikes: SpikeProduct,
        impl: str | None,
    ) -> Tensor:
        (words, ctx.ones), ctx.spikes, ctx.inputs = packed, spikes, x.shape[-1]
        learns = ctx.needs_input_grad[1]
        keep = learns and (ctx.needs_input_grad[0] or not ctx.ones)
        ctx.save_for_backward(x if keep else None, weight)
        ctx.words = words if learns else None
        return _forward(x, weight, bias, packed, spikes, impl)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        rows = g.reshape(-1, g.shape[-1])
        gx = g @ weight if needs_x else None
        gw = gb = None
        if needs_weight:
            if not (torch.is_grad_enabled() or batched(g)):
                values, both = None if ctx.ones else _rows(x), ctx.ones and needs_bias
                gw = ctx.spikes.weight_grad(ctx.words, rows, ctx.inputs, values, both)
                if gw is not None and both:
                    gw, gb = gw[:, :-1], gw[:, -1]
            if gw is None:
                if ctx.ones and not (torch.is_grad_enabled() and needs_x):
                    x = unpacked(ctx.words, ctx.inputs).to(g.dtype)
                gw = rows.t() @ x.reshape(-1, ctx.inputs)
        if needs_bias and gb is None:
            gb = rows.sum(0)
        return gx, gw, gb, None, None, None


# Operators for compilers, who cannot see what is in ``x``: what is packed forward is packed again
# for the gradient. Not ``torch.library.custom_op``: its first call imports torch's compiler.


@torch.no_grad()
def _operator(x: Tensor, weight: Tensor, bias: Tensor | None, named: bool, values: bool) -> Tensor:
    return spike_linear(x, weight, bias, impl="numba" if named else None, values=values)


@torch.no_grad()
def _operator_weight_grad(g: Tensor, x: Tensor, named: bool, values: bool) -> Tensor:
    rows, inputs, engine = _rows(g), _rows(x), find("numba")
    if isinstance(engine, Engine) and engine.spikes and (named or _pays(x, g.shape[-1])):
        packed = _pack(engine.spikes, inputs, rows.shape[1], named, values)
        if packed is not None:
            words, ones = packed
            given = None if ones else inputs
            found = engine.spikes.weight_grad(words, rows, inputs.shape[1], given, False)
            if found is not None:
                return found
    return rows.t() @ inputs


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.named, ctx.values = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    gw = None
    if needs_weight:
        gw = torch.ops.snu_plugin.spike_linear_weight_grad(g, x, ctx.named, ctx.values)
    gb = g.reshape(-1, g.shape[-1]).sum(0) if needs_bias else None
    return g @ weight if needs_x else None, gw, gb, None, None


def _register() -> None:
    name, grad = "snu_plugin::spike_linear", "snu_plugin::spike_linear_weight_grad"
    flags = "bool named, bool values"
    torch.library.define(name, f"(Tensor x, Tensor weight, Tensor? bias, {flags}) -> Tensor")
    torch.library.define(grad, f"(Tensor g, Tensor x, {flags}) -> Tensor")
    torch.library.impl(name, "cpu")(_operator)
    torch.library.impl(grad, "cpu")(_operator_weight_grad)
    torch.library.register_fake(name)(
        lambda x, weight, *_: x.new_empty((*x.shape[:-1], weight.shape[0]))
    )
    torch.library.register_fake(grad)(lambda g, x, *_: g.new_empty((g.shape[-1], x.shape[-1])))
    torch.library.register_autograd(name, _backward, setup_context=_setup)


_register()
