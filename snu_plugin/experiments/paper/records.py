"""The record of a reproduced row as cells of a table and as lines of a terminal."""

from __future__ import annotations

import statistics
from typing import Any

from snu_plugin.experiments.paper.recipes import RECIPES

INHIBITION = ("single", "inhibited-sample", "inhibited-batch")
"""Recipes that are about the spikes of hidden layers."""

COLUMNS = (
    "task", "unit", "network", "recipe", "published", "ours", "seeds", "epochs", "parameters",
    "spikes", "seconds a run",
)  # fmt: skip


def row(record: dict[str, Any]) -> list[str]:
    """Return the cells of one record, in the order of ``COLUMNS``.

    Of the network inputs, then layers; ``16c5/2`` is 16 channels of kernel 5 and stride 2.
    """
    recipe, published, spikes = record["recipe"], record["published"], record["spikes"]
    inputs, *dense = recipe["sizes"]
    maps = [f"{c}c{kernel}/{stride}" for c, kernel, stride in recipe.get("convolutions", ())]
    hidden = [run["hidden_spikes"] for run in record["runs"] if "hidden_spikes" in run]
    counted = "–" if spikes is None else f"{spikes:.1f} per {record['spikes_per']}"
    if spikes is not None and hidden and recipe["name"] in INHIBITION:
        counted += f", {statistics.fmean(hidden):.1f} of them hidden"
    return [
        data_of(record),
        record["unit"]
        + (" + GRAPES" if recipe["grapes"] else "")
        + (", hardware-aware" if recipe.get("hardware_aware") else ""),
        "-".join(map(str, [inputs, *maps, *dense])),
        f"{recipe['name']} ({recipe['source']})",
        "–" if published is None else f"{published['value']:.2f}",
        _spread(record, record["mean"], record["sigma"]),
        ", ".join(str(run["seed"]) for run in record["runs"]),
        epochs_of(record),
        f"{record['parameters']:,}",
        counted,
        f"{record['seconds']:.0f}",
    ]


def text(record: dict[str, Any]) -> str:
    """Return what ``snu reproduce`` prints: our number beside the published one, then studies."""
    cells = dict(zip(COLUMNS, row(record), strict=True))
    where = "" if record["published"] is None else f" ({record['published']['source']})"
    lines = [
        f"{cells['task']} {cells['unit']} {cells['network']}, {record['metric']}: "
        f"{cells['ours']} over seeds {cells['seeds']}; published {cells['published']}{where}; "
        f"{cells['parameters']} parameters, spikes {cells['spikes']}, {cells['seconds a run']} s"
    ]
    for kind, stages in record["study"].items():
        shown = ", ".join(f"{stage} {study_cell(record, kind, stage)}" for stage in stages)
        lines.append(f"{kind}: {shown}")
    return "\n".join(lines)


def data_of(record: dict[str, Any]) -> str:
    """Return the task and, where it is not the published one, what the data are."""
    task, first = record["task"], record["runs"][0]
    if "train_recordings" in first:
        sizes = f"{first['train_recordings']:,} to learn from, {first['test_recordings']:,} to test"
        return f"{record['data']} ({sizes})"
    other = record["data"].replace("other", "other data", 1)
    return task if record["data"] == task else f"{task}, {other}"


def epochs_of(record: dict[str, Any]) -> str:
    """Return the epochs, and those of the recipe where a run had fewer or more."""
    run, of_task = record["recipe"], RECIPES.get(record["task"], {})
    own = of_task.get(run["name"], {}).get(record["unit"])
    if own is None or run["epochs"] == own.epochs:
        return str(run["epochs"])
    of = "of" if run["epochs"] < own.epochs else "instead of"
    return f"{run['epochs']} {of} {own.epochs}"


def study_cell(record: dict[str, Any], kind: str, stage: str) -> str:
    """Return the score of one stage of a study."""
    if stage not in record["study"][kind]:
        return "–"
    return _spread(record, record["study"][kind][stage], study_sigma(record, kind, stage))


def study_sigma(record: dict[str, Any], kind: str, stage: str) -> float | None:
    """Return the standard deviation of that score over runs, where there are several."""
    values = [run["study"][kind][stage] for run in record["runs"] if stage in run["study"][kind]]
    return statistics.stdev(values) if len(values) > 1 else None


def _spread(record: dict[str, Any], mean: float, sigma: float | None) -> str:
    digits = 3 if "NLL" in record["metric"] else 2
    return f"{mean:.{digits}f}" + ("" if sigma is None else f" ± {sigma:.{digits}f}")
