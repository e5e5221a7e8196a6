"""What every SNU has to be to pass for a snnTorch neuron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.neuron import (
    Inhibition,
    SNUConfig,
    activate,
    blocked,
    hold_decay,
    step,
    tanh_derivative,
    wide,
)

SpikeGrad = Callable[[Tensor], Tensor]
"""A surrogate as snnTorch has them: ``spikes = spike_grad(mem - threshold)``."""


def spike(v: Tensor) -> Tensor:
    """Return 1 where ``v > 0``, with the paper's slope ``1 - tanh²(v)`` where one is asked for."""
    return step(v) if v.requires_grad and torch.is_grad_enabled() else (v > 0).to(v.dtype)


class SlopeOf:
    """The slope that a surrogate of snnTorch shows in the backward pass, as a function."""

    def __init__(self, spike_grad: SpikeGrad) -> None:
        self.spike_grad = spike_grad

    def __call__(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.spike_grad(v).sum(), v)
        return slope


class Unit(snntorch.LIF):
    """What the neurons of this package share; use one of these.

    One that keeps states makes room for them in ``_init_mem``.
    """

    soft: ClassVar[bool] = False

    beta: Tensor
    threshold: Tensor

    _init_mem: Callable[[], None]

    def __init__(
        self,
        beta: float | Tensor = 0.8,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        inhibition: bool = False,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "zero",
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        graded_spikes_factor: float | Tensor = 1.0,
        learn_graded_spikes_factor: bool = False,
        reset_delay: bool = True,
        *,
        g: str = "identity",
        slope: float = 0.1,
        detach_reset: bool = False,
        lateral_inhibition: Inhibition | bool | None = None,
    ) -> None:
        if self.soft and (spike_grad is not None or surrogate_disable or inhibition):
            raise ValueError(
                f"{type(self).__name__} takes no spike_grad, surrogate_disable or inhibition: "
                "its output is a smooth number, not a spike"
            )
        self._reset_cases(reset_mechanism)
        if not reset_delay:
            raise ValueError(
                f"reset_delay is {reset_delay!r}; an SNU resets in the step after it fires: "
                "leave it True, snntorch's own neurons have the other"
            )
        settings = SNUConfig(
            g=g,  # type: ignore[arg-type]
            slope=slope,
            soft=self.soft,
            lateral_inhibition=lateral_inhibition,
            learn_threshold=learn_threshold,
            learn_decay=learn_beta,
            detach_reset=detach_reset,
        )
        listed = len(self.instances)
        try:
            snntorch.LIF.__init__(
                self,
                checked("beta", beta),
                checked("threshold", threshold),
                spike_grad=spike_grad or spike,
                surrogate_disable=surrogate_disable,
                init_hidden=init_hidden,
                inhibition=inhibition,
                learn_beta=learn_beta,
                learn_threshold=learn_threshold,
                reset_mechanism=reset_mechanism,
                state_quant=state_quant,
                output=output,
                graded_spikes_factor=checked("graded_spikes_factor", graded_spikes_factor),
                learn_graded_spikes_factor=learn_graded_spikes_factor,
            )
        except BaseException:
            del self.instances[listed:]  # snnTorch lists a neuron before it is complete
            raise
        slope_of = tanh_derivative if self.spike_grad is spike else SlopeOf(self.spike_grad)
        self.settings = replace(settings, surrogate=slope_of)
        self.register_load_state_dict_pre_hook(_zero_reset_only)
        self._init_mem()

    @property
    def decay(self) -> Tensor:
        """``beta`` held inside [0, 1], inside [0, 1) where it is trained."""
        held = hold_decay(self.beta) if isinstance(self.beta, nn.Parameter) else None
        return self.beta.clamp(0, 1) if held is None else held

    @property
    def config(self) -> SNUConfig:
        """The settings as the core has them; of a decay or threshold per neuron, the mean."""
        return replace(
            self.settings,
            decay=float(self.decay.detach().mean()),
            threshold=float(self.threshold.detach().mean()),
        )

    def _reset_cases(self, reset_mechanism: str) -> None:
        """Refuse what is not an SNU; snnTorch's base calls this at birth and on assignment."""
        if reset_mechanism != "zero":
            raise ValueError(
                f"reset_mechanism is {reset_mechanism!r}; an SNU resets to 'zero', "
                "snntorch.Leaky has the others"
            )

    def fire_output(self, mem: Tensor) -> Tensor:
        """Return the output y for a potential."""
        mem = wide(mem)
        if self.soft:
            return torch.sigmoid(mem - self.threshold)
        if self.inhibition:
            winners: Tensor = self.fire_inhibition(mem.size(0), mem)
            return winners
        spikes: Tensor = self.spike_grad(mem - self.threshold)
        return spikes

    def advance(self, drive: Tensor, mem: Tensor, y: Tensor) -> Tensor:
        """Return the next potential, ``g(drive + l s (1 - y))``; see ``snu_plugin.snu_step``.

        In float32 where a tensor has half precision.
        """
        kept = (1 - blocked(wide(y), self.settings)) * wide(mem)
        s = activate(wide(drive) + self.decay * kept, self.settings)
        return self.state_quant(s) if self.state_quant else s

    def extra_repr(self) -> str:
        each = {k: "per neuron" for k in ("beta", "threshold") if getattr(self, k).numel() > 1}
        shown = {"beta": self.config.decay, "threshold": self.config.threshold} | each
        return ", ".join(f"{k}={v}" for k, v in ({"g": self.settings.g} | shown).items())


def checked(name: str, value: float | Tensor) -> Tensor:
    """Return a setting as a floating-point tensor that the neuron alone owns."""
    tensor = torch.as_tensor(value)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    inside = ((tensor >= 0) & (tensor <= 1)) if name == "beta" else tensor.isfinite()
    if not bool(inside.all()):
        worst = tensor[~inside].flatten()[0].item() if tensor.dim() else tensor.item()
        accepted = "lie in [0, 1]" if name == "beta" else "be finite"
        raise ValueError(f"{name} is {worst:g}; it must {accepted}")
    return tensor.detach().clone()


def _zero_reset_only(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Refuse a checkpoint of a neuron that resets otherwise, instead of ignoring how."""
    value = state.get(f"{prefix}reset_mechanism_val")
    if value is not None and int(value) != 1:
        names = {0: "subtract", 2: "none"}
        raise ValueError(
            f"{prefix or 'the checkpoint: '}reset_mechanism is "
            f"{names.get(int(value), int(value))!r}; {type(module).__name__} resets to 'zero' "
            "and cannot take over its state"
        )
