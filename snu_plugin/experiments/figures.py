"""The pictures of the demo's report, made from its records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snu_plugin.experiments import pictures
from snu_plugin.experiments.lifetime import AGES_S, Life
from snu_plugin.experiments.music import Trained
from snu_plugin.report import plots
from snu_plugin.report.page import Figure


def draw(
    folder: Path,
    trained: Trained,
    life: Life,
    record: Mapping[str, Any],
    roll: Tensor,
    given: int,
) -> list[Figure]:
    """Draw every figure as a PNG in ``folder``; returns them in the order of the page."""
    nll = record["nll"]
    lines = {"float network": nll["float"]}
    if record["data"]["name"] == "jsb":
        lines["published SNU"] = record["extra"]["published"]["SNU"]
    best = record["extra"]["best epoch"]
    layout = life.tuned.layout
    return [
        Figure(
            file=plots.metric_over_time(
                folder / "nll_over_time.png",
                list(AGES_S.values()),
                {case: list(nll[case].values()) for case in record["extra"]["cases"]},
                lines=lines,
                apart=("compensated", "tuned"),
            ),
            title="Likelihood against age",
            caption="Lower is better. At every age a copy of the same chip is recalibrated, and "
            "another is recalibrated and tuned; both are measured at once.",
            wide=True,
        ),
        Figure(
            file=plots.training(
                folder / "training.png",
                {"validation": [epoch.score for epoch in trained.history]},
                best=best,
            ),
            title="Training in snnTorch",
            caption=f"Validation likelihood; epoch {best} was kept.",
        ),
        Figure(
            file=plots.tuning(
                folder / "tuning.png",
                [r.loss for r in life.history],
                pulses=[r.pulses for r in life.history],
            ),
            title="Tuning in the loop, at one year",
            caption="What the chip itself showed on each batch, and the pulses that it took.",
        ),
        *_devices(folder, life),
        Figure(
            file=plots.energy(folder / "energy.png", {"one step": record["energy_nj_per_step"]}),
            title="Energy of a time step",
            caption="Counted from events; the split is assumed, see the notes.",
        ),
        Figure(
            file=plots.tiles(
                folder / "tiles.png", pictures.blocks(layout), shape=pictures.tile_shape(layout)
            ),
            title="The network on its tiles",
            caption="Cells that hold a weight: rows are inputs, columns outputs.",
        ),
        Figure(
            file=plots.piano_roll(folder / "continuation.png", roll.numpy(), given=given),
            title="A chorale continued by the chip",
            caption="Grey was given, the rest is sampled from what the tuned chip predicts.",
            wide=True,
        ),
    ]


def _devices(folder: Path, life: Life) -> list[Figure]:
    """Draw what a reading of all devices shows, before and after tuning."""
    layout = life.tuned.layout
    target = torch.cat([op.weight.flatten() for op in layout.products.values()])
    read = life.tuned.read_weights()
    return [
        Figure(
            file=plots.target_against_read(
                folder / "weights.png",
                target.numpy(),
                torch.cat([read[name].flatten() for name in layout.products]).numpy(),
                unit="weight",
            ),
            title="Weights wanted and read back",
            caption="After a year and tuning, digital gains included.",
        ),
        Figure(
            file=plots.conductances(
                folder / "conductances.png",
                {
                    "before tuning": pictures.read(life.untuned),
                    "after tuning": pictures.read(life.tuned),
                },
                g_max_us=layout.chip.g_max_us,
            ),
            title="Conductances at one year",
            caption="All devices, read once.",
        ),
    ]
