"""One run of sequences through chips that hold the same network, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from snu_plugin.accelerator import crossbar, digital, given
from snu_plugin.accelerator.program import Product
from snu_plugin.accelerator.trace import Trace, traced
from snu_plugin.schedule import Node

if TYPE_CHECKING:
    from snu_plugin.accelerator.machine import Accelerator


class Run(NamedTuple):
    """What one chip did."""

    values: Mapping[str, Tensor]
    """Outputs of all nodes, ``(T, B, ...)``."""
    trace: Trace


def infer(
    chips: Sequence[Accelerator], x: Any, *, record: bool, step_by_step: bool
) -> tuple[Run, ...]:
    """Run sequences ``(T, B, ...)`` on every chip as it is now; returns what each did.

    Where steps wait for one another all chips do a step together. Layers that do not loop work on
    whole sequences, which fill a processor without that: there one chip runs after the other.
    """
    loops = any(block.delayed for block in chips[0].layout.wiring.blocks)
    groups = [chips] if loops or step_by_step else [(chip,) for chip in chips]
    return tuple(run for group in groups for run in _side_by_side(group, x, record, step_by_step))


def _side_by_side(
    chips: Sequence[Accelerator], x: Any, record: bool, step_by_step: bool
) -> Iterator[Run]:
    """Run chips together: their sequences follow one another along the batch, ``chips B``.

    Digital parts see one batch, crossbars take it apart again.
    """
    layout = chips[0].layout
    for chip in chips:
        chip._since()
    inputs = given.inputs(layout, x)
    steps, batch = next(iter(inputs.values())).shape[:2]
    seconds = steps * batch * sum(layout.cycles.values()) * layout.chip.step_ns * 1e-9
    arrays = {
        name: crossbar.together([chip._observe(name, seconds) for chip in chips])
        for name in layout.products
    }
    nodes: dict[str, Node] = {
        name: digital.node(op, _threshold(chips, name, batch))
        for name, op in layout.ops.items()
        if not isinstance(op, Product)
    }
    nodes |= arrays
    if len(chips) > 1:
        inputs = {name: torch.cat([value] * len(chips), 1) for name, value in inputs.items()}
    values = digital.play(layout, nodes, inputs, 1 if step_by_step else steps)
    apart = {name: value.chunk(len(chips), 1) for name, value in values.items()}
    for n, chip in enumerate(chips):
        counts = {name: array.counts[n] for name, array in arrays.items()}
        repeats = sum(count.repeats for count in counts.values())
        took = seconds + repeats * layout.chip.step_ns * 1e-9
        chip.clock_s += took
        own = {name: parts[n] for name, parts in apart.items()}
        yield Run(own, traced(layout, counts, own, took, record=record))


def _threshold(chips: Sequence[Accelerator], name: str, batch: int) -> Tensor | None:
    """Return the thresholds of a layer, ``(...)``, or ``(chips B, ...)`` where chips differ."""
    own = [chip.registers.get(f"{name}.threshold") for chip in chips]
    present = [value for value in own if value is not None]
    if all(torch.equal(value, present[0]) for value in present):
        return own[0]
    return torch.stack(present).repeat_interleave(batch, 0)
