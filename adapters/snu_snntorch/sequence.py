"""SNU and sSNU as snnTorch layers that take a whole sequence at once."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from snu_plugin.neuron import Inhibition, State, snu_scan
from snu_snntorch.unit import SpikeGrad, Unit


class SequenceUnit(Unit):
    """What ``SNUSequence`` and ``sSNUSequence`` share; use one of these."""

    def __init__(
        self,
        beta: float | Tensor = 0.8,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        *,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        output: bool = False,
        g: str = "identity",
        slope: float = 0.1,
        detach_reset: bool = False,
        lateral_inhibition: Inhibition | bool | None = None,
        impl: str | None = None,
    ) -> None:
        super().__init__(
            beta,
            threshold,
            spike_grad,
            learn_beta=learn_beta,
            learn_threshold=learn_threshold,
            output=output,
            g=g,
            slope=slope,
            detach_reset=detach_reset,
            lateral_inhibition=lateral_inhibition,
        )
        self.impl = impl

    def _init_mem(self) -> None:
        """Keep nothing."""

    def forward(self, input_: Tensor, mem: Tensor | None = None) -> Any:
        """Run ``input_``, ``(T, B, ...)``, from the potential ``mem``, ``(B, ...)``; None: zero."""
        state = None if mem is None else State(mem, self.fire_output(mem))
        spk, last = snu_scan(
            input_,
            self.settings,
            decay=self.decay,
            threshold=self.threshold,
            state=state,
            impl=self.impl,
        )
        return (spk, last.s) if self.output else spk


class SNUSequence(SequenceUnit):
    """SNU over a whole sequence, on the fastest implementation: what ``SNU`` gives step by step.

    ``spk = layer(input_)`` with ``input_`` and ``spk`` ``(T, B, ...)``; with ``output=True``
    ``spk, mem = layer(input_, mem)``, where ``mem`` ``(B, ...)`` is the potential after the last
    step, from which a next call can go on. Nothing is kept in the layer. Parameters have the names
    they have in ``SNU``, so a ``state_dict`` moves between the two.

    Args:
        beta: Share of the potential kept, in [0, 1]; a number, or a tensor per neuron.
        threshold: Potential above which the unit fires; a number, or a tensor per neuron.
        spike_grad: A surrogate of ``snntorch.surrogate``; ``None`` is the paper's.
        learn_beta: Train ``beta``, held inside [0, 1).
        learn_threshold: Train ``threshold``.
        output: Return ``mem`` too.
        g: Activation of the potential: identity, relu or leaky_relu.
        slope: Slope of the leaky ReLU below zero.
        detach_reset: Stop the gradient at the reset.
        lateral_inhibition: As for ``SNU``.
        impl: Name from ``snu_plugin.implementations()``; ``None`` takes the fastest.

    Raises:
        ValueError: For a setting outside its range, or an ``impl`` that cannot run the call.
        LookupError: For an unknown ``impl``.
    """


class sSNUSequence(SequenceUnit):
    """Soft SNU over a whole sequence; called as ``SNUSequence`` is."""

    soft: ClassVar[bool] = True
