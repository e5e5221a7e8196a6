"""What is done with a trained network beyond its test score, and how that is shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snu_plugin.accelerator import Chip
from snu_plugin.experiments.jobs import Job
from snu_plugin.experiments.recipes import RECIPES

CHIP_UNITS = ("snu", "ssnu")
"""What a chip can hold and tune."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which further looks a trained network gets; none of them changes it."""

    bits: tuple[int, ...] = ()
    """Bits of the weights it is scored with besides, each from 2 to 16, and on PCM devices."""
    chip: Chip | None = None
    """The chip that it is followed on; ``None``: none."""

    def __post_init__(self) -> None:
        if any(not 2 <= each <= 16 for each in self.bits) or len(set(self.bits)) < len(self.bits):
            raise ValueError(
                f"bits are {', '.join(map(str, self.bits))}; give distinct numbers from 2 to 16"
            )

    @property
    def kinds(self) -> list[str]:
        """The looks by name, as in the name of the record."""
        return ["bits"] * bool(self.bits) + ["chip"] * (self.chip is not None)

    @property
    def options(self) -> list[str]:
        """How the command line asks for them."""
        bits = ["--bits", ",".join(map(str, self.bits))] if self.bits else []
        return bits + ([] if self.chip is None else ["--chip", self.chip.name])

    def check(self, task: str, unit: str) -> None:
        """Raise a ``ValueError`` where a chip is asked for something that it cannot hold."""
        if self.chip is not None and unit not in CHIP_UNITS:
            raise ValueError(
                f"{unit} on {task} cannot be followed on a chip; give one of "
                f"{', '.join(CHIP_UNITS)} on one of {', '.join(RECIPES)}, or leave out --chip"
            )

    def of(self, one: Job, seed: int, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
        """Return the scores of a trained network by kind of look and its stages."""
        from snu_plugin.experiments import on_chip, precision

        found = {}
        if self.bits:
            say(f"weights of {', '.join(map(str, self.bits))} bits")
            found["bits"] = precision.sweep(one, self.bits, seed)
        if self.chip is not None:
            found["chip"] = on_chip.follow(one, self.chip, seed, say)
        return found


def data(record: dict[str, Any]) -> str:
    """Return the task and, where it is not the published one, what the data are."""
    task, first = record["task"], record["runs"][0]
    if "train_recordings" in first:
        sizes = f"{first['train_recordings']:,} to learn from, {first['test_recordings']:,} to test"
        return f"{record['data']} ({sizes})"
    other = record["data"].replace("other", "other data", 1)
    return task if record["data"] == task else f"{task}, {other}"


def sections(records: Sequence[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Yield the tables of the studies in some records, as Markdown."""
    from snu_plugin.experiments import on_chip

    about = {
        "bits": "Limited precision\n\nTest score of trained networks whose weights are rounded "
        "to a number of bits (each row of a matrix with a step of its own), nothing retrained; "
        "*pcm*: every weight a pair of the simulated devices of `PCM`, read once. Biases and "
        "thresholds stay as they are. Digits last as many steps as in training.",
        "chip": "On the chip\n\nTest score from the network to the tuned chip, simulated: as it "
        "is; just written; a year later, left alone; recalibrated; tuned in the loop. Digits last "
        f"as many steps as in training; of a text up to {on_chip.WORDS[-1]:,} words are "
        f"judged, in passages of {on_chip.PASSAGE} that each begin from a state of zero.",
    }
    for kind, head in about.items():
        for metric in dict.fromkeys(r["metric"] for r in records if kind in r["study"]):
            chosen = [r for r in records if kind in r["study"] and r["metric"] == metric]
            stages = list(dict.fromkeys(s for r in chosen for s in r["study"][kind]))
            title, _, text = head.partition("\n\n")
            yield f"## {title}: {metric}\n\n{text}\n"
            lines = [["task", "unit", "recipe", "seeds", *stages]]
            lines.append(["---"] * len(lines[0]))
            lines += [
                [data(r), r["unit"], r["recipe"]["name"], ", ".join(_seeds(r))]
                + [_cell(r, kind, stage) for stage in stages]
                for r in chosen
            ]
            yield "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
            for task in dict.fromkeys(r["task"] for r in chosen):
                yield f"![{task}: {title.lower()}]({folder.name}/{task}-{kind}.png)\n"


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean over runs of every score, by kind of look and stage."""
    return {
        kind: {
            stage: statistics.fmean(run["study"][kind][stage] for run in runs) for stage in stages
        }
        for kind, stages in runs[0]["study"].items()
    }


def text(record: dict[str, Any]) -> list[str]:
    """Return a line for every kind of look, as a terminal shows it."""
    return [
        f"{kind}: " + ", ".join(f"{stage} {_cell(record, kind, stage)}" for stage in stages)
        for kind, stages in record["study"].items()
    ]


def draw(records: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw a figure of every kind of look and task in ``folder``."""
    from snu_plugin.report import plots

    made = []
    for kind in ("bits", "chip"):
        for task in dict.fromkeys(r["task"] for r in records if kind in r["study"]):
            chosen = [r for r in records if kind in r["study"] and r["task"] == task]
            stages = list(chosen[0]["study"][kind])
            stages.sort(key=lambda stage: not stage.isdigit() if kind == "bits" else False)
            named = {f"{r['unit']} {r['recipe']['name']}": r for r in chosen}
            curves = {n: [r["study"][kind].get(s) for s in stages] for n, r in named.items()}
            spread = {n: [_sigma(r, kind, s) for s in stages] for n, r in named.items()}
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


def _seeds(record: dict[str, Any]) -> list[str]:
    return [str(run["seed"]) for run in record["runs"]]


def _cell(record: dict[str, Any], kind: str, stage: str) -> str:
    if stage not in record["study"][kind]:
        return "–"
    digits = 3 if "NLL" in record["metric"] else 2
    sigma = _sigma(record, kind, stage)
    spread = "" if sigma is None else f" ± {sigma:.{digits}f}"
    return f"{record['study'][kind][stage]:.{digits}f}{spread}"


def _sigma(record: dict[str, Any], kind: str, stage: str) -> float | None:
    values = [run["study"][kind][stage] for run in record["runs"] if stage in run["study"][kind]]
    return statistics.stdev(values) if len(values) > 1 else None
