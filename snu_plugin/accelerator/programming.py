"""All target weights written onto the devices of a chip."""

from __future__ import annotations

import torch

from snu_plugin.accelerator.energy import booked, summed, written
from snu_plugin.accelerator.noise import generator
from snu_plugin.accelerator.state import ChipState


def program(state: ChipState) -> None:
    """Write every target; see ``Accelerator.program``."""
    state.written_s = state.clock_s
    state.forget()
    took = []
    for name, op in state.program.products.items():
        model, targets = state.models[name], op.layout.fill(op.targets_us())
        stuck_at = model.draw_stuck(targets.shape, generator(state.seed, "faults", name))
        stuck_at = None if stuck_at is None else stuck_at.to(targets.device)
        fails = op.chip.endurance is not None or state.ends[name] is not None
        if fails and (held := state.cells.get(name)) is not None:
            stuck_at = torch.where(held.stuck, held.g_us, torch.nan)  # since the first writing
        cells = model.write(targets, state.clock_s, state.streams[name], stuck_at)
        state.hold(name, cells)
        state.spend(name, int(cells.sets.sum()) + int(cells.resets.sum()))
        took.append(written(op, targets, cells))
    state.charge("program", booked(summed(took)))
    state.clock_s += max(model.writing_s for model in state.models.values())
