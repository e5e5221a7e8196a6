"""An HDF5 file read as nested dicts, at a cost bounded by the size of the file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from snu_plugin.graph.heap import Heaps, check_free_lists

if TYPE_CHECKING:
    import h5py

Tree = dict[str, Any]
"""Groups are dicts, strings are ``str``, everything else is a numpy array or scalar."""

MOST_OBJECTS = 100_000
"""Groups and datasets that one file may hold; the largest public NIR file has under 100."""
DEEPEST = 64
"""Levels of groups inside groups."""
LEAST_BYTES = 2**27
"""Values, in bytes, that any file may declare."""
COMPRESSION = 8
"""Beyond that: values in bytes that a file may declare, per byte of the file. Trained weights
compress by less than 2, pruned ones by less than 8."""
TEXT = 2**20
"""Longest string, in bytes."""


def load(path: str | os.PathLike[str], group: str) -> Tree:
    """Return the contents of one group of an HDF5 file.

    External and soft links, external storage, virtual datasets, groups that contain themselves and
    declared sizes out of proportion to the file are refused before anything is allocated.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not HDF5, is damaged, or is refused; names the place.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give the path of a .nir file")
    with ExitStack() as open_files:
        with _damage(path, "is not an HDF5 file, or is truncated"):
            raw = open_files.enter_context(path.open("rb"))
            data = open_files.enter_context(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ))
            check_free_lists(data)  # before HDF5, which would follow them for ever
            file = open_files.enter_context(h5py.File(path, "r"))
        tree = _Loader(path, data).enter(file, group, "", 0)
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: /{group} is no group; give a file written by nir.write")
    return tree


class _Loader:
    """Counts what one file has cost so far; refuses it where that goes too far."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.size = len(data)
        self.budget = max(LEAST_BYTES, COMPRESSION * self.size)
        self.heaps = Heaps(data, lambda cost: self.spend("a heap of strings", cost))
        self.objects = 0
        self.seen: set[Any] = set()

    def enter(self, parent: h5py.Group, name: str, where: str, depth: int) -> Any:
        """Return what ``parent`` holds under ``name``, checking the link before following it."""
        import h5py

        plain = isinstance(name, str) and name.isprintable()  # names that are no UTF-8 are bytes
        where = f"{where}/{name if plain else ascii(name)}"
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            self.refuse(where, f"is one of more than {MOST_OBJECTS} objects; give a smaller file")
        with _damage(self.path, f"{where} cannot be read; the file is damaged"):
            link = parent.get(name, getlink=True)
            if link is None:
                self.refuse(
                    where, "is missing: no graph, or one whose writing broke off; write it again"
                )
            if not isinstance(link, h5py.HardLink):
                self.refuse(where, "is a link to another place; give a file without such links")
            item = parent[name]
        if isinstance(item, h5py.Group):
            return self.group(item, where, depth + 1)
        if not isinstance(item, h5py.Dataset):
            self.refuse(where, "is neither a group nor a dataset; give a file written by nir.write")
        return self.dataset(item, where)

    def group(self, group: h5py.Group, where: str, depth: int) -> Tree:
        import h5py

        if depth > DEEPEST:
            self.refuse(where, f"lies more than {DEEPEST} groups deep; flatten the graph first")
        with _damage(self.path, f"{where} cannot be read; the file is damaged"):
            address = h5py.h5o.get_info(group.id).addr
            count = len(group)
        if address in self.seen:
            self.refuse(where, "is reached twice; give a file whose groups form a tree")
        self.seen.add(address)
        if count > MOST_OBJECTS - self.objects:
            self.refuse(
                where, f"holds {count} of more than {MOST_OBJECTS} objects; give a smaller file"
            )
        with _damage(self.path, f"{where} cannot be read; the file is damaged"):
            names = list(group)
        return {name: self.enter(group, name, where, depth) for name in names}

    def dataset(self, data: h5py.Dataset, where: str) -> Any:
        import h5py

        with _damage(self.path, f"{where} cannot be read; the file is damaged"):
            shape, dtype = data.shape, data.dtype
            text = h5py.check_string_dtype(dtype)
            outside = bool(data.external) or data.is_virtual
            chunk = int(np.prod(data.chunks, dtype=float)) if data.chunks else 0
        if shape is None:
            self.refuse(where, "is empty; give a file written by nir.write")
        if outside:
            self.refuse(where, "keeps its values in another file; give a self-contained file")
        if text is None and dtype.kind not in "fiub":
            self.refuse(where, f"has type {dtype}; it must be numbers or text")
        if dtype.itemsize > TEXT:
            self.refuse(where, f"declares strings of {dtype.itemsize} bytes; at most {TEXT} can be")
        cost = max(float(np.prod(shape, dtype=float)), chunk) * dtype.itemsize
        self.spend(where, cost)
        with _damage(self.path, f"{where} cannot be read; the file is damaged"):
            return self.text(data) if text else data[()]

    def text(self, data: h5py.Dataset) -> Any:
        """Return a string, or an array of strings."""
        offset = data.id.get_offset()
        if data.dtype.kind == "S":
            values = [value.decode("utf8") for value in np.ravel(data[()])]
        elif offset is None or not _is_plain(data.file):
            raise ValueError("its text is stored in an unusual way; write it with nir.write")
        else:
            values = self.heaps.strings(offset, int(np.prod(data.shape, dtype=int)))
        if any(len(value) > TEXT for value in values):
            raise ValueError(f"a text is longer than {TEXT} characters")
        return np.array(values, dtype=object).reshape(data.shape) if data.shape else values[0]

    def spend(self, where: str, cost: float) -> None:
        self.budget -= int(min(cost, 1e18))
        if self.budget < 0:
            self.refuse(
                where, f"declares far more values than a file of {self.size} bytes can hold"
            )

    def refuse(self, where: str, why: str) -> NoReturn:
        raise ValueError(f"{self.path}: {where} {why}")


def _is_plain(file: h5py.File) -> bool:
    """Whether addresses in the file have 8 bytes and count from its first byte."""
    settings = file.id.get_create_plist()
    return bool(settings.get_sizes() == (8, 8) and settings.get_userblock() == 0)


@contextmanager
def _damage(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py and HDF5 raise on a damaged file into one line."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: {what} ({_line(error)})") from error
    except (OSError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: {what} ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
