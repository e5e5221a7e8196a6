"""A picture of where a simulator leaves the strict reference."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from snu_plugin.report import style

MOST = 12
"""Outputs that are drawn; those that differ first come first."""


def divergence(
    path: str | PathLike[str],
    expected: ArrayLike,
    outputs: ArrayLike,
    *,
    begin: int,
    step: int,
    name: str,
) -> Path:
    """Draw outputs of the reference and of a simulator around their first difference.

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
    order = np.argsort(np.where(differs.any(0), differs.argmax(0), len(given)), kind="stable")
    figure, (ax,) = style.canvas(9.0, 4.2)
    steps = np.arange(begin, begin + len(given))
    height = max(1e-12, float(np.nanmax(np.abs([given, np.nan_to_num(got)]))))
    for row, unit in enumerate(order[:MOST]):
        for values, colour, label, width in (
            (given, style.INK, "strict reference", 3.0),
            (got, style.ORANGE, name, 1.2),
        ):
            ax.step(
                steps,
                row + 0.8 * values[:, unit] / height,
                where="mid",
                color=colour,
                linewidth=width,
                label=label if row == 0 else None,
            )
    ax.axvline(step, color=style.BLUE, linewidth=1.0, label=f"first difference, step {step}")
    shown = order[:MOST]
    ax.set_yticks(range(len(shown)), [str(unit) for unit in shown])
    ax.legend(loc="upper right", frameon=False, labelcolor=style.INK)
    style.label(ax, "step", "output")
    return style.save(figure, path)
