"""Whether what a step or a product is given fits together, told in words before torch would."""

from __future__ import annotations

import torch
from torch import Tensor

from snu_plugin.accepted import Accepted, is_whole, shown

SIZE = Accepted("a whole number of at least 0", lambda n: is_whole(n) and n >= 0)


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor; raises ``TypeError``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {shown(value)}; it must be a tensor")


def fits(x: Tensor, *others: Tensor | None) -> bool:
    """Tell soon that a step is as most are, and ``check_step`` has nothing to add to it."""
    if not isinstance(x, Tensor):
        return False
    shape = x.shape
    for value in others:
        if value is not None and not (
            isinstance(value, Tensor)
            and (not (axes := value.dim()) or value.shape == (shape if axes > 1 else shape[-1:]))
        ):
            return False
    return True


def check_step(x: Tensor, **others: Tensor | None) -> None:
    """Refuse values of a step that do not fit its input ``(B, ..., features)``.

    Raises:
        TypeError: For what is no tensor.
        ValueError: For shapes that do not broadcast with that of ``x``.

    >>> check_step(torch.ones(2, 3), threshold=torch.ones(7))
    Traceback (most recent call last):
    ...
    ValueError: threshold has shape (7,) and x (2, 3); it must broadcast to that
    """
    check_tensor("x", x)
    for name, value in others.items():
        if value is not None:
            check_tensor(name, value)
            if not _go_together(value.shape, x.shape):
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} and x {tuple(x.shape)}; it must "
                    "broadcast to that"
                )


def check_product(x: Tensor, weight: Tensor, axis: int = -1, groups: int = 1) -> None:
    """Refuse inputs that weights ``(outputs, inputs, ...)`` cannot be multiplied with.

    Args:
        x: Inputs.
        weight: Weights.
        axis: Which axis of ``x`` holds as many as the weights take.
        groups: Of channels, each with weights of its own.

    Raises:
        TypeError: For what is no tensor, or of another type than the weights.
        ValueError: For another number of inputs.

    >>> check_product(torch.ones(5, 2), torch.ones(4, 3))
    Traceback (most recent call last):
    ...
    ValueError: x has shape (5, 2), 2 along axis -1; the layer takes 3
    """
    check_tensor("x", x)
    takes = weight.shape[1] * groups
    if x.dim() < -axis or x.shape[axis] != takes:
        along = f", {x.shape[axis]} along axis {axis}" if x.dim() >= -axis else ""
        raise ValueError(f"x has shape {tuple(x.shape)}{along}; the layer takes {takes}")
    check_like(x, weight, torch.bool)


def check_like(x: Tensor, weight: Tensor, *also: torch.dtype) -> None:
    """Refuse inputs of another type, or on another device, than weights.

    Raises:
        TypeError: For another type, but one of ``also`` and where autocast makes it the same.
        ValueError: For another device.
    """
    if x.dtype not in (weight.dtype, *also) and not _is_cast(x.device.type):
        raise TypeError(
            f"x has dtype {x.dtype} and the weights {weight.dtype}; give x.to({weight.dtype})"
        )
    if x.device != weight.device:
        raise ValueError(
            f"x is on {x.device} and the weights on {weight.device}; give x.to('{weight.device}')"
        )


def _is_cast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _go_together(one: torch.Size, other: torch.Size) -> bool:
    return one == other or all(
        a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False)
    )
