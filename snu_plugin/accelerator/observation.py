"""What an inference meets of a crossbar: its devices as they stand at this moment."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.crossbar import CHUNK, Crossbar, TileRow, fastest
from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.products import even
from snu_plugin.accelerator.state import ChipState


def observe(state: ChipState, name: str, seconds: float, *, noisy: bool = True) -> Crossbar:
    """Return a crossbar as an inference of so many ``seconds`` meets it now.

    The slow part of the read noise is what the devices show on average over this time; the rest
    enters every product as noise on its outputs of variance ``Σ_j V_ij x_j²``, exact for
    independent normal device noise (docs/devices.md, read noise at the output). ``noisy=False``
    leaves both out.
    """
    op, model = state.program.products[name], state.models[name]
    chip, step = op.chip, op.unit
    if noisy and model.noisy:
        difference, variance = _aged(state, name, seconds, chip.g_max_us * step)
    else:
        cells = state.cells[name]
        shown = model.conductance(cells, state.clock_s, state.climate)
        plus, minus = op.layout.by_polarity(shown)
        difference, variance = plus - minus, None
    holds, exact = state.holds[name], None
    if not chip.skip_idle:
        holds = torch.ones_like(holds)
    if (reach := state.reach.get(name)) is not None:
        difference, holds = difference * reach.weights, holds & reach.columns
        variance = None if variance is None else variance * reach.weights
    if variance is None and len(op.row_blocks) == 1 and _transparent(chip):
        exact = (difference * op.weight_per_us).float() * holds[0, :, None]
    weight = (difference / (chip.g_max_us * step)).float()
    rows, edge = [], fastest(weight.device.type)
    parts = zip(op.row_blocks, op.drops, state.columns[name], holds, strict=True)
    for (first, end), drop, columns, used in parts:
        walked = edge.lay(weight, first, end, drop, variance)
        # The converter's range is fixed in conductance: in weights it differs by column.
        scale = (op.weight_per_us[:, first] * chip.g_max_us * step).float() * used
        by_group = tuple(used.view(op.geometry.groups, -1).sum(1).tolist())
        drivers = state.drivers[name]
        offset = None if drivers is None else even(drivers[first:end])
        flags = drop is not None, variance is not None
        rows.append(TileRow(first, end, walked, *flags, columns, scale, by_group, offset))
    bits, bias = state.output_bits[name], state.registers.get(f"{name}.bias")
    return Crossbar(op, bits, tuple(rows), exact, state.gain(name), bias)


def _aged(
    state: ChipState, name: str, seconds: float, full_us: float
) -> tuple[Tensor, Tensor | None]:
    """Return G+ - G- as an inference meets it, ``(out, in)`` µS, and the variance that stays open.

    The variance is that of a weight, ``(out, in)``, in squares of ``full_us``. Of what a reference
    column fluctuates each output takes a draw of its own.
    """
    cells, model, layout = (
        state.cells[name],
        state.models[name],
        state.program.products[name].layout,
    )
    frozen, open_ = state.fluctuation(name, seconds) or (None, 1.0)
    first_s, last_s = cells.t_s.aminmax()
    shape, noisy = cells.g_us.shape[1:], False
    difference, variance = (cells.g_us.new_empty(shape, dtype=torch.float32) for _ in range(2))
    edge = fastest(difference.device.type)
    # Many devices are worked on part by part, so that what lies between stays in a cache, and those
    # alone that were just pulsed take longer; where one law holds for all nothing lies between.
    law = model.law(state.clock_s - first_s, state.climate) if first_s == last_s else None
    rows = max(1, CHUNK // 4 // len(cells.g_us) // shape[1]) if law is None else shape[0]
    for first in range(0, shape[0], rows):
        part = slice(first, first + rows)
        own = Cells(*(value[:, part] for value in cells))
        given = (
            None if frozen is None else frozen[:, part],
            open_[:, part] if isinstance(open_, Tensor) and open_.dim() else float(open_),
            layout.shares,
            full_us,
            difference[part],
            variance[part],
        )
        if law is None:
            young_s, old_s = own.t_s.aminmax()
            own = own._replace(t_s=young_s if young_s == old_s else own.t_s)
            age_s = state.clock_s - own.t_s
            law = None if age_s.dim() else model.law(age_s, state.climate)
        if law is not None:
            noisy |= edge.show_by_law(own.g_us, own.nu, own.q, *law, *given)
            law = law if rows == shape[0] else None
            continue
        own = own._replace(g_us=own.g_us.float())
        g = model.conductance(own, state.clock_s, state.climate, age_s)
        noisy |= edge.show(g, model.read_sigma(own, g, age_s), *given)
    if (reference := layout.reference) is not None:
        out = len(reference)
        difference = difference[:out] - difference[out:][reference]
        variance = variance[:out] + variance[out:][reference]
    return difference, variance if noisy else None


def _transparent(chip: Chip) -> bool:
    """Return whether nothing lies between the product and the host."""
    inputs = chip.dac_bits is None and chip.input_scaling == "fixed"
    inputs = inputs and not (chip.input_nonlinearity or chip.dac_offset_spread)
    spreads = (chip.voltage_offset, chip.adc_gain_spread, chip.adc_offset_spread)
    outputs = (chip.adc_bits, chip.output_nonlinearity, chip.wire_ohm, *spreads)
    return inputs and chip.output_noise is None and not any(outputs)
