"""Loops of products with inputs of 0 and 1, compiled by Numba; see docs/kernels.md.

Spikes are bits, as ``bit_kernels`` packs them. ``X @ source`` adds a row of ``source`` to a row of
the result for each bit that is set. So that this reads nothing but the first cache, 64 rows of
``source``, as many columns wide as accumulators go, are copied side by side and walked for many
rows of X, whose sums lie in the second cache.

Numbers other than 0 and 1 go the same way: a bit says that a number is not 0, and what is added is
that number times the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.bit_kernels import WORD
from snu_plugin.neuron.numba_scan.jit import compiled, parallel
from snu_plugin.neuron.numba_scan.simd import Rows, Vector

VECTORS = 8
"""Registers that sums stay in while a word is walked, half of what the least of processors has. 64
rows so wide take 32 kB with the widest registers. With 4, 1.1 to 1.3 times as long."""

ROWS = 1024
"""Rows of X whose sums are kept at once, 512 kB with the widest registers."""

NEAR = 2**17
"""Bytes of rows that are walked all at once, as they stay in the second cache."""

HALF = 32
"""Bits of a word walked at once where rows are multiplied: as many rows of 256 numbers take 32 kB,
which stay in the first cache."""

DOT_ROWS, CHAINS = 256, 4
"""Rows multiplied at once, 256 kB where they have 256 numbers; and sums that run side by side, as
each waits for the one before."""

TILE = 64
"""Rows turned over together, so that what is read by columns stays in the first cache."""


def _by_width(builder: Any, vectors: Any, widths: Iterable[int]) -> Iterator[int]:
    """Yield each width in a branch of its own, so that what is emitted then knows it.

    At run time the branch is taken whose width ``vectors`` says; with another one nothing is done.
    """
    done = builder.append_basic_block("done")
    choice = builder.switch(vectors, done)
    for many in widths:
        branch = builder.append_basic_block(f"width_{many}")
        choice.add_case(vectors.type(many), branch)
        builder.position_at_end(branch)
        yield many
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic  # type: ignore[untyped-decorator]
def _add_rows(
    context: Any, words: Any, apart: Any, first: Any, last: Any, low: Any, high: Any, rows: Any,
    g: Any, sums: Any, all_of_them: Any, vectors: Any, like: Any,
) -> Any:  # fmt: skip
    """Add each row of ``g`` to those rows of the sums that its bits say, and to the last row.

    Looked at are the words ``first`` to ``last``, in the first the bits that ``low`` has, in the
    last those of ``high``; words of a row lie ``apart`` words from each other. Rows of ``g`` and of
    the sums are so many vectors wide. The last one, ``all_of_them``, becomes the sum of all.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, apart, first, last, low, high, rows, g, sums, all_of_them, vectors, like = arguments
        bits = builder.inttoptr(words, ir.IntType(WORD).as_pointer())
        for many in _by_width(builder, vectors, range(1, VECTORS + 1)):
            given, found = (Rows(builder, like.type, None, place) for place in (g, sums))
            lanes = simd.register_bytes() // given.bytes
            given.columns = found.columns = vectors.type(many * lanes)
            columns = [vectors.type(k * lanes) for k in range(many)]
            zero = ir.Constant(ir.VectorType(like.type, lanes), [0.0] * lanes)
            totals = [cgutils.alloca_once_value(builder, zero) for _ in columns]
            for total in totals:
                builder.store(zero, total)
            with cgutils.for_range(builder, rows) as loop:
                row = [given.at(j, lanes, loop.index) for j in columns]
                for total, more in zip(totals, row, strict=True):
                    builder.store((Vector(builder, builder.load(total)) + more).value, total)
                with cgutils.for_range_slice(builder, first, last, first.type(1)) as (which, _):
                    place = builder.add(builder.mul(which, apart), loop.index)
                    word = builder.load(builder.gep(bits, [place]))
                    ends = (first, low), (builder.sub(last, last.type(1)), high)
                    for end, mask in ends:
                        here = builder.icmp_signed("==", which, end)
                        kept = builder.select(here, mask, word.type(-1))
                        word = builder.and_(word, kept)
                    begin = builder.mul(which, which.type(WORD))
                    with builder.if_then(builder.icmp_unsigned("!=", word, word.type(0))):
                        _add_row(builder, word, begin, row, found, columns, lanes)
            for j, total in zip(columns, totals, strict=True):
                found.put(Vector(builder, builder.load(total)), j, all_of_them)
        return context.get_dummy_value()

    taken = (words, apart, first, last, low, high, rows, g, sums, all_of_them, vectors, like)
    return types.none(*taken), generate


def _add_row(
    builder: Any, word: Any, begin: Any, row: list[Vector], sums: Rows, columns: list[Any],
    lanes: int,
) -> None:  # fmt: skip
    """Emit the additions of a row that the bits of a word, which has one at least, ask for."""
    before, loop, after = builder.block, *map(builder.append_basic_block, ("add", "added"))
    builder.branch(loop)
    builder.position_at_end(loop)
    left = builder.phi(word.type)
    to = builder.add(begin, builder.cttz(left, ir.IntType(1)(1)))
    for j, more in zip(columns, row, strict=True):
        sums.put(sums.at(j, lanes, to) + more, j, to)
    rest = builder.and_(left, builder.sub(left, left.type(1)))
    builder.cbranch(builder.icmp_unsigned("!=", rest, rest.type(0)), loop, after)
    left.add_incoming(word, before)
    left.add_incoming(rest, loop)
    builder.position_at_end(after)


@parallel
def add_near(words, g, sums, part, odd, lanes, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill rows ``lo`` to ``hi`` of ``sums``, ``X.T @ g`` and below that the sum of all rows of g.

    ``part[number]`` has as many rows: what ``ROWS`` rows add is summed up for itself. ``odd[0]``
    becomes 1 if a number of ``g`` is not finite: then ``sums`` are of no use.
    """
    inner, columns = len(sums) - 1, sums.shape[1]
    own = part[number]
    like = own[0, 0]
    whole = np.uint64(0xFFFFFFFFFFFFFFFF)
    end = min(hi, inner)
    first, last = lo // WORD, -(-end // WORD)
    low, high = whole << np.uint64(lo % WORD), whole >> np.uint64(-end % WORD)
    sums[lo:hi] = 0
    for top in range(0, len(g), ROWS):
        rows = min(ROWS, len(g) - top)
        own[:] = 0
        given = g.ctypes.data + top * columns * g.itemsize
        _add_rows(words.ctypes.data + top * 8, words.shape[1], first, max(first, last), low, high,
                  rows, given, own.ctypes.data, inner, columns // lanes, like)  # fmt: skip
        for j in range(columns):
            if own[inner, j] - own[inner, j] != 0:
                odd[0] = 1
                return
        for i in range(lo, hi):
            for j in range(columns):
                sums[i, j] += own[i, j]


def dot_vectors() -> list[int]:
    """Return of how many vectors rows may be multiplied at once: half of the registers hold one."""
    return [*range(1, VECTORS + 1), *([2 * VECTORS] if simd.register_bytes() == 64 else [])]


@intrinsic  # type: ignore[untyped-decorator]
def copied(
    context: Any, source: Any, stride: Any, rows: Any, columns: Any, to: Any, width: Any, like: Any
) -> Any:
    """Copy a part of a matrix from one address to another; return whether all of it is finite."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, stride, rows, columns, to, width, like = arguments
        given = Rows(builder, like.type, stride, source)
        block = Rows(builder, like.type, width, to)
        finite = cgutils.alloca_once_value(builder, ir.IntType(1)(1))
        with cgutils.for_range(builder, rows) as loop:

            def body(j: Any, width: int) -> None:
                numbers = given.at(j, width, loop.index)
                block.put(numbers, j, loop.index)
                fine = (numbers - numbers).equals(0).all()  # of an infinite one it is NaN
                builder.store(builder.and_(builder.load(finite), fine), finite)

            simd.columns(builder, like.type, columns, body)
        return builder.load(finite)

    taken = source, stride, rows, columns, to, width, like
    return types.boolean(*taken), generate


@intrinsic  # type: ignore[untyped-decorator]
def _put(
    context: Any, sums: Any, width: Any, rows: Any, columns: Any, bias: Any, to: Any, stride: Any,
    like: Any,
) -> Any:  # fmt: skip
    """Put sums, and what is at ``bias`` unless that is 0, into a part of a matrix."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, width, rows, columns, bias, to, stride, like = arguments
        found = Rows(builder, like.type, width, sums)
        more = Rows(builder, like.type, width, bias)
        out = Rows(builder, like.type, stride, to)
        with cgutils.for_range(builder, rows) as loop:

            def body(j: Any, width: int) -> None:
                total = found.at(j, width, loop.index)
                added = more.present.either(lambda: total + more.at(j, width), lambda: total)
                out.put(added, j, loop.index)

            simd.columns(builder, like.type, columns, body)
        return context.get_dummy_value()

    taken = sums, width, rows, columns, bias, to, stride, like
    return types.none(*taken), generate


@intrinsic  # type: ignore[untyped-decorator]
def walked(
    context: Any, words: Any, rows: Any, block: Any, sums: Any, vectors: Any, values: Any,
    corner: Any, across: Any, along: Any, like: Any,
) -> Any:  # fmt: skip
    """Add to the sums of each row the rows of a block that the bits of its word say.

    Rows of the block and of the sums are so many vectors wide, at most ``VECTORS``. What one word
    adds is summed up for itself first: so sums are more exact, and wait for nothing in memory.
    ``values`` is ``None``, a type, or the address of a matrix by whose numbers rows of the block
    are multiplied: the first lies ``corner`` bytes further, the others ``across`` bytes from row to
    row and ``along`` bytes from bit to bit.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, rows, block, sums, vectors, values, corner, across, along, like = arguments
        for many in _by_width(builder, vectors, range(1, VECTORS + 1)):
            given, added = (Rows(builder, like.type, None, place) for place in (block, sums))
            lanes = simd.register_bytes() // given.bytes
            given.columns = added.columns = vectors.type(many * lanes)
            bits = builder.inttoptr(words, ir.IntType(WORD).as_pointer())
            with cgutils.for_range(builder, rows) as loop:
                word = builder.load(builder.gep(bits, [loop.index]))

                def times(bit: Any, row: Any = loop.index, lanes: int = lanes) -> Vector:
                    far = builder.add(builder.mul(row, across), builder.mul(bit, along))
                    start = builder.add(values, builder.add(corner, far))
                    place = builder.inttoptr(start, like.type.as_pointer())
                    return simd.splat(builder, builder.load(place), lanes)

                weigh = None if isinstance(signature.args[5], types.NoneType) else times
                with builder.if_then(builder.icmp_unsigned("!=", word, word.type(0))):
                    _walk_word(builder, word, given, added, loop.index, many, lanes, weigh)
        return context.get_dummy_value()

    taken = words, rows, block, sums, vectors, values, corner, across, along, like
    return types.none(*taken), generate


def _walk_word(
    builder: Any, word: Any, block: Rows, sums: Rows, row: Any, many: int, lanes: int,
    weigh: Callable[[Any], Vector] | None,
) -> None:  # fmt: skip
    """Emit the walk over the bits of a word that has at least one.

    ``weigh(bit)`` is what a row of the block is multiplied by.
    """
    columns = [row.type(k * lanes) for k in range(many)]
    before, loop, after = builder.block, *map(builder.append_basic_block, ("bit", "walked"))
    builder.branch(loop)
    builder.position_at_end(loop)
    left = builder.phi(word.type)
    totals = [builder.phi(ir.VectorType(block.number, lanes)) for _ in columns]
    bit = builder.cttz(left, ir.IntType(1)(1))
    weight = None if weigh is None else weigh(bit).relaxed()
    found = []
    for total, j in zip(totals, columns, strict=True):
        more = block.at(j, lanes, bit)
        found.append(Vector(builder, total) + (more if weight is None else weight * more))
    rest = builder.and_(left, builder.sub(left, left.type(1)))
    builder.cbranch(builder.icmp_unsigned("!=", rest, rest.type(0)), loop, after)
    left.add_incoming(word, before)
    left.add_incoming(rest, loop)
    for total, more in zip(totals, found, strict=True):
        total.add_incoming(ir.Constant(total.type, [0.0] * lanes), before)
        total.add_incoming(more.value, loop)
    builder.position_at_end(after)
    for j, more in zip(columns, found, strict=True):
        sums.put(sums.at(j, lanes, row) + more, j, row)


@intrinsic  # type: ignore[untyped-decorator]
def _walk_rows(
    context: Any, words: Any, many: Any, apart: Any, rows: Any, block: Any, bias: Any, out: Any,
    stride: Any, vectors: Any, like: Any,
) -> Any:  # fmt: skip
    """Put the sum of the rows of a block that the bits of a row say, and of a bias, for each row.

    A row has so ``many`` words, which lie ``apart`` words from each other; the block has as many
    rows as these have bits. Rows of the block and of ``bias``, its address, are so many vectors
    wide, those of the result lie ``stride`` numbers from each other.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, many, apart, rows, block, bias, out, stride, vectors, like = arguments
        bits = builder.inttoptr(words, ir.IntType(WORD).as_pointer())
        for wide in _by_width(builder, vectors, range(1, VECTORS + 1)):
            given, offsets = (Rows(builder, like.type, None, place) for place in (block, bias))
            found = Rows(builder, like.type, stride, out)
            lanes = simd.register_bytes() // given.bytes
            given.columns = vectors.type(wide * lanes)
            columns = [vectors.type(k * lanes) for k in range(wide)]
            begin = [offsets.at(j, lanes) for j in columns]
            with cgutils.for_range(builder, rows) as loop:
                totals = _walk_words(builder, bits, loop.index, many, apart, given, columns, lanes)
                for j, total, offset in zip(columns, totals, begin, strict=True):
                    found.put(total + offset, j, loop.index)
        return context.get_dummy_value()

    taken = words, many, apart, rows, block, bias, out, stride, vectors, like
    return types.none(*taken), generate


def _walk_words(
    builder: Any, bits: Any, row: Any, many: Any, apart: Any, block: Rows, columns: list[Any],
    lanes: int,
) -> list[Vector]:  # fmt: skip
    """Emit the walk over the bits of all words of a row; return the sums."""
    names = "word", "bit", "word_walked", "row_walked"
    before, (outer, inner, after, end) = builder.block, map(builder.append_basic_block, names)
    kind = ir.VectorType(block.number, lanes)
    zeros = ir.Constant(kind, [0.0] * lanes)
    builder.branch(outer)
    builder.position_at_end(outer)
    which = builder.phi(row.type)
    sums = [builder.phi(kind) for _ in columns]
    place = builder.add(builder.mul(which, apart), row)
    word = builder.load(builder.gep(bits, [place]))
    first = builder.mul(which, which.type(WORD))
    builder.cbranch(builder.icmp_unsigned("!=", word, word.type(0)), inner, after)
    builder.position_at_end(inner)
    left = builder.phi(word.type)
    totals = [builder.phi(kind) for _ in columns]
    bit = builder.add(first, builder.cttz(left, ir.IntType(1)(1)))
    found = [
        (Vector(builder, total) + block.at(j, lanes, bit)).value
        for total, j in zip(totals, columns, strict=True)
    ]
    rest = builder.and_(left, builder.sub(left, left.type(1)))
    builder.cbranch(builder.icmp_unsigned("!=", rest, rest.type(0)), inner, after)
    left.add_incoming(word, outer)
    left.add_incoming(rest, inner)
    for total, start, more in zip(totals, sums, found, strict=True):
        total.add_incoming(start, outer)
        total.add_incoming(more, inner)
    builder.position_at_end(after)
    walked = [builder.phi(kind) for _ in columns]
    for total, start, more in zip(walked, sums, found, strict=True):
        total.add_incoming(start, outer)
        total.add_incoming(more, inner)
    following = builder.add(which, which.type(1))
    builder.cbranch(builder.icmp_signed("<", following, many), outer, end)
    which.add_incoming(which.type(0), before)
    which.add_incoming(following, after)
    for total, more in zip(sums, walked, strict=True):
        total.add_incoming(zeros, before)
        total.add_incoming(more, after)
    builder.position_at_end(end)
    return [Vector(builder, total) for total in walked]


@parallel
def multiply_near(  # type: ignore[no-untyped-def]
    words, source, bias, out, scratch, odd, lanes, lo, hi, number
):
    """Fill rows ``lo`` to ``hi`` of ``out`` with ``X @ source + bias``, as ``multiply`` does.

    All of ``source`` is copied, so that each row is walked through and written once. Its columns
    are whole vectors, ``VECTORS`` at most. ``scratch`` has room for it and for a row of zeros.
    """
    inner, columns = source.shape
    like = scratch[0, 0]
    own = scratch[number]
    block, offsets = np.intp(own.ctypes.data), np.intp(bias.ctypes.data)
    if not copied(source.ctypes.data, columns, inner, columns, block, columns, like):
        odd[0] = 1
        return
    if not len(bias):
        for i in range(inner * columns, (inner + 1) * columns):
            own[i] = 0
        offsets = block + inner * columns * source.itemsize
    rows = words.shape[1]
    at = out.ctypes.data + lo * columns * source.itemsize
    _walk_rows(words.ctypes.data + lo * 8, len(words), rows, hi - lo, block, offsets, at, columns,
               columns // lanes, like)  # fmt: skip


@intrinsic  # type: ignore[untyped-decorator]
def _dot(
    context: Any, words: Any, shift: Any, rows: Any, g: Any, stride: Any, block: Any, out: Any,
    across: Any, here: Any, vectors: Any, first: Any, like: Any,
) -> Any:  # fmt: skip
    """Put into each row of ``out`` the product of a row of ``g`` and those of a block, where asked.

    Which rows of the block say the 32 bits of each word from the bit ``shift`` on; elsewhere it is
    0. Products are of so many vectors; unless they are the ``first`` they are added to what is
    there. Rows of ``g`` and of the block lie ``stride`` numbers from each other, those of ``out``
    ``across``; ``here`` are the rows of the block.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words, shift, rows, g, stride, block, out, across, here, vectors, first, like = arguments
        bits = builder.inttoptr(words, ir.IntType(WORD).as_pointer())
        given, others = (Rows(builder, like.type, stride, place) for place in (g, block))
        found = Rows(builder, like.type, across, out)
        lanes = simd.register_bytes() // given.bytes
        with builder.if_then(first), cgutils.for_range(builder, rows) as loop:
            simd.columns(
                builder, like.type, here,
                lambda j, width: found.put(
                    simd.splat(builder, like.type(0.0), width), j, loop.index
                ),
            )  # fmt: skip
        for many in _by_width(builder, vectors, dot_vectors()):
            with cgutils.for_range(builder, rows) as loop:
                word = builder.load(builder.gep(bits, [loop.index]))
                word = builder.and_(builder.lshr(word, shift), word.type(2**HALF - 1))
                with builder.if_then(builder.icmp_unsigned("!=", word, word.type(0))):
                    columns = [shift.type(k * lanes) for k in range(many)]
                    row = [given.at(j, lanes, loop.index).relaxed() for j in columns]
                    _dot_word(builder, word, row, others, columns, lanes, found, loop.index)
        return context.get_dummy_value()

    taken = words, shift, rows, g, stride, block, out, across, here, vectors, first, like
    return types.none(*taken), generate


def _dot_word(
    builder: Any, word: Any, row: list[Vector], block: Rows, columns: list[Any], lanes: int,
    out: Rows, index: Any,
) -> None:  # fmt: skip
    """Emit the products that the bits of a word, which has one at least, ask for."""
    before, loop, after = builder.block, *map(builder.append_basic_block, ("asked", "all_asked"))
    builder.branch(loop)
    builder.position_at_end(loop)
    left = builder.phi(word.type)
    bit = builder.cttz(left, ir.IntType(1)(1))
    sums: list[Vector] = []
    for k, (j, factor) in enumerate(zip(columns, row, strict=True)):
        more = factor * block.at(j, lanes, bit)
        if k < CHAINS:
            sums.append(more)
        else:
            sums[k % CHAINS] = sums[k % CHAINS] + more
    while len(sums) > 1:
        half = -(-len(sums) // 2)
        sums = [a + b for a, b in zip(sums, sums[half:], strict=False)] + sums[
            len(sums) // 2 : half
        ]
    total = out.at(bit, 1, index) + sums[0].sum()
    out.put(total, bit, index)
    rest = builder.and_(left, builder.sub(left, left.type(1)))
    builder.cbranch(builder.icmp_unsigned("!=", rest, rest.type(0)), loop, after)
    left.add_incoming(word, before)
    left.add_incoming(rest, loop)
    builder.position_at_end(after)


@parallel
def multiply_at(words, g, source, out, lanes, most, lo, hi, number):  # type: ignore[no-untyped-def]
    """Fill rows ``lo`` to ``hi`` of ``out`` with ``g @ source.T`` where bits are set, 0 elsewhere.

    Rows of ``g`` and of ``source`` are whole vectors of so many ``lanes``, of which ``most`` or at
    most ``VECTORS`` are multiplied at once.
    """
    inner, columns = source.shape
    size = source.itemsize
    like = source[0, 0]
    for top in range(lo, hi, DOT_ROWS):
        rows = min(DOT_ROWS, hi - top)
        for start in range(0, inner, HALF):
            here = min(HALF, inner - start)
            word = words.ctypes.data + (start // WORD * words.shape[1] + top) * 8
            to = out.ctypes.data + (top * inner + start) * size
            column = 0
            while column < columns:
                left = (columns - column) // lanes
                many = most if left >= most else min(left, VECTORS)
                given = g.ctypes.data + (top * columns + column) * size
                block = source.ctypes.data + (start * columns + column) * size
                _dot(word, start % WORD, rows, given, columns, block, to, inner, here, many,
                     column == 0, like)  # fmt: skip
                column += many * lanes


@parallel
def multiply(  # type: ignore[no-untyped-def]
    words, source, bias, values, across, along, out, places, scratch, odd, lanes, parts, lo, hi,
    number,
):  # fmt: skip
    """Fill ``out`` with ``X @ source + bias``, given the words of X.

    Unless ``places`` is 0 the result is turned over, so many rows of X by themselves: ``out`` is
    ``(rows / places, columns, places)``, else ``(1, rows, columns)``.
    Columns are divided into ``parts``, in whole vectors of so many ``lanes``; ``lo`` to ``hi`` are
    rows of the first part, then of the second, and so on. An empty ``bias`` is none. ``scratch``
    has a row for each thread: 64 rows and the sums of ``ROWS``, each of ``VECTORS`` vectors.
    ``values``, ``across`` and ``along`` are as in ``walked``. ``odd[0]`` becomes 1 if a number of
    ``source`` is not finite: then ``out`` is of no use.
    """
    inner, columns = source.shape
    rows = words.shape[1]
    like = scratch[0, 0]
    size = source.itemsize
    vectors = -(-columns // lanes)
    own = scratch[number]
    most = WORD * VECTORS * lanes
    block = own.ctypes.data
    sums = block + most * size
    for part in range(lo // rows, -(-hi // rows)):
        a, b = part * vectors // parts, (part + 1) * vectors // parts
        width, column = (b - a) * lanes, a * lanes
        n = min(columns - column, width)
        for i in range(most):
            own[i] = 0  # behind the last column it stays so
        start, end = max(lo - part * rows, 0), min(hi - part * rows, rows)
        times = -(-(end - start) // ROWS)
        for time in range(times):
            top = start + (end - start) * time // times
            high = start + (end - start) * (time + 1) // times - top
            for i in range(most, most + high * width):
                own[i] = 0
            for j in range(len(words)):
                here = min(WORD, inner - j * WORD)
                at = source.ctypes.data + (j * WORD * columns + column) * size
                if not copied(at, columns, here, n, block, width, like):
                    odd[0] = 1
                    return
                word = words.ctypes.data + (j * rows + top) * 8
                corner = top * across + j * WORD * along
                walked(word, high, block, sums, b - a, values, corner, across, along, like)
            if places:
                _put_turned(own[most:], width, high, n, bias, column, out, top, places)
            else:
                offsets = bias.ctypes.data + column * size if len(bias) else 0
                at = out.ctypes.data + (top * columns + column) * size
                _put(sums, width, high, n, offsets, at, columns, like)


@compiled
def _put_turned(sums, width, rows, columns, bias, column, out, top, places):  # type: ignore[no-untyped-def]
    """Put sums of rows from ``top`` on, and their bias, into columns of ``out`` turned over."""
    first = 0
    while first < rows:
        image, place = (top + first) // places, (top + first) % places
        some = min(TILE, rows - first, places - place)
        for c in range(columns):
            offset = out.dtype.type(0)
            if len(bias):
                offset = bias[column + c]
            for r in range(some):
                out[image, column + c, place + r] = sums[(first + r) * width + c] + offset
        first += some
