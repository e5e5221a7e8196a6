"""Pools of many images, such as those of all steps of a layer of spikes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.neuron.config import SNUConfig
from snu_plugin.neuron.engine import Engine
from snu_plugin.neuron.memory import Order
from snu_plugin.neuron.observer import observer
from snu_plugin.neuron.operators import unfollowed
from snu_plugin.neuron.reference import State
from snu_plugin.neuron.scan import ENGINES, choose, find

CHANNELS_LAST = Order((0, 1, 3, 4, 2))
"""A sequence of images whose channels lie side by side."""


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
    if isinstance(engine, Engine) and engine.max_pool2d and fits and plain and unfollowed(x):
        return engine.max_pool2d(x, *size)
    return F.max_pool2d(x, size)


def snu_pooled(
    x: Tensor,
    size: tuple[int, int],
    config: SNUConfig,
    decay: Tensor,
    threshold: Tensor,
    state: State | None,
    impl: str | Engine | None,
) -> tuple[Tensor, State] | None:
    """Return the pools of what ``snu_scan`` returns, without its outputs, and the last state.

    Args:
        x: Images ``(T, B, channels, rows, columns)``.
        size: Rows and columns of a window.
        config: Settings of the units.
        decay: Decays, which broadcast to ``x.shape[1:]``.
        threshold: Thresholds, likewise.
        state: What it starts from.
        impl: As in ``snu_scan``.

    Returns:
        Pools ``(T, B, channels, rows // size[0], columns // size[1])`` and the state; ``None``
        where this call is none that runs at once.
    """
    others = decay, threshold, *(state or ())
    if observer() is not None or not unfollowed(x, *others):
        return None
    if x.dim() != 5 or not x.numel() or Order.of(x) != CHANNELS_LAST:
        return None
    if not all(side >= n > 0 for side, n in zip(x.shape[-2:], size, strict=True)):
        return None

    def refusal(engine: Engine) -> str:
        if engine.snu_pooled is None:
            return "it pools nothing at once"
        return engine.refusal(x, config, None, others) or engine.pooled_refusal(config, size)

    named = impl if isinstance(impl, Engine) else find(impl) if impl in ENGINES else None
    if isinstance(named, Engine) and refusal(named):
        return None
    engine = choose(impl, False, refusal)
    if engine is None or engine.snu_pooled is None:
        return None
    laid = (CHANNELS_LAST.lay_step(c) for c in (decay, threshold))
    begin = None if state is None else State(*map(CHANNELS_LAST.lay_step, state))
    y, last = engine.snu_pooled(CHANNELS_LAST.lay(x), config, size, *laid, begin)
    return CHANNELS_LAST.stand(y), State(*map(CHANNELS_LAST.stand_step, last))
