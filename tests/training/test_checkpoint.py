"""A checkpoint is read as it was written, or refused in one line."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from snu_plugin import files
from snu_plugin.training import checkpoint as checkpoint

CONTENT = {"x": torch.arange(7.0), "n": 3}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.checkpoint"
    checkpoint.save_checkpoint(path, CONTENT, {})
    return path


def refused(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole checkpoint; delete it") as caught:
        checkpoint.load_checkpoint(file, {})
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_saved_is_loaded(file: Path) -> None:
    found = checkpoint.load_checkpoint(file, {})
    assert found.keys() == CONTENT.keys() | {"settings", "version"}
    assert torch.equal(found["x"], torch.arange(7.0))


def test_a_flipped_bit_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 97):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        refused(file, bytes(changed))


def test_what_is_cut_or_spliced_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    checkpoint.save_checkpoint(tmp_path / "other.checkpoint", CONTENT | {"n": 4}, {})
    other = (tmp_path / "other.checkpoint").read_bytes()
    for size in range(0, len(whole), 53):
        refused(file, whole[:size])
    for middle in (
        len(whole) // 3,
        len(whole) // 2,
        len(whole) - files.DIGEST_SIZE,
        len(whole) - 10,
    ):
        refused(file, whole[:middle] + other[middle:])
    refused(file, whole + other)
    refused(file, whole + b"\0")


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save_checkpoint(file, CONTENT | {"n": 4}, {})
    assert checkpoint.load_checkpoint(file, {})["n"] == 3
    assert list(file.parent.iterdir()) == [file]


def test_one_without_a_digest_is_refused_with_what_to_do(file: Path) -> None:
    why = refused(file, file.read_bytes()[: -files.DIGEST_SIZE])
    assert "an older version of snu-plugin wrote it, which can still take it up" in why


def test_one_of_another_version_is_refused_by_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", 3)
    with pytest.raises(ValueError, match="is a checkpoint of version 2, this release reads 3"):
        checkpoint.load_checkpoint(file, {})


def test_nothing_but_tensors_and_values_is_read(tmp_path: Path) -> None:
    torch.save({"version": checkpoint.VERSION, "model": nn.Linear(1, 1)}, tmp_path / "run")
    files.add_digest(tmp_path / "run")
    assert "Weights only" in refused(tmp_path / "run", (tmp_path / "run").read_bytes())


def test_of_many_settings_that_differ_some_are_named_and_all_counted(file: Path) -> None:
    checkpoint.save_checkpoint(file, CONTENT, {f"old{n}": n for n in range(50)})
    with pytest.raises(ValueError, match=r"old0 was 0, is None, .* and 42 more; repeat") as caught:
        checkpoint.load_checkpoint(file, {})
    assert len(str(caught.value)) < 1000
