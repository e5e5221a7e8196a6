"""What devices do that are described by tables; those that come along are files in this folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.devices.pulses import CREDIT_US, Response, Stepwise
from snu_plugin.accelerator.devices.statistical import Statistical, Statistics
from snu_plugin.accelerator.devices.tables import DeviceTables, Rows, read_tables

MOST_PULSES = 1000
"""SET pulses after which a device counts as full at the latest."""
UNMEASURED = 0.05
"""Share of the range that devices may be written to below the first row of the table of writing.
They hold what that row says, as where the lowest state that was reached is called 0. Ours."""


def along(rows: Rows, column: int, g: Tensor) -> Tensor:
    """Return a column of a table at ``g``: straight lines between rows, level beyond the ends."""
    table = torch.tensor(rows, dtype=torch.float64).to(g)
    x, y = table[:, 0].contiguous(), table[:, column]
    if len(x) == 1:
        return y.expand(g.shape)
    upper = torch.searchsorted(x, g.contiguous()).clamp(1, len(x) - 1)
    low, high = x[upper - 1], x[upper]
    return torch.lerp(y[upper - 1], y[upper], ((g - low) / (high - low)).clamp(0, 1))


class Tabulated(Statistical):
    """Devices written, aged, read and pulsed as their tables say."""

    def __init__(self, chip: Chip, tables: DeviceTables) -> None:
        lowest, least = tables.lowest_us, chip.g_min_us + UNMEASURED * chip.span_us
        if lowest is not None and lowest > least:
            raise ValueError(
                f"g_min_us is {chip.g_min_us}; {tables} was written to from {lowest:g} µS on: add "
                f"a row, or set g_min_us to {lowest:g}"
            )
        self.tables = tables
        self.set_pj, self.reset_pj = tables.set_pj, tables.reset_pj
        g_max = chip.g_max_us

        def curve(rows: Rows, column: int) -> partial[Tensor]:
            return partial(lambda g: along(rows or ((0.0,) * 4,), column, g * g_max))

        fit = Statistics(
            t0_s=tables.drift_from_s,
            t_read_s=tables.read_pulse_s,
            g_ref_us=g_max,
            programming_us=curve(tables.writing, 2),
            nu_mean=curve(tables.drift, 1),
            nu_sd=curve(tables.drift, 2),
            q=torch.zeros_like,
            limit_us=tables.limit_us,
            written_us=curve(tables.writing, 1) if tables.writing else None,
        )
        super().__init__(chip, fit)
        self.noisy = self.noisy and bool(tables.read_noise)
        if not tables.read_pulse_s:
            self.spectrum = None

    def own_response(self) -> Response:
        """Return the steps of the table, or equal exact ones."""
        if not self.tables.pulses:
            return Response(self.chip, self.scale)
        return TabulatedResponse(self.chip, self.tables)

    def read_sigma(self, cells: Cells, g: Tensor, age_s: Tensor) -> Tensor:
        """Return that of the table where devices stand now; with a spectrum, it grows with age."""
        if not self.noisy:
            return torch.zeros_like(g)
        sigma = along(self.tables.read_noise, 1, g) * (self.chip.read_noise or 0.0)
        if self.spectrum is None:
            return sigma
        then = float(self.spectrum.variance(torch.tensor(self.fit.t0_s)))
        return sigma * (self.spectrum.variance(age_s) / then).sqrt().to(g)


class TabulatedResponse(Stepwise):
    """Steps whose mean and standard deviation depend on the conductance alone."""

    def __init__(self, chip: Chip, tables: DeviceTables) -> None:
        self.tables, self.ceiling_us = tables, chip.g_max_us
        self.noisy = chip.programming_noise is not None
        self.floor_us = tables.reset_us
        middle = torch.tensor([chip.g_max_us / 2], dtype=torch.float64)
        self.credit_us = float(along(tables.pulses, 1, middle))
        g = torch.tensor([tables.reset_us], dtype=torch.float64)
        trace = [g]
        while len(trace) <= MOST_PULSES:
            g = self.pulse(g, torch.empty(0), None)
            if float(g - trace[-1]) < 1e-4 * self.ceiling_us:  # hardly moves any more
                break
            trace.append(g)
        self.mean_curve: Tensor = torch.cat(trace)
        self.full = len(self.mean_curve) - 1

    def pulse(self, g: Tensor, pulses: Tensor, noise: Tensor | None) -> Tensor:
        """Return what the step of the table leads to."""
        change = along(self.tables.pulses, 1, g)
        if noise is not None:
            change = change + along(self.tables.pulses, 2, g) * noise
        return (g + change).clamp(0, self.ceiling_us)

    def reset(self, count: int, generator: Generator) -> Tensor:
        """Return conductances around ``reset_us``."""
        drawn = torch.randn(count, generator=generator, dtype=torch.float32).double()
        return (self.tables.reset_us + self.tables.reset_sd_us * drawn).clamp_min(0)

    def step(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step of the table where devices stand."""
        unit = CREDIT_US / self.credit_us
        return along(self.tables.pulses, 1, g) * unit, along(self.tables.pulses, 2, g) * unit


FITS = {
    file.stem: partial(Tabulated, tables=read_tables(file))
    for file in sorted(Path(__file__).parent.glob("*.toml"))
}
