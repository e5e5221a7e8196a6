"""Figures made from plain arrays and saved as PNG: learning and music here, chip beside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.report import style
from snu_plugin.report.chip_plots import (
    Block,
    conductances,
    drift_exponents,
    energy,
    pulse_response,
    target_against_read,
    tiles,
)
from snu_plugin.report.over_time import metric_over_time

__all__ = [
    "Block",
    "bars",
    "conductances",
    "drift_exponents",
    "energy",
    "metric_over_time",
    "piano_roll",
    "pulse_response",
    "stages",
    "target_against_read",
    "tiles",
    "training",
    "tuning",
]

Target = str | PathLike[str]


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


def bars(
    path: Target,
    names: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    *,
    spread: Mapping[str, Sequence[float | None]] | None = None,
    xlabel: str = "",
    digits: int = 2,
) -> Path:
    """Draw bars side by side, each with its value; the axis starts near the smallest.

    Args:
        path: Where the PNG goes.
        names: What is compared, from top to bottom.
        groups: Name to one value for each of ``names``; ``None`` draws nothing, and a group of
            nothing else takes no room; the others keep their colours.
        spread: Name of a group to the standard deviation of each value, or ``None``.
        xlabel: The metric and its unit.
        digits: Decimals of the values.
    """
    known = [v for values in groups.values() for v in values if v is not None]
    if not known or any(len(values) != len(names) for values in groups.values()):
        raise ValueError(f"give a value, or None, for each of {len(names)} names, and one at least")
    colours = dict(zip(groups, itertools.cycle((style.INK, *style.CYCLE)), strict=False))
    drawn = {group: values for group, values in groups.items() if set(values) != {None}}
    figure, (ax,) = style.canvas(6.4, 1.1 + 0.28 * len(names) * len(drawn))
    height = 0.8 / len(drawn)
    low, high = min(known), max(known)
    room = max(high - low, 0.02 * abs(high), 1e-6)
    for i, (group, values) in enumerate(drawn.items()):
        at = np.arange(len(names)) + (i - (len(drawn) - 1) / 2) * height
        shown = np.array([np.nan if v is None else v for v in values])
        errors = np.array([v or 0.0 for v in (spread or {}).get(group, [0.0] * len(names))])
        ax.barh(
            at,
            shown,
            height * 0.92,
            color=colours[group],
            label=group,
            xerr=errors,
            ecolor=style.INK,
        )
        for y, x, error in zip(at, shown, errors, strict=True):
            if not np.isnan(x):
                text = f" {x:.{digits}f}"
                ax.text(x + error, y, text, color=style.INK, va="center", fontsize=9)
    ax.set_xlim(low - 0.25 * room, high + 0.22 * room)
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    style.label(ax, xlabel, "")
    style.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(drawn))
    return style.save(figure, path)


def stages(
    path: Target,
    names: Sequence[str],
    curves: Mapping[str, Sequence[float | None]],
    *,
    spread: Mapping[str, Sequence[float | None]] | None = None,
    ylabel: str = "",
) -> Path:
    """Draw a metric from stage to stage.

    Args:
        path: Where the PNG goes.
        names: Of the stages, from left to right.
        curves: Name to one value for each of ``names``; ``None`` leaves a gap.
        spread: Name of a curve to the standard deviation of each value, or ``None``.
        ylabel: The metric and its unit.
    """
    if not names or any(len(values) != len(names) for values in curves.values()):
        raise ValueError(f"give a value, or None, for each of {len(names)} stages")
    figure, (ax,) = style.canvas()
    for i, (name, values) in enumerate(curves.items()):
        shown = [np.nan if v is None else v for v in values]
        errors = [v or 0.0 for v in (spread or {}).get(name, [0.0] * len(names))]
        ax.errorbar(
            range(len(names)), shown, errors if any(errors) else None, markersize=5,
            linewidth=1.8, capsize=3, label=name, **style.curve(i),
        )  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    style.label(ax, "", ylabel)
    style.legend(ax, loc="best")
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
