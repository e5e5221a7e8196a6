"""What the MNIST family promises: the right images or a clear refusal, and spikes of known odds."""

from __future__ import annotations

import gzip
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from snu_plugin import archives
from snu_plugin.tasks import digits

ROOT = Path(__file__).resolve().parents[2]
RAW = {"mnist": "mnist/MNIST/raw", "fashion": "fashion/FashionMNIST/raw"}
COUNTS = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion": ([6000] * 10, [1000] * 10),
}
MOMENTS = {"mnist": (0.1307, 0.3081), "fashion": (0.2860, 0.3530)}


def shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / "data" / RAW[name]
    if not folder.is_dir():
        pytest.skip(f"needs the data set, looked for {folder}")
    return folder


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder: Path, *, packed: bool = False) -> dict[str, np.ndarray]:
    """Write ten and four random images in the four files of the format."""
    draw = np.random.default_rng(0)
    made = {}
    for name, count in zip(digits.FILES, (10, 10, 4, 4), strict=True):
        shape = (count, 28, 28) if "images" in name else (count,)
        array = draw.integers(0, 10 if "labels" in name else 256, shape).astype(np.uint8)
        content = idx(array)
        file = folder / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(content) if packed else content)
        made[name] = array
    return made


@pytest.mark.parametrize("packed", [True, False])
def test_images_are_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    made = write(tmp_path, packed=packed)
    data = digits.load(tmp_path, verify=False)
    assert data.name == "other"
    found = (data.train.pixels, data.train.labels, data.test.pixels, data.test.labels)
    for tensor, name in zip(found, digits.FILES, strict=True):
        assert torch.equal(tensor, torch.from_numpy(made[name]).to(tensor.dtype))
    assert data.train.labels.dtype == torch.int64


@pytest.mark.parametrize("name", RAW)
def test_the_published_files_have_the_published_statistics(name: str) -> None:
    data = digits.load(shared(name))
    assert data.name == name
    for images, expected in zip((data.train, data.test), COUNTS[name], strict=True):
        assert images.labels.bincount().tolist() == expected
    pixels = data.train.pixels.double() / 255
    assert (pixels.mean().item(), pixels.std().item()) == pytest.approx(MOMENTS[name], abs=5e-5)


def test_repacked_files_are_the_same_data(tmp_path: Path) -> None:
    for file in shared("mnist").glob("*.gz"):
        if "t10k" in file.name:
            (tmp_path / file.name).write_bytes(
                gzip.compress(gzip.decompress(file.read_bytes()), 1, mtime=7)
            )
        else:
            shutil.copy(file, tmp_path)
    assert digits.load(tmp_path).name == "mnist"


def test_one_flipped_byte_is_refused_with_both_checksums_and_a_way_out(tmp_path: Path) -> None:
    for file in shared("fashion").glob("*.gz"):
        (tmp_path / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    wrong = tmp_path / "t10k-images-idx3-ubyte"
    content = bytearray(wrong.read_bytes())
    content[5000] ^= 1
    wrong.write_bytes(content)
    with pytest.raises(ValueError, match="verify=False") as caught:
        digits.load(tmp_path)
    message = str(caught.value)
    assert str(wrong) in message
    assert digits.MD5["fashion"][2] in message
    assert "\n" not in message
    assert digits.load(tmp_path, verify=False).name == "other"


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / digits.FILES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.*https") as caught:
        digits.load(tmp_path, verify=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\x01\0\0\0\0", "not an idx file"),
        (idx(np.zeros(3, np.uint8))[:-1], "holds 2 values, its header says 3"),
        (idx(np.zeros(3, np.uint8)) + b"x", "holds 4 values"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"x", "holds 1 values"),
        (gzip.compress(idx(np.zeros(9, np.uint8)), mtime=0)[:20], "cannot be unpacked"),
        (b"\x1f\x8bnonsense, no gzip", "cannot be unpacked"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "some-idx1-ubyte"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        digits.parse_idx(archives.read_bytes(file), str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "array"),
    [
        (0, np.zeros((10, 27, 28), np.uint8)),
        (0, np.zeros((9, 28, 28), np.uint8)),
        (1, np.zeros((10, 1), np.uint8)),
        (1, np.full(10, 10, np.uint8)),
    ],
)
def test_images_and_labels_that_do_not_belong_together_are_refused(
    tmp_path: Path, file: int, array: np.ndarray
) -> None:
    write(tmp_path)
    (tmp_path / digits.FILES[file]).write_bytes(idx(array))
    with pytest.raises(ValueError, match="train"):
        digits.load(tmp_path, verify=False)


def test_held_out_images_are_the_last_of_train(tmp_path: Path) -> None:
    write(tmp_path)
    data = digits.load(tmp_path, verify=False)
    train, valid = data.hold_out(3)
    assert torch.equal(torch.cat((train.labels, valid.labels)), data.train.labels)
    assert torch.equal(valid.pixels, data.train.pixels[7:])
    for count in (0, 10):
        with pytest.raises(ValueError, match="between 1 and 9"):
            data.hold_out(count)


def test_batches_hold_every_image_once_in_a_seeded_order(tmp_path: Path) -> None:
    write(tmp_path)
    train = digits.load(tmp_path, verify=False).train
    marked = digits.Images(train.pixels, torch.arange(10))

    def order(seed: int) -> list[list[int]]:
        batches = digits.shuffled(marked, 4, Generator().manual_seed(seed))
        assert all(torch.equal(b.pixels, train.pixels[b.labels]) for b in batches)
        return [b.labels.tolist() for b in batches]

    assert [len(batch) for batch in order(0)] == [4, 4, 2]
    assert sorted(i for batch in order(0) for i in batch) == list(range(10))
    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize(("steps", "gain"), [(20, 0.3), (200, 0.25), (300, 1.0)])
def test_a_pixel_fires_with_gain_times_its_value(steps: int, gain: float) -> None:
    pixels = torch.arange(0, 256, 15, dtype=torch.uint8).repeat(40, 1)
    spikes = digits.rate_code(pixels, steps, gain=gain, generator=Generator().manual_seed(1))
    assert spikes.shape == (steps, *pixels.shape)
    assert torch.equal(spikes, spikes.bool().float())
    p = gain * pixels[0].double() / 255
    error = (spikes.double().mean((0, 1)) - p).abs()
    assert (error <= 5 * (p * (1 - p) / (40 * steps)).sqrt()).all()


def test_spikes_are_independent_from_step_to_step() -> None:
    pixels = torch.full((1, 2000), 0.5)
    spikes = digits.rate_code(pixels, 21, generator=Generator().manual_seed(2))
    both = (spikes[1:] * spikes[:-1]).mean().item()
    assert abs(both - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 40_000) * 2


def test_silent_steps_come_first_and_the_seed_decides_the_rest() -> None:
    pixels = torch.full((2, 3, 4), 0.5)

    def spikes(seed: int, silent: int = 0) -> torch.Tensor:
        return digits.rate_code(pixels, 9, silent=silent, generator=Generator().manual_seed(seed))

    late = spikes(0, silent=5)
    assert late.shape == (14, 2, 3, 4)
    assert not late[:5].any()
    assert torch.equal(late[5:], spikes(0))
    assert not torch.equal(spikes(0), spikes(1))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"silent": -1}, "silent -1"),
        ({"gain": 1.5}, "gain is 1.5"),
        ({"pixels": torch.full((1, 2), 2.0)}, "leave 0 to 1"),
        ({"pixels": torch.full((1, 2), math.nan)}, "leave 0 to 1"),
    ],
)
def test_spikes_of_impossible_odds_are_refused(change: dict[str, object], error: str) -> None:
    given = {"pixels": torch.zeros(1, 2), "steps": 3, "generator": Generator()} | change
    with pytest.raises(ValueError, match=error):
        digits.rate_code(**given)  # type: ignore[arg-type]


def test_signed_pixels_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        digits.rate_code(torch.zeros(1, 2, dtype=torch.int64), 3, generator=Generator())


def test_distortion_moves_pixels_each_image_differently_and_keeps_most_ink() -> None:
    image = torch.zeros(1, 28, 28)
    image[:, 8:20, 10:18] = 1.0
    pixels = image.repeat(30, 1, 1)
    bent = digits.elastic(pixels, generator=Generator().manual_seed(0))
    assert bent.shape == pixels.shape
    assert 0 <= float(bent.min()) <= float(bent.max()) <= 1
    moved = (bent - pixels).abs().mean((1, 2))
    assert (moved > 0.005).all()
    assert (moved < 0.1).all()
    assert not torch.equal(bent[0], bent[1])
    assert float(bent.sum() / pixels.sum()) == pytest.approx(1, abs=0.05)


def test_distortion_of_no_size_changes_nothing() -> None:
    pixels = torch.arange(2 * 28 * 28).remainder(256).to(torch.uint8).view(2, 28, 28)
    same = digits.elastic(pixels, alpha=0, generator=Generator())
    torch.testing.assert_close(same, pixels / 255, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="sigma is 0"):
        digits.elastic(pixels, sigma=0, generator=Generator())


def test_about_half_of_the_images_are_mirrored_and_the_others_untouched() -> None:
    pixels = torch.arange(200 * 28 * 28).remainder(251).to(torch.uint8).view(200, 28, 28)
    found = digits.mirrored(pixels, generator=Generator().manual_seed(0))
    turned = (found == pixels.flip(-1)).all((1, 2))
    assert torch.equal(found[~turned], pixels[~turned])
    assert 70 < int(turned.sum()) < 130  # 4 standard deviations of a fair coin
