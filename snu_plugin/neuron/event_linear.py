"""A linear layer that is quick where its inputs are mostly zero, as spikes are."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snu_plugin.neuron.scan import ready

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
        fused = _fused(input, self.weight)
        if fused is not None:
            most = max(1, self.in_features // MOST)
            y: Tensor | None = fused.linear(input, self.weight, most)
            if y is not None:
                return y if self.bias is None else y + self.bias
        dense = input.to(self.weight.dtype) if input.dtype == torch.bool else input
        return F.linear(dense, self.weight, self.bias)


def _fused(x: Tensor, weight: Tensor) -> ModuleType | None:
    """Return the module that multiplies events, or ``None`` where it cannot or would be slower."""
    fits = x.dtype in (torch.bool, weight.dtype) and x.shape[-1:] == weight.shape[1:]
    exact = weight.dtype in (torch.float32, torch.float64)
    near = x.device.type == weight.device.type == "cpu"
    if not (fits and exact and near) or x.numel() * len(weight) < LEAST:
        return None
    if torch.compiler.is_compiling() or ready("numba")[1]:
        return None
    from snu_plugin.neuron.numba_scan import event_linear

    if not event_linear.plain(x, weight):
        return None
    rows = x.detach().reshape(-1, x.shape[-1])
    some = rows[:: max(1, len(rows) // SAMPLED)]
    return None if int(some.count_nonzero()) * MOST > some.numel() else event_linear
