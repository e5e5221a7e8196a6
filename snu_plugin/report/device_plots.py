"""Devices, tiles, energies, and costs against size, from plain arrays and saved as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.durations import scaled
from snu_plugin.report import style
from snu_plugin.report.style import Target, flat

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def target_against_read(
    path: Target,
    target: ArrayLike,
    read: ArrayLike,
    *,
    sigma: ArrayLike | None = None,
    unit: str = "µS",
) -> Path:
    """Draw what devices or weights read back against what was asked for.

    Args:
        path: Where the PNG goes.
        target: Targets, any shape.
        read: What was read, of the same shape.
        sigma: Standard deviation that the model expects at each target, drawn as a band around
            the identity; ``None`` leaves it out.
        unit: Unit of targets and reads.
    """
    asked, found = flat(target, read, names="targets reads")
    figure, (ax,) = style.canvas(6.4, 4.2)
    _dots(ax, asked, found)
    if sigma is not None:
        order = np.argsort(asked)
        (spread,) = flat(sigma)
        x, near, far = (v[order] for v in (asked, asked - spread, asked + spread))
        ax.fill_between(x, near, far, color=style.ORANGE, alpha=0.25, lw=0, zorder=0)
        ax.plot(x, near, color=style.ORANGE, linewidth=1, label="expected ± σ")
        ax.plot(x, far, color=style.ORANGE, linewidth=1)
    ends = [asked.min(), asked.max()]
    ax.plot(ends, ends, color=style.INK, linewidth=1.2, linestyle="--", label="as asked for")
    rms = math.sqrt(float(np.mean((found - asked) ** 2)))
    style.label(ax, f"target ({unit})", f"read ({unit})", f"deviation {rms:.3g} {unit} r.m.s.")
    style.legend(ax, loc="upper left")
    return style.save(figure, path)


def drift_exponents(
    path: Target,
    g: ArrayLike,
    nu: ArrayLike,
    *,
    fit: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    source: str = "published fit",
) -> Path:
    """Draw the drift exponent of devices against the conductance they were written to, in µS.

    Args:
        path: Where the PNG goes.
        g: Target conductances, any shape.
        nu: Drift exponents, of the same shape.
        fit: Conductances in rising order with the published mean and standard deviation there.
        source: Whose fit that is.
    """
    at, drawn = flat(g, nu, names="conductances exponents")
    figure, (ax,) = style.canvas()
    _dots(ax, at, drawn, "modelled devices")
    if fit is not None:
        x, mean, spread = (np.asarray(values, float) for values in fit)
        ax.plot(x, mean, color=style.ORANGE, linewidth=1.8, label=f"{source}, mean ± σ")
        for edge in (mean - spread, mean + spread):
            ax.plot(x, edge, color=style.ORANGE, linewidth=1, linestyle="--")
    ax.set_ylim(0, 1.15 * float(drawn.max()) or 1.0)
    style.label(ax, "conductance when written (µS)", "drift exponent ν")
    style.legend(ax, loc="upper right")
    return style.save(figure, path)


def deviations(
    path: Target,
    g: ArrayLike,
    seen: ArrayLike,
    table: ArrayLike,
    *,
    source: str,
    xlabel: str,
    ylabel: str,
) -> Path:
    """Draw standard deviations over devices, in µS, over those of a table.

    Args:
        path: Where the PNG goes.
        g: Conductances in rising order.
        seen: Standard deviation over modelled devices at each.
        table: What the table says there.
        source: Whose table that is.
        xlabel: What the conductances are.
        ylabel: What deviates.
    """
    at, found, known = flat(g, seen, table, names="conductances deviations rows")
    figure, (ax,) = style.canvas()
    ax.plot(at, found, color=style.BLUE, linewidth=1.8, label="modelled devices")
    ax.plot(at, known, "o", color=style.ORANGE, markersize=5, label=source)
    ax.set_ylim(0, 1.15 * float(max(found.max(), known.max())) or 1.0)
    style.label(ax, xlabel, ylabel)
    style.legend(ax, loc="lower right")
    return style.save(figure, path)


def _dots(ax: Axes, x: np.ndarray, y: np.ndarray, name: str | None = None) -> None:
    """Draw one dot a device; the legend shows a dot that can be seen."""
    size = float(np.clip(6000 / x.size, 0.6, 12))
    ax.scatter(x, y, s=size, color=style.BLUE, alpha=0.35, linewidths=0, rasterized=True)
    if name is not None:
        ax.scatter([], [], s=20, color=style.BLUE, label=name)


def conductances(
    path: Target, states: Mapping[str, ArrayLike], *, g_max_us: float | None = None
) -> Path:
    """Draw histograms of device conductances in µS, one curve a state, such as before and after.

    Args:
        path: Where the PNG goes.
        states: Name to conductances in µS, any shape.
        g_max_us: Conductance of the largest weight, marked by a line.
    """
    values = {name: flat(g)[0] for name, g in states.items()}
    if not values or not all(g.size for g in values.values()):
        raise ValueError("no conductances were given; give a name and an array for each state")
    top = max(g.max() for g in values.values()) or 1.0
    bins = np.linspace(min(0.0, *(g.min() for g in values.values())), top * 1.02, 81).tolist()
    figure, (ax,) = style.canvas()
    for i, (name, g) in enumerate(values.items()):
        colour = style.CYCLE[i % 4]
        ax.hist(g, bins, color=colour, alpha=0.18)
        ax.hist(g, bins, color=colour, histtype="step", linewidth=1.6, label=name)
    if g_max_us is not None:
        ax.axvline(g_max_us, color=style.INK, linestyle="--", linewidth=1.2, label="largest weight")
    ax.set_yscale("log")
    style.label(ax, "conductance (µS)", "devices")
    style.legend(ax)
    return style.save(figure, path)


def pulse_response(
    path: Target,
    mean: ArrayLike,
    spread: ArrayLike,
    *,
    published: Mapping[int, tuple[float, float]] | None = None,
    source: str = "published",
) -> Path:
    """Draw the conductance of devices after each SET pulse, in µS, over the published one.

    Args:
        path: Where the PNG goes.
        mean: Over devices, after 0, 1, 2 ... pulses from RESET.
        spread: Standard deviation over devices, of the same shape.
        published: Number of pulses to mean and standard deviation.
        source: Whose numbers those are.
    """
    middle, width = flat(mean, spread, names="means spreads")
    figure, (ax,) = style.canvas()
    pulses, edges = np.arange(len(middle)), (middle - width, middle + width)
    ax.fill_between(pulses, *edges, color=style.BLUE, alpha=0.2, lw=0, label="± σ")
    ax.plot(pulses, middle, color=style.BLUE, linewidth=1.8, label="modelled devices, mean")
    if published:
        levels, spreads = zip(*published.values(), strict=True)
        look: dict[str, Any] = {"fmt": "o", "markersize": 5, "capsize": 3, "linewidth": 1.2}
        look |= {"color": style.ORANGE, "label": f"{source}, ± σ"}
        ax.errorbar(list(published), levels, spreads, **look)
    ax.set_ylim(bottom=0)
    style.label(ax, "SET pulses since RESET", "conductance (µS)")
    style.legend(ax, loc="lower right")
    return style.save(figure, path)


def energy(
    path: Target, rows: Mapping[str, Mapping[str, float]], *, title: str = "", width: float = 6.4
) -> Path:
    """Draw what uses the energy of a step: a bar for each row, a segment for each part.

    Args:
        path: Where the PNG goes.
        rows: Name of a case (such as dense, event-driven) to parts and their energies, nJ.
        title: What else to know, such as the energy of writing.
        width: Inches.
    """
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    if not parts:
        raise ValueError("no energies were given; give a case with its parts")
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, (ax,) = style.canvas(width, 1.5 + 0.55 * len(rows))
    names, start = list(rows), np.zeros(len(rows))
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.VIOLET)
    for i, part in enumerate(parts):
        values = np.array([1e-9 * rows[name].get(part, 0.0) for name in names])
        ax.barh(names, values, left=start, height=0.55, color=colours[i % 4], label=part)
        start += values
    look: dict[str, Any] = {"color": style.INK, "va": "center", "fontsize": style.FONT_SIZE - 1}
    for y, total in enumerate(start):
        ax.text(total, y, " " + scaled(total, "J"), **look)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scaled(value, "J")))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlim(0, (start.max() or 1e-9) * 1.18)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    style.label(ax, "energy per time step" + (title and f"\n{title}"), "")
    above = (0.45, 1.02 + 0.28 / len(rows) + 0.06)
    style.legend(ax, loc="upper center", bbox_to_anchor=above, ncols=len(parts))
    return style.save(figure, path)


def growth(
    path: Target,
    axes: Mapping[str, Mapping[str, Mapping[float, float]]],
    *,
    highlight: Sequence[str],
) -> Path:
    """Draw times against sizes, both logarithmic: a panel for each size, a curve a candidate.

    Args:
        path: Where the PNG goes.
        axes: By the name of the size: by candidate, seconds by size, all above 0.
        highlight: Candidates drawn thick.

    Raises:
        ValueError: If there is no axis, or a size or time is not above 0.
    """
    if not axes:
        raise ValueError("axes is empty; give at least one size that grows")
    numbers = [n for curves in axes.values() for c in curves.values() for n in (*c, *c.values())]
    if min(numbers, default=1) <= 0:
        raise ValueError(f"a size or time is {min(numbers)}; all must be above 0")
    names = list(dict.fromkeys(name for curves in axes.values() for name in curves))
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    figure, panels = style.canvas(5.2 * columns, 3.6 * rows + 1.2, (1,) * columns, rows)
    handles: dict[str, Any] = {}
    for ax, (axis, curves) in zip(panels, axes.items(), strict=False):
        for name, curve in curves.items():
            times = [1e3 * seconds for seconds in curve.values()]
            look = style.curve(names.index(name)) | {"markersize": 4, "label": name}
            width = 2.6 if name in highlight else 1.2
            handles[name] = ax.plot(list(curve), times, linewidth=width, **look)[0]
        ax.set_xscale("log")
        ax.set_yscale("log")
        sizes = sorted({size for curve in curves.values() for size in curve})
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.set_xticks([], minor=True)
        style.label(ax, axis, "ms, forward and backward")
    for ax in panels[len(axes) :]:
        ax.set_visible(False)
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=3,
        frameon=False, labelcolor=style.INK, fontsize=style.FONT_SIZE - 2,
    )  # fmt: skip
    return style.save(figure, path)
