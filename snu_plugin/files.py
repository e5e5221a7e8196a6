"""Files that appear whole or not at all, and that can tell whether they were changed since."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from snu_plugin.accepted import hint, path_of

if sys.platform != "win32":
    import fcntl

DIGEST = re.compile(rb"\nsnu-plugin sha256 ([0-9a-f]{64})\n")
"""What stands at the end of a file with a digest: the sha256 of all bytes before it. Readers of zip
archives, such as ``numpy.load``, pass over it."""
DIGEST_SIZE = 84
ENDINGS = (
    ".json", ".csv", ".txt", ".md", ".html", ".pdf", ".png", ".jpg", ".svg", ".nir", ".npz", ".npy",
    ".pt", ".pth", ".onnx", ".h5", ".hdf5", ".mat", ".xlsx", ".toml", ".zip",
)  # fmt: skip
"""Of names that nobody means for a folder."""
DRAFTS = ".new-"
"""What folders of drafts begin with."""


def cache_folder() -> Path:
    """Return ``snu-plugin`` in the user's cache folder (XDG base directories); it need not exist.

    Raises:
        OSError: The user has no home, and ``XDG_CACHE_HOME`` names no folder.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "snu-plugin"
    except RuntimeError as error:  # of pathlib
        raise FileNotFoundError(
            "there is no home to keep a cache in; set XDG_CACHE_HOME to a folder"
        ) from error


@contextmanager
def draft(path: str | PathLike[str]) -> Iterator[Path]:
    """Give the path of a file to write, which takes the place of ``path`` in one stroke at the end.

    Where the writing fails, ``path`` stays as it was and nothing is left behind.

    Raises:
        OSError: The folder is missing or cannot be written.
        TypeError: ``path`` is no path.
    """
    file = path_of(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is not a folder; create it first")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; give the name of a file")
    with _drafts(file.parent) as folder:
        new = folder / file.name
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


@contextmanager
def claim(path: str | PathLike[str]) -> Iterator[None]:
    """Hold the name ``path``, under which something is going to be written, for this process.

    Whoever claims it meanwhile is refused; a process that dies lets go. Whether the folder can be
    written is found out here, before the work, and what killed processes left in it goes: drafts
    that nobody holds. Where the system has no such locks, as on Windows, nobody is refused.

    Raises:
        OSError: The folder cannot be made or written, or another process holds the name.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f".{file.name}.lock")
    with lock.open("ab", buffering=0) as held:
        if not _locked(held.fileno(), lock):
            raise BlockingIOError(
                f"another process is writing {file}; wait for it, or give another --out"
            )
        try:
            held.write(b"held while its process lives\n")  # fails on a full disk
            tidy(file.parent)
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(opened: int, path: Path, *, wait: bool = False) -> bool:
    """Lock an open file or folder, if nobody holds it and it still is what lies at ``path``."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return path.stat().st_ino == os.fstat(opened).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def _drafts(parent: Path) -> Iterator[Path]:
    """Make a folder for drafts and hold it, so that nobody takes it for one that was left."""
    if sys.platform == "win32":
        with tempfile.TemporaryDirectory(dir=parent, prefix=DRAFTS) as name:
            yield Path(name)
        return
    held = None
    while held is None:  # again where somebody removed it before it was held
        try:
            folder = Path(tempfile.mkdtemp(dir=parent, prefix=DRAFTS))
        except OSError as error:
            error.filename = str(parent)  # the folder, not a name that nobody gave
            raise
        held = _hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(held)


def _hold(folder: Path, *, wait: bool = True) -> int | None:
    """Open and lock a folder; ``None`` if it is gone, or another process holds it."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if _locked(opened, folder, wait=wait):
        return opened
    os.close(opened)
    return None


def tidy(parent: Path) -> None:
    """Remove drafts that processes which were killed left in a folder: nobody holds them."""
    if sys.platform == "win32":
        return
    for folder in parent.glob(f"{DRAFTS}*"):
        if (held := _hold(folder, wait=False)) is not None:
            shutil.rmtree(folder, ignore_errors=True)  # it may not be ours to remove
            os.close(held)


def add_digest(path: Path) -> None:
    """Append the digest of a file's content to it; ``check_digest`` looks at it."""
    digest = sha256(path)
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
    expected, found = end[1].decode(), sha256(path, size)
    if found != expected:
        raise ValueError(
            f"it was changed after it was written: its content should have the sha256 "
            f"{expected:.12}..., and has {found:.12}..."
        )
    return True


def sha256(path: Path, size: int | None = None) -> str:
    """Return the sha256 of the first ``size`` bytes of a file, of all, read a part at a time."""
    sha, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 2**20))):
            sha.update(part)
            left -= len(part)
    return sha.hexdigest()


def near_file(path: Path, *suffixes: str) -> str:
    """Return the end of an error on a file that is not there: the nearest name beside it.

    Only neighbours that end in one of ``suffixes`` are looked at.
    """
    try:
        neighbours = [one for one in path.parent.iterdir() if one.suffix in suffixes]
    except OSError:
        return ""  # no folder, or one that may not be read: what is wrong is told already
    return hint(path.name, sorted(one.name for one in neighbours))


def check_file(option: str, path: Path) -> None:
    """Raise an ``OSError`` unless a file could be left at a path."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} is {path}; its folder does not exist, make it first")
    if path.is_dir():
        raise IsADirectoryError(f"{option} is {path}, a folder; give a file")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"{option} is {path}, and nothing can be written there ({error.strerror}); give a "
            "file in another folder"
        ) from error


def check_folder(option: str, path: Path, otherwise: str = "") -> None:
    """Raise an ``OSError`` unless a path is a folder, or has a name as one that can be made."""
    also = f", {otherwise}" if otherwise else ""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{option} is {path}; give a folder{also}")
    if not path.exists() and path.suffix in ENDINGS:
        raise NotADirectoryError(f"{option} is {path}, the name of a file; give a folder{also}")
