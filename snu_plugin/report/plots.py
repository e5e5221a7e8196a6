"""Scores, times and outputs drawn from plain arrays and saved as PNG; see ``device_plots`` too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.durations import count, energy, scaled
from snu_plugin.report import style
from snu_plugin.report.style import Target, flat

Lines = Mapping[str, float]
"""Name to a number to compare with, drawn as a horizontal line."""
Values = Sequence[float | None]
"""Numbers, of which some may be missing."""

NLL = "NLL (nats per time step)"
LOWEST = 21
"""MIDI number of the first column of a roll."""
OUTPUTS_SHOWN = 12
"""Outputs that ``divergence`` draws; those that differ first come first."""


def with_gaps(values: Values) -> np.ndarray:
    """Return numbers, NaN for those that are missing."""
    return np.array([np.nan if v is None else v for v in values])


def metric_over_time(
    path: Target,
    seconds: Sequence[float],
    curves: Mapping[str, ArrayLike],
    *,
    lines: Lines | None = None,
    closer: Sequence[str] = (),
    ylabel: str = f"test {NLL}",
) -> Path:
    """Draw a metric against the logarithm of the time since programming.

    Args:
        path: Where the PNG goes.
        seconds: Times since programming, in seconds, above 0.
        curves: Name to values ``(times,)``, or ``(chips, times)`` for a mean with a band of one
            standard deviation over chips.
        lines: See ``Lines``.
        closer: Curves that are drawn again beside the others, on a scale of their own.
        ylabel: The metric and its unit.
    """
    times, by_chip = style.over_seconds(seconds, curves)
    if unknown := set(closer) - set(curves):
        raise ValueError(f"closer names {', '.join(sorted(unknown))}, which is no curve")
    figure, axes = style.canvas(9.6, 3.9, (1, 1)) if closer else style.canvas()
    low, high = times.min() / 1.5, times.max() * 1.5
    for ax, names in zip(axes, (list(by_chip), list(closer)), strict=False):
        for name in names:
            look: dict[str, Any] = {"markersize": 5, "linewidth": 1.8, "label": name}
            style.band(ax, times, by_chip[name], list(by_chip).index(name), **look)
        style.levels(ax, lines)
        style.log_seconds(ax, low, high)
        ax.set_xlim(low, high)
        style.label(ax, "time since programming", ylabel if ax is axes[0] else "")
    if closer:
        style.label(axes[1], "time since programming", "", "the same, closer")
    # Above the curves, where it covers none.
    style.legend(axes[0], loc="lower left", bbox_to_anchor=(0.0, 1.02), ncols=2, columnspacing=1.0)
    return style.save(figure, path)


def life(
    path: Target,
    years: Sequence[float],
    found: Mapping[str, ArrayLike],
    left: Mapping[str, ArrayLike],
    looked_after: Mapping[str, ArrayLike],
    costs: Mapping[str, Mapping[str, float]],
    *,
    lines: Lines | None = None,
    ylabel: str = f"test {NLL}",
) -> Path:
    """Draw the score of chips over years of use, a line for each way to look after them.

    First what visits find, then, for the ways that do something, what visits leave, with a mark
    where a chip was looked after; bands are one standard deviation over chips. Beside them stands
    what each way cost.

    Args:
        path: Where the PNG goes.
        years: Time of every visit since the chips were written, ``(visits,)``.
        found: Name of the way to scores before anything was done, ``(chips, visits)``.
        left: The same afterwards.
        looked_after: The same to whether any chip was looked after, ``(visits,)``.
        costs: The same to ``energy_nj``, ``pulses`` and ``upkeeps`` of one chip in all.
        lines: See ``Lines``.
        ylabel: The metric and its unit.
    """
    times, names = np.asarray(years, float), list(found)
    for name in names:
        shapes = np.shape(found[name]), np.shape(left[name])
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or shapes[0][1:] != times.shape:
            raise ValueError(
                f"{name!r} has scores {shapes[0]} and {shapes[1]}; expected (chips, {len(times)}) "
                "of both"
            )
    tended = [name for name in names if np.any(looked_after[name])]
    panels = [("found by a visit, before upkeep", found, names)]
    panels += [("left by a visit, after upkeep", left, tended)] if tended else []
    figure, axes = style.canvas(3.3 + 4.6 * len(panels), 4.0, (*[1] * len(panels), 0.66))
    for ax, (title, scores, shown) in zip(axes, panels, strict=False):
        for name in shown:
            marks = np.flatnonzero(looked_after[name]).tolist() if scores is left else []
            look: dict[str, Any] = {"linewidth": 1.6, "markersize": 3, "markevery": marks}
            chips = np.asarray(scores[name], float)
            style.band(ax, times, chips, names.index(name), label=name, **look)
        style.levels(ax, lines)
        ax.set_xlim(0, times.max() * 1.02)
        style.label(
            ax, "years since the chips were written", ylabel if ax is axes[0] else "", title
        )
    style.legend(axes[0], loc="best")
    from matplotlib.ticker import FuncFormatter

    bars = axes[-1]
    energies = np.array([1e-9 * costs[name]["energy_nj"] for name in names])
    if (energies > 0).any():
        low = 10.0 ** math.floor(math.log10(energies[energies > 0].min()))
        bars.set_xscale("log")
        bars.set_xlim(low, low * (10 * energies.max() / low) ** 1.9)
    colours = [style.curve(number)["color"] for number in range(len(names))]
    bars.barh(names, energies, height=0.5, color=colours)
    for y, (name, joules) in enumerate(zip(names, energies, strict=True)):
        cost = costs[name]
        said = f"{energy(cost['energy_nj'])}, {count(cost['upkeeps'])} times\n"
        said += f"{count(cost['pulses'])} pulses"
        look = {"color": style.INK, "va": "center", "fontsize": style.FONT_SIZE - 2.5}
        bars.annotate(
            said if cost["upkeeps"] else "nothing",
            (max(joules, bars.get_xlim()[0]), y),
            (5, 0),
            textcoords="offset points",
            **look,
        )
    bars.invert_yaxis()
    bars.grid(visible=False, axis="y")
    bars.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, "J")))
    style.label(bars, "energy", "", "upkeep of one chip")
    return style.save(figure, path)


def training(
    path: Target,
    curves: Mapping[str, ArrayLike],
    *,
    best: int | None = None,
) -> Path:
    """Draw metrics against training epochs.

    Args:
        path: Where the PNG goes.
        curves: Name to one value per epoch.
        best: The epoch that was kept, counted from 1.
    """
    figure, (ax,) = style.canvas()
    for i, (name, given) in enumerate(curves.items()):
        (values,) = flat(given)
        colour = (style.INK, *style.CYCLE)[i % 5]
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1.8, label=name)
        if best is not None and 1 <= best <= len(values):
            ax.plot(best, values[best - 1], color=colour, marker=style.MARKERS[i % 4])
    if best is not None:
        ax.axvline(best, color=style.FAINT, linewidth=4, label=f"epoch {best}, kept")
    style.label(ax, "epoch", NLL)
    style.legend(ax)
    return style.save(figure, path)


def tuning(
    path: Target,
    loss: ArrayLike,
    *,
    pulses: ArrayLike | None = None,
    ylabel: str = NLL,
) -> Path:
    """Draw the loss seen by the chip while it is tuned, and the pulses that this took.

    Args:
        path: Where the PNG goes.
        loss: One value per batch.
        pulses: Pulses given after each batch; drawn as their running sum if there are any.
        ylabel: The loss and its unit.
    """
    (values,) = flat(loss)
    if not values.size:
        raise ValueError("no loss was given; give one value per batch")
    total = np.zeros(0) if pulses is None else np.cumsum(*flat(pulses))
    figure, axes = style.canvas(ratios=(3, 2) if total.any() else (1,))
    batches, width, green = np.arange(1, len(values) + 1), max(1, len(values) // 20), style.GREEN
    axes[0].plot(batches, values, color=green, linewidth=0.8, alpha=0.45, label="batch")
    if width > 1:
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        label = f"mean of {width}"
        axes[0].plot(batches[width - 1 :], smooth, color=green, linewidth=2, label=label)
    style.label(axes[0], "batch", ylabel)
    style.legend(axes[0])
    if total.any():
        axes[1].plot(np.arange(1, len(total) + 1), total, color=style.VIOLET, linewidth=2)
        axes[1].set_ylim(bottom=0)
        style.label(axes[1], "batch", "pulses so far")
    return style.save(figure, path)


def stages(
    path: Target,
    names: Sequence[str],
    curves: Mapping[str, Values],
    *,
    spread: Mapping[str, Values] | None = None,
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
        errors = [v or 0.0 for v in (spread or {}).get(name, [0.0] * len(names))]
        ax.errorbar(
            range(len(names)), with_gaps(values), errors if any(errors) else None, markersize=5,
            linewidth=1.8, capsize=3, label=name, **style.curve(i),
        )  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    style.label(ax, "", ylabel)
    style.legend(ax, loc="best")
    return style.save(figure, path)


def divergence(
    path: Target, expected: ArrayLike, outputs: ArrayLike, *, begin: int, step: int, name: str
) -> Path:
    """Draw outputs of the strict reference and of a simulator around their first difference.

    Args:
        path: Where the PNG goes.
        expected: ``(steps, outputs)`` of the reference.
        outputs: The same of the simulator.
        begin: Number of the first row.
        step: First step that differs.
        name: Of the simulator.

    Raises:
        ValueError: If the two have not one shape.
    """
    given, got = np.asarray(expected, float), np.asarray(outputs, float)
    if given.ndim != 2 or given.shape != got.shape:
        raise ValueError(f"shapes are {given.shape} and {got.shape}; both must be (steps, outputs)")
    differs = given != got
    first = np.where(differs.any(0), differs.argmax(0), len(given))
    shown = np.argsort(first, kind="stable")[:OUTPUTS_SHOWN]
    figure, (ax,) = style.canvas(9.0, 4.2)
    steps = np.arange(begin, begin + len(given))
    height = max(1e-12, float(np.nanmax(np.abs([given, np.nan_to_num(got)]))))
    looks = (given, style.INK, 3.0, "strict reference"), (got, style.ORANGE, 1.2, name)
    for row, unit in enumerate(shown):
        for values, colour, width, label in looks:
            y, named = row + 0.8 * values[:, unit] / height, label if row == 0 else None
            ax.step(steps, y, where="mid", color=colour, linewidth=width, label=named)
    ax.axvline(step, color=style.BLUE, linewidth=1.0, label=f"first difference, step {step}")
    ax.set_yticks(range(len(shown)), [str(unit) for unit in shown])
    ax.legend(loc="upper right", frameon=False, labelcolor=style.INK)
    style.label(ax, "step", "output")
    return style.save(figure, path)


def piano_roll(path: Target, roll: ArrayLike, *, given: int = 0) -> Path:
    """Draw a piano roll, the part that was given in grey and the rest in colour.

    Args:
        path: Where the PNG goes.
        roll: ``(T, keys)`` of 0 and 1, a row a quarter note.
        given: Rows at the start that the network was given.
    """
    played = np.asarray(roll, float)
    if played.ndim != 2 or not played.size:
        raise ValueError(f"the roll has shape {played.shape}; expected (T, keys)")
    figure, (ax,) = style.canvas(9.0, 3.8)
    steps, keys = played.nonzero()
    if steps.size:
        colours = [style.INK if step < given else style.GREEN for step in steps]
        ax.barh(keys + LOWEST, 0.94, left=steps + 0.03, height=0.86, color=colours)
        ax.set_ylim(keys.min() + LOWEST - 1.5, keys.max() + LOWEST + 1.5)
    if given:
        ax.axvline(given, color=style.ORANGE, linewidth=1.4)
        above: dict[str, Any] = {"transform": ax.get_xaxis_transform()}
        above["fontsize"] = style.FONT_SIZE - 1
        ax.text(given, 1.01, " continued by the network", color=style.ORANGE, **above)
        ax.text(given, 1.01, "given ", color=style.INK, ha="right", **above)
    low, high = ax.get_ylim()
    octaves = [note for note in range(0, 128, 12) if low <= note <= high]
    ax.set_yticks(octaves, [f"C{note // 12 - 1}" for note in octaves])
    ax.set_xlim(0, len(played))
    style.label(ax, "time (quarter notes)", "pitch")
    return style.save(figure, path)
