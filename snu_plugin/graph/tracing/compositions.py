"""Functions of torch that are several at once, written out in those that are known one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def written_out(name: str, kwargs: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """Return what computes the same as the function ``name`` by others; ``None`` if it is one."""
    name = name.strip("_")
    if name in ("add", "sub", "subtract", "rsub") and "alpha" not in kwargs:
        return None
    return COMPOSITIONS.get(name)


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "add": lambda input, other, *, alpha=1: input + alpha * other,
    "sub": lambda input, other, *, alpha=1: input - alpha * other,
    "subtract": lambda input, other, *, alpha=1: input - alpha * other,
    "rsub": lambda input, other, *, alpha=1: other - alpha * input,
    "addcmul": lambda input, tensor1, tensor2, *, value=1: input + value * (tensor1 * tensor2),
    "addcdiv": lambda input, tensor1, tensor2, *, value=1: input + value * (tensor1 / tensor2),
    "lerp": lambda input, end, weight: input + weight * (end - input),
}
"""By the name that torch knows each by, without underscores."""
