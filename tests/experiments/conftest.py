"""Data that several tests of the experiments take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from same_process import mat_files_read_here
from snu_plugin.experiments.paper.recipes import RECIPES
from snu_plugin.tasks.digits import Digits, Images


@pytest.fixture
def few_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have recipes make layers of 24 units: what is recorded of large ones is recorded of them."""
    for task in ("jsb", "mnist", "fashion", "nmnist"):
        for units in RECIPES[task].values():
            for unit, whole in units.items():
                first, *hidden, last = whole.sizes
                small = replace(whole, sizes=(first, *(24 for _ in hidden), last))
                monkeypatch.setitem(units, unit, small)


@pytest.fixture
def mat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a few random chorales in the format of JSB_Chorales.mat."""
    from scipy.io import savemat

    mat_files_read_here(monkeypatch)
    draw = np.random.default_rng(0)
    content = {}
    for name, count in (("traindata", 4), ("validdata", 2), ("testdata", 2)):
        cells = np.empty((1, count), object)
        for i in range(count):
            cells[0, i] = (draw.random((6 + i, 88)) < 0.05).astype(np.uint8)
        content[name] = cells
    savemat(tmp_path / "own.mat", content)
    return tmp_path / "own.mat"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Write recordings in the official layout: a digit sees events in rows of its own."""
    draw = np.random.default_rng(0)
    for split, count in (("Train", 40), ("Test", 10)):
        for i in range(count):
            digit = i % 10
            file = tmp_path / "recordings" / split / str(digit) / f"{i + 1:05d}.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            events = np.zeros((60, 5), np.uint8)
            events[:, 0] = draw.integers(0, 34, 60)
            events[:, 1] = 3 * digit + draw.integers(0, 3, 60)
            time = np.sort(draw.integers(0, 300_000, 60)) | (draw.integers(0, 2, 60) << 23)
            events[:, 2:] = np.stack((time >> 16, time >> 8, time), 1) & 255
            file.write_bytes(events.tobytes())
    return tmp_path / "recordings"


@pytest.fixture
def images() -> Digits:
    """Draw a few images of noise."""
    draw = Generator().manual_seed(0)

    def drawn(count: int) -> Images:
        pixels = torch.randint(256, (count, 28, 28), generator=draw, dtype=torch.uint8)
        return Images(pixels, torch.randint(10, (count,), generator=draw))

    return Digits(name="other", train=drawn(60), test=drawn(20))
