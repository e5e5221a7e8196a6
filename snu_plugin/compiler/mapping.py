"""Weights to conductances: what one µS stands for in each part of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accelerator import Chip, Scaling
from snu_plugin.compiler.tiling import Span, column_spans, spans

NOTHING = 2.0**-60
"""What the whole range stands for in a layer of zeros: its noise is next to nothing in any other
layer's units, and still no zero that something could be divided by."""


def weight_per_us(weight: Tensor, chip: Chip, scaling: Scaling, groups: int = 1) -> Tensor:
    """Return the weight that one µS stands for, ``(out, in)`` float64, constant within a group.

    The largest magnitude of each group takes the whole range, ``span_us``: from ``g_min_us`` to
    ``g_max_us`` on a pair, half of that on one device (docs/devices.md, scaling). Groups:
    the ``layer``, each ``tile``, or each ``column`` (one output) of each row of tiles. A group of
    zeros (a pruned unit, a tile that no input is wired to) takes the scale of its layer, so that
    its devices add no more noise than others; a layer of zeros takes ``NOTHING``.
    """
    out, inputs = weight.shape
    rows = ((0, inputs),) if scaling == "layer" else spans(inputs, chip.tile_rows)
    columns: tuple[Span, ...] = {
        "layer": ((0, out),),
        "tile": column_spans(out, groups, chip.tile_columns),
        "column": tuple((i, i + 1) for i in range(out)),
    }[scaling]
    largest = torch.empty_like(weight)
    for first, end in rows:
        for top, bottom in columns:
            part = weight[top:bottom, first:end]
            largest[top:bottom, first:end] = part.abs().max()
    layer = float(weight.abs().max()) or NOTHING
    return largest.where(largest > 0, torch.full((), layer, dtype=largest.dtype)) / chip.span_us
