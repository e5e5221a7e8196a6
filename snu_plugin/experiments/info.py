"""What is found and kept on this machine, what settings of a chip mean: ``snu info``."""

from __future__ import annotations

import shutil
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import snu_plugin
from snu_plugin import simulators
from snu_plugin.accelerator import (
    CHIPS,
    Cells,
    Chip,
    DeviceModel,
    DeviceTables,
    Tabulated,
    describe,
    device_model,
    generators,
)
from snu_plugin.environments import Listed
from snu_plugin.experiments import pictures
from snu_plugin.experiments.settings import WIDEST, versions
from snu_plugin.files import cache_folder
from snu_plugin.neuron import implementations
from snu_plugin.report import device_plots

CACHES = ("chorales", "simulators", "loops")
"""What is kept on disk without being asked: rolls of music21's chorales; environments of other
simulators; loops that Numba compiled."""

DEVICES = 2000
"""Devices that are looked at."""
PULSES = 30
"""SET pulses that are looked at."""

PULSED = {
    1: (2.056, 1.518),
    2: (3.433, 1.971),
    5: (5.901, 2.311),
    10: (7.699, 2.166),
    20: (8.918, 1.969),
}
"""Mean and standard deviation after so many pulses, µS, on devices of 12 µS: srnn-pcm 2d91783 after
Nandakumar et al., J. Appl. Phys. 124, 152135, 2018."""
PULSED_BY = "Nandakumar 2018"
FITTED_BY = {"joshi2020": "Joshi 2020", "hermes1": "HERMES fit", "hermes2": "HERMES fit"}


def installed() -> dict[str, Any]:
    """Return versions, devices, implementations, simulators, chips and what is kept, by name."""
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
        "kept": {name: str(kept(name)) for name in CACHES},
    }


def installed_text(answer: dict[str, Any]) -> str:
    """Return ``installed()`` as a terminal shows it."""
    lines = []
    for title, found in answer.items():
        lines.append(title)
        pairs = found.items() if isinstance(found, dict) else ((item, "") for item in found)
        lines += [f"  {name:16}{value}".rstrip() for name, value in pairs]
    return "\n".join(lines)


def removed_text(removed: Mapping[str, str]) -> str:
    """Return what ``caches.clear`` removed as a terminal shows it."""
    return "\n".join(f"removed of {name}: {what}" for name, what in removed.items())


def simulators_text(rows: Sequence[Listed]) -> str:
    """Return ``environments.listed()`` as a terminal shows it."""
    lines = []
    for row in rows:
        size = f", about {row.megabytes} MB" if row.where.startswith("snu ") else ""
        lines.append(f"{row.name:14}{row.version:10}{row.where}{size}")
        lines += textwrap.wrap(
            f"reads {row.reads}", WIDEST, initial_indent=" " * 14, subsequent_indent=" " * 14
        )
    return "\n".join(lines)


def chip_text(rows: list[dict[str, Any]]) -> str:
    """Return what ``accelerator.describe`` says of a chip as a terminal shows it."""
    lines = [_unlike(rows), ""]
    for row in rows:
        unit = f" {row['unit']}" if row["unit"] and row["value"] is not None else ""
        lines.append(f"{row['field']} = {_shown(row['value'])}{unit}")
        source = f" Source: {row['source']}." if row["source"] else ""
        about = f"{row['meaning']}. Default {_shown(row['default'])}; {row['accepted']}.{source}"
        about = about.replace("..", ".")
        lines += textwrap.wrap(about, WIDEST, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _unlike(rows: list[dict[str, Any]]) -> str:
    """Say which settings differ from those of the chip that comes along and is most like it."""
    held = {row["field"]: _shown(row["value"]) for row in rows}
    others = {
        name: [row["field"] for row in describe(chip) if _shown(row["value"]) != held[row["field"]]]
        for name, chip in CHIPS.items()
    }
    name = min(others, key=lambda name: len(others[name]))
    changed = [f"{field} = {held[field]}" for field in others[name] if field != "name"]
    return f"{held['name']}, {name} but for: {', '.join(changed)}" if changed else name


def draw(chip: Chip | None, out: Path) -> None:
    """Leave pictures of the devices of a chip in a folder; see ``characterise``."""
    if chip is None:
        raise ValueError(f"--out is {out}, but of which chip? give --chip as well")
    pictures.check_folder(out)
    characterise(chip, pictures.folder(out))


def _ready(name: str) -> str:
    if name != "numba":
        return "ready"
    from snu_plugin.neuron.numba_scan import team

    own = "one, for torch's OpenMP is not found"
    return f"ready, threads: {own if team() is None else 'those of torch (OpenMP)'}"


def _shown(value: object) -> str:
    return "ideal" if value is None else str(value) or "empty"


def _adapter(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what hosts warn of at import is not the question here
        try:
            simulators.adapter(name)
        except ImportError as error:
            return " ".join(str(error).split())
    return "ready"


def characterise(chip: Chip, out: Path) -> list[Path]:
    """Write, read and pulse devices of a chip and draw what they do.

    Leaves ``written.png`` (read against target, with the ± σ that the model expects),
    ``drift.png`` (exponent against conductance) and ``pulses.png`` (pulse response), the last two
    over the published curves; for devices described by tables ``writing_error.png`` and
    ``read_noise.png`` too, over the rows of the tables.

    Args:
        chip: Its settings.
        out: A folder that exists.
    """
    streams, model = generators(0, "characterise"), device_model(chip)
    target = torch.linspace(0, chip.g_max_us, DEVICES, dtype=torch.float64)
    cells = model.write(target, 0.0, streams)
    seen = model.read(cells, model.holds_at_s, streams["read"])
    middle, width = pulse_response(model, streams)
    scale = model.scale
    curves = model.exponents(target)
    known = {n: (mean * scale, sd * scale) for n, (mean, sd) in PULSED.items()}
    source = PULSED_BY if scale == 1 else f"{PULSED_BY}, scaled by {scale:.3g}"
    curve = model.response.mean_curve
    if curve is not None:
        counts = [n for n in (0, *PULSED, PULSES) if n < len(curve)]
        known, source = {n: (float(curve[n]), 0.0) for n in counts}, f"{chip.device}, without noise"
    tables = model.tables if isinstance(model, Tabulated) else None
    more = [] if tables is None else _against_tables(model, tables, streams, out)
    return [
        device_plots.target_against_read(
            out / "written.png", target, seen, sigma=_expected_sigma(model, cells, target)
        ),
        device_plots.drift_exponents(
            out / "drift.png",
            target,
            cells.nu,
            fit=None if curves is None else (target, *curves),
            source=FITTED_BY.get(str(chip.device), f"{chip.device}, table"),
        ),
        device_plots.pulse_response(
            out / "pulses.png",
            middle,
            width,
            published=None if model.response.exact else known,
            source=source,
        ),
        *more,
    ]


def _against_tables(
    model: DeviceModel,
    tables: DeviceTables,
    streams: Mapping[str, torch.Generator],
    out: Path,
) -> list[Path]:
    """Draw the deviations of devices that were written to the rows of tables, and of readings."""
    drawn = []
    for name, rows, column, axis in (
        ("writing_error", tables.writing, 2, "written to"),
        ("read_noise", tables.read_noise, 1, "held"),
    ):
        levels = torch.tensor([row[0] for row in rows], dtype=torch.float64)
        levels = levels[levels <= model.chip.g_max_us]
        if not len(levels):
            continue
        g = levels.repeat_interleave(DEVICES)
        if name == "writing_error":
            seen = model.write(g, 0.0, streams).g_us
        else:
            held = DeviceModel(replace(model.chip, device=None)).write(g, 0.0, streams)
            seen = model.read(held, model.holds_at_s, streams["read"])
        drawn.append(
            device_plots.deviations(
                out / f"{name}.png",
                levels,
                seen.view(len(levels), DEVICES).std(1),
                [row[column] for row in rows][: len(levels)],
                source=f"{tables.name}, table",
                xlabel=f"conductance {axis} (µS)",
                ylabel=f"{name.replace('_', ' ')} (µS)",
            )
        )
    return drawn


def pulse_response(
    model: DeviceModel, streams: Mapping[str, torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over devices after 0 .. ``PULSES`` pulses, µS."""
    cells = model.write(torch.zeros(DEVICES, dtype=torch.float64), 0.0, streams)
    everywhere = torch.ones(DEVICES, dtype=torch.bool)
    cells = model.reset(cells, everywhere, 0.0, streams)
    seen = [cells.g_us]
    for _ in range(PULSES):
        cells = model.pulse(cells, everywhere.int(), 0.0, streams)
        seen.append(cells.g_us)
    trace = torch.stack(seen)
    return trace.mean(1), trace.std(1)


def _expected_sigma(model: DeviceModel, cells: Cells, target: Tensor) -> Tensor | None:
    """Return the standard deviation of a first reading; None where writing has no closed form."""
    written = model.written_sigma(target)
    if written is None:
        return None
    age_s = cells.age_s(model.holds_at_s)
    return (written**2 + model.read_sigma(cells, target.float(), age_s) ** 2).sqrt()


class Kept(NamedTuple):
    """What is kept on disk of one of ``CACHES``."""

    places: list[Path]
    """Its files and folders."""
    files: int
    megabytes: float

    def __str__(self) -> str:
        if not self.places:
            return "nothing"
        folders = sorted({str(place.parent) for place in self.places})
        count = "1 file" if self.files == 1 else f"{self.files} files"
        return f"{count}, {self.megabytes:.1f} MB in {', '.join(folders)}"


def kept(name: str) -> Kept:
    """Return what is kept of one of ``CACHES``; where there is no home or no Numba, nothing."""
    places = _places(name)
    files = [f for p in places for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file()]
    return Kept(places, len(files), sum(f.lstat().st_size for f in files) / 1e6)


def clear(name: str) -> Kept:
    """Remove what is kept of one of ``CACHES`` and return what that was.

    It is made again when it is needed next; environments are not, see ``snu simulators install``.

    Raises:
        OSError: It cannot be removed.
    """
    found = kept(name)
    for place in found.places:
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)  # another process may have cleared it, too
    return found


def _places(name: str) -> list[Path]:
    if name == "loops":
        try:
            from snu_plugin.neuron.numba_scan import kept_loops
        except ImportError:
            return []
        return kept_loops(Path(snu_plugin.__file__).parent)
    try:
        own = cache_folder()
    except OSError:
        return []
    return sorted(own.glob("chorales-*.npz" if name == "chorales" else "simulators/*"))
