"""Strings of variable length, read from the bytes of an HDF5 file.

HDF5 2.0 itself does not return, or asks for gigabytes, where the heap that holds such strings is
damaged (both found by fuzzing), so strings are found here.
Layout: HDF5 File Format Specification 3.0, sections III.E "Global Heap" and IV.B.2.d.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable

REFERENCE = struct.Struct("<IQI")
"""What a dataset holds for one string: its length, the address of its heap, its number there."""
OBJECT = struct.Struct("<HHIQ")
"""What precedes an object in a heap: its number, two fields not read here, its size."""


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
