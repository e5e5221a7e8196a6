"""The figures of reproduced results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snu_plugin.experiments.paper.records import COLUMNS, epochs_of, row, study_sigma
from snu_plugin.report import plots, style
from snu_plugin.report.plots import Values, with_gaps
from snu_plugin.report.style import Target


def draw_tasks(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw a figure a task in ``folder``, as the paper does: published and ours, side by side."""
    made = []
    for task in dict.fromkeys(record["task"] for record in records):
        chosen = [record for record in records if record["task"] == task]
        names = [_label(r) for r in chosen]
        given = [r["published"] and r["published"]["value"] for r in chosen]
        made.append(
            bars(
                folder / f"{task}.png",
                names,
                {"published": given, "ours": [r["mean"] for r in chosen]},
                spread={"ours": [r["sigma"] for r in chosen]},
                xlabel=chosen[0]["metric"],
            )
        )
    return made


def _label(record: dict[str, Any]) -> str:
    """Return what stands beside a bar: unit and recipe, and the epochs where not the recipe's."""
    name, epochs = record["recipe"]["name"], epochs_of(record)
    other = [f"({epochs} epochs)"] if "of" in epochs else []
    return " ".join([row(record)[COLUMNS.index("unit")], name, *other])


def draw_studies(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw a figure of every kind of look and task in ``folder``."""
    made = []
    for kind in ("bits", "chip"):
        for task in dict.fromkeys(r["task"] for r in records if kind in r["study"]):
            chosen = [r for r in records if kind in r["study"] and r["task"] == task]
            stages = list(chosen[0]["study"][kind])
            stages.sort(key=lambda stage: not stage.isdigit() if kind == "bits" else False)
            named = {f"{r['unit']} {r['recipe']['name']}": r for r in chosen}
            curves = {n: [r["study"][kind].get(s) for s in stages] for n, r in named.items()}
            spread = {n: [study_sigma(r, kind, s) for s in stages] for n, r in named.items()}
            made.append(
                plots.stages(
                    folder / f"{task}-{kind}.png",
                    [f"{s} bit" if s.isdigit() else s for s in stages],
                    curves,
                    spread=spread,
                    ylabel=chosen[0]["metric"],
                )
            )
    return made


def bars(
    path: Target,
    names: Sequence[str],
    groups: Mapping[str, Values],
    *,
    spread: Mapping[str, Values] | None = None,
    xlabel: str = "",
) -> Path:
    """Draw bars side by side, each with its value; the axis starts near the smallest.

    Args:
        path: Where the PNG goes.
        names: What is compared, from top to bottom.
        groups: Name to one value for each of ``names``; ``None`` draws nothing, and a group of
            nothing else takes no room; the others keep their colours.
        spread: Name of a group to the standard deviation of each value, or ``None``.
        xlabel: The metric and its unit.
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
        shown = with_gaps(values)
        errors = np.array([v or 0.0 for v in (spread or {}).get(group, [0.0] * len(names))])
        look: dict[str, Any] = {"color": colours[group], "label": group}
        ax.barh(at, shown, height * 0.92, xerr=errors, ecolor=style.INK, **look)
        for y, x, error in zip(at, shown, errors, strict=True):
            if not np.isnan(x):
                text = f" {x:.2f}"
                ax.text(x + error, y, text, color=style.INK, va="center", fontsize=9)
    ax.set_xlim(low - 0.25 * room, high + 0.22 * room)
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    style.label(ax, xlabel, "")
    style.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(drawn))
    return style.save(figure, path)
