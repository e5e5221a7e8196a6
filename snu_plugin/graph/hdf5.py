"""An HDF5 file read as nested dicts, at a cost bounded by the size of the file."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from snu_plugin.accepted import shown

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
OTHER_KINDS = {
    b"\x1f\x8b": "packed by gzip: unpack it first",
    b"PK": "a zip archive, such as an .npz of data or what torch.save leaves",
    b"\x93NUMPY": "an array of numpy",
    b"<": "a web page or XML: a download that went wrong",
    b"{": "JSON",
    b"\x80": "a pickle",
}
"""What files of other kinds begin with."""
TEXT = 2**20
"""Longest string, in bytes."""


def load(source: str | os.PathLike[str] | bytes, group: str, numbers: tuple[str, ...] = ()) -> Tree:
    """Return the contents of one group of an HDF5 file, given by its path or as its bytes.

    External and soft links, external storage, virtual datasets, groups that contain themselves and
    declared sizes out of proportion to the file are refused before anything is allocated.
    Attributes of groups that are called one of ``numbers`` are taken as entries, if they are
    single numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not HDF5, is damaged, or is refused; names the place.
    """
    import h5py

    place = place_of(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise FileNotFoundError(f"{place} is not a file; give the path of a .nir file")
    with ExitStack() as open_files:
        with _damage(place, "is not an HDF5 file, or is truncated, its writing broken off"):
            data: mmap.mmap | bytes
            if isinstance(source, bytes):
                data = source
            else:
                raw = open_files.enter_context(Path(source).open("rb"))
                data = open_files.enter_context(mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ))
            kinds = (kind for start, kind in OTHER_KINDS.items() if data[:8].startswith(start))
            if kind := next(kinds, None):
                raise ValueError(f"{place}: is not an HDF5 file, but {kind}; give a .nir file")
            check_free_lists(data)  # before HDF5, which would follow them for ever
            opened = io.BytesIO(source) if isinstance(source, bytes) else source
            file = open_files.enter_context(h5py.File(opened, "r"))
            laid_out = file.id.get_create_plist()
            plain = laid_out.get_sizes() == (8, 8) and laid_out.get_userblock() == 0
        tree = _Loader(place, data, plain, numbers).enter(file, group, "", 0)
    if not isinstance(tree, dict):
        raise ValueError(f"{place}: /{group} is no group; give a file written by nir.write")
    return tree


def place_of(source: str | os.PathLike[str] | bytes) -> str:
    """Return how messages call a file; raises ``TypeError`` for what is none."""
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise TypeError(f"path is {shown(source)}; give the path of a .nir file")
    return "the NIR file" if isinstance(source, bytes) else os.fspath(source)


class _Loader:
    """Counts what one file has cost so far; refuses it where that goes too far."""

    def __init__(
        self, place: str, data: mmap.mmap | bytes, plain: bool, numbers: tuple[str, ...]
    ) -> None:
        self.place = place
        self.numbers = numbers
        self.plain = plain
        """Whether addresses in the file have 8 bytes and count from its first byte."""
        self.size = len(data)
        self.budget = max(LEAST_BYTES, COMPRESSION * self.size)
        self.strings = VlenStrings(data, lambda cost: self.spend("a heap of strings", cost))
        self.objects = 0
        self.seen: set[Any] = set()

    def enter(self, parent: h5py.Group, name: str | bytes, where: str, depth: int) -> Any:
        """Return what ``parent`` holds under ``name``, checking the link before following it.

        Names that are no UTF-8 come as bytes.
        """
        import h5py

        where += f"/{name if isinstance(name, str) and name.isprintable() else ascii(name)}"
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            self.refuse(where, f"is one of more than {MOST_OBJECTS} objects; give a smaller file")
        with _damage(self.place, f"{where} cannot be read; the file is damaged"):
            key = name.encode() if isinstance(name, str) else name
            if not parent.id.links.exists(key):
                self.refuse(
                    where,
                    "is missing: another kind of file, or its writing broke off; write it again",
                )
            if parent.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                self.refuse(where, "is a link to another place; give a file without such links")
            if isinstance(name, bytes):
                self.refuse(where, "has a name that is no UTF-8: it is damaged; write it again")
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
        with _damage(self.place, f"{where} cannot be read; the file is damaged"):
            address = h5py.h5o.get_info(group.id).addr
            count = len(group)
        if address in self.seen:
            self.refuse(where, "is reached twice; give a file whose groups form a tree")
        self.seen.add(address)
        if count > MOST_OBJECTS - self.objects:
            self.refuse(
                where, f"holds {count} of more than {MOST_OBJECTS} objects; give a smaller file"
            )
        with _damage(self.place, f"{where} cannot be read; the file is damaged"):
            names = list(group)
            found = self.attributes(group)
        return found | {name: self.enter(group, name, where, depth) for name in names}

    def attributes(self, group: h5py.Group) -> Tree:
        """Return the attributes of a group that are single numbers and asked for."""
        import h5py

        found = {}
        for name in self.numbers:
            if h5py.h5a.exists(group.id, name.encode()):
                kind = group.attrs.get_id(name)
                if kind.shape == () and kind.dtype.kind in "fiu":
                    found[name] = group.attrs[name]
        return found

    def dataset(self, data: h5py.Dataset, where: str) -> Any:
        import h5py

        with _damage(self.place, f"{where} cannot be read; the file is damaged"):
            shape, dtype = data.shape, data.dtype
            text = h5py.check_string_dtype(dtype)
            outside = bool(data.external) or data.is_virtual
            chunk = math.prod(data.chunks) if data.chunks else 0
        if shape is None:
            self.refuse(where, "is empty; give a file written by nir.write")
        if outside:
            self.refuse(where, "keeps its values in another file; give a self-contained file")
        if text is None and dtype.kind not in "fiub":
            self.refuse(where, f"has type {dtype}; it must be numbers or text")
        if dtype.itemsize > TEXT:
            self.refuse(where, f"declares strings of {dtype.itemsize} bytes; at most {TEXT} can be")
        cost = max(math.prod(shape), chunk) * dtype.itemsize
        self.spend(where, cost)
        with _damage(self.place, f"{where} cannot be read; the file is damaged"):
            return self.text(data) if text else data[()]

    def text(self, data: h5py.Dataset) -> Any:
        """Return a string, or an array of strings."""
        offset = data.id.get_offset()
        if data.dtype.kind == "S":
            values = [value.decode("utf8") for value in np.ravel(data[()])]
        elif offset is None or not self.plain:
            raise ValueError("its text is stored in an unusual way; write it with nir.write")
        else:
            values = self.strings.strings(offset, int(np.prod(data.shape, dtype=int)))
        if any(len(value) > TEXT for value in values):
            raise ValueError(f"a text is longer than {TEXT} characters")
        return np.array(values, dtype=object).reshape(data.shape) if data.shape else values[0]

    def spend(self, where: str, cost: float) -> None:
        self.budget -= int(min(cost, 10**18))
        if self.budget < 0:
            self.refuse(
                where, f"declares far more values than a file of {self.size} bytes can hold"
            )

    def refuse(self, where: str, why: str) -> NoReturn:
        raise ValueError(f"{self.place}: {where} {why}")


@contextmanager
def _damage(place: str, what: str) -> Iterator[None]:
    """Turn what h5py and HDF5 raise on a damaged file into one line."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(f"{place}: "):
            raise
        raise ValueError(f"{place}: {what} ({_line(error)})") from error
    except (OSError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{place}: {what} ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


REFERENCE = struct.Struct("<IQI")
"""What a dataset holds for one string: its length, the address of its heap, its number there."""
OBJECT = struct.Struct("<HHIQ")
"""What precedes an object in a heap: its number, two fields not read here, its size."""


SIGNATURE = b"\x89HDF\r\n\x1a\n"
NAMES = re.compile(rb"HEAP\0{4}")
"""How a heap of names of a group begins."""
LAST = 1
"""Stands for "none" where the place of a free block is expected."""


def check_free_lists(data: mmap.mmap | bytes) -> None:
    """Refuse a file in which the free blocks of the heaps that hold names run in a circle.

    HDF5 itself follows such a list for ever and takes memory at every step. Layout: HDF5 File
    Format Specification 3.0, sections II and III.D "Local VlenStrings".

    Raises:
        ValueError: If there are more free blocks than fit into the file.
    """
    starts = (0, *(2**n for n in range(9, len(data).bit_length())))
    base = next((s for s in starts if data[s : s + 8] == SIGNATURE), None)
    if base is None:
        return
    place = base + (13 if data[base + 8] < 2 else 9)
    address_size, length_size = data[place : place + 2]
    if length_size < 2:  # HDF5 says what is wrong
        return

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    room = len(data) // (2 * length_size)
    for heap in NAMES.finditer(data):
        size = number(heap.end(), length_size)
        free = number(heap.end() + length_size, length_size)
        begin = base + number(heap.end() + 2 * length_size, address_size)
        end = min(begin + size, len(data))
        while free != LAST and begin + free + 2 * length_size <= end:
            room -= 1
            if room < 0:
                raise ValueError("the free blocks of a heap of names run in a circle")
            free = number(begin + free, length_size)


class VlenStrings:
    """The heaps of one open file, each searched through once."""

    def __init__(self, data: mmap.mmap | bytes, spend: Callable[[float], None]) -> None:
        self.data = data
        self.spend = spend
        """Called with the bytes that every step costs; raises where that is too much."""
        self.found: dict[int, dict[int, tuple[int, int]]] = {}

    def strings(self, offset: int, count: int) -> list[str]:
        """Return ``count`` strings whose references lie at byte ``offset``.

        Raises:
            ValueError: If a reference or a heap is damaged, or a string is not UTF-8.
        """
        end = offset + count * REFERENCE.size
        if offset < 0 or end > len(self.data):
            raise ValueError("its references lie outside the file")
        return [
            self.string(length, address, number)
            for length, address, number in REFERENCE.iter_unpack(self.data[offset:end])
        ]

    def string(self, length: int, address: int, number: int) -> str:
        if length == 0:
            return ""
        if address not in self.found:
            self.found[address] = self.objects(address)
        start, size = self.found[address].get(number, (0, 0))
        if length > size:
            raise ValueError("a string is not in its heap")
        self.spend(length)
        return self.data[start : start + length].decode("utf8")

    def objects(self, address: int) -> dict[int, tuple[int, int]]:
        """Return place and size of every object of the heap at ``address``, by number."""
        head = self.data[address : address + 16]
        if address + 16 > len(self.data) or head[:5] != b"GCOL\1":
            raise ValueError("its heap of strings is damaged")
        end = min(address + int.from_bytes(head[8:], "little"), len(self.data))
        self.spend(end - address)
        objects: dict[int, tuple[int, int]] = {}
        place = address + 16
        while place + OBJECT.size <= end:
            number, _, _, size = OBJECT.unpack_from(self.data, place)
            place += OBJECT.size
            if number == 0:
                break
            if place + size > end:
                raise ValueError("its heap of strings is damaged")
            objects[number] = (place, size)
            place += (size + 7) // 8 * 8
        return objects
