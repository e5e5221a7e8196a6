"""snnTorch's neurons for ``snu_plugin.accelerate``: how they are called, and how they run fused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import snntorch
import torch
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn

from snu_plugin.neuron import LIF, Recurrence, lif_refusal, lif_scan
from snu_snntorch.unit import Slope

SLOPES: dict[str, tuple[Any, str]] = {
    "atan": ("atan", "alpha"),
    "fast_sigmoid": ("fast", "slope"),
    "sigmoid": ("sigmoid", "slope"),
    "straight_through_estimator": ("straight", ""),
    "triangular": ("triangular", "threshold"),
}
"""Surrogates of ``snntorch.surrogate`` that loops know, and the name of what makes them steep."""

ONE_TO_ONE = rleaky.RecurrentOneToOne, rsynaptic.RecurrentOneToOne

RECURRENT = snntorch.RLeaky, snntorch.RSynaptic

FUSED = snntorch.Leaky, snntorch.Synaptic, snntorch.Lapicque, *RECURRENT

PROBES = torch.linspace(-3, 3, 13)


@functools.lru_cache(64)
def slope_of(spike_grad: Any, disabled: bool) -> dict[str, Any] | str:
    """Return the settings of ``LIF`` for a surrogate, or why loops cannot take it."""
    if disabled:
        return {"slope": "none"}
    name, _, _ = getattr(spike_grad, "__qualname__", "").partition(".")
    if getattr(spike_grad, "__module__", "") == "snntorch.surrogate" and name in SLOPES:
        slope, parameter = SLOPES[name]
        steep = inspect.getclosurevars(spike_grad).nonlocals.get(parameter, 1.0)
        if not isinstance(steep, Tensor):
            return {"slope": slope, "steep": float(steep)}
    try:
        fires = torch.equal(spike_grad(PROBES), (PROBES > 0).to(PROBES.dtype))
    except (RuntimeError, TypeError, ValueError) as error:
        return f"its spike_grad does not take a tensor alone: {error}"
    if not fires:
        return "its spike_grad is no step in the forward pass"
    return {"slope": "given", "surrogate": Slope(spike_grad)}


def recurrence_of(module: Any, y: Tensor | None) -> Recurrence | None:
    """Return what a recurrent neuron's outputs add to the next step, ``None`` for other layers."""
    layer = module.recurrent
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return Recurrence(layer.weight, layer.bias, y)
    if isinstance(layer, ONE_TO_ONE) and layer.V.dim() < 2:
        return Recurrence(layer.V, None, y)
    return None


class Neuron:
    """The rule of one of snnTorch's classes, whose states are arguments and attributes."""

    over_time = False

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind
        self.states = tuple(inspect.signature(kind.forward).parameters)[2:]
        names = dict.fromkeys(("spk", *self.states))
        self.parts = {name: place for place, name in enumerate(names)}

    def take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        given = dict(zip(("input_", *self.states), args, strict=False)) | kwargs
        x = given["input_"]
        states = []
        for name in self.states:
            state = given.get(name)
            if state is None:
                states.append(getattr(module, name))
            else:
                states.append(state if state.shape == x.shape else None)
        return x, states

    def results(self, module: Any, out: Any) -> Iterator[tuple[int, Tensor]]:
        yield 0, out[0] if isinstance(out, tuple) else out
        for name in self.states:
            yield self.parts[name], getattr(module, name)

    def reset(self, module: nn.Module) -> None:
        for name in self.states:
            setattr(module, name, torch.zeros(0, device=getattr(module, name).device))

    @contextmanager
    def reached(self, module: Any) -> Iterator[None]:
        listed = type(module).instances
        listed.append(module)
        try:
            yield
        finally:
            listed[:] = [other for other in listed if other is not module]

    def keep(self, module: nn.Module, parts: tuple[Tensor | None, ...]) -> None:
        for name in self.states:
            part = parts[self.parts[name]]
            if part is not None and len(part):
                setattr(module, name, part[-1])

    def how(self, module: Any, x: Tensor) -> str:
        if self.kind not in FUSED:
            return f"no compiled loop for {self.kind.__name__}"
        if module.inhibition:
            return "inhibition=True"
        if module.state_quant:
            return "state_quant"
        if self.kind in RECURRENT:
            if recurrence_of(module, None) is None:
                return f"its recurrent layer is {type(module.recurrent).__name__}"
            if not bool((module.graded_spikes_factor == 1).all()):
                return "graded spikes of a recurrent neuron"
        slope = slope_of(module.spike_grad, module.surrogate_disable)
        return slope if isinstance(slope, str) else lif_refusal(x, LIF())

    def weights(self, module: Any, x: Tensor) -> Tensor | None:
        return None

    def run(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        step = x.shape[1:]
        begin = [None if s is None or s.shape != step else s for s in begin]
        given = dict(zip(self.states, begin, strict=True))
        asked = {name: self.parts.get(name, -1) in wanted for name in ("mem", "syn")}
        if self.how(module, x):
            return self._own_calls(module, x, begin)
        reset: dict[str, Literal["none", "subtract", "before", "after"]] = {
            "_base_int": "none",
            "_base_sub": "subtract",
            "_base_zero": "before" if self.kind is snntorch.Leaky else "after",
        }
        slope: Any = slope_of(module.spike_grad, module.surrogate_disable)
        settings: dict[str, Any] = {
            "threshold": module.threshold,
            "reset": reset[module.state_function.__func__.__name__],
            "late": getattr(module, "reset_delay", True),
            **slope,
        }
        if self.kind is snntorch.Lapicque:
            drive = x * module.R * (1 / (module.R * module.C)) * module.time_step
            neuron = LIF(a=1 - (module.time_step / (module.R * module.C)), **settings)
            y, v, i = lif_scan(drive, neuron, given["mem"], potential=asked["mem"])
        else:
            synaptic = "syn" in given
            alpha = module.alpha.clamp(0, 1) if synaptic else None
            neuron = LIF(a=module.beta.clamp(0, 1), b=alpha, **settings)
            recurrence = None
            if self.kind in RECURRENT:
                recurrence = recurrence_of(module, given["spk"])
            y, v, i = lif_scan(
                x, neuron, given["mem"], given.get("syn"), recurrence=recurrence,
                potential=asked["mem"], current=asked["syn"],
            )  # fmt: skip
        graded = module.graded_spikes_factor
        if graded.requires_grad or not bool((graded == 1).all()):
            y = y * graded
        return (y, v) if i is None else (y, i, v)

    def _own_calls(
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


@functools.cache
def _rule(kind: type[nn.Module]) -> Neuron | None:
    names = [*inspect.signature(kind.forward).parameters][1:]
    takes_states = names[:1] == ["input_"] and len(names) > 1
    return Neuron(kind) if takes_states else None


def neuron_rule(module: nn.Module) -> Neuron | None:
    """Return the rule of a neuron of snnTorch, ``None`` for all else."""
    if not isinstance(module, snntorch.SpikingNeuron):
        return None
    kind: Any = type(module)
    return _rule(kind)
