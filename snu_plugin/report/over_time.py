"""A metric as devices age, against the logarithm of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NLL = "test NLL (nats per time step)"

_TIMES = {1.0: "1 s", 20.0: "20 s", 3600.0: "1 h", 86400.0: "1 day"}
_TIMES |= {30 * 86400.0: "30 days", 365 * 86400.0: "1 year", 3650 * 86400.0: "10 years"}


def metric_over_time(
    path: str | PathLike[str],
    seconds: Sequence[float],
    curves: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, float] | None = None,
    apart: Sequence[str] = (),
    ylabel: str = NLL,
    xlabel: str = "time since programming",
) -> Path:
    """Draw a metric against the logarithm of the time since programming.

    Args:
        path: Where the PNG goes.
        seconds: Times since programming, in seconds, above 0.
        curves: Name to values ``(times,)``, or ``(chips, times)`` for a mean with a band of one
            standard deviation over chips.
        lines: Name to a number to compare with, such as the float network's.
        apart: Curves that are drawn again beside the others, on a scale of their own.
        ylabel: The metric and its unit.
        xlabel: What the times count from.
    """
    times = np.asarray(seconds, float)
    if times.ndim != 1 or not (times > 0).all():
        raise ValueError(f"seconds is {seconds!r}; give a list of times above 0")
    if unknown := set(apart) - set(curves):
        raise ValueError(f"apart names {', '.join(sorted(unknown))}, which is no curve")
    drawn = {name: _checked(name, values, times) for name, values in curves.items()}
    if apart:
        figure, axes = style.canvas(9.6, 3.9, (1, 1))
    else:
        figure, axes = style.canvas()
    for ax, names in zip(axes, (list(drawn), list(apart)), strict=False):
        for name in names:
            _curve(ax, times, drawn[name], list(drawn).index(name), name)
        style.levels(ax, lines)
        _time_axis(ax, times)
        style.label(ax, xlabel, ylabel if ax is axes[0] else "")
    if apart:
        style.label(axes[1], xlabel, "", "the same, closer")
    style.legend(axes[0], loc="best")
    return style.save(figure, path)


def _checked(name: str, values: ArrayLike, times: np.ndarray) -> np.ndarray:
    """Return a curve as ``(chips, times)``."""
    chips = np.atleast_2d(np.asarray(values, float))
    if chips.shape[1:] != times.shape:
        raise ValueError(
            f"curve {name!r} has shape {chips.shape}; expected ({len(times)},) or "
            f"(chips, {len(times)})"
        )
    return chips


def _curve(ax: Axes, times: np.ndarray, chips: np.ndarray, number: int, name: str) -> None:
    """Draw the mean over chips, with a band where there are several."""
    look = style.curve(number)
    mean, spread = chips.mean(0), chips.std(0)
    ax.plot(times, mean, markersize=5, linewidth=1.8, label=name, **look)
    if len(chips) > 1:
        ax.fill_between(times, mean - spread, mean + spread, color=look["color"], alpha=0.2, lw=0)


def _time_axis(ax: Axes, times: np.ndarray) -> None:
    """Mark the times that people speak of, not powers of ten."""
    ax.set_xscale("log")
    low, high = times.min() / 1.5, times.max() * 1.5
    shown = {s: name for s, name in _TIMES.items() if low <= s <= high}
    ax.set_xticks(list(shown), list(shown.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlim(low, high)
