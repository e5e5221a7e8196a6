"""Memory of large tensors, in huge pages where Linux has them."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable

from torch import Tensor

LARGE = 2**22
"""Bytes from which on a tensor surely holds a whole huge page, which begins where it likes."""


def paged(tensor: Tensor) -> Tensor:
    """Return ``tensor``, contiguous, new and on a processor, after asking for huge pages.

    Linux hands out memory by pages of 4 kB, each when it is written to for the first time. That
    takes longer than the update of the thousand neurons whose numbers it holds. Where the system
    has huge pages for those who ask (``/sys/kernel/mm/transparent_hugepage/enabled``), 512 pages
    come at once.
    """
    if tensor.nbytes >= LARGE and (advise := _madvise()) is not None:
        page = mmap.PAGESIZE
        first = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        advise(first, stop - first, mmap.MADV_HUGEPAGE)  # advice: whether it is taken is no matter
    return tensor


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found
