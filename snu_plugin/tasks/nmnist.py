"""Neuromorphic MNIST: digits seen by a moving event camera."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snu_plugin import archives

__all__ = ["NMNIST", "Events", "Recordings", "decode", "frames", "load"]

SIDE = 34
"""Pixels of the sensor in both directions (Orchard et al. 2015)."""

OFFICIAL = {"Train": 60_000, "Test": 10_000}
"""Recordings in the folders of the official layout, ``Train|Test/<digit>/<id>.bin``."""

SUBSET_MD5 = "fab5d3c1ea1449675c60469d1aa083a1"
"""Of ``nmnist_first1000_100.npz``: recordings 1 to 1000 and 60001 to 60100 in one file."""

OVERFLOW_ROW, OVERFLOW_US = 240, 2**13
"""An event in this row is no event: it adds this time to all that follow (event-Python,
``eventvision.read_dataset``, by the authors of the data)."""


class Events(NamedTuple):
    """What one recording saw, in the order of time; all of shape ``(events,)``."""

    x: NDArray[np.uint8]
    """Column, 0 to 33."""
    y: NDArray[np.uint8]
    """Row, 0 to 33."""
    p: NDArray[np.uint8]
    """1 where the pixel became brighter, 0 where darker."""
    t: NDArray[np.int64]
    """Microseconds from the start of the recording."""


@dataclass(frozen=True)
class Recordings:
    """Recordings of one split, read when asked for: ``recordings[i]`` gives ``Events``."""

    labels: Tensor
    """int64, ``(N,)``, 0 to 9."""
    ids: tuple[int, ...]
    """Numbers in the full data set, from 1: MNIST's own index plus one (test: plus 60,001)."""
    read: Callable[[int], Events]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Events:
        if not 0 <= i < len(self):
            raise IndexError(f"recording {i} of {len(self)}")
        return self.read(i)


@dataclass(frozen=True, kw_only=True)
class NMNIST:
    """Neuromorphic MNIST or a part of it."""

    name: str
    """``nmnist``, or ``nmnist-subset`` (then no accuracy stands beside a published one), or
    ``other``."""
    train: Recordings
    test: Recordings


def load(path: str | PathLike[str], *, verify: bool = True) -> NMNIST:
    """Load the official folder of N-MNIST, or the subset in one ``.npz`` file.

    Args:
        path: Folder with ``Train`` and ``Test`` (Orchard et al. 2015, "Converting Static Image
            Datasets to Spiking Neuromorphic Datasets Using Saccades"; unpacked), or the file
            ``nmnist_first1000_100.npz``.
        verify: Refuse a folder without 60,000 and 10,000 recordings, or a file of another md5.

    Raises:
        FileNotFoundError: Nothing lies at ``path``; nothing is ever downloaded.
        ValueError: The data are damaged, incomplete, or something else.
    """
    place = Path(path)
    if place.is_file():
        return _from_npz(place, verify=verify)
    if not (place / "Train").is_dir() or not (place / "Test").is_dir():
        raise FileNotFoundError(
            f"{place} is neither a .npz file nor a folder with Train and Test; unpack "
            "Train.zip and Test.zip of https://www.garrickorchard.com/datasets/n-mnist there"
        )
    train, test = (_folder(place / name, count, verify) for name, count in OFFICIAL.items())
    whole = (len(train), len(test)) == tuple(OFFICIAL.values())
    return NMNIST(name="nmnist" if whole else "other", train=train, test=test)


def decode(data: bytes, where: str = "data") -> Events:
    """Return the events of a recording in the official layout.

    Five bytes an event, big-endian: column, row, one bit polarity, 23 bits time in µs
    (Orchard et al. 2015). Events that mark an overflow of the clock lengthen the time after them.

    >>> decode(bytes([3, 4, 0x80, 0x01, 0x02])).t
    array([258])
    """
    if len(data) % 5:
        raise ValueError(f"{where} has {len(data)} bytes; events take 5 each, get it again")
    raw = np.frombuffer(data, np.uint8).reshape(-1, 5)
    time = raw[:, 2:].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    overflow = raw[:, 1] == OVERFLOW_ROW
    time = (time & 0x7FFFFF) + OVERFLOW_US * np.cumsum(overflow)
    kept = raw[~overflow]
    if kept.size and kept[:, :2].max() >= SIDE:
        raise ValueError(f"{where} has events outside of {SIDE} x {SIDE} pixels; get it again")
    return Events(kept[:, 0], kept[:, 1], kept[:, 2] >> 7, time[~overflow])


def frames(events: Events, steps: int, step_us: int, *, binary: bool = True) -> Tensor:
    """Gather events into frames by time.

    Args:
        events: One recording.
        steps: Frames, at least 1.
        step_us: Microseconds a frame lasts: frame k holds ``k <= t / step_us < k + 1``. Events
            after the last frame are left out (recordings last 297 to 336 ms).
        binary: 1 where anything happened; False counts the events.

    Returns:
        float32 ``(steps, 2, 34, 34)``: darker and brighter, rows, columns.
    """
    if steps < 1 or step_us < 1:
        raise ValueError(f"steps is {steps} and step_us {step_us}; both must be at least 1")
    bins = events.t // step_us
    seen = bins < steps
    places = (bins, events.p.astype(np.int64), events.y.astype(np.int64), events.x.astype(np.int64))
    flat = np.ravel_multi_index(tuple(axis[seen] for axis in places), (steps, 2, SIDE, SIDE))
    counts = np.bincount(flat, minlength=steps * 2 * SIDE * SIDE)
    made = torch.from_numpy(counts).view(steps, 2, SIDE, SIDE).float()
    return made.clamp(max=1) if binary else made


def _folder(folder: Path, expected: int, verify: bool) -> Recordings:
    files = sorted(folder.glob("[0-9]/*.bin"), key=lambda file: (file.stem.zfill(12), file))
    if verify and len(files) != expected:
        raise ValueError(
            f"{folder} holds {len(files)} recordings <digit>/<id>.bin, expected {expected}; unpack "
            "it again, or pass verify=False (in commands --no-verify) to use it as it is"
        )
    wrong = next((file for file in files if not file.stem.isdigit()), None)
    if wrong is not None or not files:
        raise ValueError(f"{wrong or folder}: recordings must be named <digit>/<number>.bin")
    labels = torch.tensor([int(file.parent.name) for file in files])
    ids = tuple(int(file.stem) for file in files)
    return Recordings(labels, ids, partial(_read_file, tuple(files)))


def _read_file(files: tuple[Path, ...], i: int) -> Events:
    return decode(files[i].read_bytes(), str(files[i]))


def _from_npz(file: Path, *, verify: bool) -> NMNIST:
    content = file.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if verify and found != SUBSET_MD5:
        raise ValueError(
            f"{file} has md5 {found}, expected {SUBSET_MD5} of nmnist_first1000_100.npz; "
            "get it again, or pass verify=False (in commands --no-verify) to use it as it is"
        )
    names = ("x", "y", "p", "t", "offsets", "mnist_id", "label")
    arrays = archives.arrays_in(io.BytesIO(content), str(file), names)
    _check(arrays, file)
    ids, cut = arrays["mnist_id"], int((arrays["mnist_id"] <= OFFICIAL["Train"]).sum())
    whole = Events(arrays["x"], arrays["y"], arrays["p"], arrays["t"].astype(np.int64))

    def part(first: int, end: int) -> Recordings:
        labels = torch.from_numpy(arrays["label"][first:end].astype(np.int64))
        read = partial(_slice, whole, arrays["offsets"][first : end + 1])
        return Recordings(labels, tuple(int(i) for i in ids[first:end]), read)

    name = "nmnist-subset" if found == SUBSET_MD5 else "other"
    return NMNIST(name=name, train=part(0, cut), test=part(cut, len(ids)))


def _slice(whole: Events, offsets: NDArray[np.int64], i: int) -> Events:
    start, end = offsets[i : i + 2]
    return Events(whole.x[start:end], whole.y[start:end], whole.p[start:end], whole.t[start:end])


def _check(arrays: dict[str, NDArray[np.generic]], file: Path) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise ValueError(
                f"{file}: {name} is {array.dtype} of shape {array.shape}; it must be whole numbers "
                "in a row"
            )
    offsets, events = arrays["offsets"], len(arrays["t"])
    counts = {len(arrays["label"]), len(arrays["mnist_id"]), len(offsets) - 1}
    sound = (
        len(counts) == 1
        and all(arrays[name].shape == (events,) for name in "xyp")
        and np.array_equal(offsets[[0, -1]], [0, events])
        and bool((np.diff(offsets.astype(np.int64)) >= 0).all())
        and bool((np.diff(arrays["mnist_id"].astype(np.int64)) > 0).all())
    )
    if not sound:
        raise ValueError(f"{file}: events, offsets, ids and labels do not belong together")
    if events and max(int(arrays["x"].max()), int(arrays["y"].max())) >= SIDE:
        raise ValueError(f"{file} has events outside of {SIDE} x {SIDE} pixels")
    for name, most in (("x", SIDE - 1), ("y", SIDE - 1), ("p", 1), ("label", 9), ("t", 2**40)):
        if (
            len(arrays[name])
            and not 0 <= int(arrays[name].min()) <= int(arrays[name].max()) <= most
        ):
            raise ValueError(f"{file}: {name} must lie in [0, {most}], and does not")
