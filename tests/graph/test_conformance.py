"""The table of conformance: exact, a share, or a reason."""

from __future__ import annotations

import inspect
from functools import partial
from importlib import import_module

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import conformance
from snu_plugin import simulators
from snu_plugin.graph import network, stamp, verify

DT = 2.0**-10


def graph(threshold: float) -> nir.NIRGraph:
    zero = np.zeros(8)
    lif = nir.LIF(zero + 2 * DT, zero + 2.0, zero, zero + threshold, zero)
    return stamp(nir.NIRGraph.from_list(lif), DT)


def refuse(x: Tensor) -> nir.NIRGraph:
    raise ValueError("NIR cannot\nsay it")


def test_a_row_is_exact_or_a_share_or_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "verify", partial(verify, simulators=[]))
    x = (torch.rand(50, 2, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    own = network(graph(0.5))

    def run(given: Tensor) -> Tensor:
        y, _ = own(given)
        assert isinstance(y, Tensor)
        return y

    exhibits = [
        conformance.Exhibit("host, plugin", "same", run, lambda x: graph(0.5)),
        conformance.Exhibit("host, stock", "other", run, lambda x: graph(1.2)),
        conformance.Exhibit("host, plugin", "refused", run, refuse),
    ]
    found = list(conformance.rows(exhibits, x))
    assert found[0][0].reference == "**exact**"
    assert found[1][0].reference.endswith("%")
    assert found[2] == (
        conformance.Row("host, plugin", "refused", "refused: NIR cannot say it", {}),
        None,
    )
    page = conformance.document([row for row, _ in found], {"nir": "1.0"})
    assert "| host, plugin | same | **exact** |" in page
    assert "|  |" not in page


@pytest.mark.parametrize("name", ["norse", "snntorch"])
def test_an_adapters_own_exports_are_exact_or_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "verify", partial(verify, simulators=[]))
    torch.manual_seed(0)
    x = (torch.rand(60, 3, 8) < 0.3).float()
    networks = simulators.adapter(name).conformance_networks()
    offered = [conformance.Exhibit(*one) for one in networks]
    ours = [e for e in offered if e.exporter.endswith("plugin")]
    told = {row.neuron: row.reference for row, _ in conformance.rows(ours, x)}
    assert all(t == "**exact**" or t.startswith("refused: 1: ") for t in told.values()), told
    assert sum(t == "**exact**" for t in told.values()) > 5


HOSTS = {"norse": "norse.torch", "snntorch": "snntorch"}


@pytest.mark.parametrize("name", HOSTS)
def test_every_class_that_a_host_lists_has_an_entry(name: str) -> None:
    host = import_module(HOSTS[name])
    listed = {
        key
        for key, value in vars(host).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    listed |= {key for key in dir(host) if key.startswith("BatchNorm")}
    entries = {entry.kind for entry in conformance.entries(name)}
    assert listed == entries, "a class without an entry, or an entry without its class"


REFUSED = {"norse": 32, "snntorch": 9}
"""Entries that do not leave; a smaller number is an improvement, to be written here."""


@pytest.mark.parametrize("name", HOSTS)
def test_every_class_leaves_exactly_or_is_refused_with_a_reason_of_our_own(name: str) -> None:
    torch.manual_seed(0)
    told = {
        (entry.kind, entry.settings): conformance.told(entry)
        for entry in conformance.entries(name)
        if entry.run is not None
    }
    assert all(t == "**exact**" or t.startswith("refused: ") for t in told.values()), told
    refused = [t for t in told.values() if t != "**exact**"]
    assert not any("does not run on a sample" in t for t in refused), refused
    assert len(refused) == REFUSED[name]
