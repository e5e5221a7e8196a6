"""Plain values turned into the fields of a node, or refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]

LARGEST = 2**16
"""Largest stride, padding, dilation, kernel or number of groups."""
LARGEST_LAYER = 2**24
"""Most values that one layer may have."""


def numbers(name: str, field: str, value: Any) -> Array:
    """Return ``value`` as a finite float array, or raise a ValueError that names node and field."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"node {name!r}: {field} is {_shown(value)}; it must be an array of numbers"
        )
    exact = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    array = array.astype(array.dtype.newbyteorder("=") if exact else np.float64, copy=False)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(
            f"node {name!r}: {bad} of {array.size} values of {field} are NaN or infinite; "
            "every one must be finite"
        )
    return array


def weight_of(name: str, value: Any, dims: int) -> Array:
    weight = numbers(name, "weight", value)
    if weight.ndim < dims or 0 in weight.shape:
        raise ValueError(
            f"node {name!r}: weight has shape {weight.shape}; it must have at least {dims} "
            "dimensions, none of them 0"
        )
    return weight


def spread(name: str, field: str, value: Array, shape: Shape) -> Array:
    """Return a scalar as an array of ``shape``, and an array of that shape as it is."""
    if value.shape == shape:
        return value
    if value.size != 1:
        raise ValueError(
            f"node {name!r}: {field} has shape {value.shape}; it must be {shape} or one number"
        )
    return np.full(shape, value.reshape(()), dtype=value.dtype)


def sizes(name: str, field: str, value: Any, least: int) -> Shape:
    """Return one or more whole numbers of at least ``least`` as a tuple."""
    array = np.asarray(value)
    if array.ndim > 1 or not _whole(array):
        raise ValueError(f"node {name!r}: {field} is {_shown(value)}; it must be whole numbers")
    out = tuple(int(n) for n in array.reshape(-1))
    if not all(least <= n <= LARGEST for n in out):
        raise ValueError(
            f"node {name!r}: {field} is {out}; every number must lie in [{least}, {LARGEST}]"
        )
    return out


def pair(name: str, field: str, value: Any, dims: int, least: int) -> Shape:
    got = sizes(name, field, value, least)
    if len(got) not in (1, dims):
        raise ValueError(f"node {name!r}: {field} is {got}; it must be one number or {dims}")
    return got * dims if len(got) == 1 else got


def padding_of(name: str, value: Any, dims: int) -> Shape | str:
    if not isinstance(value, str):
        return pair(name, "padding", value, dims, 0)
    if value not in ("same", "valid"):
        raise ValueError(
            f"node {name!r}: padding is {_shown(value)}; it must be 'same', 'valid' or numbers"
        )
    return value


def shape_of(name: str, field: str, value: Any) -> Shape | None:
    """Return a declared shape as a tuple; None where it is absent or holds zeros (old files)."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim > 1 or not _whole(array):
        raise ValueError(f"node {name!r}: {field} is {_shown(value)}; it must be whole numbers")
    shape = tuple(int(n) for n in array.reshape(-1))
    if any(n < 0 for n in shape) or np.prod(shape, dtype=float) > LARGEST_LAYER:
        raise ValueError(
            f"node {name!r}: {field} is {shape}; sizes must be positive, with at most "
            f"{LARGEST_LAYER} values in all"
        )
    return None if 0 in shape else shape


def _whole(array: Array) -> bool:
    """Tell whether an array holds nothing but whole, finite numbers."""
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return False
    return bool((array == np.floor(array)).all())


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."
