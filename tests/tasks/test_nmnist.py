"""What the N-MNIST loader promises: every event where the camera saw it, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from snu_plugin.tasks import nmnist
from snu_plugin.tasks.nmnist import Events

ROOT = Path(__file__).resolve().parents[2]


def events(count: int, seed: int = 0) -> Events:
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 34, (2, count)).astype(np.uint8)
    p = draw.integers(0, 2, count).astype(np.uint8)
    return Events(x, y, p, np.sort(draw.integers(0, 330_000, count)))


def encode(seen: Events) -> bytes:
    words = [
        bytes([x, y]) + ((int(p) << 23) | int(t)).to_bytes(3, "big")
        for x, y, p, t in zip(*seen, strict=True)
    ]
    return b"".join(words)


def same(found: Events, expected: Events) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    for split, ids in (("Train", (1, 2, 10)), ("Test", (60001,))):
        for number in ids:
            folder = tmp_path / split / str(number % 10)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:05d}.bin").write_bytes(encode(events(40, number)))
    return tmp_path


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Write three recordings in the format of the subset, with some arrays replaced."""

    def write(**replaced: np.ndarray) -> Path:
        parts = [events(n, n) for n in (5, 0, 9)]
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts]).astype(kind)
            for name, kind in (("x", "u1"), ("y", "u1"), ("p", "u1"), ("t", "i4"))
        }
        arrays |= {
            "offsets": np.array([0, 5, 5, 14]),
            "mnist_id": np.array([1, 2, 60001], np.int32),
            "label": np.array([5, 0, 7], np.uint8),
        }
        file = tmp_path / "some.npz"
        kept = {name: a for name, a in (arrays | replaced).items() if a.dtype != bool}
        np.savez(file, **kept)  # type: ignore[arg-type]
        return file

    return write


def test_the_official_bytes_are_decoded_event_by_event() -> None:
    seen = events(500)
    same(nmnist.decode(encode(seen)), seen)


def test_an_overflow_of_the_clock_lengthens_the_time_after_it() -> None:
    seen = Events(
        np.array([1, 0, 2, 0, 3], np.uint8),
        np.array([1, 240, 2, 240, 3], np.uint8),
        np.array([1, 0, 0, 1, 1], np.uint8),
        np.array([10, 0, 20, 0, 30]),
    )
    found = nmnist.decode(encode(seen))
    assert found.x.tolist() == [1, 2, 3]
    assert found.t.tolist() == [10, 20 + 2**13, 30 + 2 * 2**13]


def test_the_official_folder_is_read_in_the_order_of_its_numbers(official: Path) -> None:
    data = nmnist.load(official, verify=False)
    assert data.name == "other"
    assert data.train.ids == (1, 2, 10)
    assert data.train.labels.tolist() == [1, 2, 0]
    for i, number in enumerate(data.train.ids):
        same(data.train[i], events(40, number))
    same(data.test[0], events(40, 60001))


def test_an_incomplete_folder_is_refused_unless_it_is_allowed(official: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 3 recordings .* expected 60000"):
        nmnist.load(official)


def test_a_missing_place_says_where_to_get_the_data(tmp_path: Path) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="https") as caught:
            nmnist.load(place)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [encode(events(3))[:-1], encode(events(3)) + bytes([34, 0, 0, 0, 0])]
)
def test_damaged_recordings_are_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "00001.bin"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"00001\.bin"):
        nmnist.decode(file.read_bytes(), str(file))


def test_a_packed_file_gives_each_recording_its_events(npz: Callable[..., Path]) -> None:
    data = nmnist.load(npz(), verify=False)
    assert (data.name, data.train.ids, data.test.ids) == ("other", (1, 2), (60001,))
    same(data.train[0], events(5, 5))
    assert len(data.train[1].t) == 0
    same(data.test[0], events(9, 9))
    assert data.test.labels.tolist() == [7]
    with pytest.raises(IndexError):
        data.test[1]


def test_another_packed_file_is_refused_unless_it_is_allowed(npz: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=nmnist.SUBSET_MD5):
        nmnist.load(npz())


@pytest.mark.parametrize(
    "replaced",
    [
        {"offsets": np.array([0, 5, 4, 14])},
        {"offsets": np.array([0, 5, 5, 15])},
        {"label": np.array([1], np.uint8)},
        {"x": np.full(14, 34, np.uint8)},
        {"y": np.zeros(3, np.uint8)},
        {"p": np.array([True])},
        {"t": np.array([None] * 14)},
    ],
)
def test_packed_files_that_do_not_fit_together_are_one_clear_line(
    npz: Callable[..., Path], replaced: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match=r"some\.npz") as caught:
        nmnist.load(npz(**replaced), verify=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.97])
def test_a_truncated_packed_file_is_one_clear_line(npz: Callable[..., Path], share: float) -> None:
    file = npz()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"some\.npz") as caught:
        nmnist.load(file, verify=False)
    assert "\n" not in str(caught.value)


def test_frames_count_events_by_time_polarity_row_and_column() -> None:
    seen = Events(
        np.array([3, 3, 3, 0], np.uint8),
        np.array([7, 7, 7, 33], np.uint8),
        np.array([1, 1, 0, 1], np.uint8),
        np.array([0, 9_999, 10_000, 20_000]),
    )
    counted = nmnist.frames(seen, 2, 10_000, binary=False)
    expected = torch.zeros(2, 2, 34, 34)
    expected[0, 1, 7, 3] = 2
    expected[1, 0, 7, 3] = 1
    assert torch.equal(counted, expected)
    assert torch.equal(nmnist.frames(seen, 2, 10_000), expected.clamp(max=1))
    with pytest.raises(ValueError, match="steps is 0"):
        nmnist.frames(seen, 0, 10)


def test_frames_over_the_whole_time_hold_every_event() -> None:
    seen = events(3000)
    assert nmnist.frames(seen, 34, 10_000, binary=False).sum().item() == 3000


def test_the_shared_subset_has_the_published_statistics() -> None:
    file = ROOT.parent / "shared" / "data" / "nmnist" / "nmnist_first1000_100.npz"
    if not file.is_file():
        pytest.skip(f"needs the N-MNIST subset, looked for {file}")
    data = nmnist.load(file)
    assert data.name == "nmnist-subset"
    assert data.train.labels.bincount().tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]
    assert data.test.labels.bincount().tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    sizes = [len(data.train[i].t) for i in range(len(data.train))]
    assert round(float(np.mean(sizes))) == 4133
    assert (data.train.ids[-1], data.test.ids[0]) == (1000, 60001)
    whole = nmnist.frames(data.test[0], 34, 10_000, binary=False)
    assert whole.sum().item() == len(data.test[0].t)
