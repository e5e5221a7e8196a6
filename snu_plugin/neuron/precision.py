"""The precision that units compute in: half precision only comes in and goes out.

A potential that gathers small currents over many steps needs more than the 8 or 11 bits of
bfloat16 and float16, and so does a decay near 1. So states are float32 there, autocast or not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

HALF = torch.float16, torch.bfloat16

NOTHING = nullcontext()
"""The context that changes nothing; it can be entered again and again."""

Maybe = TypeVar("Maybe", Tensor, Tensor | None)
S = TypeVar("S")


def state_dtype(x: Tensor) -> torch.dtype:
    """Return the precision of states: that of ``x``, float32 where ``x`` has half of it."""
    return torch.float32 if x.dtype in HALF else x.dtype


def halves(*tensors: Tensor | None) -> bool:
    """Tell whether a tensor has half precision."""
    for tensor in tensors:  # noqa: SIM110 - any() takes twice as long
        if tensor is not None and tensor.dtype in HALF:
            return True
    return False


def wide(tensor: Maybe) -> Maybe:
    """Return a tensor of half precision in float32, any other, or ``None``, as it is."""
    return tensor.float() if tensor is not None and tensor.dtype in HALF else tensor


def narrow(y: Tensor, x: Tensor) -> Tensor:
    """Return the output ``y`` in the precision of the input ``x`` where that is half."""
    return y.to(x.dtype) if x.dtype in HALF else y


def in_float32(
    run: Callable[..., tuple[Tensor, S]], x: Tensor, *given: Any, **named: Any
) -> tuple[Tensor, S]:
    """Run a step, or a scan, ``y, state = run(x, ...)`` with nothing of half precision but ``y``.

    Of what is ``given`` tensors, states and constants of neurons are made float32.
    """

    def widened(value: Any) -> Any:
        if isinstance(value, Tensor):
            return wide(value)
        if isinstance(value, tuple | list):  # a state, or sizes
            parts = map(widened, value)
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value.wide() if hasattr(value, "wide") else value

    others = {name: widened(value) for name, value in named.items()}
    y, last = run(wide(x), *map(widened, given), **others)
    return narrow(y, x), last


def full(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast rounds no product of tensors on a device."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return NOTHING
