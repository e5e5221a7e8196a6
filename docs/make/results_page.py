"""The tables and figures of reproduced results, out of the records that ``snu reproduce`` wrote.

``python docs/make/results_page.py docs/results`` writes ``docs/results.md`` and figures.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from results_figures import draw_studies, draw_tasks
from snu_plugin.experiments.compare import WAYS
from snu_plugin.experiments.paper.published import PUBLISHED
from snu_plugin.experiments.paper.recipes import Recipe
from snu_plugin.experiments.paper.records import (
    COLUMNS,
    data_of,
    row,
    study_cell,
)
from snu_plugin.experiments.paper.studies import PASSAGE, WORDS
from snu_plugin.experiments.settings import listed

HEAD = """# Published results, run again

What the published tasks give when they are run here, beside the numbers that were published.

- *ours*: the mean over seeds ± their standard deviation, on the test set. The epoch was chosen on
  the validation set, where there is one.
- *recipe*: how it was trained, and whose that is. The papers do not print theirs in full, so
  closeness to a published number does not show that the authors used it.
- *epochs*, *5 of 200*: a shorter run than the recipe's; its command without `--epochs` is the
  whole one.
- *seeds*: three are the rule. One stands where a run took about 20 minutes or more, and still for
  some shorter ones: variants on clothes, twelve epochs of the 7-layer SNU, text, chips of large
  networks.
- The spikes of an image are drawn anew in every epoch (the toolkit draws them once).
- A seed need not give the last digits again on later code or another torch. Run again at 015dca6
  with torch 2.14.1: seed 0 of nmnist src src-deep, 78 instead of 79 % (the loss of its first epoch
  2.26529 instead of 2.26526); seed 0 of jsb snu with GRAPES, 8.669 instead of 8.653 (the same to
  the last digit for 11 epochs; torch 2.15.0 then).
- Read noise of chips is drawn otherwise since 1525395: a seed gives other chips' figures there, of
  the same distribution. What is below is from before, but for rows of f383941.

Made from the records in `{folder}/` by `python docs/make/results_page.py {path}`; do not edit.
A record is what `snu reproduce` leaves in its `--out`, with every epoch of every seed.
"""

NOT_RUN = {
    "ptb": "The Penn Treebank may not be passed on, and was not at hand. Its networks are shown on "
    "tinyshakespeare, `input.txt` of karpathy/char-rnn under another name; perplexities of "
    "different texts must not be compared. It has a quarter of the words, and networks of this "
    "size soon learn it by heart: of most of them validation chose one of the first epochs."
}
"""Why a task was not run as published."""


def shown(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that tables and bars show: studied ones only where no other has a row."""
    plain = [record for record in records if not record["study"]]
    settings = [_setting(record) for record in plain]
    return [r for r in records if not r["study"] or _setting(r) not in settings]


def gains(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for every record with GRAPES that has one without beside it.

    The gain is the mean difference of runs of the same seed ± its standard error.
    """
    found = []
    for record, plain in itertools.product(records, records):
        if not record["recipe"]["grapes"] or _setting(plain) != _setting(record):
            continue
        without = {run["seed"]: run["test"] for run in plain["runs"]}
        better = 1 if "accuracy" in record["metric"] else -1
        differences = [
            better * (run["test"] - without[run["seed"]])
            for run in record["runs"]
            if run["seed"] in without
        ]
        if plain["recipe"]["grapes"] or len(differences) < 2:
            continue
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        mean = statistics.fmean(differences)
        found.append(
            f"GRAPES over plain back-propagation, {record['task']} {record['unit']}, the same "
            f"recipe: gain {mean:+.3f} ± {error:.3f}, above 0 is better; {len(differences)} pairs "
            f"of runs of one seed, mean and its standard error.\n"
        )
    return found


def tested_briefly(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for every record whose test had as few steps as training."""
    found = []
    for record in records:
        recipe = record["recipe"]
        short = [r["seed"] for r in record["runs"] if r.get("test_steps", 0) == recipe.get("steps")]
        if short and recipe.get("test_steps") not in (None, 0, recipe["steps"]):
            found.append(
                f"{record['task']} {record['unit']}, {recipe['name']}: tested with the "
                f"{recipe['steps']} steps of training, with which held-out images did better than "
                f"with {recipe['test_steps']}; seeds {', '.join(map(str, short))}.\n"
            )
    return found


def missing(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of the published numbers that no record stands beside."""
    met = {(r["task"], r["unit"], r["published"]["value"]) for r in records if r["published"]}
    lines: dict[tuple[str, str, float], str] = {}
    for (task, name, unit), known in PUBLISHED.items():
        if (task, unit, known.value) not in met:
            command = f"`snu reproduce {task} --unit {unit} --recipe {name} --data DATA`"
            line = f"- {task} {unit}: {known.value}, {known.source}; {command}"
            lines.setdefault((task, unit, known.value), line)
    if not lines:
        return []
    tasks = {task for task, *_ in lines}
    reasons = [f"{why}\n" for task, why in NOT_RUN.items() if task in tasks]
    return ["## Published, and not run here\n", "\n".join(lines.values()) + "\n", *reasons]


def _setting(record: dict[str, Any]) -> list[Any]:
    """Return all that decides the runs of a record but GRAPES.

    Older records lack newer fields of recipes, which were then what they are by default.
    """
    settings = {f.name: f.default for f in fields(Recipe)} | {"convolutions": []} | record["recipe"]
    return [record["task"], record["data"], settings | {"grapes": None, "source": None}]


def page(records: Sequence[dict[str, Any]], folder: Path) -> str:
    """Return the page of all records, sorted by task and unit."""
    parts = [HEAD.format(folder=folder.name, path=folder.as_posix())]
    plain = shown(records)
    for metric in dict.fromkeys(record["metric"] for record in plain):
        chosen = [record for record in plain if record["metric"] == metric]
        parts.append(f"## {metric[0].upper()}{metric[1:]}\n")
        parts.append(_table(COLUMNS, map(row, chosen)))
        for task in dict.fromkeys(record["task"] for record in chosen):
            parts.append(f"![{task}: {metric}, published and ours]({folder.name}/{task}.png)\n")
        known = [record for record in chosen if record["published"] is not None]
        parts += dict.fromkeys(
            f"Published {r['task']} {r['unit']}: {r['published']['value']}, "
            f"{r['published']['source']}.\n"
            for r in known
        )
        parts += [*tested_briefly(chosen), *gains(chosen)]
    parts += study_sections(records, folder)
    parts += compare_sections(folder)
    parts += missing(records)
    parts.append("## To run them again\n")
    for record in records:
        about = f"{listed(record['versions'])}; {record['threads']} thread(s)."
        parts.append(f"```sh\n{record['command']}\n```\n{about}\n")
    return "\n".join(part for part in parts if part)


RANGES_MENDED = "f383941"
"""The commit with whose ranges of converters, and tuning, rows were made anew."""

CHIP_CODE = {
    "fashion snu conv-mirrored": "0b724bd",
    "fashion snu deep": "b0b7bd7",
    "fashion ssnu deep": "8e612c8",
    "fashion ssnu long": "8b1d0b5",
    "jsb snu plain": "f383941",
    "jsb ssnu deep": "ff00474",
    "jsb ssnu plain": "ff00474",
    "mnist snu conv-wide": "b0b7bd7",
    "mnist snu distorted": "b37c1e8",
    "mnist snu quick": "ff00474",
    "mnist ssnu distorted": "ccb718b",
    "mnist ssnu quick": "ff00474",
    "nmnist snu plain": "ff00474",
    "nmnist ssnu plain": "f383941",
    "ptb snu adam": "c2a5fae",
    "ptb ssnu adam": "e8ce002",
}
"""The commit that each row of networks on chips came with, by its name."""


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (heads, ["---"] * len(heads), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _named(record: dict[str, Any]) -> str:
    return f"{record['task']} {record['unit']} {record['recipe']['name']}"


def study_sections(records: Sequence[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Yield the tables of the studies in some records, as Markdown."""
    about = {
        "bits": "Limited precision\n\nTest score of trained networks whose weights are rounded "
        "to a number of bits (each row of a matrix with a step of its own), nothing retrained; "
        "*pcm*: every weight a pair of the simulated devices of `PCM`, read once. Biases and "
        "thresholds stay as they are. Digits last as many steps as in training.",
        "chip": "On the chip\n\nTest score from the network to the tuned chip, simulated: as it "
        "is; just written; a year later, left alone; recalibrated; tuned in the loop. Digits last "
        f"as many steps as in training; of a text up to {WORDS[-1]:,} words are "
        f"judged, in passages of {PASSAGE} that each begin from a state of zero. *code*: the "
        f"commit that a row came with. All but {RANGES_MENDED} are older than ranges of the "
        "converters from data, than today's tuning, and than a full pulse at the end of a range: "
        "what is not spikes (sSNU, text) had noise and IR drop as if its range ended at 1; that of "
        "the sSNU of the zoo: 0.92 to 1.",
    }
    for kind, head in about.items():
        for metric in dict.fromkeys(r["metric"] for r in records if kind in r["study"]):
            chosen = [r for r in records if kind in r["study"] and r["metric"] == metric]
            stages = list(dict.fromkeys(s for r in chosen for s in r["study"][kind]))
            title, _, text = head.partition("\n\n")
            yield f"## {title}: {metric}\n\n{text}\n"
            code = ["code"] * (kind == "chip")
            lines = [
                [
                    *(data_of(r), r["unit"], r["recipe"]["name"]),
                    ", ".join(str(run["seed"]) for run in r["runs"]),
                    *(study_cell(r, kind, stage) for stage in stages),
                    *(CHIP_CODE.get(_named(r), "–") for _ in code),
                ]
                for r in chosen
            ]
            yield _table(("task", "unit", "recipe", "seeds", *stages, *code), lines)
            for task in dict.fromkeys(r["task"] for r in chosen):
                yield f"![{task}: {title.lower()}]({folder.name}/{task}-{kind}.png)\n"


COMPARED = {
    "jsb": (
        "88-150-88, robust training, chorales",
        "snu demo --data JSB_Chorales.mat --out demo\n"
        "snu tune demo/model.nir JSB_Chorales.mat --compare",
        "d0d4d10",
    ),
    "jsb-pulses": (
        "the same network and chorales, pulses after the first writing",
        "snu demo --data JSB_Chorales.mat --out demo\n"
        "snu tune demo/model.nir JSB_Chorales.mat --compare",
        "015dca6",
    ),
    "mnist": (
        "784-256-256-10, SNU, rate-coded MNIST of 20 steps",
        "python docs/make/rate_coded_digits.py raw digits\n"
        "snu tune digits/digits.nir digits/digits.npz --compare",
        "9d656b2, the adapter with 4fffc65",
    ),
    "mnist-pulses": (
        "the same network and digits, pulses after the first writing",
        "python docs/make/rate_coded_digits.py raw digits\n"
        "snu tune digits/digits.nir digits/digits.npz --compare",
        "015dca6",
    ),
    "mnist-corrected": (
        "the same network and digits, corrections from read-back",
        "python docs/make/rate_coded_digits.py raw digits\n"
        "snu tune digits/digits.nir digits/digits.npz --compare",
        "d0d4d10",
    ),
}
"""Network, commands and the commit it came with of each comparison, by the name of its file."""


def compare_sections(folder: Path) -> Iterator[str]:
    """Yield a table for every record of ``snu tune --compare`` in ``folder/compare``."""
    for file in sorted((folder / "compare").glob("*.json"), key=lambda file: file.stem):
        record = json.loads(file.read_text(encoding="utf-8"))
        network, command, code = COMPARED[file.stem]
        yield f"## Ways to change a chip: {network}\n"
        command += f" --chips {record['chips']} --epochs {record['passes']}"
        if left := len(WAYS) - len(record["ways"]):
            command += f' --ways "{",".join(record["ways"])}"'
        several, alone = "one chip, of seed 0", record["chips"] == 1
        if not alone:
            several = f"{record['chips']} chips of seeds 0 to {record['chips'] - 1}"
            several += ", mean ± standard deviation"
        yield (
            f"{record['metric'].capitalize()}. {record['chip']}, {record['devices']:,} devices, "
            f"changed {record['age_s'] / 86_400:g} d after programming; {several}; "
            f"{record['parts']}. Without a chip: "
            f"{record['reference']:.4f}. Later a chip is recalibrated before it is scored."
            f"{' Ways left out were not run.' if left else ''}\n"
        )
        heads = ["way", *next(iter(record["ways"].values()))["scores"]]
        heads += ["pulses", "readings", "µJ", "s", "pulses a device", "digital values"]
        lines = []
        for way, found in record["ways"].items():
            cost = found["cost"]
            scores = (
                f"{s['mean']:.4f}" + (f" ± {s['std']:.4f}" if not alone else "")
                for s in found["scores"].values()
            )
            costs = [f"{cost[name]:,.0f}" for name in ("pulses", "readings")]
            costs += [f"{cost[name]:.4g}" for name in ("energy_uj", "time_s", "wear")]
            lines.append([way, *scores, *costs, f"{cost['digital_values']:,.0f}"])
        yield _table(heads, lines)
        best = ", ".join(f"{when} *{way}*" for when, way in record["best"].items())
        says = "As good as the best at least wear and energy"
        if alone:
            says = "Best on that chip, which does not show what is chance"
        yield f"{says}: {best}.\n"
        if kept := _kept(record):
            yield f"Chips on which tuning kept the digital values that it had learned: {kept}.\n"
        yield f"```sh\n{command}\n```\n{listed(record['versions'])}; commit {code}; 1 thread.\n"


def _kept(record: dict[str, Any]) -> str:
    """Return on how many chips each way that tunes kept what it had learned, as its notes say."""
    counted = []
    for way, chips in record["values"].items():
        notes = [chip["note"] for chip in chips]
        if all(notes):
            count = sum(note.startswith("kept") for note in notes)
            counted.append(f"*{way}* {count} of {len(notes)}")
    return ", ".join(counted)


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a folder in the order of their names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is not a record.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no record; write one with: snu reproduce --out")
    records = []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            record.setdefault("study", {})  # older records had neither
            record["recipe"].setdefault("name", "plain")
            row(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a record of snu reproduce: {error!r}") from error
        records.append(record)
    return records


def main(arguments: Sequence[str]) -> int:
    """Write ``FOLDER.md``, and a figure of each task, from the records in ``FOLDER``."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python docs/make/results_page.py FOLDER\n")
        return 2
    folder = Path(arguments[0])
    try:
        records = read(folder)
        made = page(records, folder)
        draw_tasks(shown(records), folder)
        draw_studies(records, folder)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    folder.with_suffix(".md").write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
