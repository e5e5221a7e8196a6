"""Compiled loops know arrays by address, which Numba does not see: none may be freed too early."""

from __future__ import annotations

import ctypes
import faulthandler
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forked import Process, script
from snu_plugin import SNUConfig, snu_scan
from snu_plugin.neuron import src_scan

pytest.importorskip("numba")

WIDE = 9000
"""Columns: more than a tile of the kernels."""


def gradients(unit: str, impl: str, dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=dtype)

    features = 40 if unit == "recurrent" else WIDE
    x = normal(5, 2, features).requires_grad_()
    decay = (0.8 + 0.05 * normal(features)).requires_grad_()
    if unit == "SRC":
        y = src_scan(x, impl=impl)[0]
        return [y, *torch.autograd.grad(y.square().sum(), x)]
    config = SNUConfig(
        soft=unit == "soft", lateral_inhibition="sample" if unit == "inhibited" else None
    )
    back = 0.1 * normal(features, features) if unit == "recurrent" else None
    y = snu_scan(x, config, decay=decay, recurrent=back, impl=impl)[0]
    return [y, *torch.autograd.grad(y.square().sum(), (x, decay))]


MMAP_THRESHOLD, PERTURB = -3, -6  # of mallopt, as malloc.h of glibc numbers them


def make_freed_memory_unusable() -> None:
    """Overwrite what is freed; what is large goes back to the system, and reading it crashes.

    As ``MALLOC_PERTURB_`` and ``MALLOC_MMAP_THRESHOLD_`` do where a process begins anew.
    """
    allocator = ctypes.CDLL(None)
    assert allocator.mallopt(PERTURB, 85) == 1
    assert allocator.mallopt(MMAP_THRESHOLD, 65536) == 1


UNITS = "spiking", "soft", "recurrent", "inhibited", "SRC"


def test_no_loop_reads_what_it_has_freed() -> None:
    """The largest output inhibited by constants that Numba had freed: wrong, and once a crash."""
    done = Process(script(Path(__file__)), ours=True)
    assert done.wait() == 0, done.err


if __name__ == "__main__":
    faulthandler.enable()
    make_freed_memory_unusable()
    for dtype in (torch.float32, torch.float64):
        for name in UNITS:
            print(name, dtype, file=sys.stderr)
            found, expected = (gradients(name, impl, dtype) for impl in ("numba", "reference"))
            torch.testing.assert_close(found, expected)
