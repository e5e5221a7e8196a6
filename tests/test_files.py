"""Files appear whole or not at all, and tell whether they were changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snu_plugin import files
from snu_plugin.experiments import pictures


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


HOLDER = """
import sys, time
from snu_plugin import files
with files.claim(sys.argv[1]):
    with files.draft(sys.argv[1]) as new:
        new.write_bytes(b"half")
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that claims ``out/a`` and is in the midst of writing it."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out" / "a")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_two_processes_exclude_each_other_under_one_name_and_a_dead_one_lets_go(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    held = r"another process is writing .*a; wait for it, or give"
    with pytest.raises(OSError, match=held), files.claim(out / "a"):
        pytest.fail("two write at once")
    with files.claim(out / "b"):
        pass
    holder.kill()
    holder.wait()
    with files.claim(out / "a"):
        files.write(out / "a", b"whole")
    assert (out / "a").read_bytes() == b"whole"


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    (draft,) = out.glob(".new-*")
    os.utime(draft, (0, 0))
    with files.claim(out / "b"):
        assert draft.is_dir()
    holder.kill()
    holder.wait()
    with files.claim(out / "a"):
        assert not draft.exists()
    assert list(out.iterdir()) == []


def test_a_claim_ends_with_an_error_too(tmp_path: Path) -> None:
    for _ in range(2):
        with contextlib.suppress(ZeroDivisionError), files.claim(tmp_path / "a"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_found_out_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"), files.claim(tmp_path / "file" / "a"):
        pytest.fail("the work began")


def test_what_a_killed_process_left_in_a_folder_of_pictures_goes(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    holder.kill()
    holder.wait()
    assert list(out.glob(".new-*"))
    pictures.folder(out)
    assert not list(out.glob(".new-*"))


def test_a_draft_whose_folder_was_taken_for_one_that_was_left_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def taken_away(**more: str) -> str:
        made.append(make(**more))
        if len(made) == 1:
            files.tidy(tmp_path)  # of another process, before this one holds what it made
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken_away)
    files.write(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert len(made) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
