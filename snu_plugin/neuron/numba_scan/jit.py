"""How loops are compiled, and how one of them is shared by torch's own threads."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.extending import intrinsic


def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, run without the interpreter's lock, keep the result on disk.

    The result is compiled anew when a file beside the kernel's, or one of this folder, has changed.
    """
    fast: Any = njit(kernel, nogil=True, error_model="numpy")
    with suppress(RuntimeError):  # no folder can be written to: compile anew in every process
        fast._cache = _Cache(kernel)
    return fast  # type: ignore[no-any-return]


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's own, which looks at the file of a kernel and not at those of what it calls."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        folders = Path(self._py_func.__code__.co_filename).parent, Path(__file__).parent
        return *super()._index_key(sig, codegen), *map(_contents, folders)


@functools.cache
def _contents(folder: Path) -> str:
    """Return a digest of all code in a folder."""
    files = (path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(b"".join(files)).hexdigest()


class Kernel(NamedTuple):
    """A loop over columns, for one thread and for a team of them."""

    part: Callable[..., None]
    """``part(*arguments, lo, hi, number)`` works on the columns ``lo`` to ``hi``; ``number`` is 0
    where they are all, else the place of this part among the others."""
    together: Callable[..., bool] | None = None
    """``together(fork, rank, count, team, columns, *arguments)`` has a team of OpenMP's threads do
    all columns and tells whether it failed; see ``sharing``. ``None``: a pool of threads does."""


def sharing(part: Any) -> Any:
    """Return the code that forks a team in which each thread runs a part of the columns.

    The code takes the addresses of ``GOMP_parallel``, ``omp_get_thread_num`` and
    ``omp_get_num_threads`` (GCC's libgomp ABI, which LLVM's libomp offers too), the size of the
    team, the number of columns and the arguments of ``part`` in one tuple. With torch's own library
    these are torch's threads: they still spin after the product before, so a team starts within
    microseconds, and nobody competes with them for the cores.

    Who has kernels spells the two compiled functions that call this code: one made here would hold
    it in a closure, which has another name in every process, so no process would find it on disk.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def share(
        context: Any, fork: Any, rank: Any, count: Any, team: Any, columns: Any, arguments: Any
    ) -> Any:
        taken = *arguments.types, types.intp, types.intp, types.intp
        call = context.resolve_function_type(types.Dispatcher(part), taken, {})

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fork, rank, count, team, columns, given = values
            number, nothing, flag = columns.type, ir.VoidType(), ir.IntType(8)
            address = flag.as_pointer()
            kept = (flag, number, number, number, given.type)
            shared = cgutils.alloca_once(builder, ir.LiteralStructType(kept))
            start = ir.Constant(flag, 0), columns, rank, count, given
            builder.store(cgutils.make_anonymous_struct(builder, start), shared)
            body = _body(context, builder, part, call, shared.type)
            kind = ir.FunctionType(nothing, [body.type, address, ir.IntType(32), ir.IntType(32)])
            threads = builder.trunc(team, ir.IntType(32))
            begin = builder.inttoptr(fork, kind.as_pointer())
            builder.call(begin, [body, builder.bitcast(shared, address), threads, threads.type(0)])
            failed = builder.load(cgutils.gep_inbounds(builder, shared, 0, 0))
            return builder.icmp_unsigned("!=", failed, flag(0))

        return types.boolean(fork, rank, count, team, columns, arguments), generate

    return share


def _body(context: Any, builder: Any, part: Any, call: Any, shared: Any) -> Any:
    """Return the function that every thread of a team runs, given the address of what is shared."""
    found = part.overloads[call.args]
    context.add_linking_libs([found.library])
    address = ir.IntType(8).as_pointer()
    name = f"{found.fndesc.mangled_name}.thread"
    body = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [address]), name)
    body.linkage = "internal"
    inner = ir.IRBuilder(body.append_basic_block())
    place = inner.bitcast(body.args[0], shared)
    columns, rank, count, given = (
        inner.load(cgutils.gep_inbounds(inner, place, 0, k)) for k in range(1, 5)
    )
    asked = ir.FunctionType(ir.IntType(32), []).as_pointer()
    number, all_of_them = (
        inner.sext(inner.call(inner.inttoptr(which, asked), []), columns.type)
        for which in (rank, count)
    )
    ends = [
        inner.sdiv(inner.mul(columns, which), all_of_them)
        for which in (number, inner.add(number, number.type(1)))
    ]
    arguments = [*cgutils.unpack_tuple(inner, given), *ends, number]
    kernel = context.declare_function(builder.module, found.fndesc)
    status, _ = context.call_conv.call_function(
        inner, kernel, call.return_type, call.args, arguments
    )
    with cgutils.if_unlikely(inner, status.is_error):
        inner.store(ir.IntType(8)(1), cgutils.gep_inbounds(inner, place, 0, 0))
    inner.ret_void()
    return body
