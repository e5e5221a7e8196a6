"""Checkpoints of a run in a folder of their own: emptied, taken up, removed when all is done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from snu_plugin import files

EVERY_S = 5.0
"""Seconds from one checkpoint to the next, at least; the last one is always written."""


def check_resumable(folder: Path, resume: bool) -> None:
    """Raise a ``ValueError`` if a run is to be taken up and ``folder`` holds no checkpoint."""
    if resume and not holds(folder):
        raise ValueError(f"{folder} holds no checkpoint; leave out --resume to start anew")


def check_checkpoint(file: Path, resume: bool) -> None:
    """Raise a ``ValueError`` if a run is to be taken up and its only checkpoint is not there."""
    if resume and not file.is_file():
        raise ValueError(f"{file} does not exist; leave out --resume to start anew")


def contents(inputs: Mapping[str, Path] | None) -> dict[str, str]:
    """Return what tells the content of the files that a run is taken up with, by name."""
    return {name: files.sha256(file) for name, file in (inputs or {}).items()}


def holds(folder: Path) -> bool:
    """Return whether there is a checkpoint to take up."""
    return any(folder.glob("*.checkpoint"))


def left_in(folder: Path | None) -> str:
    """Say what an interrupted run left; ``None``: it was given no place to keep anything."""
    if folder is None:
        return "nothing was kept, as there is no --out to keep it beside"
    return "--resume goes on where the checkpoints stand" if holds(folder) else "nothing was kept"


@contextmanager
def checkpoints(folder: Path, resume: bool) -> Iterator[None]:
    """Hold the checkpoints of a run: those of another go first, and all of them at its end.

    An error or a signal leaves them. Whoever calls has claimed what the run writes.
    """
    if not resume:
        _remove(folder)
    yield
    _remove(folder)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)  # with what a killed process began to write there
