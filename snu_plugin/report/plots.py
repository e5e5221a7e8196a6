"""Figures made from plain arrays and saved as PNG: learning and music here, chip beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.report import style
from snu_plugin.report.chip_plots import Block, conductances, energy, target_against_read, tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Block",
    "conductances",
    "energy",
    "metric_over_time",
    "piano_roll",
    "target_against_read",
    "tiles",
    "training",
    "tuning",
]

Target = str | PathLike[str]
NLL = "test NLL (nats per time step)"

_TIMES = {1.0: "1 s", 20.0: "20 s", 3600.0: "1 h", 86400.0: "1 day"}
_TIMES |= {30 * 86400.0: "30 days", 365 * 86400.0: "1 year", 3650 * 86400.0: "10 years"}


def metric_over_time(
    path: Target,
    seconds: Sequence[float],
    curves: Mapping[str, ArrayLike],
    *,
    lines: Mapping[str, float] | None = None,
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
        ylabel: The metric and its unit.
        xlabel: What the times count from.
    """
    times = np.asarray(seconds, float)
    if times.ndim != 1 or not (times > 0).all():
        raise ValueError(f"seconds is {seconds!r}; give a list of times above 0")
    figure, (ax,) = style.canvas()
    for i, (name, values) in enumerate(curves.items()):
        chips = np.atleast_2d(np.asarray(values, float))
        if chips.shape[1:] != times.shape:
            raise ValueError(
                f"curve {name!r} has shape {chips.shape}; expected ({len(times)},) or "
                f"(chips, {len(times)})"
            )
        colour, marker = style.CYCLE[i % 4], style.MARKERS[i % 4]
        mean, spread = chips.mean(0), chips.std(0)
        ax.plot(times, mean, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
        if len(chips) > 1:
            ax.fill_between(times, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
    style.levels(ax, lines)
    _time_axis(ax, times)
    style.label(ax, xlabel, ylabel)
    style.legend(ax, loc="best")
    return style.save(figure, path)


def _time_axis(ax: Axes, times: np.ndarray) -> None:
    """Mark the times that people speak of, not powers of ten."""
    ax.set_xscale("log")
    low, high = times.min() / 1.5, times.max() * 1.5
    shown = {s: name for s, name in _TIMES.items() if low <= s <= high}
    ax.set_xticks(list(shown), list(shown.values()))
    ax.set_xticks([], minor=True)
    ax.set_xlim(low, high)


def training(
    path: Target,
    curves: Mapping[str, ArrayLike],
    *,
    best: int | None = None,
    lines: Mapping[str, float] | None = None,
    ylabel: str = "NLL (nats per time step)",
) -> Path:
    """Draw metrics against training epochs.

    Args:
        path: Where the PNG goes.
        curves: Name to one value per epoch.
        best: The epoch that was kept, counted from 1.
        lines: Name to a number to compare with.
        ylabel: The metric and its unit.
    """
    figure, (ax,) = style.canvas()
    for i, (name, given) in enumerate(curves.items()):
        values = np.ravel(np.asarray(given, float))
        epochs = np.arange(1, len(values) + 1)
        colour = (style.INK, *style.CYCLE)[i % 5]
        ax.plot(epochs, values, color=colour, linewidth=1.8, label=name)
        if best is not None and 1 <= best <= len(values):
            ax.plot(best, values[best - 1], color=colour, marker=style.MARKERS[i % 4])
    if best is not None:
        ax.axvline(best, color=style.FAINT, linewidth=4, label=f"epoch {best}, kept")
    style.levels(ax, lines)
    style.label(ax, "epoch", ylabel)
    style.legend(ax)
    return style.save(figure, path)


def tuning(
    path: Target,
    loss: ArrayLike,
    *,
    pulses: ArrayLike | None = None,
    lines: Mapping[str, float] | None = None,
    ylabel: str = "NLL (nats per time step)",
) -> Path:
    """Draw the loss seen by the chip while it is tuned, and the pulses that this took.

    Args:
        path: Where the PNG goes.
        loss: One value per batch.
        pulses: Pulses given after each batch; drawn as their running sum.
        lines: Name to a number to compare with.
        ylabel: The loss and its unit.
    """
    values = np.ravel(np.asarray(loss, float))
    if not values.size:
        raise ValueError("no loss was given; give one value per batch")
    figure, axes = style.canvas(ratios=(1,) if pulses is None else (3, 2))
    batches = np.arange(1, len(values) + 1)
    axes[0].plot(batches, values, color=style.GREEN, linewidth=0.8, alpha=0.45, label="batch")
    width = max(1, len(values) // 20)
    if width > 1:
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        axes[0].plot(
            batches[width - 1 :], smooth, color=style.GREEN, linewidth=2, label=f"mean of {width}"
        )
    style.levels(axes[0], lines)
    style.label(axes[0], "batch", ylabel)
    style.legend(axes[0])
    if pulses is not None:
        total = np.cumsum(np.ravel(np.asarray(pulses, float)))
        axes[1].plot(np.arange(1, len(total) + 1), total, color=style.VIOLET, linewidth=2)
        axes[1].set_ylim(bottom=0)
        style.label(axes[1], "batch", "pulses so far")
    return style.save(figure, path)


def piano_roll(path: Target, roll: ArrayLike, *, given: int = 0, lowest: int = 21) -> Path:
    """Draw a piano roll, the part that was given in grey and the rest in colour.

    Args:
        path: Where the PNG goes.
        roll: ``(T, keys)`` of 0 and 1, a row a quarter note.
        given: Rows at the start that the network was given.
        lowest: MIDI number of column 0.
    """
    played = np.asarray(roll, float)
    if played.ndim != 2 or not played.size:
        raise ValueError(f"the roll has shape {played.shape}; expected (T, keys)")
    figure, (ax,) = style.canvas(9.0, 3.8)
    steps, keys = played.nonzero()
    if steps.size:
        ax.barh(
            keys + lowest,
            0.94,
            left=steps + 0.03,
            height=0.86,
            color=[style.INK if step < given else style.GREEN for step in steps],
        )
        ax.set_ylim(keys.min() + lowest - 1.5, keys.max() + lowest + 1.5)
    if given:
        ax.axvline(given, color=style.ORANGE, linewidth=1.4)
        ax.text(
            given,
            1.01,
            " continued by the network",
            color=style.ORANGE,
            fontsize=style.FONT_SIZE - 1,
            transform=ax.get_xaxis_transform(),
        )
        ax.text(
            given,
            1.01,
            "given ",
            color=style.INK,
            ha="right",
            fontsize=style.FONT_SIZE - 1,
            transform=ax.get_xaxis_transform(),
        )
    low, high = ax.get_ylim()
    octaves = [note for note in range(0, 128, 12) if low <= note <= high]
    ax.set_yticks(octaves, [f"C{note // 12 - 1}" for note in octaves])
    ax.set_xlim(0, len(played))
    style.label(ax, "time (quarter notes)", "pitch")
    return style.save(figure, path)
