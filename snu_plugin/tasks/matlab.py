"""Chorales out of a MATLAB file; also a program, so that a hostile file ends that alone.

``python matlab.py FILE BYTES`` writes the pieces as an ``.npz`` to its output, or one line to its
error output. It imports nothing of ours: torch would take longer to load than the file.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rolls = dict[str, list[NDArray[np.uint8]]]

KEYS = 88
SPLITS = ("train", "valid", "test")
LIMIT_S = 20
"""A file that takes longer is refused. The published one takes 0.05 s."""


def read(file: Path) -> Rolls:
    """Return the rolls of each split; in this process, for files that are known.

    Raises:
        ImportError: scipy is not installed.
        ValueError: The file is damaged or holds something else.
    """
    loadmat = _scipy(file)
    keys = {split: f"{split}data" for split in SPLITS}
    try:
        content = loadmat(file, variable_names=list(keys.values()))
    except MemoryError as error:
        raise ValueError(
            f"{file} takes more memory than it may; if that is right, set SNU_MOST_BYTES to as "
            "many bytes as it may take"
        ) from error
    except Exception as error:  # a damaged file raises nearly anything
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{file} cannot be read as a MATLAB file (version 4 to 7.2): {why}; "
            "it is damaged or something else, get JSB_Chorales.mat again"
        ) from error
    if missing := [key for key in keys.values() if key not in content]:
        raise ValueError(
            f"{file} lacks {', '.join(missing)}; expected traindata, validdata and testdata"
        )
    return {split: _rolls(content[key], f"{file}: {key}") for split, key in keys.items()}


def read_apart(file: Path, most_bytes: int) -> bytes:
    """Return the rolls as an ``.npz`` of arrays ``<split>/<number>``, from another process.

    What reads MATLAB files is C code that a hostile file can crash, or make take all memory.

    Args:
        file: The file.
        most_bytes: Memory that the process may take besides what scipy needs.

    Raises:
        ImportError: scipy is not installed.
        ValueError: As ``read``; or the file is too much for the process.
    """
    _scipy(file)
    command = [sys.executable, __file__, str(file), str(most_bytes)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{file} was read for {LIMIT_S} s without end; it is damaged or something else, get "
            "JSB_Chorales.mat again"
        ) from error
    if done.returncode == BROKEN:
        raise ValueError(done.stderr.decode(errors="replace").strip().splitlines()[-1])
    if done.returncode:
        raise ValueError(
            f"{file} ended the process that read it (status {done.returncode}); it is damaged or "
            "something else, get JSB_Chorales.mat again"
        )
    return done.stdout


def packed(rolls: Rolls) -> bytes:
    """Return rolls as the ``.npz`` that ``read_apart`` returns."""
    pieces = {f"{s}/{i}": roll for s, part in rolls.items() for i, roll in enumerate(part)}
    made = io.BytesIO()
    np.savez(made, **pieces)  # type: ignore[arg-type]  # its stub wants bools
    return made.getvalue()


BROKEN = 3
"""Exit status for a file that was refused."""


def _scipy(file: Path) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        from snu_plugin.origin import how_to_install

        raise ImportError(
            f"reading {file} needs scipy; install it with: {how_to_install('tasks')}"
        ) from error
    return loadmat


def _rolls(cells: NDArray[np.object_], where: str) -> list[NDArray[np.uint8]]:
    if cells.dtype != object or cells.size == 0:
        raise ValueError(
            f"{where} is {cells.dtype} of shape {cells.shape}; expected a cell array of "
            f"(T, {KEYS}) matrices"
        )
    return [_roll(np.asarray(cell), f"{where}, piece {i}") for i, cell in enumerate(cells.flat)]


def _roll(cell: NDArray[np.generic], where: str) -> NDArray[np.uint8]:
    if cell.ndim != 2 or cell.shape[1] != KEYS or len(cell) < 2:
        raise ValueError(f"{where} has shape {cell.shape}; expected (T, {KEYS}) with T >= 2")
    if cell.dtype.kind not in "buif" or not np.isin(cell, (0, 1)).all():
        raise ValueError(f"{where} holds something else than 0 and 1")
    return cell.astype(np.uint8)


def _limit_memory(more: int) -> None:
    """Allow this process ``more`` bytes beyond what it has by now, where that can be limited."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return  # not Linux: the time alone is limited
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(path: str, most_bytes: str) -> int:
    """Read one file, as the description of this one says."""
    file = Path(path)
    _scipy(file)
    _limit_memory(int(most_bytes))
    try:
        rolls = read(file)
    except ValueError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return BROKEN
    sys.stdout.buffer.write(packed(rolls))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
