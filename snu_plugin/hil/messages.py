"""What host and board say to each other, and how they know each other.

Messages are JSON and the plain bytes of tensors, never a pickle. Both sides prove themselves by
keys: who has the file may use the board.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snu_plugin.origin import how_to_install

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


def zeromq() -> Any:
    """Return the library that carries messages.

    Raises:
        ImportError: Where it is not installed, or without encryption.
    """
    try:
        import zmq
    except ImportError as error:
        raise ImportError(
            f"a board in another process needs pyzmq; {how_to_install('board')}"
        ) from error
    if not zmq.has("curve"):
        raise ImportError("this pyzmq has no CURVE, which authenticates a board; install another")
    return zmq


class Keys(NamedTuple):
    """What both sides prove themselves with, in the printable form of ZeroMQ, Z85."""

    host: str
    """The host's secret key."""
    board: str
    """The board's secret key."""

    def public(self) -> tuple[bytes, bytes]:
        """Return the public keys of host and board."""
        curve = zeromq().curve_public
        return curve(self.host.encode()), curve(self.board.encode())


def make_keys(path: Path) -> Keys:
    """Return the keys in a file, which is made with new ones, for its owner alone, if missing."""
    if not path.exists():
        pair = zeromq().curve_keypair
        keys = Keys(pair()[1].decode(), pair()[1].decode())
        opened, new = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # readable by its owner
        with os.fdopen(opened, "w") as file:
            json.dump(keys._asdict(), file)
        Path(new).replace(path)
    return read_keys(path)


def read_keys(path: Path) -> Keys:
    """Return the keys in a file.

    Raises:
        OSError: If there is none.
        ValueError: If it is no such file, or others may read it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such key; give the file that python -m snu_plugin.hil.serve named"
        )
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ValueError(f"{path} can be read by others; make it yours alone: chmod 600 {path}")
    try:
        keys = Keys(**json.loads(path.read_text()))
        keys.public()
    except ImportError:
        raise
    except Exception as error:  # a file of another make raises nearly anything
        raise ValueError(
            f"{path} holds no keys of a board; remove it, and the board makes new ones"
        ) from error
    return keys
