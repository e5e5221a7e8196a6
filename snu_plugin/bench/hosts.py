"""Other people's neurons nearest to the SNU: decay 0.8, threshold 1, reset to zero.

Written for snntorch 1.0, norse 1.1, spikingjelly 2.0, sinabs 3.1 and jax 0.10. Each raises
``ImportError`` where it is not installed, and is imported only when it is timed.
"""

from __future__ import annotations

import itertools
import math
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snu_plugin import simulators
from snu_plugin.bench.workload import Call, Cell, Stateless, Stepped, Workload
from snu_plugin.neuron import SNUConfig, reference

DECAY = 0.8


class _Remembered(nn.Module):
    """A snnTorch neuron, which returns spikes and potential, as a cell."""

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        y, mem = self.neuron(x, self.neuron.reset_mem() if state is None else state)
        return y, mem


def _leaky() -> nn.Module:
    return _Remembered(import_module("snntorch").Leaky(beta=DECAY, reset_mechanism="zero"))


def leaky(features: int) -> nn.Module:
    """Return snnTorch's ``Leaky``, stepped after one product for all steps."""
    return Stepped(_leaky())


def leaky_by_steps(work: Workload) -> Call:
    """Time a snnTorch network as its tutorials write it: the loop over time holds every layer."""
    return _by_steps(work, _leaky)


def snu_by_steps(work: Workload) -> Call:
    """Time the same loop with this plugin's ``snu_snntorch.SNU``."""
    host = simulators.adapter("snntorch")
    return _by_steps(work, lambda: _Remembered(host.SNU(beta=DECAY)))


def _by_steps(work: Workload, neuron: Any) -> Call:
    cells: list[Cell] = []
    for inputs, outputs in itertools.pairwise(work.sizes):
        cells += [Stateless(nn.Linear(inputs, outputs)), neuron()]
    return work.train(Stepped(*cells))


def snu_sequence(features: int) -> nn.Module:
    """Return this plugin's ``snu_snntorch.SNUSequence``."""
    layer: nn.Module = simulators.adapter("snntorch").SNUSequence(beta=DECAY)
    return layer


def lif_box(features: int) -> nn.Module:
    """Return Norse's ``LIFBoxCell``, stepped."""
    return Stepped(import_module("norse.torch").LIFBoxCell())


class _SpikingJelly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        neuron = import_module("spikingjelly.activation_based.neuron")
        self.reset = import_module("spikingjelly.activation_based.functional").reset_net
        self.node = neuron.LIFNode(
            tau=1 / (1 - DECAY), decay_input=False, v_reset=0.0, step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.node)
        y: Tensor = self.node(x)
        return y


def spikingjelly(features: int) -> nn.Module:
    """Return SpikingJelly's ``LIFNode`` over all steps; it picks its own fused kernels."""
    return _SpikingJelly()


class _Sinabs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, activation = (import_module(f"sinabs.{name}") for name in ("layers", "activation"))
        self.layer = layers.LIF(
            tau_mem=-1 / math.log(DECAY),
            norm_input=False,
            spike_fn=activation.SingleSpike,
            reset_fn=activation.MembraneReset(),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.layer.reset_states()  # it takes batch first, then time
        y: Tensor = self.layer(x.transpose(0, 1)).transpose(0, 1)
        return y


def sinabs(features: int) -> nn.Module:
    """Return the ``LIF`` of sinabs, with a reset to zero and one spike a step at most."""
    return _Sinabs()


def jax_scan(work: Workload) -> Call:
    """Time products and SNU in JAX: ``lax.scan`` over time, compiled whole by XLA."""
    x, gradient = (_to_jax(value) for value in work.draw())
    jax = import_module("jax")
    draw = np.random.default_rng(0)
    layers = [
        (
            jax.numpy.asarray(draw.normal(0, i**-0.5, (i, o)), dtype="float32"),
            jax.numpy.zeros(o, "float32"),
            jax.numpy.ones(o, "float32"),
        )
        for i, o in itertools.pairwise(work.sizes)
    ]

    def net(layers: Any, x: Any) -> Any:
        for weight, bias, threshold in layers:
            x = _jax_snu(jax, x @ weight + bias, threshold)
        return x

    both = jax.jit(lambda layers, x, gradient: jax.vjp(net, layers, x)[1](gradient)[0])
    return lambda: jax.block_until_ready(both(layers, x, gradient))


def jax_alone(work: Workload) -> Call:
    """Time the SNU alone in JAX, with the gradients of input and thresholds."""
    _, gradient = (_to_jax(value) for value in work.draw())
    jax = import_module("jax")
    threshold = jax.numpy.ones(work.sizes[-1], "float32")

    def layer(x: Any, threshold: Any) -> Any:
        return _jax_snu(jax, x, threshold)

    both = jax.jit(lambda x, threshold, gradient: jax.vjp(layer, x, threshold)[1](gradient))
    return lambda: jax.block_until_ready(both(gradient, threshold, gradient))


def _to_jax(value: Tensor) -> Any:
    return import_module("jax.numpy").asarray(value.numpy(force=True))


def _jax_snu(jax: Any, x: Any, threshold: Any) -> Any:
    fire = jax.custom_jvp(lambda z: (z > 0).astype(z.dtype))

    @fire.defjvp  # type: ignore[untyped-decorator]
    def _(primal: Any, tangent: Any) -> Any:
        return fire(primal[0]), (1 - jax.numpy.tanh(primal[0]) ** 2) * tangent[0]

    def step(v: Any, x_t: Any) -> Any:
        s = x_t + DECAY * v
        y = fire(s - threshold)
        return s * (1 - y), y

    return jax.lax.scan(step, jax.numpy.zeros_like(x[0]), x)[1]


def compiled(features: int) -> nn.Module:
    """Return the reference step compiled by ``torch.compile``, stepped."""
    config = SNUConfig(decay=DECAY)
    step = torch.compile(reference.snu_step, dynamic=False)

    class Compiled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.threshold = nn.Parameter(torch.ones(features))

        def forward(self, x: Tensor, state: Any) -> Any:
            if state is None:
                state = reference.State(torch.zeros_like(x), torch.zeros_like(x))
            return step(x, state, config, threshold=self.threshold)

    return Stepped(Compiled())
