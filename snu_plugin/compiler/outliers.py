"""Which weights stay beside the devices, in digital logic: the few that would take the range."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accelerator import Scaling
from snu_plugin.compiler.tiling import spans


def outliers(weight: Tensor, share: float, scaling: Scaling, tile_rows: int) -> Tensor:
    """Return which weights of a matrix ``(out, in)`` are its outliers, bool.

    The ``share`` that is largest beside the root of the mean square of its scale group: one output
    in a row of tiles, or the whole matrix where a ``layer`` or ``tile`` shares its scale. Weights
    of 0 are none; of equal ones the first.

    >>> w = torch.tensor([[0.1, 0.2, 0.9, -0.2], [0.5, 0.5, 0.5, -0.5]])
    >>> outliers(w, 0.25, "column", 256)
    tensor([[False, False,  True, False],
            [ True, False, False, False]])
    """
    usual = torch.empty_like(weight)
    for first, end in spans(weight.shape[1], tile_rows):
        part = weight[:, first:end] if scaling == "column" else weight
        mean = part.square().mean(1, keepdim=True) if scaling == "column" else part.square().mean()
        usual[:, first:end] = mean.sqrt()
    size = (weight.abs() / usual).nan_to_num(0.0).flatten()
    order = size.sort(descending=True, stable=True).indices[: int(share * weight.numel())]
    found = torch.zeros(size.shape, dtype=torch.bool)
    found[order] = True
    return (found & (size > 0)).view(weight.shape)
