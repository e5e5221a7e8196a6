"""The settings of one layer of Spiking Neural Units."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal, get_args

from snu_plugin.accepted import NUMBER, UNIT, by_known_names, one_of, shown
from snu_plugin.neuron.surrogate import Surrogate, tanh_derivative

Activation = Literal["identity", "relu", "leaky_relu"]
Inhibition = Literal["sample", "batch"]


@partial(by_known_names, otherwise={"beta": "beta of snnTorch is decay here"}.get)
@dataclass(frozen=True, kw_only=True)
class SNUConfig:
    """What a layer of SNU (``soft=False``) or sSNU (``soft=True``) computes; checked at birth.

    Equations and defaults: Woźniak et al., Nat. Mach. Intell. 2, 325 (2020), arXiv 1812.07040,
    and IBM/neuroaikit 953a408. Raises ``ValueError`` for a setting outside its range.

    >>> SNUConfig(decay=1.2)
    Traceback (most recent call last):
    ...
    ValueError: decay is 1.2; it must be a number in [0, 1]

    The derivative that stands for that of a spike is a function of the distance to the threshold:

    >>> import torch
    >>> SNUConfig().surrogate(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.4200])
    """

    decay: float = 0.8
    """Share of the potential kept from one step to the next, in [0, 1]; the paper's l(τ)."""

    threshold: float = 1.0
    """Potential above which the unit fires; the paper's bias is ``b = -threshold``."""

    g: Activation = "identity"
    """Activation of the membrane potential."""

    slope: float = 0.1
    """Slope of the leaky ReLU below zero, in [0, 1]; read only where ``g="leaky_relu"``."""

    soft: bool = False
    """Output ``sigmoid(s + b)`` with a proportional reset (sSNU) instead of a step (SNU)."""

    lateral_inhibition: Inhibition | bool | None = None
    """Reset by the largest last output instead of each unit's own: ``"sample"`` takes it over the
    units of the last axis, ``"batch"``, as in IBM/neuroaikit, over all samples too. ``True`` and
    ``False`` become ``"sample"`` and ``None``."""

    learn_threshold: bool = True
    """Whether a layer trains its thresholds."""

    learn_decay: bool = False
    """Whether a layer trains its decays; they are kept inside [0, 1)."""

    detach_reset: bool = False
    """Stop the gradient at the reset. The published cell does not."""

    surrogate: Surrogate = tanh_derivative
    """Slope used for the step in the backward pass, a function of ``s - threshold``."""

    def __repr__(self) -> str:
        """Say what is not as it is by default.

        >>> SNUConfig(decay=0.9, threshold=1.0)
        SNUConfig(decay=0.9)
        """
        given = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        changed = ((name, value) for name, value, default in given if value != default)
        shown = (f"{name}={getattr(value, '__name__', repr(value))}" for name, value in changed)
        return f"SNUConfig({', '.join(shown)})"

    def __post_init__(self) -> None:
        UNIT.check("decay", self.decay)
        NUMBER.check("threshold", self.threshold)
        one_of(*get_args(Activation)).check("g", self.g)
        if isinstance(self.lateral_inhibition, bool):
            object.__setattr__(
                self, "lateral_inhibition", "sample" if self.lateral_inhibition else None
            )
        if self.lateral_inhibition not in (None, *get_args(Inhibition)):
            raise ValueError(
                f"lateral_inhibition is {shown(self.lateral_inhibition)}; it must be None, "
                "'sample' (the units of a sample) or 'batch' (those of all samples together)"
            )
        UNIT.check("slope", self.slope)
        for name in ("soft", "detach_reset", "learn_threshold", "learn_decay"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {shown(getattr(self, name))}; it must be True or False")
        if not callable(self.surrogate):
            raise TypeError(
                f"surrogate is {shown(self.surrogate)}; it must be a function of a tensor"
            )
