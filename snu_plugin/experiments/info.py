"""What is found on this machine, and what the settings of a chip mean: ``snu info``."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin import simulators
from snu_plugin.accelerator import (
    CHIPS,
    Cells,
    Chip,
    devices,
    find_chip,
    noise,
    pcm,
    pulses,
)
from snu_plugin.experiments import pictures
from snu_plugin.experiments.settings import versions
from snu_plugin.neuron import implementations
from snu_plugin.report import plots

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


def chip_text(rows: list[dict[str, Any]]) -> str:
    """Return what ``accelerator.describe`` says of a chip as a terminal shows it."""
    lines = []
    for row in rows:
        unit = f" {row['unit']}" if row["unit"] else ""
        lines.append(f"{row['field']} = {_shown(row['value'])}{unit}")
        source = f" Source: {row['source']}." if row["source"] else ""
        about = f"{row['meaning']}. Default {_shown(row['default'])}; {row['accepted']}.{source}"
        about = about.replace("..", ".")
        lines += textwrap.wrap(about, 96, initial_indent="    ", subsequent_indent="    ")
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


def characterise(chip: Chip, out: Path, seed: int = 0) -> list[Path]:
    """Write, read and pulse devices of a chip and draw what they do.

    Leaves ``written.png`` (read against target, with the ± σ that the model expects),
    ``drift.png`` (exponent against conductance) and ``pulses.png`` (pulse response), the last two
    over the published curves.

    Args:
        chip: Its settings.
        out: A folder that exists.
        seed: Of the devices.
    """
    streams = {effect: noise.generator(seed, effect, "characterise") for effect in noise.EFFECTS}
    target = torch.linspace(0, chip.g_max_us, DEVICES, dtype=torch.float64)
    cells = devices.program(target, 0.0, chip, streams)
    now = _first_read(chip)
    read = devices.read(cells, now, chip, streams["read"])
    middle, width = pulse_response(chip, streams)
    scale = chip.pulse_scale
    known = {n: (mean * scale, sd * scale) for n, (mean, sd) in PULSED.items()}
    return [
        plots.target_against_read(
            out / "written.png", target, read, sigma=_expected_sigma(cells, target, chip, now)
        ),
        plots.drift_exponents(
            out / "drift.png",
            target,
            cells.nu,
            fit=_fitted(target, chip),
            source=FITTED_BY.get(chip.fit or "", ""),
        ),
        plots.pulse_response(
            out / "pulses.png",
            middle,
            width,
            published=known if chip.pulse == "nandakumar2018" else None,
            source=PULSED_BY if scale == 1 else f"{PULSED_BY}, scaled by {scale:.3g}",
        ),
    ]


def pulse_response(chip: Chip, streams: Mapping[str, torch.Generator]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over devices after 0 .. ``PULSES`` pulses, µS."""
    nothing = torch.zeros(DEVICES, dtype=torch.float64)
    cells = devices.program(nothing, 0.0, chip, dict(streams))
    everywhere = torch.ones(DEVICES, dtype=torch.bool)
    cells = devices.reset(cells, everywhere, 0.0, chip, streams["pulse"])
    levels = [cells.g_us]
    for _ in range(PULSES):
        cells = devices.pulse(cells, everywhere.int(), 0.0, chip, streams["pulse"])
        levels.append(cells.g_us)
    g = torch.stack(levels)
    return g.mean(1), g.std(1)


def _first_read(chip: Chip) -> float:
    """Return the age at which the conductances of the fit hold, s."""
    if chip.fit == "nandakumar2018":
        return pulses.T0_S
    return pcm.STATISTICS[chip.fit].t0_s if chip.fit else 0.0


def _expected_sigma(cells: Cells, target: Tensor, chip: Chip, now: float) -> Tensor | None:
    """Return the standard deviation of a first reading; None where writing has no closed form."""
    if chip.fit not in pcm.STATISTICS:
        return None
    fit = pcm.STATISTICS[chip.fit]
    written = fit.programming_us(target / chip.g_max_us) * chip.g_max_us / fit.g_ref_us
    frozen, fluctuating = devices.read_sigma(cells, target.float(), now, chip)
    variance = (written * (chip.programming_noise or 0)) ** 2 + frozen**2 + fluctuating**2
    return variance.sqrt()


def _fitted(target: Tensor, chip: Chip) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the fit's mean and standard deviation of ν at each target."""
    if chip.fit not in pcm.STATISTICS or chip.drift is None:
        return None
    fit, g = pcm.STATISTICS[chip.fit], target / chip.g_max_us
    return target.numpy(), chip.drift * fit.nu_mean(g).numpy(), chip.drift * fit.nu_sd(g).numpy()
