"""Packed files: read whole, within a bound of memory, or refused in one line with their name."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snu_plugin import archives


def npy(array: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=True)
    return packed.getvalue()


def npz(file: Path, method: int = zipfile.ZIP_DEFLATED, /, **parts: bytes) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(f"{name}.npy", content)
    return file


def refused(file: Path) -> str:
    with pytest.raises(ValueError, match=f"{file.name}: not an .np[yz]") as caught:
        archives.read_array(file) if file.suffix == ".npy" else archives.read_arrays(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_arrays_come_back_as_numpy_wrote_them(tmp_path: Path, method: int) -> None:
    kept: dict[str, Any] = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "one": np.array(2.5),
        "none": np.zeros((0, 3), np.uint8),
        "text": np.array("é"),
    }
    file = npz(tmp_path / "a.npz", method, **{name: npy(value) for name, value in kept.items()})
    found = archives.read_arrays(file)
    assert list(found) == list(kept)
    for name, value in kept.items():
        np.testing.assert_array_equal(found[name], value, strict=True)
    assert list(archives.read_arrays(file, ["one"])) == ["one"]
    np.save(tmp_path / "b.npy", kept["x"])
    np.testing.assert_array_equal(archives.read_array(tmp_path / "b.npy"), kept["x"], strict=True)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.npz: .*it lacks y, z"):
        archives.read_arrays(npz(tmp_path / "a.npz", x=npy(np.ones(2))), ["x", "y", "z"])


def test_pickles_are_refused(tmp_path: Path) -> None:
    assert "plain values" in refused(npz(tmp_path / "a.npz", x=npy(np.array([{}], dtype=object))))


@pytest.mark.parametrize("values", [1, 10**6, 2**62])
def test_a_header_that_declares_more_or_less_than_there_is_is_refused(
    tmp_path: Path, values: int
) -> None:
    told = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (values,)}
    np.lib.format.write_array_header_1_0(told, header)
    content = told.getvalue() + bytes(10**5)
    file = npz(tmp_path / "a.npz", x=content)
    assert f"holds 100000 bytes, its header says {values}" in refused(file)
    (tmp_path / "a.npy").write_bytes(content)
    assert f"its header says {values}" in refused(tmp_path / "a.npy")


def test_an_archive_that_unpacks_to_too_much_is_refused_unless_the_bound_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LEAST", 10**6)
    file = npz(tmp_path / "a.npz", x=npy(np.zeros(3 * 10**6, np.uint8)))
    assert "unpacks to more than 1,000,000 bytes; if that is right, set SNU_MOST_BYTES" in refused(
        file
    )
    several = {f"x{i}": npy(np.zeros(4 * 10**5, np.uint8)) for i in range(3)}
    refused(npz(tmp_path / "together.npz", **several))
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(bytes(3 * 10**6)))
    with pytest.raises(ValueError, match=r"a\.gz cannot be unpacked: it unpacks to more than"):
        archives.read_bytes(packed)
    monkeypatch.setenv("SNU_MOST_BYTES", "4000000")
    assert archives.read_arrays(file)["x"].size == 3 * 10**6
    assert len(archives.read_bytes(packed)) == 3 * 10**6
    monkeypatch.setenv("SNU_MOST_BYTES", "4 GB")
    assert "SNU_MOST_BYTES is '4 GB'; give a whole number of bytes" in refused(file)


def test_files_that_are_not_packed_are_bounded_by_their_own_size(tmp_path: Path) -> None:
    assert archives.most_bytes(10) == archives.LEAST
    assert archives.most_bytes(10**8) == archives.MOST
    assert archives.most_bytes(10**11) == 10**11
    file = npz(tmp_path / "a.npz", zipfile.ZIP_STORED, x=npy(np.zeros(10**6)))
    assert archives.read_arrays(file)["x"].nbytes == 8 * 10**6


def test_unusual_packings_are_refused(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", zipfile.ZIP_LZMA, x=npy(np.zeros(3)))
    assert "packed in an unusual way" in refused(file)


@pytest.mark.parametrize("cut", [0, 1, 40, 120, -30, -1])
def test_what_broke_off_is_refused(tmp_path: Path, cut: int) -> None:
    whole = npz(tmp_path / "a.npz", x=npy(np.arange(50))).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[:cut])
    refused(tmp_path / "half.npz")
