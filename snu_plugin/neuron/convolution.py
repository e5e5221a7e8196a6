"""Convolutions whose product costs less where their inputs are spikes, 0 and 1 and mostly 0.

A convolution multiplies a patch of inputs by all weights at each place of its result. Patches of
floats would be as many times larger than the images as a kernel has places; patches of bits are a
32nd of that, and are the bits that ``linear.spike_linear`` walks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.neuron.engine import Engine, Pair, Patches, SpikeProduct, unpacked
from snu_plugin.neuron.linear import keep_as_bits, refusal_of_spikes
from snu_plugin.neuron.memory import order_of
from snu_plugin.neuron.observer import OBSERVER
from snu_plugin.neuron.operators import batched
from snu_plugin.neuron.scan import choose, find

LEAST = 10_000_000
"""Multiplications a thread below which looking for spikes is not worth it."""

ROWS = 256
"""Places of the result a thread below which weights are not worth to be turned over and copied."""

SHARE = 0.25
"""Share of ones up to which the walk costs less than torch's convolutions, which use all of a
processor's registers. With 576 inputs and 64 outputs it takes 0.7 times as long where half are 1,
with 144 and 32 as long."""

KEPT = 0.25
"""Share of the result's memory up to which patches of bits are kept for the way back, which else
unfolds them once more."""

INPUTS, OUTPUTS, WEIGHTS = 64, 16, 4096
"""Inputs of a patch, outputs and weights of a group, these a thread, below which walking is not
worth it: words and sums are read and written at each place, whatever there is to be added."""

FEW_INPUTS, FEW_LEAST, FEW_SHARE = 48, 100_000_000, 0.1
"""Of fewer weights those are walked on one thread whose patches fill most of a word, from 48 inputs
on, and whose outputs are a multiple of ``OUTPUTS``: from so many multiplications on, up to a tenth
of ones. There 2 -> 16 channels under 5 x 5 weights take 0.7 to 0.9 times as long."""


def spike_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    *,
    impl: str | None = None,
) -> Tensor:
    """Return a convolution as ``torch.nn.functional.conv2d``, cheaper where ``x`` is spikes.

    With ``impl=None`` spikes are walked where all of this holds; else torch convolves:

    * tensors are float32 or float64 and on a processor, Numba is installed, and neither autocast
      nor a transform of ``torch.func`` is at work;
    * a patch has at least ``INPUTS`` inputs, a group ``OUTPUTS`` outputs; there are, for each of
      torch's threads, ``WEIGHTS`` weights in a group, ``ROWS`` places in the result and ``LEAST``
      multiplications; or there are few weights as ``FEW_INPUTS`` says;
    * ``x`` is 0 and 1 alone, and at most ``SHARE`` of it 1, of few weights ``FEW_SHARE``, where
      ``spike_linear`` walks so many, too;
    * every weight is finite.

    Then the gradient of the weights is walked, too, unless incoming gradients are not finite, which
    become NaN where they meet 0 in torch. The gradient of ``x`` is torch's. Nothing is timed: a
    call does the same each time.

    Args:
        x: Images, ``(images, channels, rows, columns)``.
        weight: ``(outputs, channels // groups, rows, columns)``.
        bias: ``(outputs,)``.
        stride: Of rows and columns, as all pairs.
        padding: Zeros on either side.
        dilation: Distance of the places under the weights.
        groups: Groups of channels that have outputs of their own.
        impl: ``numba`` walks spikes of any number and share, ``reference`` is torch's; ``None``
            takes what costs less.

    Raises:
        ValueError: For ``impl="numba"`` where it cannot run this call.
        LookupError: For an unknown ``impl``.
    """
    y = walked_conv2d(x, weight, bias, stride, padding, dilation, groups, impl=impl)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups) if y is None else y


def walked_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair,
    groups: int, *, impl: str | None = None,
) -> Tensor | None:  # fmt: skip
    """Return what ``spike_conv2d`` does, ``None`` where torch is to convolve."""
    how = _how(stride, padding, dilation, groups)
    compiling = torch.compiler.is_compiling()
    if not compiling and OBSERVER.get() is not None:
        return None
    if impl is None and not compiling and not _pays(x, weight, *how):
        return None
    engine = choose(impl, False, lambda one: _refusal(one, x, weight, bias, *how), ("numba",))
    if engine is None or engine.spikes is None or not x.numel() * weight.numel():
        return None
    if compiling:
        y: Tensor = torch.ops.snu_plugin.spike_conv2d(x, weight, bias, *how, impl is not None)
        return y
    words = _pack(engine.spikes, x, weight, groups, impl is not None)
    if words is None:
        if impl:
            raise ValueError(f"impl={impl!r} cannot run this call: x is not 0 and 1 alone")
        return None
    patches = Patches.of(x.shape, weight.shape, *how)
    learns = any(t is not None and t.requires_grad for t in (x, weight, bias))
    if learns and torch.is_grad_enabled():
        y = _Convolution.apply(x, weight, bias, words, patches, engine.spikes, impl)
        if x.requires_grad and weight.requires_grad:
            keep_as_bits(y, x, lambda: _images(words, patches))
        return y
    unfolded = _unfolded(words, patches, engine.spikes)
    return _forward(x, weight, bias, unfolded, patches, engine.spikes, impl)


def spike_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int], padding: tuple[int],
    dilation: tuple[int], groups: int, *, impl: str | None = None,
) -> Tensor:  # fmt: skip
    """Return a convolution as ``torch.nn.functional.conv1d``; see ``spike_conv2d``."""
    y = walked_conv1d(x, weight, bias, stride, padding, dilation, groups, impl=impl)
    return F.conv1d(x, weight, bias, stride, padding, dilation, groups) if y is None else y


def walked_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int], padding: tuple[int],
    dilation: tuple[int], groups: int, *, impl: str | None = None,
) -> Tensor | None:  # fmt: skip
    """Return what ``torch.nn.functional.conv1d`` does, ``None`` where it is to convolve."""
    if x.dim() != 3 or weight.dim() != 3:
        return None
    how = (1, *stride), (0, *padding), (1, *dilation), groups
    y = walked_conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, *how, impl=impl)
    return None if y is None else y.squeeze(2)


def _how(
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> tuple[Pair, Pair, Pair, int]:
    (a, b), (c, d), (e, f) = stride, padding, dilation
    return (a, b), (c, d), (e, f), groups


def _pays(
    x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> bool:
    """Tell whether a convolution is large enough, in every direction, that spikes may pay."""
    if x.dim() != 4 or weight.dim() != 4:
        return False
    kernel = weight.shape
    inputs, outputs = kernel[1] * kernel[2] * kernel[3], kernel[0] // groups
    threads = torch.get_num_threads()
    few = _few(inputs, outputs)
    many = inputs >= INPUTS and outputs >= OUTPUTS and inputs * outputs >= WEIGHTS * threads
    if not many and (not few or threads > 1):
        return False
    rows = _known(x.shape, kernel, stride, padding, dilation, groups).rows
    least = FEW_LEAST if few else LEAST
    return rows >= ROWS * threads and rows * inputs * kernel[0] >= least * threads


_known = functools.lru_cache(256)(Patches.of)
"""Patches by shapes, which a network has few of: a call that declines is to cost little."""


def _few(inputs: int, outputs: int) -> bool:
    """Tell whether a convolution is of few weights, whose patches are mostly one full word.

    Args:
        inputs: Of a patch.
        outputs: Of a group.
    """
    whole = FEW_INPUTS <= inputs <= INPUTS and outputs and outputs % OUTPUTS == 0
    return bool(whole) and inputs * outputs < WEIGHTS


def _refusal(
    engine: Engine, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair,
    dilation: Pair, groups: int,
) -> str:  # fmt: skip
    """Return why an engine cannot convolve spikes in this call, ``""`` where it can."""

    def fit() -> bool:
        if x.dim() != 4 or weight.dim() != 4 or groups < 1 or len(weight) % groups:
            return False
        if x.shape[1] != weight.shape[1] * groups:
            return False
        if min(*stride, *dilation) < 1 or min(padding) < 0:
            return False
        made = Patches.of if torch.compiler.is_compiling() else _known  # sizes may be symbols
        return min(made(x.shape, weight.shape, stride, padding, dilation, groups).places) >= 1

    def shapes() -> str:
        given = f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}"
        return "" if fit() else f"{given}, groups are {groups}"

    return refusal_of_spikes(engine, x, weight, bias, shapes)


def _pack(
    spikes: SpikeProduct, x: Tensor, weight: Tensor, groups: int, named: bool
) -> Tensor | None:
    """Return the bits of ``x``; ``None``: let torch convolve."""
    outputs, channels, rows, columns = weight.shape
    inputs = channels * rows * columns
    share = FEW_SHARE if _few(inputs, outputs // groups) else SHARE
    most = 1.0 if named else min(share, spikes.most(inputs, outputs))
    return spikes.pack_images(x.detach().resolve_neg() if x.is_neg() else x, most)


def _matrix(weight: Tensor) -> Tensor:
    """Return weights as a product of patches takes them, ``(outputs, inputs of a patch)``."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _unfolded(
    words: Tensor, patches: Patches, spikes: SpikeProduct, kept: Sequence[Tensor] | None = None
) -> Iterator[Tensor]:
    """Return the bits of the patches of each group, unless they are ``kept`` made one by one."""
    return iter(kept or (spikes.unfold(words, patches, g) for g in range(patches.groups)))


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, unfolded: Iterable[Tensor], patches: Patches,
    spikes: SpikeProduct, impl: str | None,
) -> Tensor:  # fmt: skip
    last = order_of(x, weight) is torch.channels_last
    rows, columns = patches.places
    parts = []
    groups = enumerate(zip(weight.detach().chunk(patches.groups), unfolded, strict=True))
    for group, (weights, bits) in groups:
        some = slice(group * len(weights), (group + 1) * len(weights))
        offsets = None if bias is None else bias.detach()[some]
        part = spikes.product(bits, _matrix(weights), offsets, None, 0 if last else rows * columns)
        if part is None:
            if impl:
                raise ValueError(f"impl={impl!r} cannot run this call: a weight is not finite")
            return F.conv2d(x, weight, bias, *patches.how)
        parts.append(part)
    y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if last:
        return y.view(patches.images, rows, columns, -1).permute(0, 3, 1, 2)
    return y.view(patches.images, -1, rows, columns)


def _weight_grad(
    g: Tensor, unfolded: Iterable[Tensor], patches: Patches, weight: Tensor, spikes: SpikeProduct,
    biased: bool,
) -> tuple[Tensor, Tensor | None] | None:  # fmt: skip
    """Return the gradients of weights and, if ``biased``, of the bias.

    ``None`` if ``g`` is not all finite.
    """
    places = g.permute(0, 2, 3, 1).flatten(0, 2)
    outputs = len(weight) // patches.groups
    parts, sums = [], []
    for group, bits in enumerate(unfolded):
        some = places[:, group * outputs : (group + 1) * outputs]
        part = spikes.weight_grad(bits, some, patches.inputs, None, biased)
        if part is None:
            return None
        if biased:
            part, of_bias = part[:, :-1], part[:, -1]
            sums.append(of_bias)
        parts.append(part.reshape(outputs, *patches.kernel, -1).permute(0, 3, 1, 2))
    gw, gb = (p[0] if len(p) == 1 else torch.cat(p) if p else None for p in (parts, sums))
    assert gw is not None
    return gw, gb


def _image_grad(
    g: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """Return the gradient of images shaped and ordered as ``x``, whose numbers are not read."""
    gx: Tensor = torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (True, False, False)
    )[0]
    return gx


class _Convolution(torch.autograd.Function):
    """The convolution in eager torch, given the bits of ``x``; derivatives of any order."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        words: Tensor,
        patches: Patches,
        spikes: SpikeProduct,
        impl: str | None,
    ) -> Tensor:
        ctx.patches, ctx.spikes, ctx.order = patches, spikes, order_of(x)
        learns = ctx.needs_input_grad[1]
        keep = learns and ctx.needs_input_grad[0]
        ctx.save_for_backward(x if keep else None, weight)
        ctx.words, ctx.unfolded = words if learns else None, None
        if learns and _few_bits(patches, weight):
            ctx.unfolded = [*_unfolded(words, patches, spikes)]
        unfolded = _unfolded(words, patches, spikes, ctx.unfolded)
        return _forward(x, weight, bias, unfolded, patches, spikes, impl)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        patches, needs = ctx.patches, ctx.needs_input_grad[:3]
        plain = not (torch.is_grad_enabled() or batched(g))
        grads = None
        if plain and needs[1]:
            unfolded = _unfolded(ctx.words, patches, ctx.spikes, ctx.unfolded)
            grads = _weight_grad(g, unfolded, patches, weight, ctx.spikes, needs[2])
        if plain and (grads is not None or not needs[1]):
            gx = _image_grad(g, _images_like(ctx, g), weight, *patches.how) if needs[0] else None
            gw, gb = grads or (None, g.sum((0, 2, 3)) if needs[2] else None)
            return gx, gw, gb, None, None, None, None
        if not needs[1]:
            x = _images_like(ctx, g)
        elif not (torch.is_grad_enabled() and needs[0]):
            x = _images(ctx.words, patches).to(g.dtype)
        grads = torch.ops.aten.convolution_backward(
            g, x, weight, [len(weight)], *patches.how[:3], False, (0, 0), patches.groups, needs
        )
        return *grads, None, None, None, None


def _few_bits(patches: Patches, weight: Tensor) -> bool:
    """Tell whether all patches take at most ``KEPT`` of the result, so that they may be kept."""
    words = -(-patches.inputs // 64) * patches.groups
    return words * 8 <= KEPT * len(weight) * weight.element_size()


def _images_like(ctx: Any, g: Tensor) -> Tensor:
    """Return images whose numbers are nothing."""
    patches = ctx.patches
    shape = patches.images, patches.channels, *patches.size
    return torch.empty(shape, dtype=g.dtype, memory_format=ctx.order)


def _images(words: Tensor, patches: Patches) -> Tensor:
    """Return images from their bits."""
    rows = unpacked(words, patches.size[1] * patches.channels)
    return rows.view(patches.images, *patches.size, patches.channels).permute(0, 3, 1, 2)


# Operators for compilers, as those of ``linear``.


@torch.no_grad()
def _operator(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], groups: int, named: bool,
) -> Tensor:  # fmt: skip
    how = _how(stride, padding, dilation, groups)
    y = spike_conv2d(x, weight, bias, *how, impl="numba" if named else None)
    return y.contiguous(memory_format=order_of(x, weight))


@torch.no_grad()
def _operator_weight_grad(
    g: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int],
    dilation: list[int], groups: int, named: bool,
) -> Tensor:  # fmt: skip
    how = _how(stride, padding, dilation, groups)
    engine = find("numba")
    if isinstance(engine, Engine) and engine.spikes and (named or _pays(x, weight, *how)):
        words = _pack(engine.spikes, x, weight, groups, named)
        if words is not None:
            patches = Patches.of(x.shape, weight.shape, *how)
            unfolded = _unfolded(words, patches, engine.spikes)
            found = _weight_grad(g, unfolded, patches, weight, engine.spikes, False)
            if found is not None:
                return found[0].contiguous()
    only = False, True, False
    grads = torch.ops.aten.convolution_backward(
        g, x, weight, None, *how[:3], False, (0, 0), groups, only
    )
    gw: Tensor = grads[1]
    return gw.contiguous()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.how, ctx.named = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    gx = _image_grad(g, x, weight, *ctx.how) if needs_x else None
    gw = None
    if needs_weight:
        gw = torch.ops.snu_plugin.spike_conv2d_weight_grad(g, x, weight, *ctx.how, ctx.named)
    return gx, gw, g.sum((0, 2, 3)) if needs_bias else None, *[None] * 5


def _fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    groups: int, named: bool,
) -> Tensor:  # fmt: skip
    patches = Patches.of(x.shape, weight.shape, stride, padding, dilation, groups)
    y = x.new_empty((x.shape[0], weight.shape[0], *patches.places))
    return y.contiguous(memory_format=order_of(x, weight))


def _register() -> None:
    name, grad = "snu_plugin::spike_conv2d", "snu_plugin::spike_conv2d_weight_grad"
    how = "int[] stride, int[] padding, int[] dilation, int groups, bool named"
    torch.library.define(name, f"(Tensor x, Tensor weight, Tensor? bias, {how}) -> Tensor")
    torch.library.define(grad, f"(Tensor g, Tensor x, Tensor weight, {how}) -> Tensor")
    torch.library.impl(name, "cpu")(_operator)
    torch.library.impl(grad, "cpu")(_operator_weight_grad)
    torch.library.register_fake(name)(_fake)
    torch.library.register_fake(grad)(lambda g, x, weight, *_: weight.new_empty(weight.shape))
    torch.library.register_autograd(name, _backward, setup_context=_setup)


_register()
