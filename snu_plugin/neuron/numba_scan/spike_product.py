"""Products with inputs of 0 and 1, as functions of tensors around the compiled loops."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numba.core.registry import cpu_target
from torch import Tensor

from snu_plugin.neuron.engine import Patches, SpikeProduct
from snu_plugin.neuron.memory import channels_last, paged
from snu_plugin.neuron.numba_scan import bit_kernels
from snu_plugin.neuron.numba_scan import spike_kernels as kernels
from snu_plugin.neuron.numba_scan.bit_kernels import WORD
from snu_plugin.neuron.numba_scan.jit import run, threads
from snu_plugin.neuron.numba_scan.simd import register_bytes

LOOK = 64
"""Rows that are packed first, to see at once that a product is none of spikes or has too many."""

WIDE = 256
"""Inputs and outputs below which Zen 4 walks no more than a quarter."""

WORDS = 4
"""Words that are walked, for one number of the result, about as soon as a neuron is updated."""

FEW = 2
"""Vectors of outputs up to which rows are added where they belong, and bits are not turned over: of
four that takes longer from a tenth of ones on."""

PACKED, TURNED, UNFOLDED = 16, 8, 2
"""Updates of a neuron in whose time a word is packed, turned over or unfolded, about."""


def pack(x: Tensor, most: float, spikes: bool = True) -> Tensor | None:
    """Return where ``x``, ``(rows, columns)``, is not 0, as bits, or ``None``.

    So it is if more than the share ``most`` is not 0, or if ``spikes`` are asked for and a number
    is neither 0 nor 1.
    """
    rows, columns = x.shape
    if x.stride(1) != 1 and columns > 1:
        x = x.contiguous()
    stride = x.stride(0) * x.element_size()
    return _packed(x.data_ptr(), rows, columns, stride, x.element_size(), most, spikes)


def _packed(
    start: int, rows: int, columns: int, stride: int, size: int, most: float, spikes: bool = True
) -> Tensor | None:
    """Return what ``pack`` does of numbers of ``size`` bytes, rows ``stride`` bytes apart."""
    high, like = -(-columns // WORD), _LIKE[size]
    apart = rows // LOOK | 1  # odd: no row is always of the same sample of a batch
    if apart > 1:  # few rows, into a little memory: who declines is to have lost no time
        seen, found = -(-rows // apart), np.zeros(1, np.int64)
        few = np.empty((high, seen), np.uint64)
        given = start, apart * stride, columns, few, found, spikes, like, size
        run(bit_kernels.pack, given, seen, 0)
        if not 0 <= found[0] <= most * seen * columns:
            return None
    words = torch.empty((high, rows), dtype=torch.int64)
    updates = PACKED * words.numel() if apart > 1 else 0
    found = np.zeros(threads(updates), np.int64)
    places = words.numpy().view(np.uint64)
    given = start, stride, columns, places, found, spikes, like, size
    run(bit_kernels.pack, given, rows, updates)
    counts = found.tolist()
    return None if min(counts) < 0 or sum(counts) > most * rows * columns else words


_LIKE = {4: np.float32(0), 8: np.float64(0)}
"""A number of each size, by which loops know of what precision others are."""


def pack_images(x: Tensor, most: float) -> Tensor | None:
    """Return the bits of images ``(images, channels, rows, columns)`` of spikes, or ``None``.

    Words are of rows of images, channels last, whatever the order of ``x`` is. ``None`` is as in
    ``pack``.
    """
    images, channels, height, width = x.shape
    size = x.element_size()
    if channels_last(x):
        columns = width * channels
        return _packed(x.data_ptr(), images * height, columns, columns * size, size, most)
    x, columns = x.detach().contiguous(), height * width
    planes = _packed(x.data_ptr(), images * channels, columns, columns * size, size, most)
    if planes is None:
        return None
    words = torch.zeros((-(-width * channels // WORD), images * height), dtype=torch.int64)
    updates = TURNED * planes.numel()
    squares = np.empty((threads(updates), WORD), np.uint64)
    given = (w.numpy().view(np.uint64) for w in (planes, words))
    sizes = channels, height, width
    run(bit_kernels.planes_to_rows, (*given, *sizes, squares), images, updates)
    return words


def unfold(words: Tensor, patches: Patches, group: int) -> Tensor:
    """Return the bits of all patches of one group of a convolution, given those of images.

    Inputs of a patch are in the order of rows, columns and channels.
    """
    length = patches.channels // patches.groups
    found = torch.empty((-(-patches.inputs // WORD), patches.rows), dtype=torch.int64)
    reach = (patches.places[1] - 1) * patches.stride[1] + 1
    reach += (patches.kernel[1] - 1) * patches.dilation[1]
    string = -(-reach * patches.channels // WORD) + 1  # what is read goes one word further
    updates = UNFOLDED * found.numel()
    strings = np.empty((threads(updates), patches.size[0] + 1, string), np.uint64)
    given = (w.numpy().view(np.uint64) for w in (words, found))
    how = patches.size[0], patches.places, patches.stride, patches.padding, patches.dilation
    bits = patches.kernel, patches.channels, group * length, length
    run(bit_kernels.unfold, (*given, strings, *how, *bits), patches.images, updates)
    return found


def product(
    words: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor | None = None, places: int = 0
) -> Tensor | None:
    """Return ``X @ weight.T + bias`` of packed X, or ``None`` if a weight is not finite.

    ``x`` is X itself where it has other numbers than 0 and 1. With ``places`` it is turned over, so
    many rows by themselves: ``(rows / places, outputs, places)``.
    """
    rows, outputs = words.shape[1], len(weight)
    shape = (rows // places, outputs, places) if places else (1, rows, outputs)
    out = paged(weight.new_empty(shape))
    done = _multiply(words, weight.t().contiguous(), bias, x, out, places)
    return None if not done else out if places else out[0]


def weight_grad(
    words: Tensor, g: Tensor, columns: int, x: Tensor | None = None, ones: bool = False
) -> Tensor | None:
    """Return ``g.T @ X`` of packed X, so many columns, or ``None`` if ``g`` is not all finite.

    With ``ones`` a column of them stands behind those of X, of spikes alone.
    """
    rows, lanes = words.shape[1], register_bytes() // g.element_size()
    few = (columns + 1) * g.shape[1] * g.element_size() <= kernels.NEAR
    if few and g.shape[1] in (lanes, FEW * lanes) and x is None:
        return _weight_grad_near(words, g.contiguous(), columns, lanes, ones)
    columns += ones
    turned = torch.empty((-(-rows // WORD), columns), dtype=torch.int64)
    places = [w.numpy().view(np.uint64) for w in (words, turned)]
    squares = np.empty((threads(words.numel()), WORD), np.uint64)
    given = places[0], rows, places[1], squares
    run(bit_kernels.turn_bits, given, len(words), words.numel())
    if ones:
        turned[:, -1] = -1
        if left := rows % WORD:
            turned[-1, -1] = (1 << left) - 1
    out = g.new_empty(1, g.shape[1], columns)
    values = None if x is None else x.t()
    return out[0] if _multiply(turned, g.contiguous(), None, values, out, columns) else None


def _weight_grad_near(
    words: Tensor, g: Tensor, columns: int, lanes: int, ones: bool
) -> Tensor | None:
    """Do what ``weight_grad`` does with ``kernels.add_near``."""
    updates = columns * g.shape[1] * len(g) // (WORDS * WORD)
    sums = g.new_empty(columns + 1, g.shape[1])
    part = g.new_empty(threads(updates), *sums.shape)
    odd = torch.zeros(1, dtype=torch.int64)
    given = words.numpy().view(np.uint64), g.numpy(), sums.numpy(), part.numpy(), odd.numpy()
    run(kernels.add_near, (*given, lanes), columns + 1, updates)
    return None if odd.item() else sums[: columns + ones].t().contiguous()


def product_at(words: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """Return ``g @ weight`` where bits are set, 0 elsewhere, ``(rows, inputs)``."""
    size = g.element_size()
    lanes, (outputs, inputs) = register_bytes() // size, weight.shape
    over = -outputs % lanes
    source = F.pad(weight.t(), (0, over)).contiguous()
    g = (F.pad(g, (0, over)) if over else g).contiguous()
    out = paged(g.new_empty(len(g), inputs))
    given = words.numpy().view(np.uint64), g.numpy(), source.numpy(), out.numpy()
    updates = out.numel() * outputs // (WORDS * WORD)
    run(kernels.multiply_at, (*given, lanes, kernels.dot_vectors()[-1]), len(g), updates)
    return out


def _multiply(
    words: Tensor, source: Tensor, bias: Tensor | None, x: Tensor | None, out: Tensor, places: int
) -> bool:
    """Fill ``out`` as ``kernels.multiply`` does; return whether all of ``source`` is finite."""
    size = source.element_size()
    lanes = register_bytes() // size
    rows, columns = words.shape[1], source.shape[1]
    whole = columns % lanes == 0 and columns <= kernels.VECTORS * lanes
    if whole and source.nbytes <= kernels.NEAR and x is None and not places:
        return _multiply_near(words, source, bias, out, lanes)
    parts = -(-columns // (kernels.VECTORS * lanes))
    most = kernels.VECTORS * lanes * (WORD + min(rows, kernels.ROWS))
    updates = out.numel() * len(words) // WORDS
    scratch = source.new_empty(threads(updates), most)
    odd = torch.zeros(1, dtype=torch.int64)
    offsets = source.new_empty(0) if bias is None else bias.contiguous()
    values = (None, 0, 0) if x is None else (x.data_ptr(), *(step * size for step in x.stride()))
    given = words.numpy().view(np.uint64), source.numpy(), offsets.numpy(), *values
    wanted = out.numpy(), places, scratch.numpy(), odd.numpy(), lanes, parts
    run(kernels.multiply, (*given, *wanted), parts * rows, updates)
    return not odd.item()


def _multiply_near(
    words: Tensor, source: Tensor, bias: Tensor | None, out: Tensor, lanes: int
) -> bool:
    """Do what ``_multiply`` does with ``kernels.multiply_near``."""
    updates = out.numel() * len(words) // WORDS
    scratch = source.new_empty(threads(updates), source.numel() + source.shape[1])
    odd = torch.zeros(1, dtype=torch.int64)
    offsets = source.new_empty(0) if bias is None else bias.contiguous()
    given = words.numpy().view(np.uint64), source.numpy(), offsets.numpy()
    run(
        kernels.multiply_near,
        (*given, out[0].numpy(), scratch.numpy(), odd.numpy(), lanes),
        words.shape[1],
        updates,
    )
    return not odd.item()


def most(inputs: int, outputs: int) -> float:
    """Return up to which share of ones the walk costs less than the dense product.

    A quarter is what was measured where both use registers of one width (Xeon, AVX-512: at 30 % the
    walk takes 0.7 to 1.1 times as long). MKL does not use the wide ones of AMD's Zen 5, and there
    the walk takes 0.5 to 0.9 times as long even where all are 1; nor those of Zen 4, where it takes
    0.6 times as long where half are 1 and 0.8 to 1 where three quarters are, but of fewer than
    ``WIDE`` inputs or outputs 1 to 1.3. Processors of other kinds were not measured, and Apple's
    multiply faster than their vectors can add: none there.
    """
    kind, name = _processor()
    if not kind.startswith("x86_64"):
        return 0.0
    unused = torch._C.has_mkl and register_bytes() == 64
    wins = name == "znver5" or (name == "znver4" and min(inputs, outputs) >= WIDE)
    return 0.75 if unused and wins else 0.25


@functools.cache
def _processor() -> tuple[str, str]:
    kind, name, _ = cpu_target.target_context.codegen().magic_tuple()
    return kind, name


SPIKES = SpikeProduct(
    most=most,
    pack=pack,
    product=product,
    weight_grad=weight_grad,
    pack_images=pack_images,
    unfold=unfold,
)
