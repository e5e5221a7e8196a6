"""snnTorch's own neurons as NIR nodes, where NIR can say them exactly."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import snntorch
from numpy.typing import NDArray
from torch import nn

from snu_plugin.graph import encode, export
from snu_plugin.graph.wire import time_constant
from snu_plugin.neuron import SNUConfig

Array = NDArray[Any]
Shape = tuple[int, ...]


@export.to_node.register
def _other(module: snntorch.SpikingNeuron, *, shape: Shape, dt: float) -> nir.NIRNode:
    raise TypeError(f"snntorch.{type(module).__name__} has no form in NIR that is exact")


@export.to_node.register
def _leaky(module: snntorch.Leaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF: with a reset to zero, at once or delayed, ``Leaky`` is an SNU."""
    threshold = _threshold(module, shape, delayed=True)
    return encode(SNUConfig(), _held(module.beta, shape), threshold, dt=dt)


@export.to_node.register
def _rleaky(module: snntorch.RLeaky, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the LIF and its loop; the bias of the recurrent path is moved by ``to_nir``."""
    threshold = _threshold(module, shape, delayed=False)
    weight, bias = _feedback(module, shape)
    decay = _held(module.beta, shape)
    graph = encode(SNUConfig(), decay, threshold, dt=dt, recurrent=weight)
    if bias is not None:
        graph.nodes["w_rec"] = nir.Affine(graph.nodes["w_rec"].weight, bias)
    return graph


@export.to_node.register
def _synaptic(module: snntorch.Synaptic, *, shape: Shape, dt: float) -> nir.NIRNode:
    """Return the CubaLIF; both its gains are 1 per step."""
    threshold = _threshold(module, shape, delayed=False)
    alpha, beta = _held(module.alpha, shape), _held(module.beta, shape)
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


def _threshold(module: Any, shape: Shape, *, delayed: bool) -> Array:
    """Return the thresholds of a neuron whose reset is NIR's; refuse it otherwise.

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
    if module.inhibition or module.state_quant:
        name = "inhibition" if module.inhibition else "state_quant"
        raise ValueError(f"{name} is set; NIR cannot say it")
    if (export.array(module.graded_spikes_factor) != 1).any():
        raise ValueError("graded_spikes_factor is not 1; NIR's spikes are: scale the next weights")
    threshold = _full(export.array(module.threshold), shape)
    if not module.reset_delay and (threshold < 0).any():
        raise ValueError("a threshold is negative; with reset_delay=False NIR resets otherwise")
    return threshold


def _feedback(module: snntorch.RLeaky, shape: Shape) -> tuple[Array, Array | None]:
    if len(shape) != 1:
        raise ValueError(f"a recurrent layer of shape {shape} has no matrix that NIR could say")
    if not module.all_to_all:
        return np.diag(_full(export.array(module.recurrent.V), shape)), None
    if not isinstance(module.recurrent, nn.Linear):
        raise ValueError("its recurrence is a convolution; only linear_features can be exported")
    bias = module.recurrent.bias
    return export.array(module.recurrent.weight), None if bias is None else export.array(bias)


def _held(decay: Any, shape: Shape) -> Array:
    return _full(export.array(decay.clamp(0, 1)), shape)


def _full(values: Array, shape: Shape) -> Array:
    return np.array(np.broadcast_to(values, shape), dtype=np.float64)
