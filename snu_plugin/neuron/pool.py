"""Pools of many images, such as those of all steps of a layer of spikes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.operators import is_eager
from snu_plugin.neuron.scan import find


def max_pool2d(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the largest number of every window, windows side by side, as torch's ``max_pool2d``.

    On processors with Numba in eager torch it is compiled: no places are kept, and a gradient is
    written once. All else is torch's; the numbers are the same.

    Args:
        x: Images, ``(images, channels, rows, columns)``.
        size: Rows and columns of a window.

    Returns:
        ``(images, channels, rows // size[0], columns // size[1])``.

    >>> max_pool2d(torch.arange(6.0).view(1, 1, 2, 3), (2, 2))
    tensor([[[[4.]]]])
    """
    engine = find("numba")
    fits = x.dim() == 4 and all(side >= s > 0 for side, s in zip(x.shape[-2:], size, strict=True))
    plain = x.is_cpu and x.dtype in (torch.float32, torch.float64) and x.layout is torch.strided
    if isinstance(engine, Engine) and engine.max_pool2d and fits and plain and is_eager(x):
        return engine.max_pool2d(x, *size)
    return F.max_pool2d(x, size)
