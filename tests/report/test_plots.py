"""What the figures promise: a PNG for numbers, an error for nonsense, nothing changed elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import results_figures
from snu_plugin.report import device_plots, plots, style

pytest.importorskip("matplotlib", reason="needs matplotlib")

TIMES = [20.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0]
RANDOM = np.random.default_rng(0)
DEVICES = RANDOM.uniform(0, 25, 400)
FIGURES: dict[str, Callable[[Path], Path]] = {
    "time": lambda p: plots.metric_over_time(
        p, TIMES, {"tuned": [8.0] * 5, "programmed": RANDOM.normal(9, 1, (4, 5))}, lines={"a": 8.7}
    ),
    "time, some closer": lambda p: plots.metric_over_time(
        p, TIMES, {"left alone": [9.0] * 5, "tuned": [8.0] * 5}, closer=["tuned"]
    ),
    "scatter": lambda p: device_plots.target_against_read(
        p, DEVICES, DEVICES + 0.3 * RANDOM.normal(size=400), sigma=np.full(400, 0.3)
    ),
    "histogram": lambda p: device_plots.conductances(
        p, {"before": DEVICES, "after": DEVICES.reshape(20, 20) * 0.9}, g_max_us=25
    ),
    "histogram of a blank chip": lambda p: device_plots.conductances(p, {"blank": np.zeros(10)}),
    "training": lambda p: plots.training(
        p, {"train": [3.0, 2.0, 1.0], "valid": [3.0, 2.5, 2.6]}, best=2
    ),
    "tuning": lambda p: plots.tuning(p, RANDOM.normal(9, 1, 50), pulses=np.ones(50)),
    "tuning without pulses": lambda p: plots.tuning(p, [9.0, 8.0], pulses=[0, 0]),
    "tuning of one batch": lambda p: plots.tuning(p, [9.0]),
    "piano roll": lambda p: plots.piano_roll(p, RANDOM.random((40, 88)) < 0.05, given=10),
    "silence": lambda p: plots.piano_roll(p, np.zeros((4, 88))),
    "energy": lambda p: device_plots.energy(
        p, {"dense": {"array": 3.0, "converters": 9.0}, "event-driven": {"digital": 2.0}}
    ),
    "no energy at all": lambda p: device_plots.energy(p, {"idle": {"array": 0.0}}),
    "pulses": lambda p: device_plots.pulse_response(
        p, np.arange(12.0), np.ones(12), published={1: (1.0, 0.5), 5: (5.2, 1.0)}, source="theirs"
    ),
    "pulses of an ideal chip": lambda p: device_plots.pulse_response(p, [0.0, 0.75], [0.0, 0.0]),
    "drift": lambda p: device_plots.drift_exponents(
        p,
        DEVICES,
        0.05 + 0.01 * RANDOM.normal(size=400),
        fit=([0.0, 25.0], [0.1, 0.05], [0.04, 0.01]),
    ),
    "no drift": lambda p: device_plots.drift_exponents(p, DEVICES, np.zeros(400)),
    "stages": lambda p: plots.stages(
        p, ["2 bit", "float"], {"a": [9.0, 8.4], "b": [None, 8.5]}, spread={"a": [0.1, None]}
    ),
    "bars": lambda p: results_figures.bars(
        p, ["a", "b"], {"then": [8.7, None], "now": [8.6, 8.4]}, spread={"now": [0.1, None]}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_a_png_and_nothing_else_is_left(name: str, tmp_path: Path) -> None:
    file = tmp_path / "figure.png"
    assert FIGURES[name](file) == file
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(tmp_path.iterdir()) == [file]


def test_a_figure_has_marks_on_a_transparent_ground(tmp_path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(FIGURES["training"](tmp_path / "figure.png"))
    assert pixels[0, 0, 3] == 0
    assert (pixels[..., 3] == 1).mean() > 0.005


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    first = FIGURES["training"](tmp_path / "a.png").read_bytes()
    assert FIGURES["training"](tmp_path / "b.png").read_bytes() == first


def test_five_curves_from_stage_to_stage_look_like_five(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    plots.stages(tmp_path / "x.png", ["float", "pcm"], {str(i): [i, i + 1] for i in range(5)})
    lines = drawn[0].axes[0].lines
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(lines) == len(looks) == 5


def test_bars_without_any_value_take_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure))
    for published in ([None, None], [1.0, None]):
        results_figures.bars(
            tmp_path / "x.png", ["a", "b"], {"published": published, "ours": [1.0, 2.0]}
        )
    alone, beside = (figure.axes[0].patches for figure in drawn)
    assert (len(alone), len(beside)) == (2, 4)
    assert alone[0].get_y() + alone[0].get_height() / 2 == pytest.approx(0)
    assert alone[0].get_facecolor() == beside[2].get_facecolor()


def test_text_stands_out_from_light_and_from_dark() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    ink, light, dark = (luminance(c) for c in (style.INK, "#ffffff", "#171a1f"))
    assert (light + 0.05) / (ink + 0.05) > 4
    assert (ink + 0.05) / (dark + 0.05) > 4


def test_drawing_changes_no_global_setting_and_opens_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from snu_plugin.report import device_plots, plots\n"
        "from pathlib import Path\n"
        f"plots.training(Path({str(tmp_path)!r}) / 'a.png', {{'train': [2.0, 1.0]}})\n"
        "sys.exit(before != matplotlib.rcParams.copy() or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda p: plots.metric_over_time(p, [0.0, 1.0], {"a": [1, 2]}), "above 0"),
        (lambda p: plots.metric_over_time(p, [1.0, 2.0], {"a": [1, 2, 3]}), "curve 'a'"),
        (lambda p: plots.metric_over_time(p, [1.0], {"a": [1]}, closer=["b"]), "b, which is no"),
        (lambda p: device_plots.target_against_read(p, [1, 2], [1]), "2 targets and 1 reads"),
        (lambda p: device_plots.conductances(p, {}), "no conductances"),
        (lambda p: device_plots.conductances(p, {"blank": []}), "no conductances"),
        (lambda p: plots.tuning(p, []), "no loss"),
        (lambda p: plots.piano_roll(p, np.zeros(88)), "expected"),
        (lambda p: device_plots.energy(p, {}), "no energies"),
        (lambda p: device_plots.pulse_response(p, [1.0, 2.0], [0.1]), "2 means and 1 spreads"),
        (lambda p: device_plots.drift_exponents(p, [], []), "0 conductances and 0 exponents"),
    ],
)
def test_nonsense_is_refused_before_a_file_appears(
    draw: Callable[[Path], Path], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        draw(tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
