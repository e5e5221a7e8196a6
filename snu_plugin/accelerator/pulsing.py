"""SET and RESET pulses on chosen weights of a living chip, as a host asks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from snu_plugin.accelerator.energy import booked, summed, writing
from snu_plugin.accelerator.state import ChipState

MOST_PULSES = 10**6
"""Pulses of one call on one device; a device is full after some tens."""


def set_pulses(state: ChipState, counts: Mapping[str, Tensor]) -> None:
    """Apply SET pulses; see ``Accelerator.pulse``."""
    state.programmed_s()
    products, took = state.program.products, []
    for name, n in _by_crossbar(state, counts).items():
        if n.is_complex() or bool((n != n.trunc()).any()) or bool((n.abs() > MOST_PULSES).any()):
            raise ValueError(
                f"counts of {name} are not whole numbers of pulses up to {MOST_PULSES}; round them"
            )
        chosen = products[name].layout.pulses(n, state.turn)
        cells = state.models[name].pulse(
            state.cells[name], chosen, state.clock_s, state.streams[name], state.climate
        )
        state.hold(name, cells, chosen > 0)
        state.fill(name, n != 0)
        sets = int(chosen.sum())
        state.spend(name, sets)
        took.append(writing(state.program.chips[name], sets, 0))
    state.charge("pulse", booked(summed(took)))
    turns = (chip.per_polarity for chip in state.program.chips.values())
    state.turn = (state.turn + 1) % math.lcm(*turns)


def reset_pulses(state: ChipState, pairs: Mapping[str, Tensor]) -> None:
    """RESET all devices of chosen weights; see ``Accelerator.reset``."""
    state.programmed_s()
    took = []
    for name, mask in _by_crossbar(state, pairs).items():
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"pairs of {name} holds values between; each must be true, for weights to "
                "RESET, or false"
            )
        every = state.program.products[name].layout.every_device(mask.bool())
        cells = state.models[name].reset(
            state.cells[name], every, state.clock_s, state.streams[name]
        )
        state.hold(name, cells, every)
        resets = int(every.sum())
        state.spend(name, resets)
        took.append(writing(state.program.chips[name], 0, resets))
    state.charge("reset", booked(summed(took)))


def _by_crossbar(state: ChipState, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return one value per weight, ``(out, in)``, given like that or in the graph's shapes."""
    shapes = {n: state.by_node(n, value).weight.shape for n, value in values.items()}
    return {n: value.reshape(shapes[n]) for n, value in values.items()}
