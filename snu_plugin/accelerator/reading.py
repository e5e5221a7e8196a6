"""Devices and weights read back, with noise, as a host asks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accelerator.energy import READ_PJ, Spent
from snu_plugin.accelerator.state import ChipState
from snu_plugin.accepted import COUNT


def conductances(state: ChipState) -> dict[str, Tensor]:
    """Read every device once; see ``Accelerator.read_conductances``."""
    state.programmed_s()
    products, seen = state.program.products, {}
    for name in state.cells:
        shown = products[name].layout.by_polarity(state.read(name))
        reach = state.reach.get(name)
        seen[name] = shown if reach is None else shown * reach.weights
    # One row at a time, all tiles together.
    took_s = 1e-9 * max(op.weight.shape[1] * op.chip.step_ns for op in products.values())
    state.clock_s += took_s
    devices = sum(cells.g_us.numel() for cells in state.cells.values())
    state.charge("read", Spent(1, devices * READ_PJ * 1e-3, took_s, readings=devices))
    return seen


def weights(state: ChipState) -> dict[str, Tensor]:
    """Read the weights once; see ``Accelerator.read_weights``."""
    seen = {}
    for name, g in conductances(state).items():
        op = state.program.products[name]
        weight = (g[0] - g[1]) * op.weight_per_us * state.gain_of_weights(name)
        weight = weight.float()
        weight = weight if op.outliers is None else weight + op.outliers
        seen[name] = weight.reshape(op.geometry.shape)
    return seen


def averaged(state: ChipState, reads: int) -> dict[str, Tensor]:
    """Return what so many readings of the weights show on average."""
    COUNT.check("reads", reads)
    readings = [weights(state) for _ in range(reads)]
    return {
        n: torch.stack([r[n] for r in readings]).double().mean(0).float()
        for n in state.program.products
    }
