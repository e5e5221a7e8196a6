"""The picture of times against sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from snu_plugin.report.device_plots import growth

CURVES: dict[str, dict[str, dict[float, float]]] = {
    "steps": {"SNU": {10: 1e-3, 100: 1e-2}, "LSTM": {10: 2e-3}}
}


def test_every_axis_gets_a_panel_and_the_file_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    three = {name: CURVES["steps"] for name in ("steps", "batch", "depth")}
    one, more = (
        growth(tmp_path / name, axes, highlight=["SNU"]).read_bytes()
        for name, axes in (("one.png", CURVES), ("more.png", three))
    )
    assert one.startswith(b"\x89PNG")
    assert len(more) > len(one)


@pytest.mark.parametrize(
    ("axes", "message"),
    [({}, "axes is empty"), ({"steps": {"SNU": {0: 1e-3}}}, "all must be above 0")],
)
def test_what_has_no_logarithm_is_refused(
    axes: dict[str, dict[str, dict[float, float]]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        growth(tmp_path / "no.png", axes, highlight=())
    assert not (tmp_path / "no.png").exists()
