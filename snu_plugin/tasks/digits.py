"""MNIST and Fashion-MNIST, and how their pixels become spikes."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from snu_plugin import archives

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MD5", "Digits", "Images", "elastic", "load", "mirrored", "rate_code", "shuffled",
]  # fmt: skip

CLASSES = 10
AXES = 3
"""Of the files of this family at most: image, row, column."""
SIDE = 28

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

MD5: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
"""Of the *unpacked* files, in the order of ``FILES``: repacking changes a ``.gz``, not these."""

SOURCE = {
    "mnist": "MNIST: https://storage.googleapis.com/cvdf-datasets/mnist",
    "fashion": "Fashion-MNIST: https://github.com/zalandoresearch/fashion-mnist",
}


class Images(NamedTuple):
    """Images and what they show."""

    pixels: Tensor
    """uint8, ``(N, 28, 28)``, 0 to 255."""
    labels: Tensor
    """int64, ``(N,)``, 0 to 9."""

    def take(self, which: Tensor | slice) -> Images:
        """Return some of the images."""
        return Images(self.pixels[which], self.labels[which])


@dataclass(frozen=True, kw_only=True)
class Digits:
    """A data set of the MNIST family in its two published splits."""

    name: str
    """``mnist``, ``fashion``, or ``other`` (files of unknown checksum)."""
    train: Images
    test: Images

    def hold_out(self, count: int) -> tuple[Images, Images]:
        """Return ``train`` without its last ``count`` images, and these: for validation."""
        total = len(self.train.labels)
        if not 0 < count < total:
            raise ValueError(f"count is {count}; it must lie between 1 and {total - 1}")
        cut = total - count
        return self.train.take(slice(cut)), self.train.take(slice(cut, None))


def load(path: str | PathLike[str], *, verify: bool = True) -> Digits:
    """Load MNIST or Fashion-MNIST from a folder; which of the two, the checksums tell.

    Args:
        path: The folder ``raw`` that holds ``train-images-idx3-ubyte``,
            ``train-labels-idx1-ubyte`` and the two ``t10k-`` files, each packed (``.gz``) or not.
        verify: Refuse files whose unpacked md5 is that of neither data set.

    Raises:
        FileNotFoundError: A file is missing; nothing is ever downloaded.
        ValueError: A file is damaged, holds something else, or has another checksum.
    """
    folder = Path(path)
    contents = [archives.read_bytes(_find(folder, name)) for name in FILES]
    sums = tuple(hashlib.md5(c, usedforsecurity=False).hexdigest() for c in contents)
    name = next((known for known, expected in MD5.items() if sums == expected), "other")
    if verify and name == "other":
        raise ValueError(_mismatch(folder, sums))
    arrays = [parse_idx(c, str(folder / f)) for c, f in zip(contents, FILES, strict=True)]
    return Digits(
        name=name,
        train=_images(arrays[0], arrays[1], f"{folder}: train"),
        test=_images(arrays[2], arrays[3], f"{folder}: t10k"),
    )


def parse_idx(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return the array of an unpacked idx file of bytes.

    Format: two zero bytes, the type (8: unsigned byte), the number of axes, the length of each as a
    big-endian 32-bit number, the values (http://yann.lecun.com/exdb/mnist).

    Raises:
        ValueError: The file is damaged or something else.
    """
    if len(data) < 8 or data[:3] != b"\0\0\x08" or not 0 < data[3] <= AXES:
        raise ValueError(f"{where} is not an idx file of bytes; get it again")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(f"{where} ends within its header; get it again")
    shape = struct.unpack(f">{data[3]}I", data[4:start])
    wanted, found = math.prod(shape), len(data) - start
    if found != wanted:
        raise ValueError(f"{where} holds {found} values, its header says {wanted}; get it again")
    return np.frombuffer(data[start:], np.uint8).reshape(shape)


def shuffled(images: Images, size: int, generator: Generator) -> list[Images]:
    """Return the images in mini-batches of ``size``, in an order drawn from ``generator``."""
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    order = torch.randperm(len(images.labels), generator=generator)
    return [images.take(part) for part in torch.split(order, size)]


def rate_code(
    pixels: Tensor,
    steps: int,
    *,
    gain: float = 1.0,
    silent: int = 0,
    dtype: torch.dtype = torch.float32,
    generator: Generator,
) -> Tensor:
    """Turn pixels into spike trains: in every step each fires with probability ``gain * pixel``.

    Bernoulli coding of IBM/neuroaikit 953a408 (``transform_rate``: ``N`` steps and on average at
    most ``m`` spikes are ``steps=N, gain=m / N``) and of Harmel-lab/SRC---SNN---01
    (``steps=200, gain=0.25, silent=20``). The published runs use 20 to 300 steps.

    Args:
        pixels: uint8 0 to 255, or floating point 0 to 1; ``(B, ...)``.
        steps: Steps in which pixels may fire, at least 1.
        gain: Probability that a white pixel fires in a step, 0 to 1.
        silent: Steps without any spike before them.
        dtype: Of the spikes; ``torch.bool`` takes a quarter of the memory of float32.
        generator: Source of the spikes; asked for pixels that are not black alone.

    Returns:
        0 and 1, ``(silent + steps, B, ...)``.

    >>> x = torch.tensor([[0, 255]], dtype=torch.uint8)
    >>> rate_code(x, 3, generator=Generator()).tolist()
    [[[0.0, 1.0]], [[0.0, 1.0]], [[0.0, 1.0]]]
    """
    if steps < 1 or silent < 0:
        raise ValueError(f"steps is {steps}, silent {silent}; at least 1 and 0 are needed")
    if not 0 <= gain <= 1:
        raise ValueError(f"gain is {gain}; a probability lies between 0 and 1")
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise TypeError(f"pixels are {pixels.dtype}; they must be uint8 or floating point")
    p = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    if p.numel() and not 0 <= float(p.min()) <= float(p.max()) <= 1:
        raise ValueError("pixels leave 0 to 1; scale them, or give uint8")
    chance = gain * p.flatten()
    lit = chance.nonzero().squeeze(1)
    drawn = torch.rand((steps, len(lit)), generator=generator, dtype=torch.float32)
    spikes = torch.zeros((silent + steps, len(chance)), dtype=dtype)
    spikes[silent:].index_copy_(1, lit, (drawn < chance[lit]).to(dtype))
    return spikes.view(-1, *p.shape)


def elastic(
    pixels: Tensor, *, alpha: float = 34.0, sigma: float = 4.0, generator: Generator
) -> Tensor:
    """Distort images as if drawn by a trembling hand, each differently.

    Simard, Steinkraus, Platt 2003: every pixel is moved by a random field, uniform in ± 1,
    smoothed by a Gaussian and scaled; their best values are the defaults.

    Args:
        pixels: uint8 0 to 255 or floating point, ``(B, H, W)``.
        alpha: Scale of the displacement, in pixels.
        sigma: Width of the Gaussian, in pixels, above 0.
        generator: Source of the fields.

    Returns:
        float32 of 0 to 1 (of the range of ``pixels`` where floating point), ``(B, H, W)``.
    """
    if sigma <= 0 or alpha < 0:
        raise ValueError(f"sigma is {sigma}, alpha {alpha}; they must be above and at least 0")
    image = (pixels / 255 if pixels.dtype == torch.uint8 else pixels).float()
    height, width = image.shape[-2:]
    reach = round(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    bell = bell / bell.sum()
    field = 2 * torch.rand((2 * len(image), 1, height, width), generator=generator) - 1
    field = F.conv2d(field, bell.view(1, 1, -1, 1), padding=(reach, 0))
    field = alpha * F.conv2d(field, bell.view(1, 1, 1, -1), padding=(0, reach))
    dx, dy = field.view(2, len(image), height, width)
    columns = (torch.arange(width) + dx) * (2 / (width - 1)) - 1
    rows = (torch.arange(height)[:, None] + dy) * (2 / (height - 1)) - 1
    grid = torch.stack((columns, rows), -1)
    return F.grid_sample(image[:, None], grid, align_corners=True).squeeze(1)


def mirrored(pixels: Tensor, *, generator: Generator) -> Tensor:
    """Return images ``(B, H, W)``, each mirrored, left to right, as often as not."""
    turned = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(turned[:, None, None], pixels.flip(-1), pixels)


def _find(folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{folder} holds neither {name} nor {name}.gz; give the folder with the four files of "
        f"{' or '.join(SOURCE.values())}"
    )


def _mismatch(folder: Path, sums: tuple[str, ...]) -> str:
    """Say which file differs from the data set that most of the files belong to."""
    close = max(MD5, key=lambda name: sum(a == b for a, b in zip(sums, MD5[name], strict=True)))
    file, found, expected = next(
        row for row in zip(FILES, sums, MD5[close], strict=True) if row[1] != row[2]
    )
    return (
        f"{folder / file}, unpacked, has md5 {found}, expected {expected} of {close}; "
        "get it again, or pass verify=False (in commands --no-verify) to use it as it is"
    )


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], where: str) -> Images:
    if pixels.ndim != 3 or pixels.shape[1:] != (SIDE, SIDE) or labels.shape != pixels.shape[:1]:
        raise ValueError(
            f"{where}: images have shape {pixels.shape} and labels {labels.shape}; expected "
            f"(N, {SIDE}, {SIDE}) and (N,)"
        )
    if not len(labels) or labels.max() >= CLASSES:
        raise ValueError(f"{where}: labels must be 0 to {CLASSES - 1}, and at least one")
    return Images(torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype(np.int64)))
