"""The pictures that commands leave in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snu_plugin import durations, files, plot
from snu_plugin.accelerator import Accelerator, Program, dense_parts
from snu_plugin.experiments.chip_life import Score
from snu_plugin.experiments.settings import write_json
from snu_plugin.files import tidy
from snu_plugin.hil import UpdateRecord
from snu_plugin.report import device_plots, plots, style
from snu_plugin.report.page import SAID

LONGEST_AXIS = 40
"""Signs that fit along the height of a picture."""


def check_folder(out: Path, otherwise: str = "") -> None:
    """Raise an ``OSError`` or ``ImportError`` unless pictures could be left in ``out``."""
    files.check_folder("--out", out, otherwise)
    style.canvas()


def folder(out: Path) -> Path:
    """Make a folder for pictures unless it is there, without what killed runs left; return it."""
    out.mkdir(parents=True, exist_ok=True)
    tidy(out)
    return out


def of_scores(out: Path, record: Mapping[str, Any], scores: Sequence[Score]) -> list[Path]:
    """Draw the score against age, with a band over chips, and what a step costs."""
    ages = record["ages_s"]
    chips = range(record["chips"])
    curves = {
        case: [
            [
                np.mean([s.score for s in scores if (s.case, s.age, s.chip) == (case, age, chip)])
                for age in ages
            ]
            for chip in chips
        ]
        for case in record["cases"]
    }
    return [
        plots.metric_over_time(
            out / "score.png",
            list(ages.values()),
            {SAID[case]: values for case, values in curves.items()},
            lines={"no chip": record["reference"]},
            closer=[SAID[case] for case in curves if case != "programmed"],
            ylabel=axis(record["metric"]),
        ),
        energy(out, record["cost"]["energy_nj_per_step"], record["cost"]["programming"]),
    ]


def energy(out: Path, step: Mapping[str, float], writing: Mapping[str, float]) -> Path:
    """Draw what the energy of a step goes into, as counted and if the tiles worked densely."""
    dense = dense_parts(step["dense"], step["dense_array"])
    return device_plots.energy(
        out / "energy.png",
        {"event-driven": {part: step[part] for part in dense}, "dense": dense},
        title=f"writing once: {durations.energy(writing['energy_nj'])}",
        width=9.6,
    )


def axis(metric: str) -> str:
    r"""Return what an axis says of a metric, on two lines where one would be cut at its ends.

    >>> axis("accuracy, share of sequences, higher is better")
    'accuracy (share of sequences)'
    >>> axis("distance to the teacher's outputs, share of their power, lower is better")
    "distance to the teacher's outputs\n(share of their power)"
    """
    name, unit, _ = metric.split(", ")
    between = " " if len(f"{name} ({unit})") <= LONGEST_AXIS else "\n"
    return f"{name}{between}({unit})"


def of_program(out: Path, program: Program, planned: Mapping[str, Any]) -> list[Path]:
    """Draw what lies where on the tiles, and what the energy of a step goes into."""
    return [
        tiles(out / "tiles.png", program),
        energy(out, planned["energy_nj_per_step"], planned["programming"]),
    ]


def tiles(path: Path, program: Program) -> Path:
    """Draw what lies where on the tiles."""
    figure, (ax,) = style.canvas(9.6, 1.2 + 2.2 * -(-program.tile_count // 4))
    plot.chip_map(program, ax)
    return style.save(figure, path)


def of_tuning(
    out: Path,
    record: Mapping[str, Any],
    history: Sequence[UpdateRecord],
    before: Accelerator,
    after: Accelerator,
) -> list[Path]:
    """Draw score, loss and pulses of a tuning, and the conductances before and after it."""
    return [
        of_passes(out, record),
        plots.tuning(
            out / "tuning.png",
            [record.loss for record in history],
            pulses=[record.pulses for record in history],
            ylabel="loss on the chip (nats)",
        ),
        device_plots.conductances(
            out / "conductances.png",
            {"before tuning": read(before), "after tuning": read(after)},
            g_max_us=after.layout.chip.g_max_us,
        ),
    ]


def of_passes(out: Path, record: Mapping[str, Any]) -> Path:
    """Draw the score that chooses what is kept, pass by pass."""
    scores = [done["score"] for done in record["passes"]]
    names = ["before", *map(str, range(1, len(scores)))]
    kept = [score if number == record["kept"] else None for number, score in enumerate(scores)]
    curves = {"what chooses the pass": scores, "kept": kept}
    return plots.stages(out / "passes.png", names, curves, ylabel=axis(record["metric"]))


def read(chip: Accelerator) -> np.ndarray:
    """Return one reading of all devices, µS."""
    every = [g.flatten() for g in chip.read_conductances().values()]
    found: np.ndarray = torch.cat(every).numpy()
    return found


def of_timings(out: Path, answer: Mapping[str, Any], text: str) -> None:
    """Write ``neuron.json``, ``neuron.md`` and, where sizes grew, ``growth.png``."""
    write_json(folder(out) / "neuron.json", answer)
    files.write(out / "neuron.md", (text + "\n").encode())
    if "growth" in answer:
        growth(out / "growth.png", answer["growth"])


def growth(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the answer of ``bench.growth.run``: one panel a size, one curve a candidate."""
    axes: dict[str, dict[str, dict[float, float]]] = {}
    for row in rows:
        curves = axes.setdefault(row["axis"], {})
        curves.setdefault(row["candidate"], {})[row["size"]] = row["median"]
    names = {row["candidate"] for row in rows}
    ours = [name for name in names if name.startswith("SNU (")]
    return device_plots.growth(path, axes, highlight=ours)
