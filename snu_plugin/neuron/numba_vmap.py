"""How the fused scan runs under ``torch.vmap``: as one scan of a larger batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def fold(info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
    """Run ``scan`` with a mapped axis of its inputs as one more axis of the batch, behind time."""
    x, v, decay, threshold, reset, *rest = inputs
    steps = x.dim() - 1 - (dims[0] is not None)
    x = _over(x, dims[0], 1, info.batch_size)
    rows = [
        _first(t, d, steps) for t, d in zip((v, decay, threshold, reset), dims[1:5], strict=True)
    ]
    return torch.ops.snu_plugin.scan(x, *rows, *rest), (1, 0, 0, 1)


def fold_backward(info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
    """Do for ``scan_backward`` what ``fold`` does for ``scan``."""
    gy, gs_last, x, y, marks, *rows_and_rest = inputs
    rows, rest = rows_and_rest[:3], rows_and_rest[3:]
    steps = x.dim() - 1 - (dims[2] is not None)
    gy, x, y, marks = (
        None if t is None else _over(t, d, 1, info.batch_size)
        for t, d in ((gy, dims[0]), (x, dims[2]), (y, dims[3]), (marks, dims[4]))
    )
    gs_last = None if gs_last is None else _over(gs_last, dims[1], 0, info.batch_size)
    rows = [_each(t, d, steps, info.batch_size) for t, d in zip(rows, dims[5:8], strict=True)]
    found = torch.ops.snu_plugin.scan_backward(gy, gs_last, x, y, marks, *rows, *rest)
    return found, (1, *(0 if asked else None for asked in rest[-2:]))


def _over(tensor: Tensor, dim: int | None, to: int, size: int) -> Tensor:
    """Return a tensor whose mapped axis is ``to``, repeated there if it has none."""
    if dim is not None:
        return tensor.movedim(dim, to)
    return tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])


def _first(tensor: Tensor | None, dim: int | None, steps: int) -> Tensor | None:
    """Return what broadcasts to a step of ``steps`` axes with its mapped axis before these."""
    if tensor is None or dim is None:
        return tensor
    tensor = tensor.movedim(dim, 0)
    return tensor.reshape(len(tensor), *(1,) * (steps - tensor.dim() + 1), *tensor.shape[1:])


def _each(tensor: Tensor | None, dim: int | None, steps: int, size: int) -> Tensor | None:
    """Return the same with a mapped axis in any case: gradients are those of each element."""
    if tensor is None:
        return None
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return _first(tensor, 0, steps)
