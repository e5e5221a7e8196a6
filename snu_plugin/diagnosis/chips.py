"""What is wrong with a network on a chip."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from snu_plugin.accelerator import SATURATED, Board, Trace
from snu_plugin.diagnosis.findings import Finding


def on_chip(trace: Trace) -> Iterator[Finding]:
    """Yield converters that saturate, and layers that no spike leaves."""
    fitted = trace.program.ranges is not None
    for name, shares in trace.saturation.items():
        for what, share, bound in (
            ("inputs", shares.inputs, "dac_bound"),
            ("outputs", shares.outputs, "adc_bound"),
        ):
            if share > SATURATED:
                yield Finding(
                    "saturated converter",
                    name,
                    f"{share:.1%} of the {what} lie beyond {bound} and are clipped",
                    "set the ranges from such data: compile(g, chip, sample=x)"
                    if not fitted
                    else "set the ranges again, from a sample like these inputs",
                )
    for name, spikes in trace.spikes_per_step.items():
        if not spikes:
            yield Finding(
                "silent on the chip",
                name,
                "no spike leaves it",
                "compare with diagnose(graph, x); if it fires there, calibrate or write the chip",
            )


def is_board(net: Any) -> bool:
    """Tell whether something is a chip with a network on it."""
    return all(hasattr(net, name) for name in ("layout", "run", "calibrate"))


def run(chip: Board, x: Any) -> Trace:
    """Run inputs on a chip, without its warnings of what ``on_chip`` tells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "more than .* saturate")
        _, trace = chip.run(x)
    return trace
