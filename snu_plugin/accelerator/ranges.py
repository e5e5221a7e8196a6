"""Ranges of the converters, set by the magnitudes that a sample of the data shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator.crossbar import Crossbar
from snu_plugin.accelerator.inference import checked_inputs, digital_node, observe
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.periphery import Converter, resolution
from snu_plugin.accelerator.program import Product, Program, Range
from snu_plugin.schedule import Node
from snu_plugin.schedule import run as run_wired

SEED = 0
"""Of the chip that is looked at."""
PER_OCTAVE = 16
"""Bins for each factor of 2: ends of ranges are found to 4 %."""
SMALLEST, LARGEST = -40, 40
"""Powers of 2 beyond which magnitudes are counted with the last bin."""
BINS = (LARGEST - SMALLEST) * PER_OCTAVE


class Magnitudes:
    """A histogram of magnitudes other than 0, which every converter gives exactly."""

    def __init__(self) -> None:
        # Of each bin: how many, their sum, the sum of their squares.
        self.sums = torch.zeros(3, BINS, dtype=torch.float64)
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        """Count values, of any shape."""
        size = values.detach().abs().flatten().double()
        size = size[size > 0]
        if not size.numel():
            return
        place = ((size.log2() - SMALLEST) * PER_OCTAVE).long().clamp(0, BINS - 1)
        for row, power in enumerate((torch.ones_like(size), size, size * size)):
            self.sums[row] += torch.bincount(place, power, BINS).cpu()
        self.largest = max(self.largest, float(size.max()))

    @property
    def rms(self) -> float:
        """Root of the mean square; 0 where nothing was met."""
        count, _, squares = self.sums.sum(1).tolist()
        return math.sqrt(squares / count) if count else 0.0

    def best_end(self, bits: int) -> float | None:
        """Return the end of the range that loses least, in the units of the values.

        The mean squared error of a converter of so many bits: a step of the range squared over 12
        for what it rounds, the square of what is less than half a step, which becomes 0, and the
        square of what is beyond the end. ``None`` where nothing was met.
        """
        if not self.largest:
            return None
        bins = torch.arange(BINS + 1, dtype=torch.float64)
        edges = torch.exp2(bins / PER_OCTAVE + SMALLEST)
        below = torch.cat((torch.zeros(3, 1, dtype=torch.float64), self.sums.cumsum(1)), 1)
        above = below[:, -1:] - below
        clipped = above[2] - 2 * edges * above[1] + edges**2 * above[0]
        # The end itself may be the largest value: then nothing is clipped.
        ends = torch.cat((edges, torch.tensor([self.largest], dtype=torch.float64)))
        clipped = torch.cat((clipped, clipped.new_zeros(1)))
        counted = torch.cat((below[0], below[0, -1:]))
        step = 2 * ends * resolution(bits)
        vanish = torch.searchsorted(edges, step / 2, right=True) - 1
        vanish = vanish.clamp(0, BINS)
        lost = below[2, vanish] + (counted - below[0, vanish]).clamp_min(0) * step**2 / 12 + clipped
        lost[ends > self.largest] = torch.inf
        return float(ends[lost.argmin()])


@torch.no_grad()
def set_ranges(program: Program, x: Any) -> Program:
    """Return the program with the ranges of each layer's converters set by a sample of the data.

    The sample runs through the network with exact weights; what every crossbar is driven by goes
    besides through a chip, written with ``SEED`` and read while it is fresh, whose converters have
    no end. The range of each converter is the one that loses least of what they met: rounding and
    clipping, squared, every column alike (``Magnitudes.best_end``).

    Args:
        program: What ``compile`` made.
        x: Inputs as ``Accelerator.run`` takes them.
    """
    inputs = checked_inputs(program, x)
    found = program.with_ranges(_ranges(program, inputs))
    if any(
        op.chip.dac_bound != found.products[name].chip.dac_bound
        for name, op in program.products.items()
    ):
        # What noise and wires do to sums depends on the input that is a full pulse.
        found = program.with_ranges(_ranges(found, inputs))
    return found


def _ranges(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, Range]:
    """Return the ranges that lose least where full pulses stand for what they do in ``program``."""
    ops = dict(program.ops)
    for name, held in program.products.items():
        endless = replace(held.chip, dac_bits=None, adc_bits=None, bound_management=False)
        ops[name] = replace(held, chip=endless)
    made = Accelerator(replace(program, ops=ops, ranges=None), SEED)
    made.program()
    steps, batch = next(iter(inputs.values())).shape[:2]
    met, nodes = {}, {}
    for name, op in program.ops.items():
        if isinstance(op, Product):
            array = observe(made.state, name, steps * batch * program.step_s)
            met[name] = inputs_met, sums_met = Magnitudes(), Magnitudes()
            array.watch = inputs_met.add, sums_met.add
            nodes[name] = _beside(array, op)
        else:
            nodes[name] = digital_node(op, made.registers.get(f"{name}.threshold"))
    run_wired(program.wiring, nodes, inputs, program.shapes, keep=())
    return {name: range_of(program.products[name], *seen) for name, seen in met.items()}


def _beside(array: Crossbar, op: Product) -> Node:
    """Return a node that shows a signal to a crossbar and gives the exact product."""
    weight = op.whole.float()

    def node(x: Tensor, state: None) -> tuple[Tensor, None]:
        array(x)
        return op.geometry.multiply(x, weight, op.bias), None

    return node


def range_of(op: Product, inputs: Magnitudes, sums: Magnitudes) -> Range:
    """Return the ranges of a crossbar that met these inputs, spikes left out, and sums."""
    chip, level = op.chip, 1.0
    dac_bound, adc_bound = chip.dac_bound, chip.adc_bound
    if chip.dac_bits is not None and chip.input_scaling == "fixed":
        dac_bound = inputs.best_end(chip.dac_bits) or dac_bound
    if chip.adc_bits is not None:
        adc_bound = sums.best_end(chip.adc_bits) or adc_bound
    if inputs.rms and chip.input_scaling == "fixed":
        level = min(inputs.rms, dac_bound)
        if chip.dac_bits is not None:  # a value that the converter gives exactly
            step = Converter.of(chip.dac_bits, dac_bound).step
            level = step * max(1, round(level / step))
    return Range(dac_bound, adc_bound, level)
