"""Networks of snnTorch that the page of conformance shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import nir
import snntorch
import torch
from torch import Tensor, nn

from snu_plugin.schedule import aligned
from snu_snntorch.exchange import to_nir
from snu_snntorch.neurons import RSNU, SNU, sSNU
from snu_snntorch.src import SRC
from snu_snntorch.unit import reset

Case = tuple[str, str, Callable[[Tensor], Tensor], Callable[[Tensor], nir.NIRGraph], float | None]

ZERO: dict[str, Any] = {"reset_mechanism": "zero", "reset_delay": False}


def conformance_networks() -> Iterator[Case]:
    """Yield exporter, kind of neuron, own run, export, and dt where the graph declares none."""
    keep: dict[str, Any] = {"threshold": torch.full((6,), 0.3), "init_hidden": True}
    beta, alpha = torch.full((6,), 0.9), torch.full((6,), 0.7)
    own = {
        "Leaky zero": snntorch.Leaky(beta=beta, **ZERO, **keep),
        "Leaky subtract (default)": snntorch.Leaky(beta=beta, **keep),
        "Leaky none": snntorch.Leaky(beta=beta, reset_mechanism="none", **keep),
        "RLeaky zero": snntorch.RLeaky(beta=beta, linear_features=6, **ZERO, **keep),
        "RLeaky default": snntorch.RLeaky(beta=beta, linear_features=6, **keep),
        "Synaptic zero": snntorch.Synaptic(alpha=alpha, beta=beta, **ZERO, **keep),
        "Synaptic default": snntorch.Synaptic(alpha=alpha, beta=beta, **keep),
        "RSynaptic default": snntorch.RSynaptic(alpha, beta, linear_features=6, **keep),
        "Lapicque default": snntorch.Lapicque(beta=0.9, **keep),
        "Alpha default": snntorch.Alpha(alpha=0.9, beta=0.7, **keep),
    }
    ours = {
        "SNU": SNU(beta=0.9, **keep),
        "SNU, ReLU": SNU(beta=0.9, g="relu", **keep),
        "RSNU": RSNU(beta=0.9, linear_features=6, **keep),
        "sSNU": sSNU(beta=0.9, init_hidden=True),
        "SRC": SRC(-4.0, init_hidden=True),
    }
    for kind, neuron in (own | ours).items():
        net = nn.Sequential(nn.Linear(8, 6), neuron)
        yield "snntorch, plugin", kind, partial(_run, net), partial(_plugin, net), None
        if kind in own:
            yield "snntorch, stock", kind, partial(_run, net), partial(_stock, net), None


@torch.no_grad()
def _run(net: nn.Module, x: Tensor) -> Tensor:
    reset(net)
    y = torch.stack([net(x_t) for x_t in map(aligned, x)])
    reset(net)
    return y


def _plugin(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    return to_nir(net)


def _stock(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    from snntorch.export_nir import export_to_nir

    graph: nir.NIRGraph = export_to_nir(net, x[0, 0])
    return graph
