"""One run of sequences through a chip: what it meets of its devices, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from snu_plugin.accelerator.beside import Adapted, WithOutliers, outlier_values
from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.crossbar import CHUNK, Count, Crossbar, TileRow, fastest
from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.energy import Cost, Spent, cost, product_nj
from snu_plugin.accelerator.geometry import even
from snu_plugin.accelerator.matrix import Showing
from snu_plugin.accelerator.program import Digital, Neurons, Product, Program
from snu_plugin.accelerator.state import ChipState
from snu_plugin.durations import energy, scaled
from snu_plugin.neuron import euler_scan
from snu_plugin.notebook import Shown, Table, text
from snu_plugin.schedule import Node
from snu_plugin.schedule import run as run_wired

SATURATED = 0.01
"""Share of conversions at the end of a range above which a run warns. Ours."""


class Saturation(NamedTuple):
    """Shares of the conversions of a layer that hit the end of the range, 0 without any."""

    inputs: float
    outputs: float


@dataclass(frozen=True, repr=False)
class Trace(Shown):
    """Counts, cost and, if asked for, the values the host saw."""

    program: Program
    counts: Mapping[str, Count]
    """What each crossbar did, by node."""
    spikes_per_step: Mapping[str, float]
    """Sum of the outputs of each layer of neurons, mean over steps and batch."""
    seconds: float
    """Time the run took on the chip."""
    products: Mapping[str, Tensor]
    """Digitised outputs of the crossbars, ``(T, B, out)``; empty unless recorded."""
    steps: int
    """Time steps of a sequence."""
    batch: int
    """Sequences."""

    def __str__(self) -> str:
        return text(self._table())

    def _table(self) -> Table:
        names = dict.fromkeys((*self.counts, *self.spikes_per_step))
        rows = [
            (
                name,
                f"{self.spikes_per_step[name]:.4g}" if name in self.spikes_per_step else "",
                *(f"{share:.2%}" for share in self.saturation.get(name, ())),
            )
            for name in names
        ]
        spent = energy(self.cost.total_nj)
        time = scaled(1e-6 * self.cost.latency_us, "s")
        title = f"{self.steps} steps of {self.batch} sequences: {spent} and {time} a step"
        heads = ("node", "spikes a step", "inputs that saturate", "outputs that saturate")
        return Table(title, heads, rows, self.warnings)

    @cached_property
    def cost(self) -> Cost:
        """Mean cost of a time step."""
        return cost(self.program, self.counts)

    @property
    def inference(self) -> Cost:
        """Mean cost of a sequence."""
        return self.cost.of(self.steps)

    @property
    def saturated(self) -> float:
        """Share of all conversions, of inputs and outputs, that hit the end of the range."""
        counts = self.counts.values()
        return _share(
            sum(c.saturated + c.clipped for c in counts),
            sum(c.conversions + c.input_conversions for c in counts),
        )

    @property
    def saturation(self) -> dict[str, Saturation]:
        """Shares of inputs and outputs that hit the end of the range, by layer."""
        return {
            name: Saturation(
                _share(c.clipped, c.input_conversions), _share(c.saturated, c.conversions)
            )
            for name, c in self.counts.items()
        }

    @property
    def warnings(self) -> list[str]:
        """A sentence for each converter of which more than ``SATURATED`` hit the end.

        Three standard errors more, so that the few conversions of a short run are no warning.
        """
        found = []
        for name, count in self.counts.items():
            chip = self.program.products[name].chip
            for what, part, whole, field in (
                ("inputs", count.clipped, count.input_conversions, "dac_bound"),
                ("outputs", count.saturated, count.conversions, "adc_bound"),
            ):
                chance = 3 * math.sqrt(SATURATED * (1 - SATURATED) * whole)
                if part > SATURATED * whole + chance:
                    found.append(
                        f"more than {SATURATED:.0%} of the {what} of {name} saturate: they lie "
                        f"beyond {field} {getattr(chip, field):.3g} and are clipped; "
                        + (
                            "the data differ from the sample that set the ranges, set them again"
                            if self.program.ranges is not None
                            else f"let data set it (compile with sample=), or give a larger {field}"
                        )
                    )
        return found


def run(
    state: ChipState, x: Any, *, record: bool, step_by_step: bool, carry: bool = False
) -> tuple[Mapping[str, Tensor], Trace]:
    """Run sequences ``(T, B, ...)`` on the chip as it is now.

    Returns the outputs of all nodes, ``(T, B, ...)``, and a trace; see ``Accelerator.run``.
    """
    state.programmed_s()
    program = state.program
    inputs = checked_inputs(program, x)
    steps, batch = next(iter(inputs.values())).shape[:2]
    seconds = steps * batch * program.step_s
    arrays = {name: observe(state, name, seconds) for name in program.products}
    nodes: dict[str, Node] = {
        name: digital_node(op, state.registers.get(f"{name}.threshold"))
        for name, op in program.ops.items()
        if not isinstance(op, Product)
    }
    for name, array in arrays.items():
        nodes[name] = array
        if (into := state.registers.get(f"{name}.adapter_in")) is not None:
            nodes[name] = Adapted(array, into, state.registers[f"{name}.adapter_out"])
        if array.op.outliers is not None:
            nodes[name] = WithOutliers(nodes[name], array.op, array.op.outliers, array.count)
    parts, carried = [], state.standing(batch) if carry else None
    at_once = 1 if step_by_step else steps
    for t in range(0, steps, at_once):
        now = {name: value[t : t + at_once] for name, value in inputs.items()}
        part, carried = run_wired(program.wiring, nodes, now, program.shapes, carried)
        parts.append(part)
    state.neurons = None if carried is None else (carried, batch)
    values = parts[0]
    if len(parts) > 1:
        values = {name: torch.cat([part[name] for part in parts]) for name in values}
    counts = {name: array.count for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.op.outliers is not None:
            counts[name].adapter_values += outlier_values(array.op)
    again = (c.repeats * program.chips[name].step_ns for name, c in counts.items())
    took = seconds + sum(again) * 1e-9
    state.clock_s += took
    energy_nj = sum(sum(product_nj(program, name, count)) for name, count in counts.items())
    conversions = sum(count.conversions for count in counts.values())
    state.charge("run", Spent(1, energy_nj, took, conversions=conversions))
    firing = {
        name: float(values[name].contiguous().sum()) / (steps * batch)
        for name, op in program.ops.items()
        if isinstance(op, Neurons) and op.euler.threshold is not None
    }
    products = {name: values[name] for name in counts} if record else {}
    return values, Trace(program, counts, firing, took, products, steps, batch)


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
    frozen, open_ = state.fluctuation(name, seconds) or (None, None)
    alike = 1.0
    if open_ is not None and not open_.dim():
        alike, open_ = float(open_), None
    parts = tuple(alike * (share / full_us) ** 2 for share in layout.shares)
    first_s, last_s = cells.t_s.aminmax()
    shape, noisy = cells.g_us.shape[1:], False
    difference, variance = (cells.g_us.new_empty(shape, dtype=torch.float32) for _ in range(2))
    edge = fastest(difference.device.type)
    # Many devices are worked on part by part, so that what lies between stays in a cache, and those
    # alone that were just pulsed take longer; where one law holds for all nothing lies between.
    of_all = model.law(state.clock_s - first_s, state.climate) if first_s == last_s else None
    rows = max(1, CHUNK // 4 // len(cells.g_us) // shape[1]) if of_all is None else shape[0]
    for first in range(0, shape[0], rows):
        part = slice(first, first + rows)
        own, law = Cells(*(value[:, part] for value in cells)), of_all
        how = Showing(
            None if frozen is None else frozen[:, part],
            layout.shares,
            parts,
            None if open_ is None else open_[:, part],
        )
        given = how, difference[part], variance[part]
        if law is None:
            young_s, old_s = own.t_s.aminmax()
            own = own._replace(t_s=young_s if young_s == old_s else own.t_s)
            age_s = state.clock_s - own.t_s
            law = None if age_s.dim() else model.law(age_s, state.climate)
        if law is not None:
            noisy |= edge.show(own.g_us, own.q, *given, law, own.nu)
        else:
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


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def checked_inputs(program: Program, x: Any) -> dict[str, Tensor]:
    """Return inputs ``(T, B, ...)`` by node as a chip takes them: float32, dense, without gradient.

    Tensors of torch of every dtype and layout, and NumPy's arrays; a dict by node if there are
    several.

    Raises:
        TypeError: For something else, or values that are no real numbers.
        ValueError: For other nodes or shapes, values that are not finite, or another device.
    """
    names = program.inputs
    found = dict(x) if isinstance(x, Mapping) else {names[0]: x}
    if set(found) != set(names):
        raise ValueError(
            f"inputs are {', '.join(map(str, found))}; the graph has {', '.join(names)}"
        )
    found = {name: _plain(name, value, program.device) for name, value in found.items()}
    if len({value.shape[:2] for value in found.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())
        raise ValueError(f"inputs are {shapes}; all must have the same steps and sequences")
    for name, value in found.items():
        shape = program.shapes[name]
        if value.shape[2:] != shape or 0 in value.shape[:2]:
            raise ValueError(
                f"input {name} has shape {tuple(value.shape)}; it must be (T, B, "
                f"{', '.join(map(str, shape))}) with at least one step and one sequence"
            )
    return found


def _plain(name: str, value: Any, device: torch.device) -> Tensor:
    """Return an input as a dense float32 tensor of its own memory order, without gradient."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value, np.float32).reshape(value.shape))
        value = value.to(device)
    if not isinstance(value, Tensor):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"input {name} is {kind}; give numbers, as a tensor (T, B, ...)")
    if value.device != device:
        other = f", or move the chip, chip.to('{value.device}')" if value.is_cuda else ""
        raise ValueError(
            f"input {name} is on {value.device}, the chip on {device}; give x.to('{device}'){other}"
        )
    if value.is_complex():
        raise TypeError(f"input {name} is {value.dtype}; rows are driven by real numbers")
    if value.is_nested:
        raise TypeError(
            f"input {name} is a nested tensor; give sequences of one length, (T, B, ...)"
        )
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout is not torch.strided:
        value = value.to_dense()
    single: Tensor = value.float().contiguous()
    # Only where the sum is not finite can one of them be.
    if not bool(single.sum().isfinite()) and not bool(single.isfinite().all()):
        raise ValueError(
            f"input {name} holds {int((~single.isfinite()).sum())} values that are not finite in "
            "float32; give finite numbers"
        )
    return single


def digital_node(op: Neurons | Digital, threshold: Tensor | None) -> Node:
    """Return what a digital operation computes; ``threshold`` replaces the compiled one."""
    if isinstance(op, Digital):
        return op.compute
    euler = op.euler if threshold is None else replace(op.euler, threshold=threshold)
    return lambda x, state: euler_scan(x, euler, state)
