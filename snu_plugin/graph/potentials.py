"""Membrane potentials of a graph's neurons over a sequence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from snu_plugin.accepted import shown
from snu_plugin.graph.reference_network import Network, Signal, summed_input
from snu_plugin.neuron import Euler, euler_step, initial


def potentials(x: Tensor, neuron: Euler) -> Tensor:
    """Return the membrane potential of every step before its reset, ``(T, B, ...)``."""
    passive = replace(neuron, threshold=None)
    state = initial(x[0], neuron)
    out = []
    for x_t in x:
        out.append(euler_step(x_t, state, passive)[0])
        state = euler_step(x_t, state, neuron)[1]
    return torch.stack(out)


@torch.no_grad()
def membranes(net: Network, x: Signal) -> dict[str, Tensor]:
    """Return the potential before the reset of every neuron of a graph, by node.

    Args:
        net: From ``network``.
        x: ``(T, B, ...)``, or a dict of these by Input.

    Returns:
        ``(T, B, ...)`` for each node with a membrane, in the order in which they run.

    >>> import nir, numpy as np
    >>> from snu_plugin.graph import network
    >>> half = nir.LIF(*(np.array([v]) for v in (2.0, 2.0, 0.0, 1.0)))
    >>> net = network(nir.NIRGraph.from_list(half), dt=1.0)
    >>> membranes(net, torch.full((3, 1, 1), 0.75))["lif"].flatten()
    tensor([0.7500, 1.1250, 0.7500])
    """
    if not isinstance(net, Network):
        raise TypeError(f"net is {shown(net)}; it must be a Network, which network(graph) makes")
    values, _ = net.run(x)
    neurons = net.discrete.neurons
    return {
        name: potentials(drive, neurons[name].to(drive))
        for name in net.discrete.wiring.names
        if name in neurons and (drive := summed_input(net.discrete, name, values)) is not None
    }
