"""The table of reproduced results, out of the records that ``snu reproduce`` wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# Published results, run again

Made from the records in `{folder}/` by `python -m snu_plugin.experiments.results {path}`;
do not edit. A record is what `snu reproduce` leaves in its `--out`, with every epoch of every seed.
*Ours* is the mean over seeds ± their standard deviation, on the test set; the epoch was chosen on
the validation set where there is one. *recipe* says whose training recipe it is: the papers do not
print theirs in full, so closeness to a published number does not show that the authors used it.
The spikes of an image are drawn anew in every epoch (the toolkit draws them once).
"""

COLUMNS = (
    "task", "unit", "network", "published", "ours", "seeds", "epochs", "recipe", "parameters",
    "spikes", "seconds a run",
)  # fmt: skip


def row(record: dict[str, Any]) -> list[str]:
    """Return the cells of one record, in the order of ``COLUMNS``."""
    digits = 3 if "NLL" in record["metric"] else 2
    recipe, published, sigma = record["recipe"], record["published"], record["sigma"]
    spread = "" if sigma is None else f" ± {sigma:.{digits}f}"
    spikes = record["spikes"]
    return [
        record["task"] if record["data"] == record["task"] else f"{record['task']}, other data",
        record["unit"] + (" + GRAPES" if recipe["grapes"] else ""),
        "-".join(map(str, recipe["sizes"])),
        "–" if published is None else f"{published['value']:.2f}",
        f"{record['mean']:.{digits}f}{spread}",
        ", ".join(str(run["seed"]) for run in record["runs"]),
        str(recipe["epochs"]),
        recipe["source"],
        f"{record['parameters']:,}",
        "–" if spikes is None else f"{spikes:.1f} per {record['spikes_per']}",
        f"{record['seconds']:.0f}",
    ]


def text(record: dict[str, Any]) -> str:
    """Return what ``snu reproduce`` prints: our number beside the published one."""
    cells = dict(zip(COLUMNS, row(record), strict=True))
    where = "" if record["published"] is None else f" ({record['published']['source']})"
    return (
        f"{cells['task']} {cells['unit']} {cells['network']}, {record['metric']}: "
        f"{cells['ours']} over seeds {cells['seeds']}; published {cells['published']}{where}; "
        f"{cells['parameters']} parameters, spikes {cells['spikes']}, {cells['seconds a run']} s"
    )


def page(records: Sequence[dict[str, Any]], folder: Path) -> str:
    """Return the page of all records, sorted by task and unit."""
    parts = [HEAD.format(folder=folder.name, path=folder.as_posix())]
    metrics = dict.fromkeys(record["metric"] for record in records)
    for metric in metrics:
        chosen = [record for record in records if record["metric"] == metric]
        lines = [COLUMNS, ["---"] * len(COLUMNS), *map(row, chosen)]
        parts.append(f"## {metric[0].upper()}{metric[1:]}\n")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        for record in chosen:
            source = "" if record["published"] is None else f": {record['published']['source']}"
            parts.append(
                f"Published {record['task']} {record['unit']}{source}.\n" if source else ""
            )
    parts.append("## To run them again\n")
    for record in records:
        found = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        parts.append(f"```sh\n{record['command']}\n```\n{found}; {record['threads']} thread(s).\n")
    return "\n".join(part for part in parts if part)


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
            row(record)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a record of snu reproduce: {error!r}") from error
        records.append(record)
    return records


def main(arguments: Sequence[str]) -> int:
    """Write ``FOLDER.md`` from the records in ``FOLDER``."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m snu_plugin.experiments.results FOLDER\n")
        return 2
    folder = Path(arguments[0])
    try:
        made = page(read(folder), folder)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    folder.with_suffix(".md").write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
