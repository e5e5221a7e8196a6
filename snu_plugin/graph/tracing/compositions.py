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


def _added(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return input + alpha * other


def _taken_away(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return input - alpha * other


def _taken_from(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    return other - alpha * input


def _added_products(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * (tensor1 * tensor2)


def _added_quotients(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + value * (tensor1 / tensor2)


def _between(input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


COMPOSITIONS: dict[str, Callable[..., Any]] = {
    "add": _added,
    "sub": _taken_away,
    "subtract": _taken_away,
    "rsub": _taken_from,
    "addcmul": _added_products,
    "addcdiv": _added_quotients,
    "lerp": _between,
}
"""By the name that torch knows each by, without underscores."""
