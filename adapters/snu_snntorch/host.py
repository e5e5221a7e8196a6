"""snnTorch's own neurons as NIR nodes, where NIR can say them exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import nir
import numpy as np
import snntorch
from numpy.typing import NDArray
from torch import Tensor, nn

from snu_plugin.graph.layers import (
    array,
    encode_snu,
    nearest,
    time_constant,
    to_node,
)
from snu_plugin.neuron import SNUConfig
from snu_snntorch.unit import Stateful

Array = NDArray[Any]
Shape = tuple[int, ...]


WHY = {
    snntorch.Lapicque: "Lapicque silences the input, too, in the step after a spike",
    snntorch.Alpha: "Alpha's potential is the difference of two currents; NIR's neurons have one",
    snntorch.RSynaptic: "RSynaptic resets in the step after a spike, and silences its input there",
}
"""Why some of snnTorch's neurons have no exact form, whatever their settings."""


@to_node.register
def _other(module: snntorch.SpikingNeuron, *, shape: Shape, dt: float) -> nir.NIRNode:
    kind = type(module)
    why = WHY.get(kind, f"{kind.__qualname__} is none of snnTorch's own; add a rule for it")
    raise TypeError(f"{kind.__name__} has no form in NIR that is exact: {why}")


@to_node.register
def _leaky(module: snntorch.Leaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF: with a reset to zero, at once or delayed, ``Leaky`` is an SNU."""
    if _never_resets(module):
        return _integrator_and_threshold(_nearest_leaky(module, shape=shape, dt=dt), shape)
    _check_reset(module, shape, delayed=True)
    return _nearest_leaky(module, shape=shape, dt=dt)


@nearest.register
def _nearest_leaky(module: snntorch.Leaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    return encode_snu(SNUConfig(), _decay(module.beta, shape), _threshold(module, shape), dt=dt)


@to_node.register
def _rleaky(module: snntorch.RLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF and its loop; the bias of the recurrent path is moved by ``to_nir``."""
    _check_reset(module, shape, delayed=False)
    return _nearest_rleaky(module, shape=shape, dt=dt)


@nearest.register
def _nearest_rleaky(module: snntorch.RLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    return _with_loop(module, _nearest_leaky(module, shape=shape, dt=dt), shape)


@to_node.register
def _synaptic(module: snntorch.Synaptic, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the CubaLIF; both its gains are 1 per step."""
    if _never_resets(module):
        return _integrator_and_threshold(_nearest_synaptic(module, shape=shape, dt=dt), shape)
    _check_reset(module, shape, delayed=False)
    return _nearest_synaptic(module, shape=shape, dt=dt)


@nearest.register
def _nearest_synaptic(module: snntorch.Synaptic, *, shape: Shape, dt: float) -> nir.NIRNode:
    return _currents(module, shape, dt)


@nearest.register
def _nearest_rsynaptic(module: snntorch.RSynaptic, *, shape: Shape, dt: float) -> nir.NIRNode:
    return _with_loop(module, _currents(module, shape, dt), shape)


@nearest.register
def _nearest_lapicque(module: snntorch.Lapicque, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF of the same circuit: ``v += time_step / (R C) (R x - v)``."""
    resistance = _broadcast(array(module.R), shape)
    rate = array(module.time_step) / (resistance * _broadcast(array(module.C), shape))
    if not ((rate > 0) & (rate <= 1)).all():
        raise ValueError("time_step / (R C) does not lie in (0, 1]; NIR's steps overshoot there")
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


nearest.register(Stateful, nearest.dispatch(object))  # ours are Lapicque by name alone


def _currents(module: snntorch.SpikingNeuron, shape: Shape, dt: float) -> nir.CubaLIF:
    threshold = _threshold(module, shape)
    alpha, beta = _decay(module.alpha, shape), _decay(module.beta, shape)
    if (alpha == 1).any() or (beta == 1).any():
        raise ValueError("alpha or beta is 1; NIR's CubaLIF always leaks")
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


def _with_loop(module: snntorch.SpikingNeuron, node: nir.NIRNode, shape: Shape) -> nir.NIRGraph:
    weight, bias = _feedback(module, shape)
    back = nir.Linear(weight) if bias is None else nir.Affine(weight, bias)
    edges = [("lif", "w_rec"), ("w_rec", "lif")]
    return nir.NIRGraph({"lif": node, "w_rec": back}, edges, metadata={}, type_check=False)


def _never_resets(module: snntorch.SpikingNeuron) -> bool:
    """Tell whether a neuron was built without a reset and is not labelled with one that acts."""
    labelled = not module.reset_delay and int(module.reset_mechanism_val) != 2
    return module.state_function.__name__ == "_base_int" and not labelled


def _integrator_and_threshold(node: nir.NIRNode, shape: Shape) -> nir.NIRGraph:
    """Return a neuron that never resets: what integrates, and a threshold behind it."""
    port = np.array(shape, dtype=int)
    if isinstance(node, nir.CubaLIF):
        membrane = nir.CubaLI(node.tau_syn, node.tau_mem, node.r, node.v_leak, node.w_in)
    elif isinstance(node, nir.LIF):
        membrane = nir.LI(node.tau, node.r, node.v_leak)
    else:
        membrane = nir.I(node.r)
    nodes = {
        "input": nir.Input(input_type={"input": port}),
        "mem": membrane,
        "spike": nir.Threshold(node.v_threshold),
        "output": nir.Output(output_type={"output": port}),
    }
    names = list(nodes)
    edges = list(pairwise(names))
    return nir.NIRGraph(nodes, edges, metadata={}, type_check=False)


def _check_reset(module: snntorch.SpikingNeuron, shape: Shape, *, delayed: bool) -> None:
    """Refuse a neuron whose reset is not NIR's.

    What counts is the reset that the neuron was built with: assigning ``reset_mechanism`` or
    loading another changes the label, not the computation (leaky.py, l. 175-180).
    """
    reset = module.state_function.__name__
    if reset != "_base_zero":
        name = {"_base_sub": "subtract", "_base_int": "none"}.get(reset, reset)
        raise ValueError(
            f"it resets by {name!r}; NIR can only say a reset to a value: "
            "use reset_mechanism='zero', or snu_snntorch.SNU"
        )
    if module.reset_delay and not delayed:
        raise ValueError(
            "reset_delay is True, which here silences the input too after a spike; NIR cannot say "
            "that: use reset_delay=False, or snu_snntorch.RSNU"
        )
    if not module.reset_delay and (_broadcast(array(module.threshold), shape) < 0).any():
        raise ValueError("a threshold is negative; with reset_delay=False NIR resets otherwise")


def _threshold(module: snntorch.SpikingNeuron, shape: Shape) -> Array:
    """Return the thresholds of a neuron of snnTorch's own; refuse what no reset can help."""
    if not type(module).__module__.startswith("snntorch."):
        raise TypeError(
            f"{type(module).__name__} is derived from snnTorch's neurons and may compute "
            "something else; add a rule with @to_node.register"
        )
    if module.inhibition or module.state_quant:
        name = "inhibition" if module.inhibition else "state_quant"
        raise ValueError(f"{name} is set; NIR cannot say it")
    if (array(module.graded_spikes_factor) != 1).any():
        raise ValueError("graded_spikes_factor is not 1; NIR's spikes are: scale the next weights")
    return _broadcast(array(module.threshold), shape)


def _feedback(module: snntorch.SpikingNeuron, shape: Shape) -> tuple[Array, Array | None]:
    if len(shape) != 1:
        raise ValueError(f"a recurrent layer of shape {shape} has no matrix that NIR could say")
    if not module.all_to_all:
        return np.diag(_broadcast(array(module.recurrent.V), shape)), None
    if not isinstance(module.recurrent, nn.Linear):
        raise ValueError("its recurrence is a convolution; only linear_features can be exported")
    bias = module.recurrent.bias
    return array(module.recurrent.weight), None if bias is None else array(bias)


def _decay(decay: Tensor, shape: Shape) -> Array:
    return _broadcast(array(decay.clamp(0, 1)), shape)


def _broadcast(values: Array, shape: Shape) -> Array:
    return np.array(np.broadcast_to(values, shape), dtype=np.float64)
