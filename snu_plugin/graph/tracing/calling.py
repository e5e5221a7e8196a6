"""How a model is called for one step or a sequence, without a trace left in it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from snu_plugin.graph.tracing.layer_state import STATES, everything
from snu_plugin.graph.tracing.traced_tensor import tensors

Sample = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""What a model is called with: one tensor; several in a row, or by the names of its arguments."""


def by_name(sample: Sample) -> dict[str, Tensor]:
    """Return copies of what a model is called with, by the names of the graph's Inputs.

    Raises:
        TypeError: For something else than tensors.
    """
    if isinstance(sample, Mapping):
        named = {str(name): x for name, x in sample.items()}
    else:
        several = [sample] if isinstance(sample, Tensor) else sample
        named = {f"input_{i}" if i else "input": x for i, x in enumerate(several)}
    if not all(isinstance(x, Tensor) for x in named.values()):
        raise TypeError(
            f"sample is {type(sample).__name__} of something else than tensors; it must be a "
            "tensor, several in a row, or a dict of them by the names of the model's arguments"
        )
    return {name: x.clone() for name, x in named.items()}


def called_with(
    model: nn.Module, sample: Sample, given: Mapping[str, Tensor], states: tuple[Any, ...] = ()
) -> Any:
    """Call a model with what is ``given`` for its inputs, as it is called with ``sample``."""
    if isinstance(sample, Mapping):
        return model(**given)
    return model(*given.values(), *states)


def carried_on(model: nn.Module, result: Any) -> tuple[Any, ...]:
    """Return the states for the next call of a model that takes and gives them: ``y, state``."""
    gives = tuple(result[1:]) if isinstance(result, tuple) else ()
    if not gives:
        return ()
    takes = list(inspect.signature(model.forward).parameters.values())[1:]
    optional = all(p.default is None and p.name.startswith(STATES) for p in takes)
    return gives if optional and len(gives) == len(takes) else ()


class Returned(NamedTuple):
    """The tensors that a model returns, by the names under which they may leave."""

    outputs: dict[str, Tensor]
    """What must leave: a tensor, a dict, or tensors that stand together, ``(a, b), states``."""
    beside: dict[str, Tensor]
    """What stands behind it: states, or more outputs."""


def returned(result: Any) -> Returned:
    """Return the tensors that a model returns, those that must leave first."""
    first, *rest = result if isinstance(result, (tuple, list)) and result else (result,)
    outputs = dict(zip(["output"], tensors(result), strict=False))
    if isinstance(first, Mapping):
        outputs = {str(key): x for key, x in first.items() if isinstance(x, Tensor)}
    elif isinstance(first, (tuple, list)) and all(isinstance(x, Tensor) for x in first):
        outputs |= {f"output_{place}": x for place, x in enumerate(first) if place}
    behind = enumerate(rest, max(len(outputs), 1))
    return Returned(outputs, {f"output_{n}": x for n, x in behind if isinstance(x, Tensor)})


def detached_copy(model: nn.Module) -> nn.Module:
    """Copy a model; states that still hang on a graph of gradients are copied without it."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in everything((*module._buffers.values(), *vars(module).values())):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


@contextmanager
def standing_in(model: nn.Module, copied: nn.Module) -> Iterator[None]:
    """Let a copy stand for its model in the lists that classes keep of their modules.

    snnTorch resets the neurons that are in its list: those of the model would be, not the copy's.
    """
    twins = {id(a): b for a, b in zip(model.modules(), copied.modules(), strict=True)}
    kinds = dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__)
    held = (value for kind in kinds for value in vars(kind).values() if isinstance(value, list))
    lists = [value for value in held if any(isinstance(module, nn.Module) for module in value)]
    before = [list(modules) for modules in lists]
    for modules in lists:
        modules[:] = [twins[id(module)] for module in modules if id(module) in twins]
    try:
        yield
    finally:
        for modules, those in zip(lists, before, strict=True):
            modules[:] = those


class TimeLast(nn.Module):
    """A model that gets (T, B, ...) as it takes it, (B, ..., T); its modules have its names.

    A step of such a model is a slice along the last axis. What lies so in memory is the same as
    (T, B, ...) seen from another side: views of it are followed as views of that.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x.movedim(0, -1))

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        yield from self.model.named_modules(*args, **kwargs)

    def get_submodule(self, target: str) -> nn.Module:
        return self.model.get_submodule(target)
