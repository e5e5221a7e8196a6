"""Tensors as the arrays that compiled loops take, and the threads that run the loops."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRAIN = 100_000
"""Neuron updates below which a second thread costs more than it saves."""


def flat(tensor: Tensor) -> Any:
    """Return ``(T, B, ..., features)`` as an array ``(T, neurons)``, a copy if not contiguous."""
    array = tensor.contiguous().numpy(force=True)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def row(tensor: Tensor | None, step: Tensor, *, fill: bool = False) -> Any:
    """Return what broadcasts to one step as an array ``(neurons,)``.

    With ``fill`` an array of its own: a copy, or zeros for ``None``, which stays ``None`` without.
    """
    if tensor is None and not fill:
        return None
    if tensor is not None and not fill and tensor.shape == step.shape:
        return tensor.contiguous().numpy(force=True).reshape(-1)
    found = np.empty(step.shape, np.float32 if step.dtype == torch.float32 else np.float64)
    found[...] = 0 if tensor is None else tensor.numpy(force=True)
    return found.reshape(-1)


def scalar(value: float, like: Tensor) -> Any:
    return np.float32(value) if like.dtype == torch.float32 else np.float64(value)


def run(kernel: Callable[..., None], arguments: Sequence[Any], like: Tensor) -> None:
    """Run a kernel over all columns, in as many threads as torch uses and the work deserves."""
    columns = math.prod(like.shape[1:])
    parts = max(1, min(torch.get_num_threads(), like.numel() // GRAIN))
    if parts == 1:
        kernel(*arguments, 0, columns)
        return
    ends = [columns * part // parts for part in range(parts + 1)]
    ranges = itertools.pairwise(ends[1:])
    waiting = [_threads().submit(kernel, *arguments, lo, hi) for lo, hi in ranges]
    kernel(*arguments, 0, ends[1])
    for part in waiting:
        part.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="snu-scan")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork; a child starts its own
    os.register_at_fork(after_in_child=_threads.cache_clear)
