"""Weights to conductances: what one µS stands for in each part of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accelerator import Chip, Scaling
from snu_plugin.compiler.tiling import Span, column_spans, spans

ZEROS = 2.0**-60
"""Largest weight that a layer of zeros counts as: the noise of its devices is lost beside any other
value in float32, and gains and sums of squares of it are still exact. Ours."""


def weight_per_us(weight: Tensor, chip: Chip, scaling: Scaling, groups: int = 1) -> Tensor:
    """Return the weight that one µS stands for, ``(out, in)`` float64, constant within a group.

    The largest magnitude of each group takes the whole range, ``span_us``: from ``g_min_us`` to
    ``g_max_us`` on a pair, half of that on one device (docs/devices.md, scaling). Groups:
    the ``layer``, each ``tile``, or each ``column`` (one output) of each row of tiles.

    A group of zeros, or of weights that float32 holds as such, has no largest magnitude of its
    own and takes that of the layer: its devices add no more noise than those of the others. A
    layer of zeros takes ``ZEROS``.
    """
    out, inputs = weight.shape
    rows = ((0, inputs),) if scaling == "layer" else spans(inputs, chip.tile_rows)
    least = torch.finfo(torch.float32).tiny
    of_layer = weight.abs().max()
    of_layer = of_layer if of_layer >= least else of_layer.new_tensor(ZEROS)
    largest = torch.empty_like(weight)
    for first, end in rows:
        by_output = weight[:, first:end].abs().amax(1)
        if scaling != "column":
            together: tuple[Span, ...] = (
                ((0, out),) if scaling == "layer" else column_spans(out, groups, chip.tile_columns)
            )
            for top, bottom in together:
                by_output[top:bottom] = by_output[top:bottom].max()
        own = torch.where(by_output >= least, by_output, of_layer)
        largest[:, first:end] = own[:, None]
    return largest / chip.span_us
