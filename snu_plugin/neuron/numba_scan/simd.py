"""Vectors of numbers: formulas that become vector instructions; see docs/kernels.md."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

WIDTHS = 128, 32
"""Bytes worked on at once, first as many as go: two of the widest registers of today or some
narrower ones, which wait for their numbers in turn."""

AHEAD, LINE = 256, 64
"""Bytes between what is worked on and what is fetched, and of what is fetched at once."""

_LN_2 = Fraction(Decimal(2).ln())

_SECH2 = (
    5.847775897754183e-11, 0.0, 1.2148589591534446e-07, 4.0467648665696815e-06,
    1.4196077175338405e-4, 0.003173466672853271, 0.044443871228287565, 0.3333350474948257,
    0.9999994615273369, 1.0,
)  # fmt: skip
"""``1 / p(z^2)`` is ``1 - tanh(z)^2`` within 3.5e-8 for every z: a minimax fit of our own, weighted
as the quotient is, found by linear programming."""


class Vector:
    """Numbers of one type side by side, or truths about them, while code is generated.

    Operators emit instructions. Plain numbers beside them become constants. ``loose`` numbers, and
    all that is computed from them, may have ``a b + c`` rounded once instead of twice.
    """

    def __init__(self, builder: Any, value: Any, loose: bool = False) -> None:
        self.builder, self.value, self.loose = builder, value, loose

    @property
    def number(self) -> Any:
        """The type of one number."""
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    def like(self, other: Any) -> Vector:
        """Return ``other``, or a vector of this width with a plain number in each place."""
        if isinstance(other, Vector):
            return other
        kind, number = self.value.type, float(other)
        constant = [number] * kind.count if isinstance(kind, ir.VectorType) else number
        return Vector(self.builder, ir.Constant(kind, constant))

    def relaxed(self) -> Vector:
        """Return the same numbers, loose."""
        return Vector(self.builder, self.value, True)

    def where(self, yes: Any, no: Any) -> Vector:
        """Return ``yes`` where this is true, ``no`` elsewhere; one may be a number."""
        yes = no.like(yes) if isinstance(no, Vector) else yes
        chosen = self.builder.select(self.value, yes.value, yes.like(no).value)
        return Vector(self.builder, chosen, yes.loose or yes.like(no).loose)

    def all(self) -> Any:
        """Return whether truths hold in every place."""
        kind = self.value.type
        if not isinstance(kind, ir.VectorType):
            return self.value
        bits = ir.IntType(kind.count)
        return self.builder.icmp_unsigned("==", self.builder.bitcast(self.value, bits), bits(-1))

    def sum(self) -> Vector:
        """Return the sum of all numbers, in whatever order."""
        kind = self.value.type
        bits = 32 if self.number == ir.FloatType() else 64
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind.element, [kind.element, kind]),
            f"llvm.vector.reduce.fadd.v{kind.count}f{bits}",
        )
        zero = ir.Constant(kind.element, 0.0)
        found = self.builder.call(function, [zero, self.value], fastmath=("reassoc",))
        return Vector(self.builder, found)

    def power_of_two(self) -> Vector:
        """Return ``2^n`` of the number ``n + 1.5 2^m``, with m the bits of its mantissa.

        The sum holds n in its lowest bits; moved to the exponent they are the power.
        """
        bits, bias, mantissa = (32, 127, 23) if self.number == ir.FloatType() else (64, 1023, 52)
        count = getattr(self.value.type, "count", None)
        whole = ir.IntType(bits) if count is None else ir.VectorType(ir.IntType(bits), count)

        def constant(n: int) -> Any:
            return ir.Constant(whole, n if count is None else [n] * count)

        b = self.builder
        exponent = b.add(b.bitcast(self.value, whole), constant(bias))
        return Vector(
            b, b.bitcast(b.shl(exponent, constant(mantissa)), self.value.type), self.loose
        )

    def __abs__(self) -> Vector:
        kind = self.value.type
        bits = 32 if self.number == ir.FloatType() else 64
        vector = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(kind, [kind]), f"llvm.fabs.{vector}f{bits}"
        )
        return Vector(self.builder, self.builder.call(function, [self.value]), self.loose)

    def _two(self, emit: Callable[..., Any], left: Vector, right: Vector) -> Vector:
        loose = left.loose or right.loose
        flags = ("contract",) if loose else ()
        return Vector(self.builder, emit(left.value, right.value, flags=flags), loose)

    def __add__(self, other: Any) -> Vector:
        return self._two(self.builder.fadd, self, self.like(other))

    def __sub__(self, other: Any) -> Vector:
        return self._two(self.builder.fsub, self, self.like(other))

    def __rsub__(self, other: Any) -> Vector:
        return self._two(self.builder.fsub, self.like(other), self)

    def __mul__(self, other: Any) -> Vector:
        return self._two(self.builder.fmul, self, self.like(other))

    def __truediv__(self, other: Any) -> Vector:
        return self._two(self.builder.fdiv, self, self.like(other))

    def __rtruediv__(self, other: Any) -> Vector:
        return self._two(self.builder.fdiv, self.like(other), self)

    __radd__, __rmul__ = __add__, __mul__

    def __gt__(self, other: Any) -> Vector:
        return Vector(
            self.builder, self.builder.fcmp_ordered(">", self.value, self.like(other).value)
        )

    def __le__(self, other: Any) -> Vector:
        return Vector(
            self.builder, self.builder.fcmp_ordered("<=", self.value, self.like(other).value)
        )

    def equals(self, other: Any) -> Vector:
        return Vector(
            self.builder, self.builder.fcmp_ordered("==", self.value, self.like(other).value)
        )


@functools.cache
def register_bytes() -> int:
    """Return how wide the registers of the processor are that code is compiled for."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return 64 if "+avx512f" in features else 32 if "+avx" in features else 16


def polynomial(x: Vector, coefficients: Sequence[float]) -> Vector:
    """Return a polynomial in ``x``, the coefficient of its highest power first."""
    first, *rest = coefficients
    p = x.like(first)
    for coefficient in rest:
        p = p * x + coefficient
    return p


def decaying_exp(z: Vector) -> Vector:
    """Return ``exp(-|z|)``, at least the smallest normal number.

    ``exp(r) 2^n`` with ``n`` the nearest integer to ``-|z| / ln 2`` and a Taylor polynomial for
    ``|r| <= ln(2) / 2``; within 2 ulp.
    """
    single = z.number == ir.FloatType()
    shift = 1.5 * 2 ** (23 if single else 52)
    grid = 2 ** (16 if single else 42)  # so coarse that n times this part of ln 2 is exact
    coarse = Fraction(round(_LN_2 * grid), grid)
    a = abs(z.relaxed())
    most = 87 if single else 708
    a = (a > most).where(most, a)
    shifted = a * float(-1 / _LN_2) + shift
    n = shifted - shift
    r = (n * float(-coarse) - a) + n * float(coarse - _LN_2)
    terms = [1 / math.factorial(k) for k in range(7 if single else 13, -1, -1)]
    return polynomial(r, terms) * shifted.power_of_two()


@intrinsic  # type: ignore[untyped-decorator]
def decaying_exp_of(context: Any, z: Any) -> Any:
    """Return ``decaying_exp`` of a number in a compiled loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return decaying_exp(Vector(builder, arguments[0])).value

    return z(z), generate


def above(s: Vector, threshold: Vector) -> Vector:
    """Return 1 where ``s`` is above the threshold, NaN where one of them is, else 0."""
    return (s > threshold).where(1, (s <= threshold).where(0, s.like(math.nan)))


def sigmoid(z: Vector) -> Vector:
    e = decaying_exp(z)
    return (z > 0).where(1, e) / (1 + e)


def sech2(z: Vector) -> Vector:
    """Return ``1 - tanh(z)^2``, in single precision within 1.1e-7."""
    z = z.relaxed()
    if z.number == ir.FloatType():
        return 1 / polynomial(z * z, _SECH2)
    e = decaying_exp(z + z)
    return 4 * e / ((1 + e) * (1 + e))


class Flag:
    """Whether a number is not 0, which shows when the code runs.

    Code that depends on it stands in a branch. One that always goes the same way is foreseen by the
    processor and costs next to nothing.
    """

    def __init__(self, builder: Any, number: Any) -> None:
        self.builder = builder
        self.value = builder.icmp_signed("!=", number, number.type(0))

    def then(self) -> Any:
        """Emit what follows in a ``with`` for where it is set."""
        return self.builder.if_then(self.value)

    def either(self, yes: Callable[[], Vector], no: Callable[[], Vector]) -> Vector:
        """Return ``yes()`` where it is set, else ``no()``."""
        found = []
        with self.builder.if_else(self.value) as branches:
            for branch, emit in zip(branches, (yes, no), strict=True):
                with branch:
                    found.append((emit(), self.builder.block))
        value = self.builder.phi(found[0][0].value.type)
        for vector, block in found:
            value.add_incoming(vector.value, block)
        return Vector(self.builder, value, any(vector.loose for vector, _ in found))


class Rows:
    """Numbers at an address, a row of ``columns`` after the other; ``present`` unless it is 0."""

    def __init__(self, builder: Any, number: Any, columns: Any, address: Any) -> None:
        self.builder, self.number, self.columns = builder, number, columns
        self.bytes = 4 if number == ir.FloatType() else 8
        self.present = Flag(builder, address)
        self.data = builder.inttoptr(address, number.as_pointer())

    def _place(self, j: Any, t: Any, width: int) -> Any:
        if t is not None:
            j = self.builder.add(self.builder.mul(t, self.columns), j)
        kind = ir.VectorType(self.number, width) if width > 1 else self.number
        return self.builder.bitcast(self.builder.gep(self.data, [j]), kind.as_pointer())

    def at(self, j: Any, width: int, t: Any = None) -> Vector:
        """Return ``width`` columns from ``j`` on, of row ``t``."""
        place = self._place(j, t, width)
        return Vector(self.builder, self.builder.load(place, align=self.bytes))

    def put(self, numbers: Vector, j: Any, t: Any = None) -> None:
        """Store numbers in the columns from ``j`` on, in row ``t``."""
        place = self._place(j, t, getattr(numbers.value.type, "count", 1))
        self.builder.store(numbers.value, place, align=self.bytes)

    def fetch(self, j: Any, width: int, t: Any, to_write: bool = False) -> None:
        """Have the columns ``AHEAD`` of those from ``j`` on brought to the first cache."""
        b, integer, address = self.builder, ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address] + [integer] * 3)
        prefetch = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0i8")
        place = b.bitcast(self._place(j, t, 1), address)
        for line in range(AHEAD, AHEAD + width * self.bytes, LINE):
            how = [ir.Constant(integer, n) for n in (int(to_write), 3, 1)]
            b.call(prefetch, [b.gep(place, [ir.Constant(integer, line)]), *how])


class Held:
    """What some columns carry from step to step, or numbers of theirs, in registers.

    It takes the place of ``Rows``; what is carried goes back with ``leave``.
    """

    def __init__(self, rows: Rows, j: Any, width: int, like: Vector | None = None) -> None:
        """Take what is there; zeros, of the width of ``like``, if there may be nothing."""
        self.rows, self.j, self.present = rows, j, rows.present
        if like is None:
            found = rows.at(j, width)
        else:
            found = rows.present.either(lambda: rows.at(j, width), lambda: like.like(0))
        self.place = cgutils.alloca_once_value(rows.builder, found.value)

    def at(self, j: Any, width: int) -> Vector:
        return Vector(self.rows.builder, self.rows.builder.load(self.place))

    def put(self, numbers: Vector, j: Any) -> None:
        self.rows.builder.store(numbers.value, self.place)

    def leave(self) -> None:
        with self.present.then():
            self.rows.put(self.at(self.j, 0), self.j)


class Step:
    """A row of a sequence at one step, as ``Rows`` of which there is but one."""

    def __init__(self, rows: Rows, t: Any) -> None:
        self.rows, self.t, self.present = rows, t, rows.present

    def at(self, j: Any, width: int) -> Vector:
        return self.rows.at(j, width, self.t)

    def put(self, numbers: Vector, j: Any) -> None:
        self.rows.put(numbers, j, self.t)

    def fetch(self, j: Any, width: int, t: Any, to_write: bool = False) -> None:
        self.rows.fetch(j, width, self.t, to_write)


def splat(builder: Any, number: Any, width: int) -> Vector:
    """Return a vector with the same number in each place."""
    if width == 1:
        return Vector(builder, number)
    kind, integer = ir.VectorType(number.type, width), ir.IntType(32)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, integer(0))
    zeros = ir.Constant(ir.VectorType(integer, width), [0] * width)
    return Vector(builder, builder.shuffle_vector(first, first, zeros))


def columns(
    builder: Any, number: Any, stop: Any, body: Callable[[Any, int], None],
    widths: Sequence[int] = WIDTHS,
) -> None:  # fmt: skip
    """Emit ``body(j, width)`` for the columns below ``stop``: many at once, the last one by one.

    ``widths`` are bytes worked on at once, those first that are to be taken first.
    """
    start: Any = stop.type(0)
    size = 4 if number == ir.FloatType() else 8
    for width in (*(bytes // size for bytes in widths), 1):
        many = stop.type(width)
        end = builder.mul(builder.sdiv(stop, many), many)
        with cgutils.for_range_slice(builder, start, end, many, stop.type) as (j, _):
            body(j, width)
        start = end
