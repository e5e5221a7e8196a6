"""snnTorch's neurons for ``snu_plugin.accelerate``: how they are called, and how they run fused."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import snntorch
import torch
from snntorch._neurons import rleaky, rsynaptic
from torch import Tensor, nn

from snu_plugin.acceleration import Rule
from snu_plugin.neuron import (
    LIF,
    Recurrence,
    SRCState,
    State,
    lif_refusal,
    lif_scan,
    narrow,
    no_engine,
    snu_pooled,
    snu_scan,
    snu_states,
)
from snu_snntorch import neurons, src
from snu_snntorch.unit import Slope

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


def unscanned(module: Any) -> str:
    """Return which setting of a neuron no scan has."""
    return "inhibition=True" if module.inhibition else "state_quant" if module.state_quant else ""


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
        return super().run(module, x, self.fitting(module, x, begin), wanted)

    def fitting(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Return the states that a sequence goes on from; of those of another shape none."""
        shape = shape_of_states(module, x.shape[1:])
        return [None if s is None or s.shape != shape else s for s in begin]

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
        if setting := unscanned(module):
            return setting
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
        return self.fused(module, x, self.fitting(module, x, begin), frozenset([0]), size)

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


class Own(Stepped):
    """A neuron that tells by what it stored who has touched its states since."""

    def keep(self, module: Any, parts: tuple[Tensor | None, ...]) -> None:
        states = [parts[self.parts[name]] for name in self.states]
        if all(part is not None and len(part) for part in states):
            module._store(*(part[-1].contiguous() for part in states if part is not None))


class Step(Own):
    """``SNU`` and its kin: ``snu_scan``, or ``snu_states`` where all potentials are recorded."""

    def how(self, module: Any, x: Tensor) -> str:
        if "spk" in self.states and not isinstance(getattr(module, "recurrent", None), nn.Linear):
            return "its recurrent weights are no nn.Linear"
        no_surrogate = module.foreign and no_step(module.spike_grad)
        return unscanned(module) or no_surrogate or no_engine()

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        loop = getattr(module, "recurrent", None)
        scan: dict[str, Any] = {
            "decay": module.decay, "threshold": module.threshold,
            "state": self._begun(module, begin),
            "recurrent": None if loop is None else loop.weight,
        }  # fmt: skip
        if self.parts["mem"] in wanted:
            s, y = snu_states(x, module.settings, **scan)
        else:
            y, last = snu_scan(x, module.settings, **scan)
            s = last.s[None]
        return narrow(y * module.graded_spikes_factor, x), s

    def pooled(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], size: tuple[int, int]
    ) -> tuple[Tensor | None, ...] | None:
        if self.how(module, x) or "spk" in self.states or is_graded(module):
            return None
        constants = module.decay, module.threshold
        state = self._begun(module, self.fitting(module, x, begin))
        found = snu_pooled(x, size, module.settings, *constants, state, None)
        return None if found is None else (found[0], found[1].s[None])

    def _begun(self, module: Any, begin: Sequence[Tensor | None]) -> State | None:
        """Return the state that units start from."""
        found = dict(zip(self.states, begin, strict=True))
        mem, y = found["mem"], found.get("spk")
        if mem is None:
            return None
        return State(mem, module.fire_output(mem) if y is None else y)


class SRC(Own):
    """``SRC``: ``src_scan``, unless states of all steps are recorded."""

    def how(self, module: Any, x: Tensor) -> str:
        return no_engine()

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        if wanted - {0}:
            return self.own_calls(module, x, begin)
        given = None if any(s is None for s in begin) else SRCState(*begin)  # type: ignore[arg-type]
        y, last = module.scan(x, given)
        return y, *(part[None] for part in last)


class OverTime(Rule):
    """``SNUSequence``, ``SRCSequence`` and the like: their own call, which takes all steps."""

    over_time = True

    def __init__(self, kind: type[nn.Module], states: tuple[str, ...]) -> None:
        self.kind, self.states = kind, states
        self.parts = {name: place for place, name in enumerate(("spk", *states))}

    def take(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        given = dict(zip(("input_", *self.states), args, strict=False)) | kwargs
        return given["input_"], [given.get(name) for name in self.states]

    def results(self, module: Any, out: Any) -> Iterator[tuple[int, Tensor]]:
        yield from enumerate(out if isinstance(out, tuple) else (out,))

    def how(self, module: Any, x: Tensor) -> str:
        return no_engine()

    def run(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        out = module(x, *(s for s in begin if s is not None))
        y, *last = out if isinstance(out, tuple) else (out,)
        return y, *(part[None] for part in last)


OWN: dict[type[nn.Module], Rule] = {
    **{kind: Step(kind, kind.states) for kind in (neurons.SNU, neurons.sSNU)},
    **{kind: Step(kind, kind.states) for kind in (neurons.RSNU, neurons.RsSNU)},
    **{kind: OverTime(kind, ("mem",)) for kind in (neurons.SNUSequence, neurons.sSNUSequence)},
    src.SRC: SRC(src.SRC, src.SRC.states),
    src.SRCSequence: OverTime(src.SRCSequence, src.SRC.states),
}
"""The rules of our classes; a class derived from one of them has another."""


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
