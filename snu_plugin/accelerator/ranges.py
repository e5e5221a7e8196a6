"""Ranges of the converters set by what a sample of the data shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from snu_plugin.accelerator.crossbar import Crossbar
from snu_plugin.accelerator.inference import checked_inputs, digital_node
from snu_plugin.accelerator.machine import Accelerator
from snu_plugin.accelerator.magnitudes import Magnitudes
from snu_plugin.accelerator.observation import observe
from snu_plugin.accelerator.periphery import resolution
from snu_plugin.accelerator.program import Product, Program, Range
from snu_plugin.schedule import Node
from snu_plugin.schedule import run as run_wired

SEED = 0
"""Of the chip that is looked at."""


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
            array.watch = met[name] = (Magnitudes(), Magnitudes())
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
            step = 2 * dac_bound * resolution(chip.dac_bits)
            level = step * max(1, round(level / step))
    return Range(dac_bound, adc_bound, level)
