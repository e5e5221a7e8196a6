"""What this package keeps on disk without being asked: ``snu info`` lists it and clears it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import snu_plugin
from snu_plugin.files import cache_folder

NAMES = ("chorales", "simulators", "loops")
"""Rolls of music21's chorales; environments of other simulators; loops that Numba compiled."""


class Kept(NamedTuple):
    """One kind of what is kept."""

    places: list[Path]
    """Its files and folders."""
    files: int
    megabytes: float

    def __str__(self) -> str:
        if not self.places:
            return "nothing"
        folders = sorted({str(place.parent) for place in self.places})
        count = "1 file" if self.files == 1 else f"{self.files} files"
        return f"{count}, {self.megabytes:.1f} MB in {', '.join(folders)}"


def kept(name: str) -> Kept:
    """Return what is kept of one of ``NAMES``; where there is no home or no Numba, nothing."""
    places = _places(name)
    files = [f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    return Kept(places, len(files), sum(f.lstat().st_size for f in files) / 1e6)


def clear(name: str) -> Kept:
    """Remove what is kept of one of ``NAMES`` and return what that was.

    It is made again when it is needed next; environments are not, see ``snu simulators install``.

    Raises:
        OSError: It cannot be removed.
    """
    found = kept(name)
    for place in found.places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)  # another process may have cleared it, too
    return found


def _places(name: str) -> list[Path]:
    if name == "loops":
        try:
            from snu_plugin.neuron.numba_scan import kept_loops
        except ImportError:
            return []
        return kept_loops(Path(snu_plugin.__file__).parent)
    try:
        own = cache_folder()
    except OSError:
        return []
    return sorted(own.glob("chorales-*.npz" if name == "chorales" else "simulators/*"))
