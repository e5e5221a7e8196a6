"""From which share of spikes on a product of only what fires is quicker than the dense one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin import Linear
from snu_plugin.bench.timing import table, time_in_turns

INPUTS, OUTPUTS = 784, 256
ROWS = (1, 64, 6400)
"""One sample's step, a batch's step, and 100 steps of a batch at once."""
RATES = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
DENSE, GATHER, OURS = "dense", "gather", "snu_plugin.Linear"
GAIN = 0.95
"""Share of the dense time below which another way pays."""


@torch.no_grad()
def run(seconds: float = 10.0) -> list[dict[str, Any]]:
    """Time a layer 784 -> 256 without gradients, on as many threads as torch has.

    ``dense`` is ``nn.Linear``; ``gather`` finds the inputs that fire and adds up their weights with
    ``torch.nn.functional.embedding_bag``; ``snu_plugin.Linear`` takes the dense way itself where it
    expects no gain. Inputs are 0 and 1, seeded.

    Returns:
        A row for each number of samples and rate: median seconds, and ratios to ``dense``.
    """
    share = seconds / len(ROWS) / len(RATES)
    return [_row(rows, rate, share) for rows in ROWS for rate in RATES]


def _row(rows: int, rate: float, seconds: float) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(rows, INPUTS, generator=random) < rate).float()
    layer = Linear(INPUTS, OUTPUTS, bias=False)
    dense = nn.Linear(INPUTS, OUTPUTS, bias=False)
    columns = dense.weight.T.contiguous()
    calls: dict[str, Callable[[], Tensor]] = {
        DENSE: lambda: dense(x),
        GATHER: lambda: gather(x, columns),
        OURS: lambda: layer(x),
    }
    found = time_in_turns(calls, seconds)
    ratios = {name: found[name].over(found[DENSE]) for name in (GATHER, OURS)}
    return {"rows": rows, "rate": rate, DENSE: found[DENSE].median, **ratios}


def gather(x: Tensor, columns: Tensor) -> Tensor:
    """Return ``x @ columns`` for ``x`` of 0 and 1, ``(rows, n)``, by adding up rows of ``columns``.

    >>> gather(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.eye(3)).tolist()
    [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    row, column = x.nonzero(as_tuple=True)
    starts = torch.searchsorted(row, torch.arange(len(x)))
    return F.embedding_bag(column, columns, starts, mode="sum")


def text(rows: list[dict[str, Any]]) -> str:
    """Return the answer of ``run`` as a table, and where each way pays."""
    head = ("samples", "spikes", "dense, ms", "gather, x dense", "snu_plugin.Linear, x dense")
    lines = [
        (
            str(row["rows"]),
            f"{row['rate']:.0%}",
            f"{1e3 * row[DENSE]:.3g}",
            f"{row[GATHER]:.2f}",
            f"{row[OURS]:.2f}",
        )
        for row in rows
    ]
    return "\n\n".join([table(head, lines), *(_crossover(rows, n) for n in (GATHER, OURS))])


def _crossover(rows: list[dict[str, Any]], name: str) -> str:
    parts = []
    for count in dict.fromkeys(row["rows"] for row in rows):
        found = (row for row in rows if row["rows"] == count)
        paying = [row["rate"] for row in itertools.takewhile(lambda row: row[name] < GAIN, found)]
        until = f"up to {paying[-1]:.0%} spikes" if paying else "at none of these rates"
        parts.append(f"{count} samples {until}")
    return f"`{name}` pays for {', for '.join(parts)}."
