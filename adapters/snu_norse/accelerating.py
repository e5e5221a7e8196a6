"""Norse's neurons for ``snu_plugin.accelerate``: how they are called, and how they run fused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import norse.torch as norse
import torch
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.functional.threshold import threshold
from norse.torch.module.leaky_integrator import LILinearCell
from norse.torch.module.snn import SNNCell, SNNRecurrent, SNNRecurrentCell
from torch import Tensor, nn

from snu_norse.own_rules import OWN
from snu_norse.stepping import OVER_TIME, Stepped, leaves
from snu_plugin.neuron import LIF, Recurrence, lif_refusal, lif_scan

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

STATES = {"current": ("v", "i"), "box": ("v",), "none": ("v",)}


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
