"""Energy, time and area of a run and of writing, from what was counted; what was spent so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from snu_plugin.accelerator.chip import Chip
from snu_plugin.accelerator.crossbar import Count
from snu_plugin.accelerator.devices.model import RESET_PJ, SET_PJ, device_model
from snu_plugin.accelerator.program import Product, Program
from snu_plugin.durations import energy, scaled, span

DENSE_NJ = 12.5
"""One dense 256 × 256 8-bit product: 131,072 operations at 10.5 TOPS/W. HERMES core,
Khaddam-Aljameh et al., JSSC 2022."""
CELLS = 256 * 256
ARRAY_SHARE, INPUT_SHARE, OUTPUT_SHARE, DIGITAL_SHARE = 0.27, 0.10, 0.50, 0.13
"""How the 12.5 nJ divide. The array's share is V² G t of 65,536 pairs at 0.2 V, 5 µS, 128 ns; the
others are our assumption, since the split of HERMES is not published."""
CORE_MM2 = 0.634
"""Area of a core of 256 × 256: 131,072 operations in 130 ns at 1.59 TOPS/mm² (HERMES core); the
130 ns, 128 steps of an 8-bit input at 1 GHz and two more, are our assumption."""
READ_PJ = DENSE_NJ * 1e3 * OUTPUT_SHARE / 256
"""Reading one device: a conversion. The device itself takes at most 0.25 pJ."""

OPERATION_PJ = 4.6 + 5.0
"""A multiplication with addition of float32, 3.7 + 0.9 pJ, and its factor read from 8 kB of SRAM,
10 pJ for 64 bits: 45 nm, Horowitz, ISSCC 2014."""

ASSUMPTIONS = (
    f"energy calibrated once so that a dense 256 x 256 product costs {DENSE_NJ} nJ (HERMES core)",
    f"its split into array {ARRAY_SHARE:.0%}, input converters {INPUT_SHARE:.0%}, output "
    f"converters {OUTPUT_SHARE:.0%} and digital {DIGITAL_SHARE:.0%} is assumed, not published",
    "a driven cell costs the same whatever its conductance; rows that carry no spike cost nothing "
    "in the array: an extrapolation, the anchor is dense",
    "only rows and columns in use are counted; writing, reading back and calibration are counted "
    "apart",
    "array: the anchor's cells are pairs; other numbers of devices per weight in proportion",
    "converters take what those of 8 bits do, whatever their bits",
    "neuron updates are inside the digital share; leakage is inside all shares, of what idle tiles "
    "leak no number is known",
    "time: one product after the other at the chip's step_ns (64-core chip, one-phase read); a "
    "convolution takes one product per position, parts of a node on one tile follow one another",
    f"digital adapters and outliers: {OPERATION_PJ:.2g} pJ for each multiplication with addition "
    "in float32, its factor read from memory (45 nm, Horowitz 2014; less in younger processes); "
    "they work beside the products, no time of their own is counted",
    f"area: {CORE_MM2} mm² for each tile of 256 x 256 in use, 1.59 TOPS/mm² (HERMES core) at an "
    "assumed 130 ns a product; other sizes in proportion to their cells",
    f"writing: {SET_PJ} pJ a SET, {RESET_PJ:g} pJ a RESET, {READ_PJ:.3g} pJ a reading, all "
    "assumed; pulses one after the other at the chip's pulse_ns, readings at its step_ns",
)


@dataclass(frozen=True)
class Cost:
    """Mean cost of one time step of one sequence, or of several steps."""

    array_nj: float
    converters_nj: float
    digital_nj: float
    used_nj: float
    """The same if all rows and columns in use worked at every step, on inputs of 8 bits."""
    dense_nj: float
    """The same if every tile in use worked densely on all its rows and columns."""
    dense_array_nj: float
    """What of it the array takes."""
    latency_us: float
    area_mm2: float
    """Of the tiles in use."""
    operations: float
    """Multiplications and additions of the matrices, zeros included."""
    adapter_nj: float = 0.0
    """What digital adapters and outliers take, part of ``digital_nj``."""
    adapter_operations: float = 0.0
    """Their multiplications, each with an addition."""
    adapter_bytes: int = 0
    """Memory that their values take, float32."""
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def total_nj(self) -> float:
        """Sum of array, converters and digital."""
        return self.array_nj + self.converters_nj + self.digital_nj

    @property
    def tops_per_w(self) -> float:
        """Operations of the network for the energy spent, zeros counted as work: 10^12 per J."""
        return self.operations / (self.total_nj * 1e3) if self.total_nj else 0.0

    @property
    def parts_nj(self) -> dict[str, float]:
        """What the energy goes into, as it was counted."""
        return {part: getattr(self, f"{part}_nj") for part in ("array", "converters", "digital")}

    @property
    def _energy_nj(self) -> dict[str, float | None]:
        return self.parts_nj | {
            "total": self.total_nj,
            "used_dense": self.used_nj,
            "dense": self.dense_nj,
            "dense_array": self.dense_array_nj,
            "leakage": None,  # no number is known
        }

    def to_dict(self, steps: int) -> dict[str, Any]:
        """Return a step and an inference of so many ``steps`` as JSON can hold them."""
        whole = self.of(steps)
        return {
            "energy_nj_per_step": self._energy_nj,
            "latency_us_per_step": self.latency_us,
            "steps_per_inference": steps,
            "energy_nj_per_inference": whole._energy_nj,
            "latency_us_per_inference": whole.latency_us,
            "tops_per_w": self.tops_per_w,
            "area_mm2": self.area_mm2,
            "adapters": {
                "energy_nj_per_step": self.adapter_nj,
                "operations_per_step": self.adapter_operations,
                "bytes": self.adapter_bytes,
            },
        }

    def text(self, steps: int) -> list[str]:
        """Return the lines that a terminal shows of a step and an inference."""
        whole, parts = self.of(steps), self.parts_nj.items()
        adapters = [
            f"digital adapters and outliers, of it: {energy(self.adapter_nj)} a step for "
            f"{self.adapter_operations:,.0f} multiplications, {self.adapter_bytes:,} bytes"
        ]
        return [
            f"energy per step: {energy(self.total_nj)} ("
            + ", ".join(f"{part} {energy(nj)}" for part, nj in parts)
            + f"; leakage of idle tiles not known); dense {energy(self.used_nj)} on the rows and "
            f"columns in use, {energy(self.dense_nj)} on whole tiles",
            f"time per step: {scaled(1e-6 * self.latency_us, 's')}",
            f"inference of {steps} steps: {energy(whole.total_nj)} "
            f"(dense {energy(whole.dense_nj)}), "
            f"{scaled(1e-6 * whole.latency_us, 's')}",
            f"area of the tiles in use: {self.area_mm2:.3g} mm²; {self.tops_per_w:.3g} TOPS/W",
            *(adapters if self.adapter_bytes else []),
        ]

    def of(self, steps: int) -> Cost:
        """Return the cost of so many steps, such as those of one inference; the area stays."""
        kept = ("area_mm2", "adapter_bytes", "assumptions")
        counted = {name: value * steps for name, value in vars(self).items() if name not in kept}
        return replace(self, **counted)


def _dense_lines(rows: int, columns: int) -> float:
    """Return what converters and digital logic of so many lines take for a product, nJ."""
    inputs, outputs = rows * INPUT_SHARE, columns * (OUTPUT_SHARE + DIGITAL_SHARE)
    return DENSE_NJ * (inputs + outputs) / 256


def dense_parts(dense_nj: float, array_nj: float | None = None) -> dict[str, float]:
    """Return how the energy of dense work divides; ``array_nj``: other than of two devices."""
    array = dense_nj * ARRAY_SHARE if array_nj is None else array_nj
    rest = (dense_nj - array) / (1 - ARRAY_SHARE)
    return {
        "array": array,
        "converters": rest * (INPUT_SHARE + OUTPUT_SHARE),
        "digital": rest * DIGITAL_SHARE,
    }


def cost(program: Program, counts: Mapping[str, Count]) -> Cost:
    """Return the mean cost of a step of the run that ``counts`` came from.

    Raises:
        ValueError: If nothing ran.
    """
    if not counts or any(count.steps == 0 for count in counts.values()):
        raise ValueError("nothing ran yet: cost needs the counts of a run of at least one step")
    array = converters = digital = operations = again = by_adapters = 0.0
    for name, count in counts.items():
        op = program.products[name]
        spent = product_nj(program, name, count)
        array += spent.array / count.steps
        converters += spent.converters / count.steps
        digital += spent.digital / count.steps
        by_adapters += count.adapter_operations / count.steps
        operations += 2 * op.weight.numel() * op.geometry.positions
        again += count.repeats / count.steps * op.chip.step_ns * 1e-3
    cells = program.tile_cells
    used = dense = dense_array = 0.0
    for tile in program.tiles:
        op = program.products[tile.node]
        positions, pairs = op.geometry.positions, op.chip.devices_per_weight / 2
        by_cell = pairs * DENSE_NJ * ARRAY_SHARE / CELLS
        of_lines = _dense_lines(tile.height, tile.width)
        used += positions * (tile.height * tile.width * by_cell + of_lines)
        dense_array += positions * cells[tile.number] * by_cell
        dense += positions * _dense_lines(op.chip.tile_rows, op.chip.tile_columns)
    return Cost(
        array,
        converters,
        digital,
        used_nj=used,
        dense_nj=dense + dense_array,
        dense_array_nj=dense_array,
        latency_us=program.step_s * 1e6 + again,
        area_mm2=CORE_MM2 * sum(cells.values()) / CELLS,
        operations=operations,
        adapter_nj=by_adapters * OPERATION_PJ * 1e-3,
        adapter_operations=by_adapters,
        adapter_bytes=4 * sum(count.adapter_values for count in counts.values()),
    )


class Parts(NamedTuple):
    """Where the energy of products goes, nJ."""

    array: float
    converters: float
    digital: float


def product_nj(program: Program, name: str, count: Count) -> Parts:
    """Return what all the products took that a crossbar counted."""
    op = program.products[name]
    (outputs, inputs), groups = op.weight.shape, op.geometry.groups
    # A driven row passes through the devices of its group, the reference columns included.
    devices = (outputs * len(op.layout.shares) + op.layout.references) / groups
    array = count.active_rows * devices / 2 * DENSE_NJ * ARRAY_SHARE / CELLS
    converters = 0.0
    if count.input_conversions:
        # Every tile has converters of its own, so columns on two tiles take the inputs twice.
        rows = sum(tile.height for tile in program.tiles if tile.node == name)
        again = count.repeats * inputs * groups / len(op.row_blocks)
        taken = (count.input_conversions + again) * rows / (inputs * groups)
        converters = taken * DENSE_NJ * INPUT_SHARE / 256
    converted = count.conversions + count.repeats * outputs
    return Parts(
        array,
        converters + converted * DENSE_NJ * OUTPUT_SHARE / 256,
        converted * DENSE_NJ * DIGITAL_SHARE / 256 + count.adapter_operations * OPERATION_PJ * 1e-3,
    )


class Writing(NamedTuple):
    """What was done to devices, and what it took."""

    sets: int
    resets: int
    reads: int
    """Readings of one device each, to verify."""
    energy_nj: float
    seconds: float
    """One device after the other."""
    estimated: bool = False
    """Whether the pulses are those of the mean curve, since the devices' model does not say."""

    def text(self) -> str:
        """Return the line that a terminal shows."""
        return (
            f"{self.sets:,} SET, {self.resets:,} RESET, {self.reads:,} readings: "
            f"{energy(self.energy_nj)}, {span(self.seconds)}"
            + (" (estimated from the mean pulse curve)" if self.estimated else "")
        )


def writing(chip: Chip, sets: int, resets: int, reads: int = 0) -> Writing:
    """Return the cost of so many SET pulses, RESET pulses and readings."""
    model = device_model(chip)
    energy_pj = sets * model.set_pj + resets * model.reset_pj + reads * READ_PJ
    seconds = ((sets + resets) * chip.pulse_ns + reads * chip.step_ns) * 1e-9
    return Writing(sets, resets, reads, energy_pj * 1e-3, seconds)


def expected_writing(program: Program) -> Writing:
    """Return what writing the network once takes if every pulse moves its device by the mean.

    A RESET, then the SET pulses of the mean curve, and a reading after every pulse. An estimate:
    program-verify stops short of the target and starts again beyond it; the statistics of models
    A and B do not say how many pulses they took.
    """
    return summed(written(op, 0, 0) for op in program.products.values())


def expected(chip: Chip, sets: int, devices: int) -> Writing:
    """Return what writing devices is expected to take that need so many SET pulses; see above."""
    return writing(chip, sets, devices, sets + devices)._replace(estimated=True)


def summed(parts: Iterable[Writing]) -> Writing:
    """Return what several writings did and took, one after the other."""
    parts = list(parts)
    return Writing(
        sets=sum(part.sets for part in parts),
        resets=sum(part.resets for part in parts),
        reads=sum(part.reads for part in parts),
        energy_nj=sum(part.energy_nj for part in parts),
        seconds=sum(part.seconds for part in parts),
        estimated=any(part.estimated for part in parts),
    )


class Spent(NamedTuple):
    """What operations of one kind took so far."""

    times: int = 0
    energy_nj: float | None = 0.0
    """``None``: no number is known."""
    seconds: float = 0.0
    """On the chip's clock."""
    sets: int = 0
    resets: int = 0
    readings: int = 0
    """Readings of one device each."""
    conversions: int = 0
    """Outputs converted in products."""
    estimated: bool = False
    """Whether pulses are those of the mean curve, since the devices' model does not say."""

    def plus(self, other: Spent) -> Spent:
        """Return both together; a sum with something unknown is unknown."""
        unknown = self.energy_nj is None or other.energy_nj is None
        return Spent(
            self.times + other.times,
            None if unknown else (self.energy_nj or 0.0) + (other.energy_nj or 0.0),
            self.seconds + other.seconds,
            self.sets + other.sets,
            self.resets + other.resets,
            self.readings + other.readings,
            self.conversions + other.conversions,
            self.estimated or other.estimated,
        )

    def since(self, then: Spent) -> Spent:
        """Return what was spent after ``then``; of what is not known nothing."""
        less = zip(self[:-1], then[:-1], strict=True)
        return Spent._make((*((now or 0) - (was or 0) for now, was in less), self.estimated))

    def text(self) -> str:
        """Return the line that a terminal shows."""
        spent = "no energy known" if self.energy_nj is None else energy(self.energy_nj)
        counted = {
            "SET": self.sets,
            "RESET": self.resets,
            "readings": self.readings,
            "conversions": self.conversions,
        }
        parts = [f"{count:,} {what}" for what, count in counted.items() if count]
        estimated = " (pulses estimated)" if self.estimated else ""
        return ", ".join([f"{spent}, {span(self.seconds)}", *parts]) + estimated


def booked(spent: Writing) -> Spent:
    """Return a writing as an entry of the ledger."""
    return Spent(
        1, spent.energy_nj, spent.seconds, spent.sets, spent.resets, spent.reads,
        estimated=spent.estimated,
    )  # fmt: skip


def written(op: Product, sets: int, resets: int) -> Writing:
    """Return what writing a crossbar took: its pulses if the model pulses, else the expected."""
    if not sets + resets:
        return expected(op.chip, op.mean_pulses, op.layout.shape(op.weight.shape).numel())
    return writing(op.chip, sets, resets, (sets + resets) * op.chip.verify)


def first_writing(program: Program, sets: int, resets: int) -> Writing:
    """Return what writing a chip took, from the pulses it counted; without any, the expected.

    Program-verify reads a device before every pulse but the first, and once more at the end.
    """
    if not sets:
        return expected_writing(program)
    return writing(program.chip, sets, resets, (sets + resets) * program.chip.verify)
