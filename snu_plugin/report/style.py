"""How all figures look: colours that read on white and on black, and a canvas without globals.

Backgrounds are transparent and text is a grey in the middle (4.2 to 1 on either side), so one PNG
serves a light page and a dark one. Hues differ in lightness too, and curves carry markers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin import files
from snu_plugin.accepted import shown
from snu_plugin.durations import span
from snu_plugin.origin import how_to_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Target = str | PathLike[str]
"""Where a picture goes."""

INK = "#787d86"
FAINT = "#787d8640"
ORANGE, BLUE, GREEN, VIOLET = "#d9731a", "#3d87d9", "#17a07a", "#a06cd5"
CYCLE = (ORANGE, BLUE, GREEN, VIOLET)
MARKERS = ("o", "s", "D", "^")
DASHES = ("-", "--", ":", "-.")
FONT_SIZE = 11.5

TIMES = (1.0, 20.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0, 3650 * 86400.0)
"""Where a logarithmic axis of seconds has marks."""


def canvas(
    width: float = 6.4, height: float = 3.7, ratios: Sequence[float] = (1,), rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, in inches, and its axes row by row; pyplot is not involved."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"figures need matplotlib; install it with: {how_to_install('report')}"
        ) from error
    figure = Figure(figsize=(width, height), dpi=160)
    figure.set_layout_engine("constrained", wspace=0.08)
    FigureCanvasAgg(figure)
    axes = [*figure.subplots(rows, len(ratios), squeeze=False, width_ratios=ratios).flat]
    for ax in axes:
        plain(ax)
    return figure, axes


def plain(ax: Axes) -> None:
    """Leave of the frame what carries information."""
    ax.set_facecolor("none")
    ax.set_axisbelow(True)
    ax.grid(visible=True, color=FAINT, linewidth=0.6)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.8)
    ax.tick_params(which="both", colors=INK, labelsize=FONT_SIZE - 1, length=3)


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Name the axes, units included."""
    ax.set_xlabel(x, color=INK, fontsize=FONT_SIZE)
    ax.set_ylabel(y, color=INK, fontsize=FONT_SIZE)
    if title:
        ax.set_title(title, color=INK, fontsize=FONT_SIZE, loc="left")


def curve(number: int) -> dict[str, Any]:
    """Return colour, dashes and marker of a curve; those of 16 differ from each other."""
    return {
        "color": CYCLE[number % 4],
        "linestyle": DASHES[number // 4 % 4],
        "marker": MARKERS[number % 4],
    }


def legend(ax: Axes, **where: object) -> None:
    """Explain colours and markers."""
    ax.legend(frameon=False, labelcolor=INK, fontsize=FONT_SIZE - 1, **where)


def levels(ax: Axes, lines: Mapping[str, float] | None) -> None:
    """Draw horizontal lines for numbers to compare with, named in the legend."""
    for i, (name, value) in enumerate((lines or {}).items()):
        dashes = ("--", ":", "-.")[i % 3]
        ax.axhline(value, color=INK, lw=1.2, linestyle=dashes, label=f"{name} ({value:.3g})")


def over_seconds(
    seconds: Sequence[float], curves: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return times as an array, and each curve as ``(chips, times)``; raises for others."""
    times = np.asarray(seconds, float)
    if times.ndim != 1 or not (times > 0).all():
        raise ValueError(f"seconds is {shown(seconds)}; give a list of times above 0")
    by_chip = {name: np.atleast_2d(np.asarray(v, float)) for name, v in curves.items()}
    for name, chips in by_chip.items():
        if chips.shape[1:] != times.shape:
            raise ValueError(
                f"curve {name!r} has shape {chips.shape}; expected ({len(times)},) or "
                f"(chips, {len(times)})"
            )
    return times, by_chip


def band(ax: Axes, x: np.ndarray, chips: np.ndarray, number: int, **look: Any) -> None:
    """Draw the mean over chips, and of several a band of one standard deviation."""
    mean, sigma = chips.mean(0), chips.std(0)
    ax.plot(x, mean, **curve(number), **look)
    if len(chips) > 1:
        colour = CYCLE[number % 4]
        ax.fill_between(x, mean - sigma, mean + sigma, color=colour, alpha=0.2, lw=0)


def log_seconds(ax: Axes, low: float, high: float) -> None:
    """Have an axis of seconds be logarithmic, with marks at times as people say them."""
    ticks = [seconds for seconds in TIMES if low <= seconds <= high]  # no powers of ten
    ax.set_xscale("log")
    ax.set_xticks(ticks, list(map(span, ticks)))
    ax.set_xticks([], minor=True)


def flat(*given: ArrayLike, names: str = "") -> list[np.ndarray]:
    """Return arrays of any shape as vectors, of equal length where they have names."""
    found = [np.ravel(np.asarray(values, float)) for values in given]
    if names and (not found[0].size or len({len(values) for values in found}) > 1):
        pairs = zip(found, names.split(), strict=True)
        told = " and ".join(f"{values.size} {name}" for values, name in pairs)
        raise ValueError(f"{told}; give as many of each")
    return found


def save(figure: Figure, path: Target) -> Path:
    """Write a PNG, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", facecolor="none", edgecolor="none", metadata={"Software": None}
    )
    return files.write(path, buffer.getvalue())
