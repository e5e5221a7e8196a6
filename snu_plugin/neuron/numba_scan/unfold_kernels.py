"""Loops that unfold images of bits: what a convolution multiplies at each place of its result.

A row of an image, channels last, is a string of ``width * channels`` bits, in words as
``spike_kernels`` packs them. A patch is one string as well: bits of the places under the weights,
row by row, each with its channels. So a convolution is the product of patches with weights, and a
patch is a 32nd of what it would be in numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan.jit import compiled, parallel
from snu_plugin.neuron.numba_scan.spike_kernels import WORD, turn_square

MOST = 56
"""Bits taken at a time: so many of a word are of use wherever in a byte they begin."""


@parallel
def unfold(  # type: ignore[no-untyped-def]
    words, patches, strings, rows, outputs, strides, paddings, dilations, kernel, bits, first,
    length, lo, hi, number,
):  # fmt: skip
    """Fill the patches of images ``lo`` to ``hi``.

    ``words`` are of rows of images, one image after the other, ``patches`` of places of the result.
    An image has so many ``rows``. ``outputs`` are rows and columns of a result, ``strides``,
    ``paddings`` (above and left), ``dilations`` and ``kernel`` likewise. A place of an image has so
    many ``bits``, of which a patch takes ``length`` from the bit ``first`` on. ``strings[number]``
    has a row for each row of an image, padded, and one of zeros.
    """
    own = strings[number]
    runs, size, step = kernel[1], length, dilations[1] * bits
    if step == length:  # neighbours touch: one run of bits
        runs, size = 1, kernel[1] * length
    hop, shift = strides[1] * bits, paddings[1] * bits
    for image in range(lo, hi):
        own[:] = np.uint64(0)
        for r in range(rows):
            for j in range(len(words)):
                _put(own[r], shift + j * WORD, words[j, image * rows + r])
        for r in range(outputs[0]):
            top = (image * outputs[0] + r) * outputs[1]
            stop = top + outputs[1]
            fill = 0
            for a in range(kernel[0]):
                row = r * strides[0] + a * dilations[0] - paddings[0]
                string = own[row if 0 <= row < rows else rows]
                for b in range(runs):
                    start = first + b * step
                    for done in range(0, size, MOST):
                        some = min(size - done, MOST)
                        _take(string, start + done, hop, some, patches, top, stop, fill)
                        fill += some


@compiled
def _put(string, at, word):  # type: ignore[no-untyped-def]
    """Put the bits of a word into a string, as far as that goes, from the bit ``at`` on."""
    j, shift = at // WORD, np.uint64(at % WORD)
    if j < len(string):
        string[j] |= word << shift
    if shift and j + 1 < len(string):
        string[j + 1] |= word >> np.uint64(WORD) - shift


@intrinsic  # type: ignore[untyped-decorator]
def _word_at(context: Any, start: Any) -> Any:
    """Return the 64 bits at an address, of any byte, the lowest first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], ir.IntType(WORD).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(start), generate


@compiled
def _take(string, at, hop, some, patches, top, stop, fill):  # type: ignore[no-untyped-def]
    """Put bits of a string into those of places ``top`` to ``stop``, from the bit ``fill`` on.

    The first place takes ``some`` bits, ``MOST`` at most, from the bit ``at`` on, the others from
    ``hop`` bits further on each.
    """
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(WORD - some)
    j, shift = fill // WORD, np.uint64(fill % WORD)
    over = fill % WORD + some > WORD
    found, following = patches[j, top:stop], patches[j + 1 if over else j, top:stop]
    begin, start, step = np.uint64(string.ctypes.data), np.uint64(at), np.uint64(hop)
    for place in range(len(found)):
        bits = (_word_at(begin + (start >> np.uint64(3))) >> (start & np.uint64(7))) & mask
        start += step
        if shift:
            found[place] |= bits << shift
            if over:
                following[place] = bits >> np.uint64(WORD) - shift
        else:
            found[place] = bits


@parallel
def planes_to_rows(planes, words, channels, rows, columns, squares, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill the words of rows of images ``lo`` to ``hi``, given those of planes of one channel each.

    ``words`` are zeros before.
    """
    square = squares[number]
    places = rows * columns
    for image in range(lo, hi):
        for channel in range(0, channels, WORD):
            here = min(WORD, channels - channel)
            for k in range(len(planes)):
                for i in range(WORD):
                    plane = image * channels + channel + i
                    square[i] = planes[k, plane] if i < here else np.uint64(0)
                turn_square(square)
                for i in range(min(WORD, places - k * WORD)):
                    row, column = divmod(k * WORD + i, columns)
                    string = words[:, image * rows + row]
                    _put(string, column * channels + channel, square[i])
