"""How neurons in snnTorch's style are called: what ``snu_plugin.accelerate`` knows of any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snu_plugin.acceleration import Rule

PROBES = torch.linspace(-3, 3, 13)


def no_step(spike_grad: Any) -> str:
    """Return why a surrogate is no step in the forward pass, ``""`` if it is."""
    try:
        fires = torch.equal(spike_grad(PROBES), (PROBES > 0).to(PROBES.dtype))
    except (RuntimeError, TypeError, ValueError) as error:
        return f"its spike_grad does not take a tensor alone: {error}"
    return "" if fires else "its spike_grad is no step in the forward pass"


def is_graded(module: Any) -> bool:
    """Tell whether spikes are other numbers than 1, or may become so."""
    factor = module.graded_spikes_factor
    return bool(factor.requires_grad or (factor != 1).any())


def shape_of_states(module: nn.Module, step: torch.Size) -> tuple[int, ...]:
    """Return the shape of states beside an input; of states of another one the host begins anew."""
    channels = getattr(module, "out_channels", None)  # of SConv2dLSTM, whose gates are images
    return step if channels is None else (step[0], channels, *step[2:])


class Stepped(Rule):
    """The rule of a class whose states are arguments and attributes; steps it by its own call."""

    def __init__(
        self, kind: type[nn.Module], states: Sequence[str], source: str = "input_"
    ) -> None:
        self.kind, self.states, self.source = kind, tuple(states), source
        names = dict.fromkeys(("spk", *self.states))
        self.parts = {name: place for place, name in enumerate(names)}

    def take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        given = dict(zip((self.source, *self.states), args, strict=False)) | kwargs
        x = given[self.source]
        states = []
        for name in self.states:
            state = given.get(name)
            if state is None:
                states.append(getattr(module, name))
            else:
                kept = state.shape == shape_of_states(module, x.shape)
                # What is stepped by its own call says itself when it begins anew.
                states.append(state if kept or self.how(module, x) else None)
        return x, states

    def results(self, module: Any, out: Any) -> Iterator[tuple[int, Tensor]]:
        yield 0, out[0] if isinstance(out, tuple) else out
        for name in self.states:
            yield self.parts[name], getattr(module, name)

    def reset(self, module: nn.Module) -> None:
        for name in self.states:
            setattr(module, name, torch.zeros(0, device=getattr(module, name).device))

    def reached(self, module: Any) -> AbstractContextManager[None]:
        return _listed(module)

    def keep(self, module: nn.Module, parts: tuple[Tensor | None, ...]) -> None:
        for name in self.states:
            part = parts[self.parts[name]]
            if part is not None and len(part):
                # Images lie channels last here; the network's own calls go on from it, and `view`.
                setattr(module, name, part[-1].contiguous())

    def run(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        shape = shape_of_states(module, x.shape[1:])
        begin = [None if s is None or s.shape != shape else s for s in begin]
        return super().run(module, x, begin, wanted)

    def own_calls(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """Step a neuron by its own call."""
        for name, state in zip(self.states, begin, strict=True):
            zeros = torch.zeros(0, device=x.device)
            setattr(module, name, zeros if state is None else state)
        steps = []
        for x_t in x:
            out = module(x_t)
            parts = dict(self.results(module, out))
            steps.append([parts[place] for place in range(len(self.parts))])
        return tuple(torch.stack(of) for of in zip(*steps, strict=True))


@contextmanager
def _listed(module: Any) -> Iterator[None]:
    """Have a neuron stand in its class's list of all."""
    listed = type(module).instances
    listed.append(module)
    try:
        yield
    finally:
        listed[:] = [other for other in listed if other is not module]
