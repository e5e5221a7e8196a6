"""What the loops of hosts' leaky neurons are told besides their inputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snu_plugin.neuron import segments
from snu_plugin.neuron.lif import LIF
from snu_plugin.neuron.numba_scan import lif_kernels as kernels
from snu_plugin.neuron.numba_scan.jit import threads
from snu_plugin.neuron.numba_scan.lif_segment_kernels import BLOCK
from snu_plugin.neuron.operators import repeated


def constant_rows(constants: Sequence[Tensor | None], x: Tensor) -> list[Tensor | None]:
    """Return constants in the precision of ``x``, as values that repeat over a step's columns."""
    return [None if c is None else repeated(c.to(x), x.shape[1:]) for c in constants]


def segment_room(x: Tensor, span: int) -> Tensor:
    """Return what threads need for segments that they run once more."""
    return x.new_empty(threads(x.numel()) * 3 * span * BLOCK)


def has_current(neuron: LIF) -> bool:
    """Tell whether a neuron carries a current."""
    return neuron.leak == "current" or (neuron.leak is None and neuron.b is not None)


def segment(x: Tensor) -> int:
    """Return how many steps run at a time where the way back runs once more: all of few numbers."""
    return segments.segment_of(x) or len(x)


def forward_settings(neuron: LIF, like: Tensor, recurrent: bool = False) -> tuple[Any, ...]:
    """Return settings as the loop takes them: how steep, ``kind``, bytes of a number."""
    return _settings(neuron, like, recurrent, kernels.BACKWARD_ONLY)


def backward_settings(neuron: LIF, like: Tensor) -> tuple[Any, ...]:
    """Return those of the loop back."""
    return _settings(neuron, like, False, kernels.FORWARD_ONLY)


def _settings(
    neuron: LIF, like: Tensor, recurrent: bool, unread: frozenset[str]
) -> tuple[Any, ...]:
    return _kind(
        neuron.leak, neuron.b is not None, neuron.reset, neuron.late, neuron.threshold is not None,
        neuron.slope, neuron.steep, neuron.detached, recurrent, unread, like.dtype,
    )  # fmt: skip


@functools.cache
def _kind(
    leak: str | None, synapse: bool, reset: str, late: bool, fires: bool, slope: str, steep: float,
    detached: bool, recurrent: bool, unread: frozenset[str], dtype: torch.dtype,
) -> tuple[Any, ...]:  # fmt: skip
    number = np.float32 if dtype == torch.float32 else np.float64
    has = {
        "synapse": leak is None and synapse, "current": leak == "current", "box": leak == "box",
        "integrates": leak == "none", reset: True,
        "late": late or reset in ("none", "value"), "fires": fires,
        "recurrent": recurrent,
    }  # fmt: skip
    has[slope] = slope != "none"
    has["detached"] = detached and reset == "value"
    kind = tuple(True if has.get(name) and name not in unread else None for name in kernels.KIND)
    return number(steep), kind, dtype.itemsize
