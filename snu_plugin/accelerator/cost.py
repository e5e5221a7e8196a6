"""Energy and time of a run, from what the crossbars counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snu_plugin.accelerator.program import Program
from snu_plugin.accelerator.tile import Count

DENSE_NJ = 12.5
"""One dense 256 × 256 8-bit product: 131,072 operations at 10.5 TOPS/W. HERMES core,
Khaddam-Aljameh et al., JSSC 2022."""
CELLS = 256 * 256
ARRAY_SHARE, INPUT_SHARE, OUTPUT_SHARE, DIGITAL_SHARE = 0.27, 0.10, 0.50, 0.13
"""How the 12.5 nJ divide. The array's share is V² G t of 65,536 pairs at 0.2 V, 5 µS, 128 ns; the
others are our assumption, since the split of HERMES is not published."""

ASSUMPTIONS = (
    f"energy calibrated once so that a dense 256 x 256 product costs {DENSE_NJ} nJ (HERMES core)",
    f"its split into array {ARRAY_SHARE:.0%}, input converters {INPUT_SHARE:.0%}, output "
    f"converters {OUTPUT_SHARE:.0%} and digital {DIGITAL_SHARE:.0%} is assumed, not published",
    "rows that carry no spike cost nothing in the array: an extrapolation, the anchor is dense",
    "only rows and columns in use are counted; writing and reading back are not included",
    "neuron updates are inside the digital share",
    "time: one product after the other at the chip's step_ns (64-core chip, one-phase read); a "
    "convolution takes one product per position, parts of a node on one tile follow one another",
)


@dataclass(frozen=True)
class Cost:
    """Mean cost of one time step of one sequence."""

    array_nj: float
    converters_nj: float
    digital_nj: float
    dense_nj: float
    """The same step if every tile in use worked densely on all rows and columns."""
    latency_us: float
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def total_nj(self) -> float:
        """Sum of array, converters and digital."""
        return self.array_nj + self.converters_nj + self.digital_nj


def cost(program: Program, counts: Mapping[str, Count]) -> Cost:
    """Return the mean cost of a step of the run that ``counts`` came from.

    Raises:
        ValueError: If nothing ran.
    """
    if not counts or any(count.steps == 0 for count in counts.values()):
        raise ValueError("nothing ran yet: cost needs the counts of a run of at least one step")
    array = converters = digital = 0.0
    for name, count in counts.items():
        outputs, inputs = program.products[name].weight.shape
        per_step = 1 / count.steps
        columns = outputs / program.products[name].geometry.groups
        array += count.active_rows * per_step * columns * DENSE_NJ * ARRAY_SHARE / CELLS
        if not count.spikes_only:
            geometry = program.products[name].geometry
            inputs *= geometry.groups * geometry.positions
            converters += inputs * DENSE_NJ * INPUT_SHARE / 256
        converted = count.conversions * per_step
        converters += converted * DENSE_NJ * OUTPUT_SHARE / 256
        digital += converted * DENSE_NJ * DIGITAL_SHARE / 256
    cells = program.chip.tile_rows * program.chip.tile_columns
    worked = sum(program.products[tile.node].geometry.positions for tile in program.tiles)
    dense = worked * DENSE_NJ * cells / CELLS
    latency_us = sum(program.cycles.values()) * program.chip.step_ns * 1e-3
    return Cost(array, converters, digital, dense, latency_us)
