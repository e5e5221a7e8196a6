"""How Norse's neurons are called: what ``snu_plugin.accelerate`` knows of any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from norse.torch.module.snn import SNN, SNNRecurrent
from torch import Tensor, nn

from snu_plugin.acceleration import Rule

OVER_TIME = SNN, SNNRecurrent


class Stepped(Rule):
    """The rule of ``y, state = module(x, state)``; steps a module by its own call."""

    def __init__(self, kind: type[nn.Module], states: tuple[str, ...]) -> None:
        self.kind, self.states = kind, states
        self.parts = {name: place + 1 for place, name in enumerate(states)}
        self.over_time = issubclass(kind, OVER_TIME)

    def take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        given = dict(zip(("input_tensor", "state"), args, strict=False)) | kwargs
        state = given.get("state")
        if state is None:
            return given["input_tensor"], [None] * len(self.states)
        return given["input_tensor"], list(leaves(state).values())

    def results(self, module: Any, out: Any) -> Iterator[tuple[int, Tensor]]:
        y, state = out
        yield 0, y
        for name, part in leaves(state).items():
            yield self.parts[name], part

    def own_calls(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Step a neuron by its own call."""
        state, steps = None, []
        for t, x_t in enumerate(torch.split(x, 1) if self.over_time else x):
            if t == 0 and any(s is not None for s in begin):
                fallback = module.state_fallback(x_t)
                state = filled(fallback, iter(begin))
            y, state = module(x_t, state)
            parts = list(leaves(state).values())
            steps.append([y.squeeze(0) if self.over_time else y, *parts])
        return tuple(torch.stack(of) for of in zip(*steps, strict=True))


def leaves(state: Any, ahead: str = "") -> dict[str, Tensor]:
    """Return the tensors of a state by name, states within states too."""
    found: dict[str, Tensor] = {}
    for name, value in state._asdict().items():
        if isinstance(value, Tensor):
            found[ahead + name] = value
        elif hasattr(value, "_asdict"):
            found |= leaves(value, f"{ahead}{name}.")
    return found


def filled(state: Any, parts: Iterator[Tensor | None]) -> Any:
    """Return a state of the same kind with other tensors in it."""
    changed = {}
    for name, value in state._asdict().items():
        if isinstance(value, Tensor):
            part = next(parts)
            changed[name] = value if part is None else part
        elif hasattr(value, "_asdict"):
            changed[name] = filled(value, parts)
    return state._replace(**changed)
