"""Leaky neurons with the arithmetic of snnTorch and Norse, over whole sequences.

Sources: snntorch 1.0.0 (``Leaky``, ``Synaptic``, ``Lapicque``, ``RLeaky``), norse 1.1.0 (``lif``,
``lif_box``, ``iaf``, ``leaky_integrator``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Reset = Literal["none", "subtract", "before", "after", "value"]
Slope = Literal["none", "given", "straight", "fast", "atan", "sigmoid", "triangular", "ramp"]


@dataclass(frozen=True, kw_only=True)
class LIF:
    """The constants of a layer, each of which broadcasts to a step, and what the layer does.

    ``leak`` says how a step begins: ``None``: ``i = b i + x`` (without ``b``: ``i = x``) and
    ``u = a v + i``; ``"current"``: ``i' = i + x``, ``u = v + a ((rest - v) + i')``,
    ``i = i' + b i'``; ``"box"``: ``u = v + a ((x + rest) - v)``; ``"none"``: ``u = v + x``.

    Then, with ``r = [v > threshold]`` of the state before, which stops gradients:
    ``reset="subtract"``: ``u - r threshold``; ``"before"``: ``v (1 - r)`` in place of ``v``;
    ``"after"``: ``u (1 - r)``. The neuron fires, ``y = [u > threshold]``, without a threshold it
    does not, and ``v = u``. Where it resets at once, ``late=False``, ``d = y - r`` is taken from
    ``u`` likewise: ``v = u - d threshold`` or ``v = u - d u``, and gradients pass through ``y``.
    ``reset="value"``: ``v = (1 - y) u + y reset_to``, through which gradients pass.

    A potential that is NaN gives ``y = NaN``, where the hosts' comparison gives 0.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    threshold: Tensor | None = None
    rest: Tensor | None = None
    reset_to: Tensor | None = None
    leak: Literal["current", "box", "none"] | None = None
    reset: Reset = "none"
    detached: bool = False
    """Whether ``reset="value"`` stops gradients at ``y``."""
    late: bool = True
    slope: Slope = "none"
    """The slope of a spike in the backward pass, a function of ``u - threshold`` and ``steep``."""
    steep: float = 1.0
    surrogate: Callable[[Tensor], Tensor] | None = None
    """The slope where ``slope="given"``."""

    def tensors(self) -> list[Tensor]:
        """Return every constant that is there."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]


class Recurrence(NamedTuple):
    """What the outputs of the step before, ``y'``, add to the input: ``x + (weight y' + bias)``.

    Sums are rounded as the hosts do, first the state and ``x``, then what is received.
    """

    weight: Tensor
    """``(features, features)``, row = receiving unit; with one axis or none each unit feeds itself
    alone: ``weight * y'``."""
    bias: Tensor | None = None
    y: Tensor | None = None
    """Outputs before the first step; ``None`` is zero."""

    def tensors(self) -> list[Tensor]:
        """Return every tensor that is there."""
        return [value for value in self if value is not None]


class LIFParts(NamedTuple):
    """Spikes (without a threshold the potential) of all steps; potential and current likewise.

    Those that were not asked for are those after the last step alone.
    """

    y: Tensor
    v: Tensor | None
    i: Tensor | None
