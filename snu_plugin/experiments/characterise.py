"""What the devices of a chip do, measured on some of them: ``snu info --chip NAME --out DIR``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from snu_plugin.accelerator import Cells, Chip, DeviceModel, device_model, generators
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
    streams, model = generators(seed, "characterise"), device_model(chip)
    target = torch.linspace(0, chip.g_max_us, DEVICES, dtype=torch.float64)
    cells = model.write(target, 0.0, streams)
    seen = model.read(cells, model.holds_at_s, streams["read"])
    middle, width = pulse_response(model, streams)
    scale = model.scale
    curves = model.exponents(target)
    known = {n: (mean * scale, sd * scale) for n, (mean, sd) in PULSED.items()}
    return [
        plots.target_against_read(
            out / "written.png", target, seen, sigma=_expected_sigma(model, cells, target)
        ),
        plots.drift_exponents(
            out / "drift.png",
            target,
            cells.nu,
            fit=curves and (target.numpy(), curves[0].numpy(), curves[1].numpy()),
            source=FITTED_BY.get(chip.fit or "", ""),
        ),
        plots.pulse_response(
            out / "pulses.png",
            middle,
            width,
            published=None if model.response.exact else known,
            source=PULSED_BY if scale == 1 else f"{PULSED_BY}, scaled by {scale:.3g}",
        ),
    ]


def pulse_response(
    model: DeviceModel, streams: Mapping[str, torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over devices after 0 .. ``PULSES`` pulses, µS."""
    cells = model.write(torch.zeros(DEVICES, dtype=torch.float64), 0.0, streams)
    everywhere = torch.ones(DEVICES, dtype=torch.bool)
    cells = model.reset(cells, everywhere, 0.0, streams["pulse"])
    seen = [cells.g_us]
    for _ in range(PULSES):
        cells = model.pulse(cells, everywhere.int(), 0.0, streams["pulse"])
        seen.append(cells.g_us)
    trace = torch.stack(seen)
    return trace.mean(1), trace.std(1)


def _expected_sigma(model: DeviceModel, cells: Cells, target: Tensor) -> Tensor | None:
    """Return the standard deviation of a first reading; None where writing has no closed form."""
    written = model.written_sigma(target)
    if written is None:
        return None
    age_s = cells.age_s(model.holds_at_s)
    frozen, fluctuating = model.read_sigma(cells, target.float(), age_s)
    return (written**2 + frozen**2 + fluctuating**2).sqrt()
