"""Our neurons inside a network of Norse, for ``snu_plugin.accelerate``: each by its own scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from snu_norse import neurons, src
from snu_norse.parameters import feedback, held_decay
from snu_norse.stepping import Stepped
from snu_plugin.neuron import (
    SRCState,
    State,
    narrow,
    no_engine,
    snu_pooled,
    snu_scan,
    snu_states,
    src_scan,
)

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
