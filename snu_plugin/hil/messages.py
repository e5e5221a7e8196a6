"""What host and board say to each other: JSON and the plain bytes of tensors, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 2**31
"""Bytes of the largest part of a message that either side takes."""

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.float32, torch.float64),
    )
}
"""What tensors may hold."""


def pack(value: Any) -> list[bytes]:
    """Return a tree of dicts, lists, tensors, texts and numbers as the parts of a message.

    Arrays of NumPy become tensors and tuples lists.

    Raises:
        TypeError: For anything else.
    """
    parts: list[bytes] = []

    def plain(one: Any) -> Any:
        if isinstance(one, np.ndarray | np.generic):
            one = torch.as_tensor(one)
        if isinstance(one, Tensor):
            kind = str(one.dtype).removeprefix("torch.")
            if kind not in DTYPES:
                raise TypeError(f"a tensor is {kind}; a board takes {', '.join(DTYPES)}")
            parts.append(one.detach().cpu().contiguous().numpy().tobytes())
            return ["tensor", kind, *one.shape]
        if isinstance(one, Mapping):
            return {str(name): plain(each) for name, each in one.items()}
        if isinstance(one, list | tuple):
            return ["list", *map(plain, one)]
        if one is None or isinstance(one, bool | int | float | str):
            return one
        raise TypeError(f"{type(one).__name__} cannot be sent to a board; give tensors or numbers")

    tree = plain(value)
    return [json.dumps(tree).encode(), *parts]


def unpack(message: Sequence[bytes]) -> Any:
    """Return what ``pack`` made a message of.

    Raises:
        ValueError: For a message that is not whole, in one line.
    """
    parts = iter(message[1:])

    def value(one: Any) -> Any:
        if isinstance(one, dict):
            return {name: value(each) for name, each in one.items()}
        if not isinstance(one, list):
            return one
        if one[0] == "list":
            return [value(each) for each in one[1:]]
        dtype, shape, part = DTYPES[one[1]], one[2:], next(parts)
        if not part:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(bytearray(part), dtype=dtype).reshape(shape)

    try:
        found = value(json.loads(message[0]))
        if next(parts, None) is not None:
            raise ValueError("more tensors came than were announced")
    except Exception as error:  # a message of another make raises nearly anything
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a message between host and board, or not whole ({why})") from error
    return found
