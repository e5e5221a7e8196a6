"""Heaps of strings, looked at in the bytes of an HDF5 file.

HDF5 2.0 itself does not return, or asks for gigabytes, where the heap that holds such strings is
damaged (both found by fuzzing), so strings of variable length are found here.
Layout: HDF5 File Format Specification 3.0, sections III.E "Global Heap" and IV.B.2.d.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Callable

REFERENCE = struct.Struct("<IQI")
"""What a dataset holds for one string: its length, the address of its heap, its number there."""
OBJECT = struct.Struct("<HHIQ")
"""What precedes an object in a heap: its number, two fields not read here, its size."""


SIGNATURE = b"\x89HDF\r\n\x1a\n"
NAMES = re.compile(rb"HEAP\0{4}")
"""How a heap of names of a group begins."""
LAST = 1
"""Stands for "none" where the place of a free block is expected."""


def check_free_lists(data: mmap.mmap) -> None:
    """Refuse a file in which the free blocks of the heaps that hold names run in a circle.

    HDF5 itself follows such a list for ever and takes memory at every step. Layout: HDF5 File
    Format Specification 3.0, sections II and III.D "Local Heaps".

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


class Heaps:
    """The heaps of one open file, each searched through once."""

    def __init__(self, data: mmap.mmap, spend: Callable[[float], None]) -> None:
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
