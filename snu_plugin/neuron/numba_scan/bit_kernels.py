"""Loops of spikes as bits: packed, turned over, and unfolded to what a convolution multiplies.

Word ``j`` of row ``r`` says in its bit ``i``, the lowest first, whether column ``64 j + i`` of a
matrix X is 1. Words are ``(ceil(columns / 64), rows)``; bits behind the last column are 0.

A row of an image, channels last, is a string of ``width * channels`` bits. A patch is one string as
well: bits of the places under the weights, row by row, each with its channels. So a convolution is
the product of patches with weights, and a patch is a 32nd of what it would be in numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan.jit import compiled, parallel
from snu_plugin.neuron.numba_scan.simd import Rows

WORD = 64
"""Columns of X in a word."""

GROUP = 8
"""Rows packed together: their words are side by side, in one line of the cache."""

MOST = 56
"""Bits taken at a time: so many of a word are of use wherever in a byte they begin."""


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, start: Any, like: Any) -> Any:
    """Return which of the 64 numbers at an address are 1, and which neither 0 nor 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, like = arguments
        whole = ir.IntType(WORD)
        numbers = Rows(builder, like.type, whole(0), start).at(whole(0), WORD)
        zeros, ones = (builder.bitcast(numbers.equals(n).value, whole) for n in (0, 1))
        others = builder.not_(builder.or_(zeros, ones))
        return context.make_tuple(builder, signature.return_type, (ones, others))

    return types.UniTuple(types.uint64, 2)(start, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def _number(context: Any, start: Any, like: Any) -> Any:
    """Return the number at an address; ``like`` has its precision."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], arguments[1].type.as_pointer()))

    return like(start, like), generate


@intrinsic  # type: ignore[untyped-decorator]
def bits_set(context: Any, word: Any) -> Any:
    """Return how many bits of a word are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(word), generate


@parallel
def pack(x, stride, columns, words, found, spikes, like, size, lo, hi, number):  # type: ignore[no-untyped-def]
    """Pack rows ``lo`` to ``hi`` of X, ``stride`` bytes apart from the address ``x`` on.

    A number takes ``size`` bytes and has the precision of ``like``. ``found[number]`` becomes how
    many bits are set, or -1 if ``spikes`` are asked for and some number is neither 0 nor 1.
    """
    whole = columns // WORD
    left = np.uint64(WORD - columns % WORD)
    count = np.uint64(0)
    for first in range(lo, hi, GROUP):
        last = min(first + GROUP, hi)
        others = np.uint64(0)
        for j in range(len(words)):
            for r in range(first, last):
                start = x + r * stride + j * WORD * size
                if j < whole:
                    ones, odd = _bits(start, like)
                elif whole:  # the last 64 numbers, of which some are in the word before
                    ones, odd = _bits(start - np.int64(left) * size, like)
                    ones, odd = ones >> left, odd >> left
                else:
                    ones, odd = _few_bits(start, columns, like, size)
                if not spikes:
                    ones |= odd
                words[j, r] = ones
                others |= odd
                count += bits_set(ones)
        if spikes and others:
            found[number] = -1
            return
    found[number] = count


@compiled
def _few_bits(start, columns, like, size):  # type: ignore[no-untyped-def]
    """Return what ``_bits`` does, of fewer numbers than a word holds."""
    ones, others, bit = np.uint64(0), np.uint64(0), np.uint64(1)
    for i in range(columns):
        value = _number(start + i * size, like)
        if value == 1:
            ones |= bit
        elif value != 0:
            others |= bit
        bit <<= np.uint64(1)
    return ones, others


@parallel
def turn_bits(words, rows, turned, squares, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill the words of X turned over; ``lo`` to ``hi`` are words of a row of X, ``rows`` high."""
    square = squares[number]
    for j in range(lo, hi):
        for k in range(len(turned)):
            for i in range(WORD):
                r = k * WORD + i
                square[i] = words[j, r] if r < rows else np.uint64(0)
            turn_square(square)
            for i in range(min(WORD, turned.shape[1] - j * WORD)):
                turned[k, j * WORD + i] = square[i]


@compiled
def turn_square(square):  # type: ignore[no-untyped-def]
    """Turn over 64 x 64 bits.

    They are cut in halves: two of the quarters change places, and then those of each quarter
    (Warren, Hacker's Delight, 7-3).
    """
    half, mask = WORD // 2, np.uint64(0xFFFFFFFF)
    while half:
        shift = np.uint64(half)
        for a in range(0, WORD, 2 * half):
            for b in range(a, a + half):
                swap = ((square[b] >> shift) ^ square[b + half]) & mask
                square[b] ^= swap << shift
                square[b + half] ^= swap
        half //= 2
        mask ^= mask << np.uint64(half)


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
