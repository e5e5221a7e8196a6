"""Times against sizes, both on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from snu_plugin.report import style

Curve = Mapping[float, float]
"""Seconds by size."""


def growth(
    path: str | PathLike[str], axes: Mapping[str, Mapping[str, Curve]], *, highlight: Sequence[str]
) -> Path:
    """Draw one panel for each size that grows, with a curve for each candidate.

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
    for ax, (axis, curves) in zip(panels, axes.items(), strict=False):
        for name, curve in curves.items():
            place = names.index(name)
            ax.plot(
                list(curve),
                [1e3 * seconds for seconds in curve.values()],
                **style.curve(place),
                markersize=4,
                linewidth=2.6 if name in highlight else 1.2,
                label=name,
            )
        ax.set_xscale("log")
        ax.set_yscale("log")
        sizes = sorted({size for curve in curves.values() for size in curve})
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.set_xticks([], minor=True)
        style.label(ax, axis, "ms, forward and backward")
    for ax in panels[len(axes) :]:
        ax.set_visible(False)
    handles: dict[str, Any] = {}
    for ax in panels:
        handles |= {label: h for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=3,
        frameon=False, labelcolor=style.INK, fontsize=style.FONT_SIZE - 2,
    )  # fmt: skip
    return style.save(figure, path)
