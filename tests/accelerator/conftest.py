"""Tables of an established toolkit, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

ORACLE = Path(__file__).parents[3] / "shared" / "reference" / "pcm_oracle"


@pytest.fixture
def trace() -> dict[str, Tensor]:
    path = ORACLE / "periphery_oracle_20x64.npz"
    if not path.is_file():
        pytest.skip(f"needs the shared oracle tables, looked for {path}")
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file}
