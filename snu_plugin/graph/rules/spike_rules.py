"""What layers of spikes, and integrators that a model writes itself, are in NIR."""

from __future__ import annotations

import nir
import numpy as np
from torch import Tensor, nn

from snu_plugin.graph.resets import in_series, integrator, silent, with_ports
from snu_plugin.graph.rules.torch_rules import spread_over, to_node
from snu_plugin.graph.snu_nodes import time_constant
from snu_plugin.graph.tracing.function_layers import Above, Below, Excess, Held, Reset, Sign
from snu_plugin.graph.tracing.traced_tensor import Shape


class Integrator(nn.Module):
    """``v = decay v' + x``, where ``v'`` is what the step before left.

    With a ``reset`` the layer gives its spikes, and each leaves the value that this has; of one
    that is ``held`` v is 0 in the step after a spike, whatever comes in.
    """

    def __init__(self, decay: Tensor, reset: Reset | None = None, held: bool = False) -> None:
        super().__init__()
        self.register_buffer("decay", decay)
        self.reset, self.held = reset, held


@to_node.register
def _above(module: Above, *, shape: Shape, dt: float) -> nir.NIRNode:
    return nir.Threshold(spread_over(module.threshold, shape))


@to_node.register
def _below(module: Below, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return what is above the opposite threshold when it is turned round."""
    nodes = {
        "negative": nir.Scale(np.full(shape, -1.0)),
        "spike": nir.Threshold(-spread_over(module.threshold, shape)),
    }
    return in_series(nodes, shape)


@to_node.register
def _sign(module: Sign, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return what is above 0 less what is below it."""
    minus, zero = np.full(shape, -1.0), np.zeros(shape)
    nodes = {
        "above": nir.Threshold(zero),
        "negative": nir.Scale(minus),
        "below": nir.Threshold(zero),
        "less": nir.Scale(minus),
    }
    edges = [
        *(("input", "above"), ("input", "negative"), ("negative", "below"), ("below", "less")),
        *(("above", "output"), ("less", "output")),
    ]
    return with_ports(nodes, edges, shape)


@to_node.register(Excess)
@to_node.register(Held)
@to_node.register(Reset)
def _reset(module: Excess | Held | Reset, *, shape: Shape, dt: float) -> nir.NIRNode:
    raise ValueError(
        "it changes a value where it is above a threshold; not yet supported, but as the reset of "
        "an integrator: mem = decay * mem + x, once in a step"
    )


@to_node.register
def _integrator(module: Integrator, *, shape: Shape, dt: float) -> nir.NIRNode:
    decay = spread_over(module.get_buffer("decay"), shape)
    potential = integrator(decay, dt)
    if module.reset is None:
        return potential
    threshold, value = (spread_over(x, shape) for x in (module.reset.threshold, module.reset.value))
    if isinstance(potential, nir.I):
        neuron = nir.IF(potential.r, threshold, value)
    else:
        tau = time_constant(decay, dt)
        neuron = nir.LIF(tau, tau / dt, np.zeros(shape), threshold, v_reset=value)
    return silent(neuron, 1, dt) if module.held else neuron
