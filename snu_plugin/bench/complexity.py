"""How large, how sparse and how busy a network is, as NeuroBench counts it.

Definitions: Yik et al., Nat. Commun. 16, 1545 (2025), arXiv 2304.04640. ``footprint_bytes``: all
parameters and constants, in float32. ``activation_sparsity``: share of zeros among the outputs of
all neurons, over all steps and samples. ``dense``: synaptic operations a sample (all its steps) if
every input and weight counted; ``effective_acs`` and ``effective_macs``: those whose input and
weight are both not zero, additions where a layer's inputs are 0, 1 or -1, else multiplications.
Biases do not count; in a loop the products of the last step do, which reach nobody any more.
"""

from __future__ import annotations

import copy
from importlib import import_module
from importlib.metadata import version
from typing import Any

import nir
import torch
from torch import Tensor, nn

from snu_plugin import simulators
from snu_plugin.graph import Network, discretise, summed_input


@torch.no_grad()
def counted(graph: nir.NIRGraph, x: Tensor, dt: float | None = None) -> dict[str, float]:
    """Return the definitions above, counted in the strict reference on ``x``, ``(T, B, ...)``."""
    net = Network(discretise(graph, dt), torch.float32)
    values, _ = net.run(x)
    fired = [values[name] for name in net.discrete.neurons]
    active = sum(int(y.count_nonzero()) for y in fired)
    total = sum(y.numel() for y in fired)
    numbers = {"effective_acs": 0.0, "effective_macs": 0.0, "dense": 0.0}
    for name in net.names:
        layer = net.node(name)
        if getattr(layer, "weight", None) is None:
            continue
        given = summed_input(net.discrete, name, values)
        kind = "acs" if bool(((given == 0) | (given.abs() == 1)).all()) else "macs"
        numbers[f"effective_{kind}"] += _operations(layer, given != 0, every=False)
        numbers["dense"] += _operations(layer, torch.ones_like(given), every=True)
    tensors = (*net.parameters(), *net.buffers())
    return {
        "footprint_bytes": float(sum(t.numel() * t.element_size() for t in tensors)),
        "activation_sparsity": 1 - active / total if total else 0.0,
        **{name: number / x.shape[1] for name, number in numbers.items()},
    }


def _operations(layer: nn.Module, given: Tensor, *, every: bool) -> float:
    """Return the pairs of a counted input and a counted weight that meet in a layer."""
    ones = copy.deepcopy(layer).double()
    for name, values in ones.named_parameters():
        weight = name == "weight"
        values.copy_((values != 0) | every if weight else torch.zeros_like(values))
    return float(ones(given.double(), None)[0].sum())


class _Steps(nn.Module):
    """A snnTorch network over ``(B, T, ...)``, as NeuroBench feeds it."""

    def __init__(self, net: nn.Module, reset: Any) -> None:
        super().__init__()
        self.net, self.reset = net, reset

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.net)
        return torch.stack([self.net(x_t) for x_t in x.transpose(0, 1)], 1)


@torch.no_grad()
def by_library(graph: nir.NIRGraph, x: Tensor, dt: float | None = None) -> dict[str, Any]:
    """Return the same, by the NeuroBench library on the graph imported into snnTorch.

    Written for neurobench 2.3.

    Raises:
        ImportError: Where neurobench or snnTorch is not installed.
        ValueError: For a graph that snnTorch cannot run.
    """
    models = import_module("neurobench.models")
    static, workload = (import_module(f"neurobench.metrics.{n}") for n in ("static", "workload"))
    host = simulators.adapter("snntorch")
    model = models.TorchModel(_Steps(host.from_nir(graph, dt), host.reset))
    model.add_activation_module(import_module("snntorch").SpikingNeuron)
    data = (x.transpose(0, 1).float(), torch.zeros(x.shape[1]))
    footprint = static.Footprint()(model)  # before states are there, as NeuroBench does
    model.register_hooks()
    try:
        preds = model(data[0])
        sparsity = workload.ActivationSparsity()(model, preds, data)
        operations = workload.SynapticOperations()(model, preds, data)
    finally:
        model.cleanup_hooks()
    return {
        "footprint_bytes": float(footprint),
        "activation_sparsity": float(sparsity),
        "effective_acs": float(operations["Effective_ACs"]),
        "effective_macs": float(operations["Effective_MACs"]),
        "dense": float(operations["Dense"]),
        "version": version("neurobench"),
    }
