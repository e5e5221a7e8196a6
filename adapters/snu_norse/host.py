"""Norse's own neurons as NIR nodes, where NIR can say exactly what they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import nir
import norse.torch
import numpy as np
import torch
from norse.torch import (
    IAF,
    LI,
    LIF,
    IAFCell,
    LConv2d,
    LIBoxCell,
    LICell,
    LIFBoxCell,
    LIFCell,
    LIFRecurrent,
    LIFRecurrentCell,
    LIFRefracCell,
    LIFRefracRecurrent,
    LIFRefracRecurrentCell,
    LILinearCell,
    SpatialReceptiveField2d,
)
from norse.torch.functional.adjoint.lif_adjoint import (
    lif_adjoint_step,
    lif_feed_forward_adjoint_step,
)
from norse.torch.functional.adjoint.lif_refrac_adjoint import (
    lif_refrac_adjoint_step,
    lif_refrac_feed_forward_adjoint_step,
)
from norse.torch.functional.iaf import iaf_feed_forward_step
from norse.torch.functional.leaky_integrator import li_feed_forward_step
from norse.torch.functional.leaky_integrator_box import li_box_feed_forward_step
from norse.torch.functional.lif import lif_feed_forward_step, lif_step
from norse.torch.functional.lif_box import lif_box_feed_forward_step
from norse.torch.functional.lif_refrac import lif_refrac_feed_forward_step, lif_refrac_step
from norse.torch.functional.reset import reset_subtract, reset_value
from norse.torch.module.snn import SNN, SNNCell, SNNRecurrent, SNNRecurrentCell
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    Around,
    array,
    batch_axes,
    before,
    in_full,
    in_series,
    integrator,
    nearest,
    silent,
    start,
    subtracting,
    to_node,
    with_parameters,
)

Array = NDArray[Any]
Shape = tuple[int, ...]

CELLS = (SNNCell, SNNRecurrentCell)
"""Norse's neurons that advance one step in a call."""

REFRACTORY = (LIFRefracRecurrentCell, LIFRefracRecurrent)
RECURRENT = (LIFRecurrentCell, LIFRecurrent, *REFRACTORY)
STEPS: dict[type, tuple[Callable[..., Any], ...]] = {
    LIFBoxCell: (lif_box_feed_forward_step,),
    LIBoxCell: (li_box_feed_forward_step,),
    **dict.fromkeys((LIFCell, LIF), (lif_feed_forward_step, lif_feed_forward_adjoint_step)),
    **dict.fromkeys(RECURRENT, (lif_step, lif_adjoint_step)),
    **dict.fromkeys(REFRACTORY, (lif_refrac_step, lif_refrac_adjoint_step)),
    LIFRefracCell: (lif_refrac_feed_forward_step, lif_refrac_feed_forward_adjoint_step),
    **dict.fromkeys((LICell, LI), (li_feed_forward_step,)),
    **dict.fromkeys((IAFCell, IAF), (iaf_feed_forward_step,)),
}
"""What each of them computes a step with; the adjoint ones differ in their gradients."""

NEURONS = (
    *(LIFBoxCell, LIBoxCell, LIFCell, LIF, LICell, LI, LILinearCell, IAFCell, IAF, LIFRefracCell),
    *RECURRENT,
)
"""Those of Norse's neurons that have a rule."""


def _because(reason: str, *names: str) -> dict[type, str]:
    return {getattr(norse.torch, name): reason for name in names}


WHY = (
    _because(
        "its potential grows by an exponential of itself, which NIR has no node for",
        *("LIFEx", "LIFExCell", "LIFExRecurrent", "LIFExRecurrentCell"),
        *("LIFAdEx", "LIFAdExCell", "LIFAdExRecurrent", "LIFAdExRecurrentCell"),
        *("LIFAdExRefracCell", "LIFAdExRefracRecurrent", "LIFAdExRefracRecurrentCell"),
    )
    | _because(
        "its potential grows by its own square, which NIR has no node for",
        *("Izhikevich", "IzhikevichCell", "IzhikevichRecurrent", "IzhikevichRecurrentCell"),
    )
    | _because(
        "its threshold moves and its reset is to a value; NIR's neurons with such a reset have a "
        "fixed threshold",
        *("LSNN", "LSNNCell", "LSNNRecurrent", "LSNNRecurrentCell"),
    )
    | _because(
        "its conductances multiply its potential; NIR has no product of two signals", "CobaLIFCell"
    )
    | _because(
        "its neurons receive each other's potentials after their resets; NIR's neurons that reset "
        "to a value give their spikes only",
        *("LIFMCRecurrentCell", "LIFMCRefracRecurrentCell"),
    )
    | _because("its weights change while it runs; those of a NIR graph do not", "LIFCorrelation")
    | _because(
        "it makes a sequence of its data, before the network: run it on the data, and export the "
        "network behind it",
        *("ConstantCurrentLIFEncoder", "PoissonEncoder", "PopulationEncoder"),
        *("SignedPoissonEncoder", "SpikeLatencyEncoder", "SpikeLatencyLIFEncoder"),
    )
    | _because(
        "it reads times out of a whole sequence, behind the network: export the network without it",
        "SpikesToTimesDecoder",
    )
    | _because(
        "it gives a copy for each time constant; not yet supported", "TemporalReceptiveField"
    )
)
"""Why the others have no form in NIR."""


class RecurrentNeurons(nn.Module):
    """A recurrent layer of Norse's behind its input weights; a node and a loop in NIR."""

    def __init__(self, layer: Any) -> None:
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
    """Return the LIF; ``v += dt tau_mem_inv (x + v_leak - v)`` is NIR's equation with r = 1.

    ``reset_subtract`` takes the threshold away before the next decay: what is left of it then.
    """
    lif = _nearest_lif_box(module, shape=shape, dt=dt)
    if module.p.reset_method is reset_value:
        return lif
    if module.p.reset_method is not reset_subtract:
        name = getattr(module.p.reset_method, "__name__", repr(module.p.reset_method))
        raise ValueError(
            f"it resets by {name}, a function of your own; use Norse's reset_value or "
            "reset_subtract, or add a rule for a class of your own"
        )
    decay = 1 - dt / lif.tau
    left, gain = decay * _full(module.p, "v_th", shape), nir.Scale(dt / lif.tau)
    around = Around(syn=gain)
    return subtracting(integrator(decay, dt), lif.v_threshold, left, around, name="potential")


@nearest.register
def _nearest_lif_box(module: LIFBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LIFBoxCell)
    tau = _tau(module.p, module.dt, "tau_mem_inv", shape, dt)
    return nir.LIF(tau=tau, r=np.ones(shape), **_threshold_and_reset(module.p, shape))


@to_node.register(LIFCell)
@to_node.register(LIF)
@to_node.register(LIFRefracCell)
@to_node.register(RecurrentNeurons)
def _lif(module: Any, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the CubaLIF: Norse's current takes the input whole, so ``w_in = tau_syn / dt``.

    A recurrent layer is that and its loop. A refractory one is held at its reset potential after a
    spike, while its current goes on.
    """
    layer = module.layer if isinstance(module, RecurrentNeurons) else module
    weights = None if layer is module else layer.recurrent_weights
    _check(layer, LIFCell, LIF, LIFRefracCell, *RECURRENT)
    steps = _refractory_steps(layer, shape)
    p = layer.p.lif if steps is not None else layer.p
    currents, fires = _currents(p, layer.dt, shape, dt), _threshold_and_reset(p, shape)
    if not steps:
        return with_parameters(nir.CubaLIF(**currents, **fires), (), weights)
    w_rec = None if weights is None else nir.Linear(array(weights))
    syn = integrator(1 - dt / currents["tau_syn"], dt)
    lif = nir.LIF(tau=currents["tau_mem"], r=currents["r"], **fires)
    return silent(lif, steps, dt, Around(syn=syn, w_rec=w_rec))


def _refractory_steps(layer: Any, shape: Shape) -> int | None:
    """Return how many steps a layer is silent after a spike; ``None`` if it never is."""
    if not isinstance(layer, (LIFRefracCell, *REFRACTORY)):
        return None
    rho = _full(layer.p, "rho_reset", shape)
    if (rho != rho.flat[0]).any():
        raise ValueError("p.rho_reset differs from neuron to neuron; not yet supported")
    return max(0, math.ceil(float(rho.flat[0])))


@to_node.register(LICell)
@to_node.register(LI)
def _li(module: LICell | LI, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LICell, LI)
    currents = _currents(module.p, module.dt, shape, dt)
    return _at_rest(nir.CubaLI(v_leak=np.zeros(shape), **currents), module.p, shape, dt)


@to_node.register
def _li_linear(module: LILinearCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the weights ``w_in``, and the CubaLI behind them."""
    hidden = (module.hidden_size,)
    li = nir.CubaLI(v_leak=np.zeros(hidden), **_currents(module.p, module.dt, hidden, dt))
    nodes = {
        "w_in": nir.Linear(array(module.input_weights)),
        "li": _at_rest(li, module.p, hidden, dt),
    }
    return in_series(nodes, shape, hidden)


@to_node.register
def _li_box(module: LIBoxCell, *, shape: Shape, dt: float) -> nir.NIRNode:
    _check(module, LIBoxCell)
    tau = _tau(module.p, module.dt, "tau_mem_inv", shape, dt)
    li = nir.LI(tau=tau, r=np.ones(shape), v_leak=np.zeros(shape))
    return _at_rest(li, module.p, shape, dt)


def _at_rest(li: nir.NIRNode, p: Any, shape: Shape, dt: float) -> nir.NIRNode:
    """Return an integrator that rests, and as Norse's starts, at ``v_leak``.

    Counted from there it starts at zero, as NIR's do; ``rest``, an LI without a memory, adds it.
    """
    v_leak = _full(p, "v_leak", shape)
    if not v_leak.any():
        return li
    rest = nir.LI(tau=np.full(shape, dt), r=np.ones(shape), v_leak=v_leak)
    return in_series({"potential": li, "rest": rest}, shape)


@to_node.register(IAFCell)
@to_node.register(IAF)
def _iaf(module: IAFCell | IAF, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the IF; it starts at ``v_reset``, which is therefore what counts as zero."""
    _check(module, IAFCell, IAF)
    threshold = _full(module.p, "v_th", shape) - _full(module.p, "v_reset", shape)
    return nir.IF(r=np.full(shape, 1 / dt), v_threshold=threshold, v_reset=np.zeros(shape))


@to_node.register
def _l_conv(module: LConv2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    settings = (tuple(s)[:2] for s in (module.stride, module.padding, module.dilation))
    weight = array(module.weight.squeeze(-1))
    bias = np.zeros(module.out_channels)
    return nir.Conv2d(shape[1:], weight, *settings, module.groups, bias)


@to_node.register
def _receptive_field(module: SpatialReceptiveField2d, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the convolution with its fields of now."""
    out, per_group, *kernel = module.weights.shape
    settings: dict[str, Any] = dict(module.kwargs)
    bias, groups = settings.pop("bias", None), settings.get("groups", 1)
    conv = nn.Conv2d(
        per_group * groups, out, tuple(kernel), bias=bias is not None, device="meta", **settings
    )
    conv.weight = nn.Parameter(module.weights.detach())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach())
    return to_node(conv, shape=shape, dt=dt)


def _currents(p: Any, step: float, shape: Shape, dt: float) -> dict[str, Array]:
    tau_syn = _tau(p, step, "tau_syn_inv", shape, dt)
    tau_mem = _tau(p, step, "tau_mem_inv", shape, dt)
    return {"tau_syn": tau_syn, "tau_mem": tau_mem, "r": np.ones(shape), "w_in": tau_syn / dt}


def _threshold_and_reset(p: Any, shape: Shape) -> dict[str, Array]:
    """Return leak, threshold and reset counted from the leak, where Norse's neurons start.

    A NIR graph starts at zero. Shifted by ``v_leak`` the equations, and so the spikes, stay.
    """
    leak, threshold, reset = (_full(p, field, shape) for field in ("v_leak", "v_th", "v_reset"))
    return {"v_leak": np.zeros(shape), "v_threshold": threshold - leak, "v_reset": reset - leak}


def _tau(p: Any, step: float, field: str, shape: Shape, dt: float) -> Array:
    """Return the time constant that does in a step of ``dt`` what Norse does in one of its own.

    With Norse's own ``step`` that is ``1 / tau_inv`` (its exporter gives ``dt / tau_inv``).
    """
    inverse = _full(p, field, shape)
    rate = inverse * step
    bad = ~((rate > 0) & (rate <= 1))
    if bad.any():
        raise ValueError(
            f"p.{field} is {inverse[bad][0]:.6g} at dt = {step}; dt times it must lie in "
            "(0, 1], or steps of NIR's equation overshoot"
        )
    return np.asarray((dt / step) / inverse)


def _check(module: nn.Module, *kinds: type) -> None:
    """Refuse a neuron that another function steps than that of its kind, derived ones included.

    What a derived class replaces of its methods is looked at for every rule.
    """
    kind = next((kind for kind in type(module).__mro__ if kind in kinds), None)
    if kind is None:
        raise TypeError(
            f"{type(module).__name__} is derived from another of Norse's neurons, and may compute "
            "something else; add a rule with @to_node.register"
        )
    check_step(module, *STEPS[kind])


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
    return in_full(f"p.{field}", array(torch.as_tensor(getattr(p, field))), shape)


@start.register(SNN)
@start.register(SNNCell)
@start.register(SNNRecurrent)
@start.register(SNNRecurrentCell)
def _(module: SNN | SNNCell | SNNRecurrent | SNNRecurrentCell, x: Tensor) -> Any:
    return module.state_fallback(x)


@start.register
def _(module: RecurrentNeurons, x: Tensor) -> Any:
    return module.layer.state_fallback(x)


for _kind, _axes in ((RecurrentNeurons, 1), (LILinearCell, 1), (SpatialReceptiveField2d, 3)):
    batch_axes.register(_kind, before(_axes))


@batch_axes.register
def _(module: LConv2d, x: Tensor) -> int | None:
    return 2


@batch_axes.register(LIF)
@batch_axes.register(LI)
@batch_axes.register(IAF)
def _(module: SNN, x: Tensor) -> int | None:
    return min(2, x.dim() - 1)
