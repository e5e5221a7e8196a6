"""Who runs a compiled loop: the calling thread, or as many as torch uses."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from snu_plugin.neuron.numba_scan.jit import Kernel

GRAIN, POOL_GRAIN = 30_000, 100_000
"""Updates below which a second thread costs more than it saves: one of OpenMP's that still spins
after a product, or one of a pool that has to be woken."""

_PROCESS = os.getpid()


def run(kernel: Kernel, arguments: Sequence[Any], columns: int, updates: int) -> None:
    """Run a kernel over all columns, in ``threads(updates)`` threads.

    Raises:
        MemoryError: If a thread found no memory for what it carries.
    """
    parts = threads(updates)
    if parts == 1:
        kernel.part(*arguments, 0, columns, 0)
        return
    openmp = team()
    if kernel.together is not None and openmp is not None:
        if kernel.together(*openmp, parts, columns, *arguments):
            raise MemoryError("a thread of the fused scan found no memory")
        return
    ends = itertools.pairwise(columns * part // parts for part in range(parts + 1))
    first, *others = ((lo, hi, number) for number, (lo, hi) in enumerate(ends))
    waiting = [_pool().submit(kernel.part, *arguments, *part) for part in others]
    kernel.part(*arguments, *first)
    for done in waiting:
        done.result()


def threads(updates: int) -> int:
    """Return in how many threads so many updates run: as many as torch uses and the work deserves.

    An update is one step of one neuron.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    return max(1, min(most, updates // (POOL_GRAIN if team() is None else GRAIN)))


@functools.cache
def team() -> tuple[int, int, int] | None:
    """Return where OpenMP's functions are that ``sharing`` calls, ``None`` if there are none.

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


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="snu-scan")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=team.cache_clear)
    os.register_at_fork(after_in_child=_pool.cache_clear)
