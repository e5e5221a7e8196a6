"""snnTorch's own neurons as NIR nodes."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import snntorch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    Around,
    array,
    batch_axes,
    encode_snu,
    fires,
    in_series,
    integrator,
    nearest,
    never,
    silent,
    subtracting,
    subtracting_at_once,
    time_constant,
    to_node,
    with_ports,
)
from snu_plugin.neuron import SNUConfig

Array = NDArray[Any]
Shape = tuple[int, ...]


WHY = {
    snntorch.AssociativeLeaky: "it multiplies its inputs with one another",
    snntorch.LeakyParallel: "its potential is rectified: it is the state of torch's RNN",
    snntorch.SLSTM: "its gates are sigmoids of its inputs",
    snntorch.SConv2dLSTM: "its gates are sigmoids of its inputs",
}
"""Why some of snnTorch's neurons have no form in NIR, whatever their settings."""


@to_node.register
def _other(module: snntorch.SpikingNeuron, *, shape: Shape, dt: float) -> nir.NIRNode:
    kind = type(module)
    why = WHY.get(kind, f"{kind.__qualname__} is none of snnTorch's own; add a rule for it")
    raise TypeError(f"{kind.__name__} has no form in NIR that is exact: {why}")


to_node.register(snntorch.LeakyParallel, _other)


@to_node.register(snntorch.Leaky)
@to_node.register(snntorch.RLeaky)
@to_node.register(snntorch.Synaptic)
@to_node.register(snntorch.RSynaptic)
def _leaky(module: snntorch.SpikingNeuron, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the neuron; with a reset to zero at once it is a LIF, with a current a CubaLIF.

    A Leaky whose reset to zero is delayed is an SNU, and so a LIF, too; gains of all are 1.
    """
    current = isinstance(module, (snntorch.Synaptic, snntorch.RSynaptic))
    syn = integrator(_decay(module.alpha, shape), dt) if current else None
    if _reset(module) != "zero":
        return _without_lif(module, shape, dt, _decay(module.beta, shape), syn)
    if module.reset_delay and not isinstance(module, snntorch.Leaky):
        return _silenced(module, shape, dt, _leaky_lif(module, shape, dt), syn)
    lif = _currents(module, shape, dt) if current else _leaky_lif(module, shape, dt)
    return _as_lif(module, shape, lif)


@to_node.register
def _lapicque(module: snntorch.Lapicque, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the circuit ``mem = (1 - time_step / (R C)) mem + time_step / C x``."""
    if _reset(module) == "zero":
        return _silenced(module, shape, dt, _lapicque_lif(module, shape, dt))
    share = module.time_step / (module.R * module.C)
    gain = module.R * (1 / (module.R * module.C)) * module.time_step
    decay, factor = (_broadcast(array(value), shape) for value in (1 - share, gain))
    return _without_lif(module, shape, dt, decay, nir.Scale(factor))


@to_node.register
def _alpha(module: snntorch.Alpha, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return two currents of opposite sign and a Threshold on their sum, if it never resets."""
    threshold = _threshold(module, shape)
    if _reset(module) != "none":
        raise ValueError(
            f"it resets by {_reset(module)!r}, and a spike of Alpha sets a current to zero, whose "
            "value NIR would have to multiply by the spike; only the potential of a neuron that "
            "fires is ever reset there: use reset_mechanism='none', or approximate=True"
        )
    alpha, beta = module.alpha.clamp(0, 1), module.beta.clamp(0, 1)
    factor = _broadcast(array(alpha.log() / (beta.log() - alpha.log()) + 1), shape)
    nodes = {
        "syn_exc": integrator(_decay(alpha, shape), dt),
        "minus": nir.Scale(-np.ones(shape)),
        "syn_inh": integrator(_decay(beta, shape), dt),
        "mem": nir.Scale(factor),
        "spike": nir.Threshold(threshold),
    }
    edges = [
        *(("input", "syn_exc"), ("input", "minus"), ("minus", "syn_inh")),
        *(("syn_exc", "mem"), ("syn_inh", "mem"), ("mem", "spike"), ("spike", "output")),
    ]
    return with_ports(nodes, edges, shape)


@to_node.register
def _delta_leaky(module: snntorch.DeltaLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the membrane, its change from step to step, and a Threshold for each direction."""
    _check_own(module)
    decay = _broadcast(array(module.beta), shape)
    change = _broadcast(array(torch.as_tensor(module.delta_threshold)), shape)
    if (change < 0).any():
        raise ValueError("delta_threshold is negative, so that it always fires; not yet supported")
    one = np.ones(shape)
    nodes = {
        "mem": integrator(decay, dt),
        "before": nir.Delay(dt * one),
        "minus_before": nir.Scale(-one),
        "minus_mem": nir.Scale(-one),
        "up": nir.Threshold(change),
        "down": nir.Threshold(change.copy()),
        "spike": nir.Threshold(0.5 * one),
    }
    edges = [
        *(("input", "mem"), ("mem", "before"), ("before", "minus_before"), ("mem", "minus_mem")),
        *(("mem", "up"), ("minus_before", "up"), ("before", "down"), ("minus_mem", "down")),
        *(("up", "spike"), ("down", "spike"), ("spike", "output")),
    ]
    return with_ports(nodes, edges, shape)


@to_node.register
def _state_leaky(module: snntorch.StateLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the integrator whose answer to one input is the kernel ``exp(-t / tau)``.

    A kernel that ends takes away again what went in so many steps ago.
    """
    threshold, factor = _threshold(module, shape), _factor(module, shape)
    tau = module.tau.detach().double().cpu().numpy()
    decay = _broadcast(np.exp(-1 / tau), shape)
    nodes: dict[str, nir.NIRNode] = {"mem": integrator(decay, dt)}
    edges = [("input", "mem")]
    if module.kernel_truncation_steps is not None:
        steps = int(module.kernel_truncation_steps)
        nodes["late"] = nir.Delay(np.full(shape, steps * dt))
        nodes["end"] = nir.Scale(-(decay**steps))
        edges += [("input", "late"), ("late", "end"), ("end", "mem")]
    if not module.output:
        return with_ports(nodes, [*edges, ("mem", "output")], shape)
    nodes["spike"] = nir.Threshold(threshold)
    edges.append(("mem", "spike"))
    if factor is None:
        return with_ports(nodes, [*edges, ("spike", "output")], shape)
    nodes["graded"] = nir.Scale(factor**2)  # snnTorch multiplies twice here
    return with_ports(nodes, [*edges, ("spike", "graded"), ("graded", "output")], shape)


@to_node.register
def _linear_leaky(module: snntorch.LinearLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the weights and, behind them, what a StateLeaky is."""
    linear = to_node(module.linear, shape=shape, dt=dt)
    features = (module.linear.out_features,)
    neuron = _state_leaky(module, shape=features, dt=dt)
    return in_series({"linear": linear, "neuron": neuron}, shape, features)


@to_node.register
def _graded_spikes(module: snntorch.GradedSpikes, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the Scale; the factors are those of the last axis but one."""
    if len(shape) < 2:
        raise ValueError(
            f"it receives shape {shape}, and multiplies the samples of a batch by factors; NIR "
            "treats all alike: give it (B, ..., size, n)"
        )
    return nir.Scale(_broadcast(array(module.weights), shape))


@batch_axes.register(snntorch.StateLeaky)
def _(module: snntorch.StateLeaky, x: Tensor) -> int | None:
    return 2


def _leaky_lif(module: snntorch.SpikingNeuron, shape: Shape, dt: float) -> nir.NIRNode:
    return encode_snu(SNUConfig(), _decay(module.beta, shape), _threshold(module, shape), dt=dt)


def _lapicque_lif(module: snntorch.Lapicque, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF of the same circuit: ``v += time_step / (R C) (R x - v)``."""
    resistance = _broadcast(array(module.R), shape)
    rate = array(module.time_step) / (resistance * _broadcast(array(module.C), shape))
    if not ((rate > 0) & (rate <= 1)).all():
        raise ValueError(
            "time_step / (R C) does not lie in (0, 1]; a neuron of NIR that resets to zero cannot "
            "overshoot: take a smaller time_step, or another reset"
        )
    zero = np.zeros(shape)
    threshold = _threshold(module, shape)
    return nir.LIF(
        tau=dt / rate, r=resistance, v_leak=zero, v_threshold=threshold, v_reset=zero.copy()
    )


@nearest.register
def _nearest_alpha(module: snntorch.Alpha, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the CubaLIF whose answer to one spike has the shape of an Alpha's, a step earlier.

    ``(alpha^(t+1) - beta^(t+1)) / (alpha - beta)`` is CubaLIF's with gains of 1, and
    ``k (alpha^t - beta^t)`` is Alpha's, with its factor ``k``.
    """
    node = _currents(module, shape, dt)
    alpha, beta = _decay(module.alpha, shape), _decay(module.beta, shape)
    factor = np.log(alpha) / (np.log(beta) - np.log(alpha)) + 1
    node.r = node.r * np.abs(factor * (alpha - beta))
    return node


def _without_lif(
    module: snntorch.SpikingNeuron,
    shape: Shape,
    dt: float,
    decay: Array,
    syn: nir.NIRNode | None = None,
) -> nir.NIRGraph:
    """Return a neuron that never resets or subtracts, ``mem = decay mem + syn(x)``."""
    threshold, around = _threshold(module, shape), _around(module, shape, syn)
    mem = integrator(decay, dt)
    if _reset(module) == "none":
        return never(mem, threshold, around)
    if (threshold < 0).any():
        raise ValueError(
            "a threshold is negative, so that a reset acts before the first step; not yet supported"
        )
    if getattr(module, "reset_delay", True):
        return subtracting(mem, threshold, threshold.copy(), around)
    _check_at_once(module, shape)
    return subtracting_at_once(mem, decay, threshold, dt, around)


def _as_lif(module: snntorch.SpikingNeuron, shape: Shape, lif: nir.NIRNode) -> nir.NIRNode:
    """Return a neuron that one of NIR's own says, with its loop and the factor of its spikes."""
    if not module.reset_delay:
        _check_at_once(module, shape)
    around = _around(module, shape)
    if around.factor is not None:
        return fires(lif, around)
    if around.w_rec is None:
        return lif
    parts, edges = {"lif": lif, "w_rec": around.w_rec}, [("lif", "w_rec"), ("w_rec", "lif")]
    return nir.NIRGraph(parts, edges, metadata={}, type_check=False)


def _silenced(
    module: snntorch.SpikingNeuron,
    shape: Shape,
    dt: float,
    lif: nir.NIRNode,
    syn: nir.NIRNode | None = None,
) -> nir.NIRGraph:
    """Return a neuron that is set to zero in the step after a spike, whatever it receives then."""
    if (_threshold(module, shape) < 0).any():
        raise ValueError("a threshold is negative, so that zero fires again; not yet supported")
    return silent(lif, 1, dt, _around(module, shape, syn))


def _around(module: snntorch.SpikingNeuron, shape: Shape, syn: nir.NIRNode | None = None) -> Around:
    return Around(
        syn=syn,
        factor=_factor(module, shape),
        w_rec=_feedback(module, shape) if hasattr(module, "recurrent") else None,
    )


def _factor(module: snntorch.SpikingNeuron, shape: Shape) -> Array | None:
    factor = _broadcast(array(module.graded_spikes_factor), shape)
    return None if (factor == 1).all() else factor


def _reset(module: snntorch.SpikingNeuron) -> str:
    """Return how a neuron resets: as it was built.

    Assigning ``reset_mechanism`` or loading another changes the label, and with
    ``reset_delay=False`` a part of the computation (leaky.py, l. 175-180 and 230).
    """
    _check_own(module)
    kinds = {"_base_sub": "subtract", "_base_zero": "zero", "_base_int": "none"}
    built = kinds[module.state_function.__name__]
    label = list(snntorch.SpikingNeuron.reset_dict)[int(module.reset_mechanism_val)]
    if label != built and not getattr(module, "reset_delay", True):
        raise ValueError(
            f"it was built to reset by {built!r} and is labelled {label!r}; with "
            "reset_delay=False it does half of each: build it anew"
        )
    return built


def _check_at_once(module: snntorch.SpikingNeuron, shape: Shape) -> None:
    if (_threshold(module, shape) < 0).any():
        raise ValueError("a threshold is negative; with reset_delay=False NIR resets otherwise")
    if (array(module.graded_spikes_factor) == 0).any():
        raise ValueError("graded_spikes_factor is 0; with reset_delay=False snnTorch divides by it")


COMPUTING = ("__call__", "__getattr__", "__getattribute__")
"""Of the names that Python gives a meaning to those by which a class computes something else."""


def _check_own(module: snntorch.SpikingNeuron) -> None:
    """Refuse a class derived from snnTorch's, or a neuron, that replaces anything of theirs."""
    kinds = type(module).__mro__
    place = next(i for i, kind in enumerate(kinds) if kind.__module__.startswith("snntorch."))
    theirs = {n for n in dir(kinds[place]) if n[:2] != "__" or n in COMPUTING} - {"extra_repr"}
    own = [name for kind in (*kinds[:place], module) for name in vars(kind) if name in theirs]
    update = vars(module).get("state_function")
    if update is not None and getattr(update, "__self__", None) is not module:
        own.append("state_function")
    if own:
        raise TypeError(
            f"{type(module).__name__} is derived from snnTorch's neurons and has {own[0]}() of its "
            "own, so that it may compute something else; add a rule with @to_node.register"
        )


def _threshold(module: snntorch.SpikingNeuron, shape: Shape) -> Array:
    """Return the thresholds of a neuron of snnTorch's own; refuse what its class does not say."""
    _check_own(module)
    if module.inhibition or module.state_quant:
        name = "inhibition" if module.inhibition else "state_quant"
        raise ValueError(f"{name} is set; not yet supported")
    return _broadcast(array(module.threshold), shape)


def _feedback(module: snntorch.SpikingNeuron, shape: Shape) -> nir.NIRNode:
    """Return recurrent weights as a node; its bias, if any, acts from the first step on."""
    recurrent = module.recurrent
    if not module.all_to_all:
        weights = _broadcast(array(recurrent.V), shape)
        return nir.Linear(np.diag(weights)) if len(shape) == 1 else nir.Scale(weights)
    if isinstance(recurrent, nn.Linear) and len(shape) != 1:
        raise ValueError(
            f"linear_features is set, and it receives shape {shape}; not yet supported but for one "
            "dimension: flatten before it"
        )
    return to_node(recurrent, shape=shape, dt=1.0)


def _currents(module: snntorch.SpikingNeuron, shape: Shape, dt: float) -> nir.CubaLIF:
    threshold = _threshold(module, shape)
    alpha, beta = _decay(module.alpha, shape), _decay(module.beta, shape)
    tau_syn, tau_mem = time_constant(alpha, dt), time_constant(beta, dt)
    zero = np.zeros(shape)
    return nir.CubaLIF(
        tau_syn=tau_syn,
        tau_mem=tau_mem,
        r=tau_mem / dt,
        v_leak=zero,
        v_threshold=threshold,
        v_reset=zero.copy(),
        w_in=tau_syn / dt,
    )


def _decay(decay: Tensor, shape: Shape) -> Array:
    return _broadcast(array(decay.clamp(0, 1)), shape)


def _broadcast(values: Array, shape: Shape) -> Array:
    return np.array(np.broadcast_to(values, shape), dtype=np.float64)
