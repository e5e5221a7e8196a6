"""Keys of a board in another process: who has the file may use the board."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from snu_plugin.origin import how_to_install


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
