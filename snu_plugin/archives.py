"""Packed files of whatever origin: read whole, within a bound of memory, or refused in one line."""

from __future__ import annotations

import gzip
import io
import math
import os
import zipfile
from collections.abc import Collection
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST, RATIO, MOST = 2**28, 200, 2**33
"""Bytes that any file may unpack to, how many for each of its own beyond that, and how many at
most. Spike trains of 1 % as float32 pack about 150 to 1."""
BOUND = "SNU_MOST_BYTES"
"""Environment variable that takes the place of all three. Files that are not packed are bounded by
their own size."""
PLAIN = "biufcSU"
"""Kinds of values that need no pickle."""


def most_bytes(packed: int) -> int:
    """Return how many bytes a file of ``packed`` bytes may unpack to.

    Raises:
        ValueError: ``SNU_MOST_BYTES`` is no whole number.
    """
    given = os.environ.get(BOUND)
    if given is None:
        return max(LEAST, packed, min(RATIO * packed, MOST))
    if not given.isdecimal():
        raise ValueError(f"{BOUND} is {given!r}; give a whole number of bytes")
    return int(given)


def read_arrays(
    path: str | PathLike[str], names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` by name: plain values, never a pickle.

    Sizes are compared with each other and with ``most_bytes`` before memory is taken.

    Args:
        path: The file.
        names: The arrays that are needed; ``None``: all.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no such file, is damaged, lacks an array or unpacks to too much; in one
            line that names it.
    """
    with Path(path).open("rb") as file:
        return arrays_in(file, f"{path}", names)


def arrays_in(
    file: IO[bytes], where: str, names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an open ``.npz``; see ``read_arrays``. Errors call it ``where``."""
    try:
        with zipfile.ZipFile(file) as archive:
            parts = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [name for name in names or () if name not in parts]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            chosen = {name: parts[name] for name in (parts if names is None else names)}
            _check_total(archive, chosen.values())
            return {name: _member(archive, info) for name, info in chosen.items()}
    except Exception as error:  # a damaged archive raises nearly anything
        raise ValueError(
            f"{where}: not an .npz of plain arrays, or damaged ({_why(error)}); write it with "
            "numpy.savez"
        ) from error


def read_array(path: str | PathLike[str]) -> NDArray[Any]:
    """Return the array of an ``.npy``; errors as of ``read_arrays``."""
    import numpy as np

    with Path(path).open("rb") as file:
        try:
            _check_array(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # a damaged file raises nearly anything
            raise ValueError(
                f"{path}: not an .npy of plain values, or damaged ({_why(error)}); write it with "
                "numpy.save"
            ) from error
    return found


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return one file of an open zip archive.

    Raises:
        KeyError: There is none of that name.
        ValueError: It unpacks to too much.
        Exception: The archive is damaged; nearly any kind.
    """
    info = archive.getinfo(name)
    _check_total(archive, [info])
    with archive.open(info) as file:
        return file.read()


def read_bytes(path: str | PathLike[str]) -> bytes:
    """Return the bytes of a file, unpacked if it is gzip.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is damaged or unpacks to too much; in one line that names it.
    """
    data = Path(path).read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    most = most_bytes(len(data))
    try:
        with closing(gzip.GzipFile(fileobj=io.BytesIO(data))) as file:
            unpacked = file.read(most + 1)
    except Exception as error:  # OSError, EOFError, zlib.error, and whatever else it meets
        raise ValueError(f"{path} cannot be unpacked: {_why(error)}; get it again") from error
    if len(unpacked) > most:
        raise ValueError(f"{path} cannot be unpacked: {_too_much(most)}")
    return unpacked


def _check_total(archive: zipfile.ZipFile, parts: Collection[zipfile.ZipInfo]) -> None:
    """Refuse members that numpy would not write, or that are too large together."""
    if odd := [info for info in parts if info.compress_type not in _METHODS or info.flag_bits & 1]:
        raise ValueError(f"{odd[0].filename!r:.60} is encrypted or packed in an unusual way")
    assert archive.fp is not None
    most = most_bytes(archive.fp.seek(0, io.SEEK_END))
    # More than is declared is never unpacked: zipfile stops there.
    if sum(info.file_size for info in parts) > most:
        raise ValueError(_too_much(most))


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def _too_much(most: int) -> str:
    return (
        f"it unpacks to more than {most:,} bytes; if that is right, set {BOUND} to as many as it "
        "may take"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    import numpy as np

    with archive.open(info) as file:
        _check_array(file, info.file_size)
    with archive.open(info) as file:
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _check_array(file: IO[bytes], size: int) -> None:
    """Refuse an array whose header does not describe the ``size`` bytes of its file."""
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array is of version {version}; plain ones have 1.0 or 2.0")
    shape, _, dtype = getattr(npy, _HEADERS[version])(file)
    if dtype.kind not in PLAIN or min(shape, default=0) < 0:
        raise ValueError(f"an array is {dtype} of shape {shape}; it must be plain values")
    declared, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if declared != found:
        raise ValueError(f"an array holds {found} bytes, its header says {declared}")


_HEADERS = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}


def _why(error: Exception) -> str:
    """Return what went wrong, in one line of some length."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return " ".join(str(error).split())[:300] or type(error).__name__
