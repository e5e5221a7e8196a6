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
from snu_plugin.testing import Case, Entry, entry
from snu_snntorch.exchange import to_nir
from snu_snntorch.neurons import RSNU, SNU, sSNU
from snu_snntorch.src import SRC
from snu_snntorch.unit import reset

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


def conformance_classes() -> Iterator[Entry]:
    """Yield every class of snnTorch's: its name, settings, inputs, own run and export.

    Both take spikes ``(T, B, *inputs)``. Where they are ``None`` the settings say why.
    """
    beta, alpha = torch.linspace(-0.1, 1.1, 6), torch.linspace(0.0, 1.0, 6)
    one_to_one: dict[str, Any] = {"all_to_all": False, "V": 0.4}
    maps: dict[str, Any] = {"conv2d_channels": 6, "kernel_size": 3}
    delayed: dict[str, tuple[str, Callable[..., nn.Module]]] = {
        "": ("Leaky", partial(snntorch.Leaky, beta)),
        " all to all": ("RLeaky", partial(snntorch.RLeaky, beta, linear_features=6)),
        " one to one": ("RLeaky", partial(snntorch.RLeaky, beta, **one_to_one)),
        " of maps": ("RLeaky", partial(snntorch.RLeaky, 0.8, **maps)),
        " ": ("Synaptic", partial(snntorch.Synaptic, alpha, beta)),
    }
    for reset_mechanism in ("subtract", "zero", "none"):
        for delay in (True, False):
            told = f"{reset_mechanism}, {'delayed' if delay else 'at once'}"
            settings = {"reset_mechanism": reset_mechanism, "reset_delay": delay} | KEEP
            for more, (kind, make) in delayed.items():
                yield _entry(kind, told + more.rstrip(), make(**settings), maps=more == " of maps")
        told = f"{reset_mechanism}, delayed"
        settings = {"reset_mechanism": reset_mechanism} | KEEP
        for more, how in ((" all to all", {"linear_features": 6}), (" one to one", one_to_one)):
            neuron = snntorch.RSynaptic(alpha, beta, **how, **settings)
            yield _entry("RSynaptic", told + more, neuron)
        yield _entry("Lapicque", told, snntorch.Lapicque(torch.tensor(0.7), **settings))
        yield _entry("Alpha", told, snntorch.Alpha(0.9, 0.7, **settings))
    yield "RSynaptic", "at once: snnTorch's own forward fails", (), None, None
    graded = snntorch.Leaky(0.9, graded_spikes_factor=2.5, **KEEP)
    yield _entry("Leaky", "subtract, graded spikes", graded)
    quantised = snntorch.Leaky(0.9, state_quant=torch.round, **KEEP)
    yield _entry("Leaky", "subtract, state_quant", quantised)
    negative = snntorch.Leaky(0.9, **KEEP | {"threshold": -0.1})
    yield _entry("Leaky", "subtract, a negative threshold", negative)
    yield _entry("DeltaLeaky", "", snntorch.DeltaLeaky(0.4, beta=0.7, **KEEP))
    for steps in (None, 4):
        told = "" if steps is None else f"kernel_truncation_steps={steps}"
        kernel: dict[str, Any] = {"threshold": 0.3, "kernel_truncation_steps": steps}
        yield _entry("StateLeaky", told, snntorch.StateLeaky(torch.rand(6), 6, **kernel), True)
        linear = snntorch.LinearLeaky(torch.tensor(0.8), 8, 6, **kernel)
        yield _entry("LinearLeaky", told, linear, True, weights=False)
    whole = {
        "LeakyParallel": snntorch.LeakyParallel(8, 6),
        "AssociativeLeaky": snntorch.AssociativeLeaky(8, 2, 3, 6),
    }
    for kind, neuron in whole.items():
        yield _entry(kind, "", neuron, True, weights=False)
    yield _entry("SLSTM", "", snntorch.SLSTM(6, 6, init_hidden=True))
    yield _entry("SConv2dLSTM", "", snntorch.SConv2dLSTM(6, 6, 3, init_hidden=True), maps=True)
    yield _entry("GradedSpikes", "of channels", snntorch.GradedSpikes(3, None), maps=True)
    yield _entry("GradedSpikes", "of samples", snntorch.GradedSpikes(4, None))
    for name in ("BatchNormTT1d", "BatchNormTT2d"):
        yield (
            name,
            "a list of layers, of which each step takes another: call one of them",
            (),
            None,
            None,
        )
    for name in ("SpikingNeuron", "LIF"):
        yield name, "a base class, without a forward of its own", (), None, None


KEEP: dict[str, Any] = {"threshold": 0.3, "init_hidden": True}


def _entry(
    kind: str,
    settings: str,
    neuron: nn.Module,
    sequence: bool = False,
    *,
    maps: bool = False,
    weights: bool = True,
) -> Entry:
    """Return the entry of a neuron: behind weights, or for ``maps`` behind a convolution."""
    net: nn.Module = _First(nn.Sequential(nn.Linear(8, 6), neuron) if weights else neuron)
    if maps:
        net = nn.Sequential(nn.Conv2d(2, 6, 1), neuron)
    run = net if sequence else partial(_run, net)
    return entry(kind, settings, run, partial(to_nir, net), sequence, maps)


class _First(nn.Module):
    """A network's first output alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        first: Tensor = y[0] if isinstance(y, tuple) else y
        return first


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
