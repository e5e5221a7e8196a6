"""Networks of Norse that the page of conformance shows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import nir
import norse.torch as norse
import torch
from norse.torch.functional.reset import reset_subtract
from torch import Tensor, nn

from snu_norse.exchange import to_nir
from snu_norse.neurons import SNUCell, SNURecurrentCell, sSNUCell
from snu_norse.parameters import SNUParameters
from snu_norse.src import SRCCell, SRCParameters
from snu_plugin.testing import Case, Entry, entry


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


def conformance_classes() -> Iterator[Entry]:
    """Yield every class of Norse's: its name, settings, inputs, own run and export.

    Both take spikes ``(T, B, *inputs)``. Where they are ``None`` the settings say why.
    """
    v_th = torch.linspace(0.05, 0.3, 6)
    lif = norse.LIFParameters(v_th=v_th)
    box = norse.LIFBoxParameters(v_th=v_th)
    yield _entry("LIFBoxCell", "reset_value", norse.LIFBoxCell(box))
    subtract = norse.LIFBoxCell(box._replace(reset_method=reset_subtract))
    yield _entry("LIFBoxCell", "reset_subtract", subtract)
    half = norse.LIFBoxCell(box._replace(reset_method=_half))
    yield _entry("LIFBoxCell", "a reset_method of ones own", half)
    same = {
        "LIFCell": norse.LIFCell(lif),
        "LICell": norse.LICell(),
        "LIBoxCell": norse.LIBoxCell(),
        "IAFCell": norse.IAFCell(norse.IAFParameters(v_th=v_th)),
        "LIFRefracCell": norse.LIFRefracCell(norse.LIFRefracParameters(lif)),
        "LILinearCell": norse.LILinearCell(6, 3),
    }
    for kind, cell in same.items():
        yield _entry(kind, "", cell)
    leaking = norse.LICell(norse.LIParameters(v_leak=torch.tensor(0.1)))
    yield _entry("LICell", "v_leak=0.1", leaking)
    for name in ("LIFRecurrentCell", "LIFRefracRecurrentCell"):
        p = {"p": lif} if name == "LIFRecurrentCell" else {"p": norse.LIFRefracParameters(lif)}
        yield _entry(name, "", getattr(norse, name)(8, 6, **p), weights=False)
        whole = name.removesuffix("Cell")
        yield _entry(whole, "", getattr(norse, whole)(8, 6, **p), True, weights=False)
    for kind, layer in {"LIF": norse.LIF(lif), "LI": norse.LI()}.items():
        yield _entry(kind, "", layer, True)
    yield _entry("IAF", "", norse.IAF(norse.IAFParameters(v_th=v_th)), True)
    for name in ("LSNN", "LIFEx", "LIFAdEx"):
        yield _entry(f"{name}Cell", "", getattr(norse, f"{name}Cell")())
        yield _entry(name, "", getattr(norse, name)(), True)
        for more in ("RecurrentCell", "Recurrent"):
            yield _entry(f"{name}{more}", "", getattr(norse, f"{name}{more}")(6, 6))
    yield _entry("LIFAdExRefracCell", "", norse.LIFAdExRefracCell())
    for name in ("LIFAdExRefracRecurrentCell", "LIFAdExRefracRecurrent", "CobaLIFCell"):
        yield _entry(name, "", getattr(norse, name)(6, 6))
    for name in ("LIFMCRecurrentCell", "LIFMCRefracRecurrentCell", "LIFCorrelation"):
        yield _entry(name, "", getattr(norse, name)(6, 6))
    for name in ("Izhikevich", "IzhikevichCell"):
        yield _entry(name, "", getattr(norse, name)(norse.tonic_spiking))
    for name in ("IzhikevichRecurrent", "IzhikevichRecurrentCell"):
        yield _entry(name, "", getattr(norse, name)(6, 6, norse.tonic_spiking))
    for name in ("ConstantCurrentLIFEncoder", "PoissonEncoder", "PopulationEncoder"):
        yield _entry(name, "", getattr(norse, name)(5))
    for name in ("SignedPoissonEncoder", "SpikeLatencyLIFEncoder"):
        yield _entry(name, "", getattr(norse, name)(5))
    yield _entry("SpikeLatencyEncoder", "", norse.SpikeLatencyEncoder())
    yield _entry("SpikesToTimesDecoder", "", norse.SpikesToTimesDecoder())
    fields = [torch.tensor([v]) for v in (1.0, 0.5, 1.0)]
    for kind in ("SampledSpatialReceptiveField2d", "ParameterizedSpatialReceptiveField2d"):
        yield _entry(kind, "", getattr(norse, kind)(2, 3, *fields, 1), maps=True)
    filters = norse.SpatialReceptiveField2d(2, 3, torch.tensor([[1.0, 0.5, 1.0, 0.0, 0.0]]))
    yield _entry("SpatialReceptiveField2d", "", filters, maps=True)
    yield _entry("LConv2d", "", norse.LConv2d(2, 3, 2), True, maps=True)
    yield _entry("TemporalReceptiveField", "", norse.TemporalReceptiveField(torch.Size([6])))
    yield _entry("RegularizationCell", "", _Regularised(norse.LIFCell(lif)))
    for name in ("SequentialState", "Lift", "RecurrentSequential"):
        yield name, "a container: what is inside leaves", (), None, None
    for name in ("ConvNet", "ConvNet4", "VGG", "MobileNetV2"):
        yield name, "a network: it leaves where its modules do", (), None, None


class _Regularised(nn.Module):
    """A cell whose spikes are counted."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.regularise = cell, norse.RegularizationCell()

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        z, state = self.cell(x, state)
        z, _ = self.regularise(z, state)
        return z, state


def _half(z: Tensor, v: Tensor, reset: Tensor, threshold: Tensor) -> Tensor:
    return v - z * threshold / 2


def _entry(
    kind: str,
    settings: str,
    cell: nn.Module,
    sequence: bool = False,
    *,
    maps: bool = False,
    weights: bool = True,
) -> Entry:
    """Return the entry of a neuron, behind weights unless it has its own or takes ``maps``."""
    parts = [nn.Linear(8, 6)] if weights and not maps else []
    net = norse.SequentialState(*parts, cell)
    run = net if sequence else norse.Lift(net)
    return entry(kind, settings, lambda x: run(x)[0], partial(to_nir, net), sequence, maps)


@torch.no_grad()
def _run(net: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = norse.Lift(net)(x)[0]
    return y


def _plugin(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    return to_nir(net)


def _stock(net: nn.Module, x: Tensor) -> nir.NIRGraph:
    graph: nir.NIRGraph = norse.to_nir(net, x[0, 0])
    return graph
