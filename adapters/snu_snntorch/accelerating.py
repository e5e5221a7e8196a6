"""snnTorch's neurons for ``snu_plugin.accelerate``: how they are called, and how they run fused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import snntorch
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn

from snu_plugin.acceleration import Rule
from snu_plugin.neuron import LIF, Recurrence, lif_refusal, lif_scan
from snu_snntorch.own_rules import OWN
from snu_snntorch.stepping import Stepped, is_graded, no_step
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
    if why := no_step(spike_grad):
        return why
    return {"slope": "given", "surrogate": Slope(spike_grad)}


def recurrence_of(module: Any, y: Tensor | None) -> Recurrence | None:
    """Return what a recurrent neuron's outputs add to the next step, ``None`` for other layers."""
    layer = module.recurrent
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return Recurrence(layer.weight, layer.bias, y)
    if isinstance(layer, ONE_TO_ONE) and layer.V.dim() < 2:
        return Recurrence(layer.V, None, y)
    return None


class Neuron(Stepped):
    """The rule of one of snnTorch's classes; ``LIF`` says what most of them do."""

    def how(self, module: Any, x: Tensor) -> str:
        if self.kind not in FUSED:
            return super().how(module, x)
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

    def pooled(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], size: tuple[int, int]
    ) -> tuple[Tensor | None, ...] | None:
        if self.how(module, x) or self.kind in RECURRENT or is_graded(module):
            return None
        known = [None if s is None or s.shape != x.shape[1:] else s for s in begin]
        return self.fused(module, x, known, frozenset([0]), size)

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int],
        pool: tuple[int, int] | None = None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        given = dict(zip(self.states, begin, strict=True))
        asked = {name: self.parts.get(name, -1) in wanted for name in ("mem", "syn")}
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
            y, v, i = lif_scan(drive, neuron, given["mem"], potential=asked["mem"], pool=pool)
        else:
            synaptic = "syn" in given
            alpha = module.alpha.clamp(0, 1) if synaptic else None
            neuron = LIF(a=module.beta.clamp(0, 1), b=alpha, **settings)
            recurrence = None
            if self.kind in RECURRENT:
                recurrence = recurrence_of(module, given["spk"])
            y, v, i = lif_scan(
                x, neuron, given["mem"], given.get("syn"), recurrence=recurrence,
                potential=asked["mem"], current=asked["syn"], pool=pool,
            )  # fmt: skip
        if is_graded(module):
            y = y * module.graded_spikes_factor
        return (y, v) if i is None else (y, i, v)


@functools.cache
def _rule(kind: type[nn.Module]) -> Neuron | None:
    """Return the rule of a class; a derived one may call its arguments otherwise."""
    own: Any = next(base for base in kind.__mro__ if base.__module__.startswith("snntorch."))
    states = [*inspect.signature(own.forward).parameters][2:]
    source, *others = [*inspect.signature(kind.forward).parameters][1:]
    if [*inspect.signature(own.forward).parameters][1:2] != ["input_"] or not states:
        return None
    return Neuron(kind, others, source) if others == states else None


def neuron_rule(module: nn.Module) -> Rule | None:
    """Return the rule of a neuron of snnTorch, or of ours for it, ``None`` for all else."""
    kind: Any = type(module)
    if kind in OWN:
        return OWN[kind]
    return _rule(kind) if isinstance(module, snntorch.SpikingNeuron) else None
