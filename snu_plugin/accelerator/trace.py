"""What a run of the chip leaves behind besides its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from snu_plugin.accelerator.cost import Cost, cost
from snu_plugin.accelerator.program import Neurons, Program
from snu_plugin.accelerator.tile import Count


@dataclass(frozen=True)
class Trace:
    """Counts, cost and, if asked for, the values the host saw."""

    counts: Mapping[str, Count]
    """What each crossbar did, by node."""
    cost: Cost
    """Mean cost of a time step."""
    spikes_per_step: Mapping[str, float]
    """Sum of the outputs of each layer of neurons, mean over steps and batch."""
    seconds: float
    """Time the run took on the chip."""
    products: Mapping[str, Tensor]
    """Digitised outputs of the crossbars, ``(T, B, out)``; empty unless recorded."""
    steps: int
    """Time steps of a sequence."""

    @property
    def inference(self) -> Cost:
        """Mean cost of a sequence."""
        return self.cost.of(self.steps)

    @property
    def saturated(self) -> float:
        """Share of conversions that hit the end of the range."""
        converted = sum(count.conversions for count in self.counts.values())
        return sum(c.saturated for c in self.counts.values()) / converted if converted else 0.0


def traced(
    layout: Program,
    counts: Mapping[str, Count],
    values: Mapping[str, Tensor],
    seconds: float,
    *,
    record: bool,
) -> Trace:
    """Return the trace of a run that gave ``values`` by node, each ``(T, B, ...)``."""
    firing = (
        name
        for name, op in layout.ops.items()
        if isinstance(op, Neurons) and op.euler.threshold is not None
    )
    return Trace(
        counts=counts,
        cost=cost(layout, counts),
        spikes_per_step={
            n: float(values[n].contiguous().sum()) / values[n].shape[:2].numel() for n in firing
        },
        seconds=seconds,
        products={name: values[name] for name in counts} if record else {},
        steps=len(next(iter(values.values()))),
    )
