"""What the modules of a network hold: tensors by their place, and what a call changes in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snu_plugin.acceleration.functions import KNOWN_SHAPE, name_of
from snu_plugin.acceleration.nodes import Held, Unseen, tensors_in

PLAIN = str, bytes, int, float, complex, range, np.generic, torch.dtype, torch.device, torch.Size
"""What a network may return beside tensors; it is the same at every call."""

OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has; all others are its own."""


def held_tensors(model: nn.Module) -> dict[int, Held]:
    """Return where in a network each of its tensors is held, by the tensor's identity."""
    found: dict[int, Held] = {}

    def walk(path: str, keys: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Tensor):
            found.setdefault(id(value), Held(path, keys))
        elif isinstance(value, Mapping) and len(keys) < 4:
            for key, item in value.items():
                walk(path, (*keys, key), item)
        elif isinstance(value, (tuple, list)) and len(keys) < 4:
            for place, item in enumerate(value):
                walk(path, (*keys, place), item)

    for path, module in model.named_modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            walk(path, (name,), value)
        for name, value in vars(module).items():
            if name not in OF_MODULES:
                walk(path, (name,), value)
    return found


def same(before: tuple[Any, int] | None, now: tuple[Any, int]) -> bool:
    """Tell whether an attribute holds what it held: the same object, or an equal number."""
    if before is None or before[1] != now[1]:
        return False
    plain = isinstance(now[0], (bool, int, float, str))
    return before[0] is now[0] or bool(plain and before[0] == now[0])


def attributes(
    model: nn.Module, states: Mapping[str, Collection[str]]
) -> dict[tuple[str, str], tuple[Any, int]]:
    """Return what modules hold, and how much is in it; of neurons what they are set to.

    ``states`` names, for each neuron, what it holds besides.
    """
    found: dict[tuple[str, str], tuple[Any, int]] = {}
    for path, module in model.named_modules():
        if path in states:
            set_to = {**module._parameters, **module._buffers, "p": getattr(module, "p", None)}
            found |= {(path, n): (held, 0) for n, held in set_to.items() if n not in states[path]}
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        # torch's own, as of pruning, write what they compute before every call.
        own = {getattr(h, "_tensor_name", None) for h in module._forward_pre_hooks.values()}
        of_torch = type(module).__module__.startswith("torch.")
        for name, value in (*vars(module).items(), *module._buffers.items()):
            if name not in OF_MODULES and name not in own and not (of_torch and name[0] == "_"):
                sized = isinstance(value, (list, dict, set))
                found[path, name] = value, len(value) if sized else 0
    return found


class Watch(TorchFunctionMode):
    """Watches for tensors that an earlier call left."""

    def __init__(self, left: Mapping[int, str]) -> None:
        super().__init__()
        self.left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = name_of(func)
        no_values = name in KNOWN_SHAPE or name.endswith("_like") or name.startswith("new_")
        for tensor in tensors_in((args, kwargs or {})):
            if id(tensor) in self.left and not no_values:
                raise Unseen(
                    f"forward goes on from {self.left[id(tensor)]!r}, which it left at the call "
                    "before; accelerate needs states that are returned and given"
                )
        return func(*args, **(kwargs or {}))
