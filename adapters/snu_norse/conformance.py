"""Networks of Norse that the page of conformance shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import nir
import norse.torch as norse
import torch
from norse.torch.functional.reset import reset_subtract
from torch import Tensor, nn

from snu_norse.exchange import to_nir
from snu_norse.neurons import SNUCell, SNURecurrentCell, sSNUCell
from snu_norse.parameters import SNUParameters
from snu_norse.src import SRCCell, SRCParameters

Case = tuple[str, str, Callable[[Tensor], Tensor], Callable[[Tensor], nir.NIRGraph], float | None]


def conformance_networks() -> Iterator[Case]:
    """Yield exporter, kind of neuron, own run, export, and dt where the graph declares none."""
    full = torch.ones(6)
    lif = norse.LIFParameters(200 * full, 100 * full, 0 * full, 0.1 * full, 0 * full)
    box = norse.LIFBoxParameters(100 * full, 0 * full, 0.1 * full, 0 * full)
    own = {
        "LIFBoxCell": norse.LIFBoxCell(box),
        "LIFBoxCell, v_leak 0.05": norse.LIFBoxCell(box._replace(v_leak=0.05 * full)),
        "LIFBoxCell, subtract": norse.LIFBoxCell(box._replace(reset_method=reset_subtract)),
        "LIFCell": norse.LIFCell(lif),
        "LIFRecurrentCell": norse.LIFRecurrentCell(6, 6, lif._replace(v_leak=torch.tensor(0.0))),
        "LICell": norse.LICell(norse.LIParameters(200 * full, 100 * full, 0 * full)),
        "IAFCell": norse.IAFCell(norse.IAFParameters(full, 0 * full)),
    }
    p = SNUParameters(0.9, 0.3)
    ours = {
        "SNUCell": SNUCell(p),
        "SNURecurrentCell": SNURecurrentCell(6, 6, p),
        "sSNUCell": sSNUCell(SNUParameters(0.9)),
        "SRCCell": SRCCell(SRCParameters(-4.0)),
    }
    for kind, neuron in (own | ours).items():
        net = norse.SequentialState(nn.Linear(8, 6), neuron)
        yield "norse, plugin", kind, partial(_run, net), partial(_plugin, net), None
        if kind in own:
            yield "norse, stock", kind, partial(_run, net), partial(_stock, net), 1e-3


@torch.no_grad()
def _run(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = norse.Lift(net)(x)[0]
    return y


def _plugin(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    return to_nir(net)


def _stock(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    graph: nir.NIRGraph = norse.to_nir(net, x[0, 0])
    return graph
