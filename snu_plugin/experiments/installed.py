"""What is found on this machine, and what the settings of a chip mean: ``snu info``."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch

from snu_plugin import simulators
from snu_plugin.accelerator import CHIPS, describe, find_chip
from snu_plugin.experiments import pictures
from snu_plugin.experiments.characterise import characterise
from snu_plugin.experiments.versions import versions
from snu_plugin.neuron import implementations


def installed() -> dict[str, Any]:
    """Return versions, devices, implementations, simulators and chips by name."""
    return {
        "versions": versions(),
        "devices": [f"cpu ({torch.get_num_threads()} threads)"]
        + [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "implementations": {
            name: _ready(name) if found.available else found.reason
            for name, found in implementations().items()
        },
        "simulators": {name: _adapter(name) for name in simulators.adapters()},
        "chips": list(CHIPS),
    }


def installed_text(answer: dict[str, Any]) -> str:
    """Return ``installed()`` as a terminal shows it."""
    lines = []
    for title, found in answer.items():
        lines.append(title)
        pairs = found.items() if isinstance(found, dict) else ((item, "") for item in found)
        lines += [f"  {name:16}{value}".rstrip() for name, value in pairs]
    return "\n".join(lines)


def chip(name_or_path: str) -> list[dict[str, Any]]:
    """Return a row for every setting of a preset or a chip file; see ``presets.describe``."""
    return describe(find_chip(name_or_path))


def chip_text(rows: list[dict[str, Any]]) -> str:
    """Return ``chip()`` as a terminal shows it: value, unit, default, meaning, source."""
    lines = []
    for row in rows:
        unit = f" {row['unit']}" if row["unit"] else ""
        lines.append(f"{row['field']} = {_shown(row['value'])}{unit}")
        source = f" Source: {row['source']}." if row["source"] else ""
        said = f"{row['meaning']}. Default {_shown(row['default'])}; {row['accepted']}.{source}"
        said = said.replace("..", ".")
        lines += textwrap.wrap(said, 96, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def draw(name_or_path: str | None, out: Path) -> None:
    """Leave pictures of the devices of a chip in a folder; see ``characterise``."""
    if name_or_path is None:
        raise ValueError(f"--out is {out}, but of which chip? give --chip as well")
    found = find_chip(name_or_path)
    pictures.check_folder(out)
    characterise(found, pictures.folder(out))


def _ready(name: str) -> str:
    if name != "numba":
        return "ready"
    from snu_plugin.neuron.numba_scan import team

    own = "one, for torch's OpenMP is not found"
    return f"ready, threads: {own if team() is None else 'those of torch (OpenMP)'}"


def _shown(value: object) -> str:
    return "ideal" if value is None else str(value)


def _adapter(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what hosts warn of at import is not the question here
        try:
            simulators.adapter(name)
        except ImportError as error:
            return " ".join(str(error).split())
    return "ready"
