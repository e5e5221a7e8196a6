"""A linear layer that is quick where its inputs are mostly zero, as spikes are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.neuron.operators import is_eager
from snu_plugin.neuron.scan import find

MOST = 12
"""One input in so many may differ from zero where events are quicker: measured on one core, product
and gradient of the weights take 0.35 of the dense time at 3 % and as long at 8 to 9 %."""

LEAST = 2**24
"""Products of the dense form below which looking for events is not worth it."""

SAMPLED = 64
"""Rows that are looked at to tell how many inputs differ from zero."""


class EventLinear(nn.Linear):
    """``nn.Linear`` that multiplies only what is not zero, where that is quicker.

    Its input may be ``torch.bool``, spikes at a quarter of the memory. Sums are added up in another
    order than those of the dense product, so results differ by rounding. What runs on another
    device, without Numba, or is too small or too dense is ``nn.Linear``.

    >>> layer = EventLinear(3, 1, bias=False)
    >>> spikes = torch.tensor([[True, False, True]])
    >>> bool(layer(spikes) == layer(spikes.float()))
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return ``W x + b`` over the last axis of ``input``, ``(..., in_features)``."""
        if _events_are_quicker(input, self.weight):
            from snu_plugin.neuron.numba_scan import event_linear

            y = event_linear.linear(input, self.weight, max(1, self.in_features // MOST))
            if y is not None:
                return y if self.bias is None else y + self.bias
        dense = input.to(self.weight.dtype) if input.dtype == torch.bool else input
        return F.linear(dense, self.weight, self.bias)


def _events_are_quicker(x: Tensor, weight: Tensor) -> bool:
    """Tell whether only what is not zero should be multiplied, and can be."""
    fits = x.dtype in (torch.bool, weight.dtype) and x.shape[-1:] == weight.shape[1:]
    exact = weight.dtype in (torch.float32, torch.float64)
    near = x.device.type == weight.device.type == "cpu"
    if not (fits and exact and near) or x.numel() * len(weight) < LEAST:
        return False
    if torch.compiler.is_compiling() or isinstance(find("numba"), str) or not is_eager(x, weight):
        return False
    rows = x.detach().reshape(-1, x.shape[-1])
    some = rows[:: max(1, len(rows) // SAMPLED)]
    return int(some.count_nonzero()) * MOST <= some.numel()
