"""The picture of where a simulator leaves the reference."""

from pathlib import Path

import numpy as np
import pytest

from snu_plugin.report.plots import divergence


def test_a_divergence_is_drawn(tmp_path: Path) -> None:
    expected = np.zeros((30, 20))
    expected[::3] = 1
    outputs = expected.copy()
    outputs[15:, 3] = np.nan
    path = divergence(tmp_path / "d.png", expected, outputs, begin=5, step=20, name="other")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_outputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shapes are \(3, 2\) and \(3, 1\)"):
        divergence(tmp_path / "d.png", np.zeros((3, 2)), np.zeros((3, 1)), begin=0, step=0, name="")
