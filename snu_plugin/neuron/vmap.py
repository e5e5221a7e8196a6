"""How a fused scan runs under ``torch.vmap``: as one scan of a larger batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Rule = Callable[..., tuple[Any, Any]]
"""``outputs, out_dims = rule(info, in_dims, *inputs)`` of ``torch.library.register_vmap``."""


def folded(operator: Callable[..., Any]) -> Rule:
    """Return the rule of an operator of x, v, decay, threshold, reset and settings.

    It runs the operator with a mapped axis of its inputs as one more axis of the batch, behind
    time. Outputs are those over time, the last ``s`` and ``y`` and what is kept of every step.
    """

    def fold(info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
        x, v, decay, threshold, reset, *rest = inputs
        steps = x.dim() - 1 - (dims[0] is not None)
        x = _over(x, dims[0], 1, info.batch_size)
        given = zip((v, decay, threshold, reset), dims[1:5], strict=True)
        rows = [_first(t, d, steps) for t, d in given]
        return operator(x, *rows, *rest), (1, 0, 0, 1)

    return fold


def folded_backward(
    operator: Callable[..., Any], *, over: Sequence[int], ends: Sequence[int], rows: Sequence[int]
) -> Rule:
    """Do for an operator's backward pass what ``folded`` does for the operator.

    ``over``, ``ends`` and ``rows`` are the places of those inputs that go over time, have the shape
    of a step, or broadcast to it: of these each element gets a gradient of its own. The last two
    inputs say whether the last two outputs are asked for. Only the first output goes over time.
    """

    def fold(info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
        size, given, first = info.batch_size, list(inputs), over[0]
        steps = given[first].dim() - 1 - (dims[first] is not None)
        for to, places in ((1, over), (0, ends)):
            for n in places:
                given[n] = None if given[n] is None else _over(given[n], dims[n], to, size)
        for n in rows:
            given[n] = _each(given[n], dims[n], steps, size)
        found = operator(*given)
        between = (0,) * (len(found) - 3)
        return found, (1, *between, *(0 if asked else None for asked in inputs[-2:]))

    return fold


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
