"""Weights written onto the devices of a chip, and read back, as a host asks for it.

All are written at once; chosen ones again, on the living chip, in a closed loop or pulse by pulse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.energy import (
    READ_PJ,
    Spent,
    Writing,
    booked,
    expected,
    summed,
    writing,
    written,
)
from snu_plugin.accelerator.noise import generator
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.state import ChipState
from snu_plugin.accepted import COUNT

ROUNDING = 1e-6
"""Share by which a target may exceed what devices hold, as weights of float32 do."""
SHORT = 0.05
"""Share of the range by which a device may end short of its target."""
MOST_PULSES = 10**6
"""Pulses of one call on one device; a device is full after some tens."""


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
        sets, resets = int(cells.sets.sum()), int(cells.resets.sum())
        state.spend(name, sets + resets)
        took.append(written(op, sets, resets))
    state.charge("program", booked(summed(took)))
    state.clock_s += max(model.writing_s for model in state.models.values())


class Task(NamedTuple):
    """What is to be written on one crossbar."""

    weight: Tensor
    """Targets ``(out, in)`` in the graph's units, float64; 0 where nothing is written."""
    difference_us: Tensor
    """The same as G+ - G-, ``(out, in)``, µS."""
    where: Tensor
    """Which weights, ``(out, in)``, bool."""


@torch.no_grad()
def write(state: ChipState, targets: Mapping[str, Any], where: Mapping[str, Any] | None) -> Writing:
    """Write weights; see ``Accelerator.write``. Nothing is touched unless all of it can be."""
    state.programmed_s()
    if unknown := set(where or {}) - set(targets):
        raise ValueError(
            f"where says which weights of {', '.join(sorted(unknown))} to write, targets says not "
            "what; give a target for each node in where"
        )
    tasks = {
        name: _task(state, name, value, None if where is None else where.get(name))
        for name, value in targets.items()
    }
    spent = summed([_written(state, name, task) for name, task in tasks.items()])
    state.charge("write", booked(spent))
    return spent


def _task(state: ChipState, name: str, value: Any, where: Any) -> Task:
    """Return what is to be written on a crossbar, or raise ``ValueError``."""
    value = torch.as_tensor(value) if isinstance(value, (list, tuple)) else value
    op = state.by_node(name, value)
    weight = value.detach().to(op.weight).reshape(op.weight.shape)
    if op.outliers is not None:  # they stay in digital, beside the devices
        weight = weight - op.outliers
    chosen = torch.ones_like(weight, dtype=torch.bool)
    if where is not None:
        where = torch.as_tensor(where) if isinstance(where, (list, tuple)) else where
        state.by_node(name, where)
        if where.dtype != torch.bool:
            raise ValueError(
                f"where of {name} is {where.dtype}; it must be bool, true for weights to write"
            )
        chosen = where.to(weight.device).reshape(op.weight.shape)
    if not bool(weight[chosen].isfinite().all()):
        raise ValueError(f"targets of {name} hold values that are not finite; give finite weights")
    weight = weight.where(chosen, 0.0)
    # What G+ - G- counts for, digital gain included, as it is read.
    unit = op.weight_per_us * state.gain_of_weights(name)
    limit = (op.chip.span_us * unit).abs()
    beyond = weight.abs() > limit * (1 + ROUNDING)
    if bool(beyond.any()):
        asked, most = float(weight[beyond][0]), float(limit[beyond][0])
        said = (
            f"{int(beyond.sum())} targets of {name} are larger than its devices hold, the first "
            f"{asked:.6g} where the gain of now makes ± {most:.6g} of a full device"
        )
        if bool((weight.abs() > limit * (1 + SHORT)).any()):
            raise ValueError(f"{said}; give smaller targets, or compile a graph that has them")
        # The largest weights of a graph, after a calibration that made a gain less than 1.
        warnings.warn(f"{said}; they are written to full devices", stacklevel=6)
    difference = (weight / unit).nan_to_num(0.0).clamp(-op.chip.span_us, op.chip.span_us)
    return Task(weight, difference, chosen)


def _written(state: ChipState, name: str, task: Task) -> Writing:
    """Write the chosen weights of a crossbar and return what it took."""
    op, model, cells = state.program.products[name], state.models[name], state.cells[name]
    targets = _targets_us(state, name, op, task)
    every = op.layout.every_device(task.where)
    stuck = cells.stuck[every]
    stuck_at = torch.where(stuck, cells.g_us[every], torch.nan) if bool(stuck.any()) else None
    new = model.write(targets[every], state.clock_s, state.streams[name], stuck_at)
    if bool(new.resets.any()):
        sets, resets = int(new.sets.sum()), int(new.resets.sum())
        spent = writing(op.chip, sets, resets, (sets + resets) * op.chip.verify)
    else:
        counts = model.response.to_reach(targets[every]).round()
        new = new._replace(sets=counts.int(), resets=torch.ones_like(new.resets))
        spent = expected(op.chip, int(counts.sum()), counts.numel())
    # A reference column is read once.
    spent = summed([spent, writing(op.chip, 0, 0, op.layout.references * targets.shape[2])])
    working = every & ~cells.stuck
    merged = {}
    for field, old, own in zip(Cells._fields, cells, new, strict=True):
        merged[field] = value = old.clone()
        if field in ("sets", "resets"):
            value[every] += own
        else:
            value[working] = own[~stuck]
    state.hold(name, Cells(**merged), working)
    state.fill(name, task.where & (task.weight != 0))
    state.remembered[name] = task.weight.float().where(task.where, state.remembered[name])
    state.baseline.pop(name, None)  # what it was measured on is gone
    state.pulses += spent.sets + spent.resets
    state.clock_s += spent.seconds
    return spent


def _targets_us(state: ChipState, name: str, op: Product, task: Task) -> Tensor:
    """Return the target of every device, of the shape of the cells, µS.

    A single device has to stand above its reference column as that is now, which takes a reading.
    """
    difference = task.difference_us
    targets = op.layout.fill(torch.stack((difference.clamp_min(0), (-difference).clamp_min(0))))
    if op.layout.reference is None:
        return targets
    reference = state.read(name)[0, len(op.layout.reference) :][op.layout.reference]
    wanted = reference + difference
    held = wanted.clamp(op.layout.low_us, op.layout.low_us + op.layout.width_us)
    short = ((wanted - held).abs() > SHORT * op.layout.width_us) & task.where
    if bool(short.any()):
        warnings.warn(
            f"{int(short.sum())} weights of {name} end short of their targets: the reference "
            "column has drifted, and a device would have to leave its range to stand as far from "
            "it; program() writes the column again",
            stacklevel=6,
        )
    targets[0, : len(held)] = held
    return targets


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


def read_conductances(state: ChipState) -> dict[str, Tensor]:
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


def read_weights(state: ChipState) -> dict[str, Tensor]:
    """Read the weights once; see ``Accelerator.read_weights``."""
    seen = {}
    for name, g in read_conductances(state).items():
        op = state.program.products[name]
        weight = (g[0] - g[1]) * op.weight_per_us * state.gain_of_weights(name)
        weight = weight.float()
        weight = weight if op.outliers is None else weight + op.outliers
        seen[name] = weight.reshape(op.geometry.shape)
    return seen


def averaged(state: ChipState, reads: int) -> dict[str, Tensor]:
    """Return what so many readings of the weights show on average."""
    COUNT.check("reads", reads)
    readings = [read_weights(state) for _ in range(reads)]
    return {
        n: torch.stack([r[n] for r in readings]).double().mean(0).float()
        for n in state.program.products
    }
