"""Files appear whole or not at all, and tell whether they were changed."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import pytest

from snu_plugin import files


def test_a_file_is_replaced_in_one_stroke_and_a_failure_leaves_it_alone(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a.txt", b"old")
    with contextlib.suppress(KeyboardInterrupt), files.draft(path) as new:
        new.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; create it first"):
        files.write(tmp_path / "nowhere" / "a.txt", b"")


@pytest.mark.parametrize("content", [b"", b"content", bytes(3 * 2**20)])
def test_a_digest_is_that_of_everything_before_it(tmp_path: Path, content: bytes) -> None:
    path = files.write(tmp_path / "a", content)
    assert not files.check_digest(path)
    files.add_digest(path)
    assert files.check_digest(path)
    whole = path.read_bytes()
    assert whole[: -files.DIGEST_SIZE] == content
    assert hashlib.sha256(content).hexdigest().encode() in whole[-files.DIGEST_SIZE :]


def unchanged(path: Path) -> bool:
    try:
        return files.check_digest(path)
    except ValueError:
        return False


def test_no_flipped_bit_passes_as_unchanged(tmp_path: Path) -> None:
    path = files.write(tmp_path / "a", b"some content")
    files.add_digest(path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert not unchanged(path)


def test_an_archive_with_a_digest_is_read_by_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(5))
    files.add_digest(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["x"].tolist() == [0, 1, 2, 3, 4]
