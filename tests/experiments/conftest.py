"""Data that several tests of the experiments take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """Write a few random chorales in the format of JSB_Chorales.mat."""
    from scipy.io import savemat

    draw = np.random.default_rng(0)
    content = {}
    for name, count in (("traindata", 4), ("validdata", 2), ("testdata", 2)):
        cells = np.empty((1, count), object)
        for i in range(count):
            cells[0, i] = (draw.random((6 + i, 88)) < 0.05).astype(np.uint8)
        content[name] = cells
    savemat(tmp_path / "own.mat", content)
    return tmp_path / "own.mat"
