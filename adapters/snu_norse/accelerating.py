"""Norse's neurons for ``snu_plugin.accelerate``: how they are called, and how they run fused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import norse.torch as norse
import torch
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.functional.threshold import threshold
from norse.torch.module.leaky_integrator import LILinearCell
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

from snu_norse import neurons, src
from snu_norse.parameters import feedback, held_decay
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
    src_scan,
)

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


STEPPED = SNNCell, SNNRecurrentCell, LILinearCell

LEAKS = {
    norse.LIFCell: "current", norse.LIF: "current", norse.LICell: "current", norse.LI: "current",
    LILinearCell: "current", norse.LIFBoxCell: "box", norse.LIBoxCell: "box",
    norse.IAFCell: "none", norse.IAF: "none",
    norse.LIFRecurrentCell: "current", norse.LIFRecurrent: "current",
}  # fmt: skip
"""What runs fused, and how its steps begin; see ``LIF``."""

RECURRENT = norse.LIFRecurrentCell, norse.LIFRecurrent

SILENT = norse.LICell, norse.LI, norse.LIBoxCell, LILinearCell


def slope_of(p: Any) -> dict[str, Any] | str:
    """Return the settings of ``LIF`` for Norse's surrogate, or why there are none."""
    if p.method == "super":
        return {"slope": "fast"}
    if p.method == "heaviside":
        return {"slope": "none"}
    if p.method == "triangle":
        return {"slope": "ramp", "steep": float(p.alpha)}

    def own(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            fired = threshold(z, p.method, p.alpha)
        return torch.autograd.grad(fired, z, torch.ones_like(z))[0]

    return {"slope": "given", "surrogate": own}


class Neuron(Stepped):
    """The rule of Norse's modules; ``LIF`` says what most of them do."""

    def how(self, module: Any, x: Tensor) -> str:
        leak = LEAKS.get(self.kind)
        if leak is None:
            return super().how(module, x)
        if getattr(module, "activation", None) is not _activations().get(self.kind):
            return "its activation is not the one of its class"
        if getattr(module.p, "reset_method", reset_value) is not reset_value:
            return "its reset_method is not reset_value"
        if any(
            isinstance(c, Tensor) and c.requires_grad and c.is_leaf and isinstance(c, nn.Parameter)
            for c in module.p
        ):
            return "a constant of the neuron is trained"
        slope = {} if self.kind in SILENT else slope_of(module.p)
        return slope if isinstance(slope, str) else lif_refusal(x, LIF())

    def weights(self, module: Any, x: Tensor) -> Tensor | None:
        takes = self.kind is LILinearCell or self.kind in RECURRENT
        return module.input_weights if takes and not self.how(module, x) else None

    def pooled(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], size: tuple[int, int]
    ) -> tuple[Tensor | None, ...] | None:
        if self.how(module, x) or self.kind in RECURRENT:
            return None
        return self.fused(module, x, begin, frozenset([0]), size)

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int],
        pool: tuple[int, int] | None = None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        p, leak, given = module.p, LEAKS[self.kind], dict(zip(self.states, begin, strict=True))
        constant: Any = lambda value: torch.as_tensor(value).detach().to(x)  # noqa: E731
        settings: dict[str, Any] = {"leak": leak}
        if leak != "none":
            settings |= {"a": constant(module.dt * p.tau_mem_inv), "rest": constant(p.v_leak)}
        if leak == "current":
            settings["b"] = constant(-module.dt * p.tau_syn_inv)
        if self.kind not in SILENT:
            slope: Any = slope_of(p)
            settings |= {"threshold": constant(p.v_th), "reset_to": constant(p.v_reset)}
            settings |= {"reset": "value", **slope}
        recurrence = None
        if self.kind in RECURRENT:
            settings["detached"] = True
            recurrence = Recurrence(module.recurrent_weights, y=given["z"])
        v = given["v"]
        if v is None:
            v = constant(p.v_reset if leak == "none" else p.v_leak)
        asked = {name: self.parts.get(name, -1) in wanted for name in "vi"}
        y, v, i = lif_scan(
            x, LIF(**settings), v, given.get("i"), recurrence=recurrence,
            potential=asked["v"], current=asked["i"], pool=pool,
        )  # fmt: skip
        found = {"z": y, "v": v, "i": i}
        return y, *(found[name] for name in self.states)


def _activations() -> dict[type[nn.Module], Any]:
    from norse.torch.functional.iaf import iaf_feed_forward_step
    from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
    from norse.torch.functional.lif import lif_feed_forward_step, lif_step
    from norse.torch.functional.lif_box import lif_box_feed_forward_step

    return {
        norse.LIFCell: lif_feed_forward_step, norse.LIF: lif_feed_forward_step,
        norse.LICell: li_feed_forward_step, norse.LI: li_feed_forward_step,
        norse.LIFBoxCell: lif_box_feed_forward_step, norse.LIBoxCell: li_box_feed_forward_step,
        norse.IAFCell: iaf_feed_forward_step, norse.IAF: iaf_feed_forward_step,
        norse.LIFRecurrentCell: lif_step, norse.LIFRecurrent: lif_step,
    }  # fmt: skip


WEIGHTED = neurons.SNURecurrentCell, neurons.SNURecurrent


def _loop(module: Any) -> Tensor | None:
    """Return the weights by which units feed each other."""
    if isinstance(module, WEIGHTED):
        return feedback(module.recurrent_weights, module.autapses)
    weights: Tensor | None = getattr(module, "recurrent_weights", None)
    return weights


class Own(Stepped):
    """The rule of our classes that run by a scan."""

    def how(self, module: Any, x: Tensor) -> str:
        return no_engine()


class Units(Own):
    """SNUs: ``snu_scan``, or ``snu_states`` where the potentials of all steps are recorded."""

    def weights(self, module: Any, x: Tensor) -> Tensor | None:
        weighted = isinstance(module, WEIGHTED) and not self.how(module, x)
        return module.input_weights if weighted else None

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        s, y = begin
        p = module.p
        scan: dict[str, Any] = {
            "decay": held_decay(p), "threshold": p.threshold, "recurrent": _loop(module),
            "state": None if s is None or y is None else State(s, y),
        }  # fmt: skip
        if self.parts["s"] in wanted:
            states = snu_states(x, p.config, **scan)
            return narrow(states.y, x), *states
        out, last = snu_scan(x, p.config, impl=getattr(module, "impl", None), **scan)
        return out, last.s[None], out.to(last.y.dtype)

    def pooled(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], size: tuple[int, int]
    ) -> tuple[Tensor | None, ...] | None:
        if self.how(module, x) or _loop(module) is not None:
            return None
        s, y = begin
        state = None if s is None or y is None else State(s, y)
        constants = held_decay(module.p), module.p.threshold
        found = snu_pooled(x, size, module.p.config, *constants, state, None)
        return None if found is None else (found[0], *(part[None] for part in found[1]))


class Cells(Own):
    """Spiking Recurrent Cells: ``src_scan``, unless states of all steps are recorded."""

    def fused(
        self, module: Any, x: Tensor, begin: Sequence[Tensor | None], wanted: frozenset[int]
    ) -> tuple[Tensor | None, ...]:
        if wanted - {0}:
            return self.own_calls(module, x, begin)
        state = None if any(s is None for s in begin) else SRCState(*begin)  # type: ignore[arg-type]
        y, last = src_scan(x, module.p.config, bias=module.p.held_bias, state=state)
        return y, *(part[None] for part in last)


UNITS = (
    *(neurons.SNUCell, neurons.sSNUCell, neurons.SNUFeedbackCell, neurons.SNU, neurons.sSNU),
    *(neurons.SNURecurrentCell, neurons.sSNURecurrentCell),
    *(neurons.SNURecurrent, neurons.sSNURecurrent),
)

OWN: dict[type[nn.Module], Stepped] = {
    **{kind: Units(kind, ("s", "y")) for kind in UNITS},
    **{kind: Cells(kind, SRCState._fields) for kind in (src.SRCCell, src.SRC)},
}
"""The rules of our classes; a class derived from one of them is stepped by its own call."""


def neuron_rule(module: nn.Module) -> Stepped | None:
    """Return the rule of a neuron of Norse, or of ours for it, ``None`` for all else."""
    if type(module) in OWN:
        return OWN[type(module)]
    if not isinstance(module, (*STEPPED, *OVER_TIME)):
        return None
    if isinstance(module, LILinearCell):
        return Neuron(LILinearCell, ("v", "i"))
    shape = [1, 1]
    if isinstance(module, (SNNRecurrentCell, SNNRecurrent)):
        shape = [1, int(module.hidden_size)]
    state = module.state_fallback(
        torch.zeros(*([1] if isinstance(module, OVER_TIME) else []), *shape)
    )
    return Neuron(type(module), tuple(leaves(state)))
