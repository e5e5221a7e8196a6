"""Write a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from os import PathLike
from pathlib import Path


def write(path: str | PathLike[str], content: bytes) -> Path:
    """Write ``content`` to ``path`` in one stroke and return the path.

    Raises:
        OSError: The folder is missing or cannot be written.
    """
    file = Path(path)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".new-") as folder:
        new = Path(folder) / file.name
        new.write_bytes(content)
        os.replace(new, file)
    return file
