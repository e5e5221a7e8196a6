"""Our neurons inside a network of snnTorch, for ``snu_plugin.accelerate``: each by its own scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from snu_plugin.acceleration import Rule
from snu_plugin.neuron import (
    SRCState,
    State,
    narrow,
    no_engine,
    snu_pooled,
    snu_scan,
    snu_states,
)
from snu_snntorch import neurons, src
from snu_snntorch.stepping import Stepped, is_graded, no_step
from snu_snntorch.unit import Unit


def not_fused(module: Unit) -> str:
    """Return what of a unit's settings no scan has."""
    if module.inhibition:
        return "inhibition=True"
    if module.state_quant:
        return "state_quant"
    return (no_step(module.spike_grad) if module.foreign else "") or no_engine()


class Own(Stepped):
    """A neuron that tells by what it stored who has touched its states since."""

    def keep(self, module: Any, parts: tuple[Tensor | None, ...]) -> None:
        states = [parts[self.parts[name]] for name in self.states]
        if all(part is not None and len(part) for part in states):
            module._store(*(part[-1].contiguous() for part in states if part is not None))


class Step(Own):
    """``SNU`` and its kin: ``snu_scan``, or ``snu_states`` where all potentials are recorded."""

    def how(self, module: Any, x: Tensor) -> str:
        if "spk" in self.states and not isinstance(_loop(module), nn.Linear):
            return "its recurrent weights are no nn.Linear"
        return not_fused(module)

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        loop = _loop(module)
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
        known = [None if s is None or s.shape != x.shape[1:] else s for s in begin]
        constants = module.decay, module.threshold
        state = self._begun(module, known)
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


def _loop(module: Any) -> nn.Module | None:
    """Return the layer that feeds spikes back."""
    loop: nn.Module | None = getattr(module, "recurrent", None)
    return loop


OWN: dict[type[nn.Module], Rule] = {
    **{kind: Step(kind, kind.states) for kind in (neurons.SNU, neurons.sSNU)},
    **{kind: Step(kind, kind.states) for kind in (neurons.RSNU, neurons.RsSNU)},
    **{kind: OverTime(kind, ("mem",)) for kind in (neurons.SNUSequence, neurons.sSNUSequence)},
    src.SRC: SRC(src.SRC, src.SRC.states),
    src.SRCSequence: OverTime(src.SRCSequence, src.SRC.states),
}
"""The rules of our classes; a class derived from one of them has another."""
