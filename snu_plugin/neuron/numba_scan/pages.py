"""New memory of large tensors, kept when free, and in pages so large that to touch it is cheap.

Linux hands out memory by pages of 4 kB, each when it is written to for the first time. That takes
longer than the update of the thousand neurons whose numbers it holds. Two things keep it rare:

glibc gives back what lies free at the end of its heap beyond twice the largest block freed so far,
counting blocks up to 32 MB (mallopt(3), ``M_TRIM_THRESHOLD``). Without such a block a training step
frees its tensors, gives them back and takes them again, page by page. One that is never written to
costs nothing. It changes nothing where these limits are set by hand, nor elsewhere than in glibc.

Larger tensors get new memory every time. Where the system has huge pages for those who ask
(``/sys/kernel/mm/transparent_hugepage/enabled``), 512 pages come at once.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable

import torch
from torch import Tensor

LARGE = 2**22
"""Bytes from which on a tensor surely holds a whole huge page, which begins where it likes."""

SMALL = 2**17
"""Bytes below which glibc never gives a tensor memory of its own."""

BLOCK = 2**25 - 2**16
"""Bytes of the largest block that glibc counts, with room for what it adds."""


def new(tensor: Tensor) -> Tensor:
    """Return ``tensor``, contiguous, new and on a processor, after arranging for its pages."""
    if tensor.nbytes >= SMALL:
        _keep_freed()
    if tensor.nbytes >= LARGE and (advise := _madvise()) is not None:
        page = mmap.PAGESIZE
        first = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        advise(first, stop - first, mmap.MADV_HUGEPAGE)  # advice: whether it is taken is no matter
    return tensor


@functools.cache
def _keep_freed() -> None:
    """Free a block once so that glibc keeps up to 64 MB of what is freed from now on."""
    torch.empty(BLOCK, dtype=torch.uint8)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = ctypes.CDLL(None).madvise
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found
