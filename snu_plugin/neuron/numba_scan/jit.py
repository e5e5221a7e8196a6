"""How loops are compiled and kept, and how torch's own threads share one; see docs/kernels.md."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import config, njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.extending import intrinsic
from numba.misc.appdirs import AppDirs
from torch import Tensor

TILE, PAD = 8192, 80
"""Columns carried through all of time at once: few enough that carry and constants stay in the
second cache, many enough that processors fetch a row ahead; and numbers between rows of a tile,
without which all rows would compete for the same places of the cache."""

GRAIN = 30_000
"""Updates below which a second thread costs more than it saves, though it still spins after the
product before."""

_PROCESS = os.getpid()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, run without the interpreter's lock, keep the result on disk.

    The result is compiled anew when anything that it is made of has changed: its code, numbers that
    it reads, compiled functions that it calls and the files that emit instructions for it.
    """
    fast: Any = njit(function, nogil=True, error_model="numpy")
    with suppress(RuntimeError):  # no folder can be written to: compile anew in every process
        fast._cache = _Cache(function)
    return fast  # type: ignore[no-any-return]


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    """A file for each variant of a loop, named by a digest of its key; there is no index.

    Numba's own lists numbered files in an index that is written before they are. After two
    processes at once, or a killed one, a variant may find the machine code of another there.
    """

    def load(self, key: Any) -> Any:
        with suppress(OSError):
            return self._load_data(self._named(key))

    def save(self, key: Any, data: Any) -> None:
        self._save_data(self._named(key), data)

    def _named(self, key: Any) -> str:
        digest = hashlib.sha256(repr((self._version, key)).encode()).hexdigest()
        return f"{self._index_name.removesuffix('.nbi')}.{digest[:32]}.nbc"


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's own, which looks at a function alone and not at what it calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, None)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        # Its module, too: what was kept names it, and teams of all loops are compiled in this file.
        return sig, codegen.magic_tuple(), self._py_func.__module__, _digest(self._py_func)


def kept_loops(package: Path) -> list[Path]:
    """Return the files of what was compiled, and kept, of sources below a folder.

    Numba keeps them beside the sources, or where these cannot be written in the user's cache; or
    where ``NUMBA_CACHE_DIR`` says.
    """
    roots = [AppDirs(appname="numba", appauthor=False).user_cache_dir]
    roots += [config.CACHE_DIR] if config.CACHE_DIR else []
    found = []
    for folder in {source.parent for source in package.rglob("*.py")}:
        part = _CacheLocator.get_suitable_cache_subpath(str(folder / "any.py"))
        for place in (folder / "__pycache__", *(Path(root) / part for root in roots)):
            found += place.glob("*.nb[ic]")
    return sorted(found)


@functools.cache
def _digest(function: Callable[..., Any]) -> str:
    parts = sorted(set(_made_of(function, set())))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _made_of(value: Any, seen: set[Any]) -> Iterator[str]:
    """Describe all that machine code is made of, but for names, comments and places in files."""
    value = getattr(value, "py_func", value)
    emits = getattr(value, "_defn", None)  # an intrinsic
    code = getattr(emits or value, "__code__", None)
    if isinstance(value, int | float | tuple | np.generic):
        yield f"{type(value).__name__} {value!r}"
    if code is None or code in seen:
        return
    seen.add(code)
    if emits:
        files = {Path(code.co_filename), Path(__file__).with_name("simd.py")}
        yield from (file.read_text() for file in files)
    else:
        yield _instructions(code)
        for name in code.co_names:
            yield from _made_of(value.__globals__.get(name), seen)
    for cell in (emits or value).__closure__ or ():
        yield from _made_of(cell.cell_contents, seen)


def _instructions(code: CodeType) -> str:
    within = (_instructions(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return " ".join((code.co_code.hex(), *code.co_names, *within))


class Kernel(NamedTuple):
    """A loop over columns, for one thread and for a team of them."""

    part: Callable[..., None]
    """``part(*arguments, lo, hi, number)`` works on the columns ``lo`` to ``hi``; ``number`` is 0
    where they are all, else the place of this part among the others."""
    together: Callable[..., bool]
    """``together(fork, rank, count, threads, columns, *arguments)`` has a team of OpenMP's threads
    do all columns and tells whether it failed."""
    rows: int
    """Rows of a tile of columns that each thread needs for itself."""


def parallel(loop: Callable[..., None], rows: int = 0) -> Kernel:
    """Compile a loop over the columns ``lo`` to ``hi`` as a kernel; they are its last arguments.

    One that needs ``rows`` for itself is given before them where those of all threads are.
    """
    part = compiled(loop)
    share = _sharing(part)

    def together(fork, rank, count, threads, columns, *arguments):  # type: ignore[no-untyped-def]
        return share(fork, rank, count, threads, columns, arguments)

    together.__module__ = loop.__module__
    together.__qualname__ = f"{loop.__qualname__}_together"  # and so in the cache
    return Kernel(part, compiled(together), rows)


def run(
    kernel: Kernel, arguments: Sequence[Any], columns: int, updates: int,
    like: Tensor | None = None, *, tiled: int | None = None, room: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Run a kernel over all columns, in ``threads(updates)`` threads.

    One that needs rows for itself is told what its numbers are ``like``, and how many columns are
    ``tiled`` if it is not these.

    Returns:
        The room that threads had for themselves, which the same call with other numbers may be
        given again.

    Raises:
        MemoryError: If a thread found no memory for what it carries.
    """
    parts = 1 if updates < 2 * GRAIN else threads(updates)  # of few it need not be asked
    if like is not None:
        if room is None:
            tile = min(columns if tiled is None else tiled, TILE) + PAD
            room = like.new_empty(parts * kernel.rows * tile)
        arguments = *arguments, room.data_ptr()
    if parts == 1:
        kernel.part(*arguments, 0, columns, 0)
    elif kernel.together(*(team() or ()), parts, columns, *arguments):
        raise MemoryError("a thread of the fused scan found no memory")
    return room


def threads(updates: int) -> int:
    """Return in how many threads so many updates run: as many as torch uses and the work deserves.

    An update is one step of one neuron. Without torch's OpenMP it is one.
    """
    most = torch.get_num_threads()
    if most == 1 or updates < 2 * GRAIN or team() is None:
        return 1
    return min(most, updates // GRAIN)


@functools.cache
def team() -> tuple[int, int, int] | None:
    """Return the addresses of OpenMP's functions that start threads, ``None`` if there are none.

    torch for Linux brings them. A team does not survive a fork, and OpenMP does not notice.
    """
    if os.name != "posix" or os.getpid() != _PROCESS:
        return None
    process = ctypes.CDLL(None)
    names = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"
    if not all(hasattr(process, name) for name in names):
        return None
    fork, rank, count = (ctypes.cast(process[name], ctypes.c_void_p).value for name in names)
    return None if fork is None or rank is None or count is None else (fork, rank, count)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.cache_clear)


def _sharing(part: Any) -> Any:
    """Return the code that forks a team in which each thread runs a part of the columns.

    The code takes the addresses of ``GOMP_parallel``, ``omp_get_thread_num`` and
    ``omp_get_num_threads`` (GCC's libgomp ABI, which LLVM's libomp offers too), the size of the
    team, the number of columns and the arguments of ``part`` in one tuple. With torch's own library
    these are torch's threads: they still spin after the product before, so a team starts within
    microseconds, and nobody competes with them for the cores.
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
