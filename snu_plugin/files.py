"""Files that appear whole or not at all, and that can tell whether they were changed since."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

DIGEST = re.compile(rb"\nsnu-plugin sha256 ([0-9a-f]{64})\n")
"""What stands at the end of a file with a digest: the sha256 of all bytes before it. Readers of zip
archives, such as ``numpy.load``, pass over it."""
DIGEST_SIZE = 84


@contextmanager
def draft(path: str | PathLike[str]) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of ``path`` in one stroke at the end.

    Where the writing fails, ``path`` stays as it was and nothing is left behind.

    Raises:
        OSError: The folder is missing or cannot be written.
    """
    file = Path(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is not a folder; create it first")
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".new-") as folder:
        new = Path(folder) / file.name
        yield new
        os.replace(new, file)


def write(path: str | PathLike[str], content: bytes) -> Path:
    """Write ``content`` to ``path`` in one stroke and return the path.

    Raises:
        OSError: The folder is missing or cannot be written.
    """
    with draft(path) as new:
        new.write_bytes(content)
    return Path(path)


def add_digest(path: Path) -> None:
    """Append the digest of a file's content to it; ``check_digest`` looks at it."""
    digest = _sha256(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(f"\nsnu-plugin sha256 {digest}\n".encode())


def check_digest(path: Path) -> bool:
    """Return whether a file ends with a digest, which is then that of all that comes before.

    Raises:
        ValueError: If the digest is another; says what was expected and what was found.
    """
    size = path.stat().st_size - DIGEST_SIZE
    if size < 0:
        return False
    with path.open("rb") as file:
        file.seek(size)
        end = DIGEST.fullmatch(file.read())
    if end is None:
        return False
    expected, found = end[1].decode(), _sha256(path, size)
    if found != expected:
        raise ValueError(
            f"it was changed after it was written: its content should have the sha256 "
            f"{expected:.12}..., and has {found:.12}..."
        )
    return True


def _sha256(path: Path, size: int) -> str:
    """Return the sha256 of the first ``size`` bytes of a file, read a part at a time."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (part := file.read(min(size, 2**20))):
            sha.update(part)
            size -= len(part)
    return sha.hexdigest()
