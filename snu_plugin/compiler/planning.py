"""What a graph would take on a chip: tiles, devices, energy and time, or why it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from snu_plugin.accelerator import (
    Accelerator,
    Cost,
    Count,
    Program,
    Saturation,
    Scaling,
    cost,
    expected_writing,
    outlier_values,
    set_ranges,
)
from snu_plugin.accepted import COUNT, UNIT, with_known_names
from snu_plugin.compiler.compilation import CannotMap, compile_checked
from snu_plugin.compiler.rules import Chips, chip_names, distinct
from snu_plugin.graph import DiscreteGraph, Feedback, checked_graph, discretise_checked

ACTIVITY = 0.1
"""Share of the rows that a spike drives in a step, where nobody says. Ours."""
INFERENCE = 100
"""Time steps of one inference, where nobody says. Ours."""
STEPS = 10_000
"""Steps that the counts stand for, so that whole numbers carry any activity."""


@dataclass(frozen=True)
class Plan:
    """A graph laid out on a chip, or every reason why it cannot be."""

    chip: Chips
    broken: tuple[str, ...]
    """A sentence for each broken rule, with the node's name; none if the graph fits."""
    program: Program | None
    """None if the graph does not fit."""
    cost: Cost | None
    """Of one step at ``activity``; None if the graph does not fit."""
    activity: float | None
    """Share of the rows of every matrix that are driven in a step; ``None``: counted, as the sample
    drives them."""
    steps: int = INFERENCE
    """Time steps of one inference."""
    saturation: Mapping[str, Saturation] | None = None
    """Shares of conversions at the end of their range by layer, of the sample on a fresh chip;
    None without a sample."""
    warnings: tuple[str, ...] = ()
    """A sentence for every converter that clips, or may."""

    @property
    def fits(self) -> bool:
        """Whether no rule is broken."""
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can hold it."""
        if self.program is None or self.cost is None:
            return {"fits": False, "chip": chip_names(self.chip), "broken": list(self.broken)}
        program, spent = self.program, self.cost
        return {
            "fits": True,
            "chip": chip_names(self.chip),
            "devices": program.devices,
            "tiles": program.tile_count,
            "tiles_available": sum(chip.tiles for chip in distinct(program.chips)),
            "utilisation": program.utilisation,
            "scaling": program.scaling,
            "outliers": {n: outlier_values(op) // 2 for n, op in program.products.items()},
            "layout": [tile._asdict() for tile in program.tiles],
            "activity": self.activity,
            **spent.to_dict(self.steps),
            "programming": expected_writing(program)._asdict(),
            "saturation": None
            if self.saturation is None
            else {name: shares._asdict() for name, shares in self.saturation.items()},
            "warnings": list(self.warnings),
            "assumptions": [*spent.assumptions, *([] if self.activity is None else [ASSUMED])],
            "notes": list(program.notes),
        }

    def __str__(self) -> str:
        """Return the plan as a terminal shows it."""
        if self.program is None or self.cost is None:
            return "\n".join(["does not fit:", *(f"  {reason}" for reason in self.broken)])
        found = self.to_dict()
        return "\n".join(
            [
                f"fits {found['chip']}: {found['devices']:,} devices on {found['tiles']} of "
                f"{found['tiles_available']} tiles, "
                f"{100 * found['utilisation']:.3g}% of their cells used",
                self.program.scaling_note,
                *_places(self.program),
                "as the data drive it"
                if self.activity is None
                else f"at {self.activity:.0%} activity, assumed",
                *self.cost.text(self.steps),
                f"writing once, expected: {expected_writing(self.program).text()}",
                *saturation_text(self.saturation or {}),
                *(f"warning: {warning}" for warning in self.warnings),
                *(["notes", *(f"  {note}" for note in found["notes"])] if found["notes"] else []),
                "assumed",
                *(f"  {line}" for line in found["assumptions"]),
            ]
        )


ASSUMED = (
    "in every matrix the given share of rows is driven in a step; what an Input, a Threshold or a "
    "spiking neuron feeds directly counts as spikes, everything else passes input converters"
)


@with_known_names
def plan(
    g: nir.NIRGraph,
    chip: Chips,
    scaling: Scaling = "column",
    *,
    dt: float | None = None,
    feedback: Feedback | None = None,
    activity: float | None = None,
    steps: int | None = None,
    sample: Any = None,
    outliers: float = 0.0,
) -> Plan:
    """Lay a graph out on a chip and say what a step of it costs there.

    Args:
        g: A NIR graph.
        chip: As in ``compile``.
        scaling: As in ``compile``.
        dt: As in ``compile``.
        feedback: As in ``compile``.
        activity: Share of the rows of every matrix that are driven in a step, in [0, 1]. ``None``
            counts what the sample drives; without a sample it is ``ACTIVITY``.
        steps: Time steps of one inference, at least 1. ``None`` takes those of the sample; without
            a sample it is ``INFERENCE``.
        outliers: As in ``compile``.
        sample: As in ``compile``; a fresh chip runs it, and the plan says what share saturated.

    Raises:
        ValueError: For an activity outside [0, 1], steps below 1, or a graph that cannot be
            discretised; a graph that does not fit is a plan that says so.
    """
    if activity is not None:
        UNIT.check("activity", activity)
    if steps is not None:
        COUNT.check("steps", steps)
    share = ACTIVITY if activity is None else activity
    checked = checked_graph(g).chosen(feedback)
    network = discretise_checked(checked, dt)
    try:
        program = compile_checked(checked, network, chip, scaling, outliers)
    except CannotMap as error:
        return Plan(chip, error.reasons, None, None, share, steps or INFERENCE)
    if sample is None:
        spent = cost(program, expected_counts(program, spiking(network), share))
        warned = tuple(beyond(program, largest(network)))
        return Plan(chip, (), program, spent, share, steps or INFERENCE, None, warned)
    program = set_ranges(program, sample)
    made = Accelerator(program)
    made.program()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plan says it
        trace = made.run(sample)[1]
    spent = trace.cost
    if activity is not None:
        spent = cost(program, expected_counts(program, spiking(network), activity))
    seen = trace.saturation, tuple(trace.warnings)
    return Plan(chip, (), program, spent, activity, steps or trace.steps, *seen)


def largest(network: DiscreteGraph) -> dict[str, float]:
    """Return the largest value that each node can give, where it is known.

    Spikes are 1, pools and relays give what they take, sums of spikes their number.
    """
    known = dict.fromkeys(spiking(network), 1.0)
    for block in network.wiring.blocks:
        for name in block.names:
            node, sources = network.nodes[name], network.wiring.sources[name]
            pool = isinstance(node, (nir.SumPool2d, nir.AvgPool2d))
            relays = pool or isinstance(node, (nir.Flatten, nir.Delay))
            if name in known or not relays or not all(source in known for source in sources):
                continue
            known[name] = sum(known[source] for source in sources)
            if isinstance(node, nir.SumPool2d):
                known[name] *= float(np.prod(node.kernel_size))
    return known


def beyond(program: Program, known: Mapping[str, float]) -> Iterator[str]:
    """Yield a sentence for every input converter that ends below what is known to come."""
    for name, op in program.products.items():
        sources, chip = program.wiring.sources[name], op.chip
        if chip.dac_bits is None or chip.input_scaling != "fixed":
            continue
        if not all(source in known for source in sources):
            continue
        most = sum(known[source] for source in sources)
        if most > chip.dac_bound:
            yield (
                f"inputs of {name} reach {most:g} and saturate at dac_bound {chip.dac_bound:g}: "
                "what lies beyond is clipped; give a sample of the data, which sets the range, or "
                "a larger dac_bound"
            )


def saturation_text(saturation: Mapping[str, Saturation]) -> list[str]:
    """Return the line of a terminal on conversions at the end of their range, if any are known."""
    parts = [f"{n} {s.inputs:.2%} and {s.outputs:.2%}" for n, s in saturation.items()]
    return [f"inputs and outputs that saturate: {', '.join(parts)}"] if parts else []


def expected_counts(program: Program, spikes: set[str], activity: float) -> dict[str, Count]:
    """Return what the crossbars would count in ``STEPS`` steps of one sequence."""
    counts = {}
    for name, op in program.products.items():
        out, inputs = op.weight.shape
        positions = op.geometry.positions
        groups = op.geometry.groups
        # Rows are driven independently: the share of steps in which a tile is not idle.
        sizes = [end - first for first, end in op.row_blocks]
        busy = [1 - (1 - activity) ** size if op.chip.skip_idle else 1.0 for size in sizes]
        used = op.holds.sum(1).tolist() if op.chip.skip_idle else [out] * len(sizes)
        sources = program.wiring.sources[name]
        graded = len(sources) != 1 or sources[0] not in spikes
        by_input = sum(share * size for share, size in zip(busy, sizes, strict=True))
        by_output = sum(share * columns for share, columns in zip(busy, used, strict=True))
        counts[name] = Count(
            steps=STEPS,
            active_rows=round(activity * inputs * groups * positions * STEPS),
            conversions=round(by_output * positions * STEPS),
            input_conversions=round(by_input * groups * positions * STEPS) if graded else 0,
            adapter_operations=round(activity * outlier_values(op) / 2 * positions * STEPS),
            adapter_values=outlier_values(op),
        )
    return counts


def spiking(network: DiscreteGraph) -> set[str]:
    """Return the nodes whose outputs are 0 or 1; of Inputs it is assumed."""
    found: set[str] = set()
    for block in network.wiring.blocks:
        for name in block.names:
            sources = network.wiring.sources[name]
            passes = isinstance(network.nodes[name], (nir.Flatten, nir.Delay)) and len(sources) == 1
            relayed = passes and sources[0] in found | set(network.inputs)
            if relayed or network.spikes(name):
                found.add(name)
    return found | set(network.inputs)


def _places(program: Program) -> list[str]:
    """Return a line for each part of a matrix, aligned."""
    rows = [("tile", "rows", "columns", "holds")]
    for t in sorted(program.tiles, key=lambda t: (t.number, t.row, t.column)):
        holds = f"{t.node}: inputs {t.rows[0]}..{t.rows[1] - 1}, "
        holds += f"outputs {t.columns[0]}..{t.columns[1] - 1}"
        used = f"{t.row}..{t.row + t.height - 1}", f"{t.column}..{t.column + t.width - 1}"
        rows.append((str(t.number), *used, holds))
    return [f"  {a:>4}  {b:>9}  {c:>9}  {d}" for a, b, c, d in rows]
