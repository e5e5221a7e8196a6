"""Norse's own neurons as NIR nodes, where NIR can say exactly what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import torch
from norse.torch import (
    IAF,
    LI,
    LIF,
    IAFCell,
    LIBoxCell,
    LICell,
    LIFBoxCell,
    LIFCell,
    LIFRecurrent,
    LIFRecurrentCell,
)
from norse.torch.functional.adjoint.lif_adjoint import (
    lif_adjoint_step,
    lif_feed_forward_adjoint_step,
)
from norse.torch.functional.iaf import iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step, lif_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.reset import reset_value
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrentCell
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    array,
    batch_axes,
    nearest,
    start,
    to_node,
    with_parameters,
)

Array = NDArray[Any]
Shape = tuple[int, ...]

CELLS = (SNNCell, SNNRecurrentCell)
"""Norse's neurons that advance one step in a call."""

RECURRENT = (LIFRecurrentCell, LIFRecurrent)
STEPS: dict[type, tuple[Callable[..., Any], ...]] = {
    LIFBoxCell: (lif_box_feed_forward_step,),
    LIBoxCell: (li_box_feed_forward_step,),
    **dict.fromkeys((LIFCell, LIF), (lif_feed_forward_step, lif_feed_forward_adjoint_step)),
    **dict.fromkeys(RECURRENT, (lif_step, lif_adjoint_step)),
    **dict.fromkeys((LICell, LI), (li_feed_forward_step,)),
    **dict.fromkeys((IAFCell, IAF), (iaf_feed_forward_step,)),
}
"""What each of them computes a step with; the adjoint ones differ in their gradients."""

NEURONS = (LIFBoxCell, LIBoxCell, LIFCell, LIF, LICell, LI, IAFCell, IAF, *RECURRENT)
"""Those of Norse's neurons that have a rule."""


class RecurrentNeurons(nn.Module):
    """A recurrent layer of Norse's behind its input weights; a node and a loop in NIR."""

    def __init__(self, layer: LIFRecurrentCell | LIFRecurrent) -> None:
        """Take over ``layer``, whose input weights become one to one."""
        super().__init__()
        weights = layer.input_weights
        layer.input_weights = nn.Parameter(torch.eye(len(weights)).to(weights))
        self.layer = layer
        self.dt = layer.dt

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, state = self.layer(x, state)
        return y, state


@to_node.register
def _lif_box(module: LIFBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF; ``v += dt tau_mem_inv (x + v_leak - v)`` is NIR's equation with r = 1."""
    _check(module, LIFBoxCell)
    if module.p.reset_method is not reset_value:
        name = getattr(module.p.reset_method, "__name__", repr(module.p.reset_method))
        raise ValueError(
            f"it resets by {name}; NIR can only say a reset to a value: use reset_value"
        )
    return _nearest_lif_box(module, shape=shape, dt=dt)


@nearest.register
def _nearest_lif_box(module: LIFBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LIFBoxCell)
    tau = _tau(module, "tau_mem_inv", shape, dt)
    return nir.LIF(tau=tau, r=np.ones(shape), **_threshold_and_reset(module.p, shape))


@to_node.register(LIFCell)
@to_node.register(LIF)
@to_node.register(RecurrentNeurons)
def _lif(module: LIFCell | LIF | RecurrentNeurons, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the CubaLIF: Norse's current takes the input whole, so ``w_in = tau_syn / dt``.

    A recurrent layer is that and its loop.
    """
    layer = module.layer if isinstance(module, RecurrentNeurons) else module
    _check(layer, LIFCell, LIF, LIFRecurrentCell, LIFRecurrent)
    node = nir.CubaLIF(**_currents(layer, shape, dt), **_threshold_and_reset(layer.p, shape))
    return with_parameters(node, (), layer.recurrent_weights if module is not layer else None)


@to_node.register(LICell)
@to_node.register(LI)
def _li(module: LICell | LI, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LICell, LI)
    _check_start(module.p)
    return _nearest_li(module, shape=shape, dt=dt)


@nearest.register(LICell)
@nearest.register(LI)
def _nearest_li(module: LICell | LI, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LICell, LI)
    return nir.CubaLI(v_leak=_full(module.p, "v_leak", shape), **_currents(module, shape, dt))


@to_node.register
def _li_box(module: LIBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LIBoxCell)
    _check_start(module.p)
    return _nearest_li_box(module, shape=shape, dt=dt)


@nearest.register
def _nearest_li_box(module: LIBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LIBoxCell)
    tau = _tau(module, "tau_mem_inv", shape, dt)
    return nir.LI(tau=tau, r=np.ones(shape), v_leak=_full(module.p, "v_leak", shape))


@to_node.register(IAFCell)
@to_node.register(IAF)
def _iaf(module: IAFCell | IAF, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the IF; it starts at ``v_reset``, which is therefore what counts as zero."""
    _check(module, IAFCell, IAF)
    threshold = _full(module.p, "v_th", shape) - _full(module.p, "v_reset", shape)
    return nir.IF(r=np.full(shape, 1 / dt), v_threshold=threshold, v_reset=np.zeros(shape))


def _currents(module: Any, shape: Shape, dt: float) -> dict[str, Array]:
    tau_syn = _tau(module, "tau_syn_inv", shape, dt)
    tau_mem = _tau(module, "tau_mem_inv", shape, dt)
    return {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": np.ones(shape), "w_in": tau_syn / dt}


def _threshold_and_reset(p: Any, shape: Shape) -> dict[str, Array]:
    """Return leak, threshold and reset counted from the leak, where Norse's neurons start.

    A NIR graph starts at zero. Shifted by ``v_leak`` the equations, and so the spikes, stay.
    """
    leak, threshold, reset = (_full(p, field, shape) for field in ("v_leak", "v_th", "v_reset"))
    return {"v_leak": np.zeros(shape), "v_threshold": threshold - leak, "v_reset": reset - leak}


def _tau(module: Any, field: str, shape: Shape, dt: float) -> Array:
    """Return the time constant that does in a step of ``dt`` what Norse does in one of its own.

    With Norse's own dt that is ``1 / tau_inv`` (its exporter gives ``dt / tau_inv``).
    """
    inverse = _full(module.p, field, shape)
    rate = inverse * module.dt
    bad = ~((rate > 0) & (rate <= 1))
    if bad.any():
        raise ValueError(
            f"p.{field} is {inverse[bad][0]:.6g} at dt = {module.dt}; dt times it must lie in "
            "(0, 1], or steps of NIR's equation overshoot"
        )
    return np.asarray((dt / module.dt) / inverse)


def _check_start(p: Any) -> None:
    if np.any(array(torch.as_tensor(p.v_leak))):
        raise ValueError(
            "p.v_leak is not 0, and Norse starts there; a NIR graph starts at 0, and the output is "
            "the potential itself: set v_leak to 0 and add it behind the layer"
        )


def _check(module: nn.Module, *kinds: type) -> None:
    if type(module) not in kinds:
        raise TypeError(
            f"{type(module).__name__} is derived from Norse's neurons and may compute something "
            "else; add a rule with @to_node.register"
        )
    check_step(module, *STEPS[type(module)])


def check_step(module: Any, *steps: Callable[..., Any]) -> None:
    """Refuse a neuron in which another function was put than its class computes with."""
    if module.activation not in steps:
        name = getattr(module.activation, "__name__", repr(module.activation))
        raise TypeError(
            f"its activation is {name}; {type(module).__name__} leaves as what "
            f"{steps[0].__name__} computes: use that, or a class of its own with "
            "@to_node.register"
        )
    if module.state_fallback != module.initial_state:
        raise TypeError(
            f"its state_fallback was replaced; {type(module).__name__} leaves as it starts with "
            "its initial_state: use that, or a class of its own with @to_node.register"
        )


def _full(p: Any, field: str, shape: Shape) -> Array:
    value = array(torch.as_tensor(getattr(p, field)))
    try:
        return np.array(np.broadcast_to(value, shape), dtype=np.float64)
    except ValueError:
        raise ValueError(
            f"p.{field} has shape {value.shape}; it must broadcast to the layer's, {shape}"
        ) from None


@start.register(SNN)
@start.register(SNNCell)
def _(module: SNN | SNNCell, x: Tensor) -> Any:
    return module.state_fallback(x)


@start.register
def _(module: RecurrentNeurons, x: Tensor) -> Any:
    return module.layer.state_fallback(x)


@batch_axes.register
def _(module: RecurrentNeurons, x: Tensor) -> int | None:
    return x.dim() - 1


@batch_axes.register(LIF)
@batch_axes.register(LI)
@batch_axes.register(IAF)
def _(module: SNN, x: Tensor) -> int | None:
    return min(2, x.dim() - 1)
