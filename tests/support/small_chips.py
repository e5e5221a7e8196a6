"""Small chips that tests of the accelerator take."""

from __future__ import annotations

from dataclasses import replace

import nir
import numpy as np

from snu_plugin.accelerator import PCM, Accelerator, Chip
from snu_plugin.compiler import compile

EVERYTHING = replace(
    PCM,
    devices_per_weight=4,
    stuck_at_random=0.05,
    voltage_offset=0.01,
    adc_gain_spread=0.02,
    adc_offset_spread=0.1,
    output_nonlinearity=0.5,
    input_scaling="absmax",
    tile_rows=7,
)
"""A chip with every effect at once."""


def matrix(out: int, inputs: int, seed: int = 0) -> nir.NIRGraph:
    nodes = {
        "in": nir.Input({"input": np.array([inputs])}),
        "fc": nir.Linear(np.random.default_rng(seed).normal(size=(out, inputs))),
        "out": nir.Output({"output": np.array([out])}),
    }
    return nir.NIRGraph(nodes, [("in", "fc"), ("fc", "out")])


def chip_of(g: nir.NIRGraph, chip: Chip, seed: int = 0) -> Accelerator:
    made = Accelerator(compile(g, chip, dt=1.0), seed)
    made.program()
    return made
