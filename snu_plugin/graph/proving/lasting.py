"""What a call of a model leaves behind, by which its next call may give something else."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.layer_state import everything


def changed(model: nn.Module, copied: nn.Module, batch: Collection[int]) -> str:
    """Return what a copy of a model holds otherwise than the model after a call; empty if nothing.

    States of neurons are for the next step, and begin anew where they are reset: tensors with an
    axis of ``batch`` sequences; without such an axis all that are neither parameters nor saved.
    """
    parts = dict(copied.named_modules())
    for name, before in model.named_modules():
        saved = {*before._parameters, *before._buffers} - before._non_persistent_buffers_set
        old, new = dict(_held(before)), dict(_held(parts.get(name, before)))
        for key, value in new.items():
            state = isinstance(value, Tensor) and key.split(".")[0] not in saved and not batch
            state |= isinstance(value, Tensor) and any(n in value.shape[:2] for n in batch)
            if not state and not (key in old and _is_same(old[key], value)):
                return f"{name}.{key}" if name else key
    return ""


def _held(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the tensors, single values and generators of random numbers of a module by name."""
    for name, value in {**vars(module), **module._buffers, **module._parameters}.items():
        if name == "training" or (name.startswith("_") and name in vars(nn.Module())):
            continue
        if isinstance(value, np.random.Generator):
            yield name, value.bit_generator.state
        elif isinstance(value, random.Random):
            yield name, value.getstate()
        elif isinstance(value, (bool, int, float, str, type(None))):
            yield name, value
        else:
            tensors = everything(value)
            yield from ((f"{name}.{n}" if n else name, x) for n, x in enumerate(tensors))


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | a.isnan()).all()))
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)
