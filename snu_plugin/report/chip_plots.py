"""Figures of the chip: what its devices hold, what it uses, what lies where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Target = str | PathLike[str]


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
    asked, found = np.ravel(np.asarray(target, float)), np.ravel(np.asarray(read, float))
    if asked.shape != found.shape or not asked.size:
        raise ValueError(f"{asked.size} targets and {found.size} reads; give as many of each")
    order = np.argsort(asked)
    figure, (ax,) = style.canvas(6.4, 4.2)
    size = float(np.clip(6000 / asked.size, 0.6, 12))
    _cloud(ax, asked, found, size)
    if sigma is not None:
        spread = np.ravel(np.asarray(sigma, float))[order]
        near, far = asked[order] - spread, asked[order] + spread
        ax.fill_between(asked[order], near, far, color=style.ORANGE, alpha=0.25, lw=0, zorder=0)
        ax.plot(asked[order], near, color=style.ORANGE, linewidth=1, label="expected ± σ")
        ax.plot(asked[order], far, color=style.ORANGE, linewidth=1)
    ends = [asked.min(), asked.max()]
    ax.plot(ends, ends, color=style.INK, linewidth=1.2, linestyle="--", label="as asked for")
    rms = math.sqrt(float(np.mean((found - asked) ** 2)))
    style.label(ax, f"target ({unit})", f"read ({unit})", f"deviation {rms:.3g} {unit} r.m.s.")
    style.legend(ax, loc="upper left")
    return style.save(figure, path)


def conductances(
    path: Target, states: Mapping[str, ArrayLike], *, g_max_us: float | None = None
) -> Path:
    """Draw histograms of device conductances in µS, one curve a state, such as before and after.

    Args:
        path: Where the PNG goes.
        states: Name to conductances in µS, any shape.
        g_max_us: Conductance of the largest weight, marked by a line.
    """
    values = {name: np.ravel(np.asarray(g, float)) for name, g in states.items()}
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
    middle, width = np.ravel(np.asarray(mean, float)), np.ravel(np.asarray(spread, float))
    if middle.shape != width.shape or not middle.size:
        raise ValueError(f"{middle.size} means and {width.size} spreads; give as many of each")
    figure, (ax,) = style.canvas()
    pulses = np.arange(len(middle))
    ax.fill_between(
        pulses, middle - width, middle + width, color=style.BLUE, alpha=0.2, lw=0, label="± σ"
    )
    ax.plot(pulses, middle, color=style.BLUE, linewidth=1.8, label="modelled devices, mean")
    if published:
        levels, spreads = zip(*published.values(), strict=True)
        ax.errorbar(
            list(published),
            levels,
            spreads,
            color=style.ORANGE,
            fmt="o",
            markersize=5,
            capsize=3,
            linewidth=1.2,
            label=f"{source}, ± σ",
        )
    ax.set_ylim(bottom=0)
    style.label(ax, "SET pulses since RESET", "conductance (µS)")
    style.legend(ax, loc="lower right")
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
    at, drawn = np.ravel(np.asarray(g, float)), np.ravel(np.asarray(nu, float))
    if at.shape != drawn.shape or not at.size:
        raise ValueError(f"{at.size} conductances and {drawn.size} exponents; give as many of each")
    figure, (ax,) = style.canvas()
    size = float(np.clip(6000 / at.size, 0.6, 12))
    label = "modelled devices"
    _cloud(ax, at, drawn, size, label)
    if fit is not None:
        x, mean, spread = (np.asarray(values, float) for values in fit)
        ax.plot(x, mean, color=style.ORANGE, linewidth=1.8, label=f"{source}, mean ± σ")
        for edge in (mean - spread, mean + spread):
            ax.plot(x, edge, color=style.ORANGE, linewidth=1, linestyle="--")
    ax.set_ylim(0, 1.15 * float(drawn.max()) or 1.0)
    style.label(ax, "conductance when written (µS)", "drift exponent ν")
    style.legend(ax, loc="upper right")
    return style.save(figure, path)


def _cloud(ax: Axes, x: np.ndarray, y: np.ndarray, size: float, name: str | None = None) -> None:
    """Draw one dot a device; the legend shows a dot that can be seen."""
    ax.scatter(x, y, s=size, color=style.BLUE, alpha=0.35, linewidths=0, rasterized=True)
    if name is not None:
        ax.scatter([], [], s=20, color=style.BLUE, label=name)


def energy(
    path: Target, rows: Mapping[str, Mapping[str, float]], *, unit: str = "nJ", title: str = ""
) -> Path:
    """Draw what uses the energy of a step: a bar for each row, a segment for each part.

    Args:
        path: Where the PNG goes.
        rows: Name of a case (such as dense, event-driven) to parts and their energies.
        unit: Unit of the energies.
        title: What else to know, such as the energy of writing.
    """
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    if not parts:
        raise ValueError("no energies were given; give a case with its parts")
    figure, (ax,) = style.canvas(6.4, 1.5 + 0.55 * len(rows))
    names = list(rows)
    start = np.zeros(len(names))
    for i, part in enumerate(parts):
        values = np.array([rows[name].get(part, 0.0) for name in names])
        ax.barh(
            names,
            values,
            left=start,
            height=0.55,
            color=(style.BLUE, style.ORANGE, style.GREEN, style.VIOLET)[i % 4],
            label=part,
        )
        start += values
    for y, total in enumerate(start):
        ax.text(
            total,
            y,
            f" {total:.3g} {unit}",
            color=style.INK,
            va="center",
            fontsize=style.FONT_SIZE - 1,
        )
    ax.set_xlim(0, (start.max() or 1.0) * 1.18)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    style.label(ax, f"energy per time step ({unit})" + (title and f"\n{title}"), "")
    style.legend(
        ax,
        loc="upper center",
        bbox_to_anchor=(0.45, 1.02 + 0.28 / len(rows) + 0.06),
        ncols=len(parts),
    )
    return style.save(figure, path)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A rectangle of devices in use on one tile."""

    tile: int
    """Number of the tile, from 0."""
    label: str
    """Whose weights lie here: the node's name."""
    row: int = 0
    column: int = 0
    rows: int
    columns: int


def tiles(path: Target, blocks: Sequence[Block], *, shape: tuple[int, int] = (256, 256)) -> Path:
    """Draw which part of every tile is in use.

    Args:
        path: Where the PNG goes.
        blocks: What lies where.
        shape: Rows and columns of a tile.
    """
    if not blocks:
        raise ValueError("no blocks were given; give at least one rectangle in use")
    from matplotlib.patches import Rectangle

    count = max(block.tile for block in blocks) + 1
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, axes = style.canvas(2.9 * columns, 3.3 * rows, [1] * columns, rows)
    for unused in axes[count:]:
        unused.set_visible(False)
    nodes = list(dict.fromkeys(block.label for block in blocks))
    for tile, ax in enumerate(axes[:count]):
        mine = [block for block in blocks if block.tile == tile]
        ax.add_patch(Rectangle((0, 0), shape[1], shape[0], facecolor=style.FAINT))
        for block in mine:
            corner = (block.column, block.row)
            colour = style.CYCLE[nodes.index(block.label) % 4]
            ax.add_patch(Rectangle(corner, block.columns, block.rows, facecolor=colour))
            narrow = len(mine) == 1 and block.columns < shape[1] / 6
            ax.text(
                block.column + (block.columns if narrow else block.columns / 2),
                block.row + block.rows / 2,
                f" {block.label}" if narrow else block.label,
                ha="left" if narrow else "center",
                va="center",
                color=style.INK if narrow else "white",
                fontsize=style.FONT_SIZE - 1,
                clip_on=True,
            )
        used = sum(block.rows * block.columns for block in mine) / (shape[0] * shape[1])
        ax.set(
            xlim=(0, shape[1]),
            ylim=(shape[0], 0),
            aspect="equal",
            xticks=[0, shape[1]],
            yticks=[0, shape[0]],
        )
        ax.grid(visible=False)
        style.label(
            ax, "columns", "rows" if tile % columns == 0 else "", f"tile {tile}: {used:.0%} used"
        )
    return style.save(figure, path)
