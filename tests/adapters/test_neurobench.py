"""NeuroBench's wrapper, metrics and export take networks of ours and imported graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import snntorch
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import snu_snntorch as st
from snu_plugin import graph

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph is being deprecated"),
]

STEPS, SAMPLES, CLASSES = 6, 8, 5


def own() -> nn.Module:
    hidden: dict[str, Any] = {"beta": 0.8, "threshold": 0.3, "init_hidden": True}
    return nn.Sequential(
        nn.Linear(12, 16), st.SNU(**hidden), nn.Linear(16, CLASSES), st.SNU(**hidden, output=True)
    )


def imported() -> nn.Module:
    """Return a network of ours that went through NIR."""
    net: Any = st.from_nir(st.to_nir(own(), torch.rand(1, 12)))
    net[-1].output = True  # its wrapper takes spikes and states
    return net  # type: ignore[no-any-return]


def benchmark(net: nn.Module, *metrics: str) -> Any:
    bench = pytest.importorskip("neurobench.benchmarks")
    models = pytest.importorskip("neurobench.models")
    static = pytest.importorskip("neurobench.metrics.static")
    workload = pytest.importorskip("neurobench.metrics.workload")
    data = TensorDataset(
        (torch.rand(SAMPLES, STEPS, 12) < 0.5).float(), torch.arange(SAMPLES) % CLASSES
    )
    named = [getattr(workload, name) for name in metrics]
    counted = [static.ParameterCount, static.Footprint, static.ConnectionSparsity]
    choose = lambda spikes: spikes.sum(1).argmax(-1)  # noqa: E731
    return bench.Benchmark(
        models.SNNTorchModel(net), DataLoader(data, 4), [], [choose], [counted, named]
    )


@pytest.mark.parametrize("net", [own, imported])
def test_metrics_are_those_of_the_network(net: Any) -> None:
    pytest.importorskip("neurobench")
    model = net()
    metrics = (
        "ClassificationAccuracy",
        "ActivationSparsity",
        "SynapticOperations",
        "MembraneUpdates",
    )
    found = benchmark(model, *metrics).run(quiet=True)
    assert found["ParameterCount"] == sum(p.numel() for p in model.parameters())
    assert 0 <= found["ClassificationAccuracy"] <= 1
    assert 0 < found["ActivationSparsity"] < 1
    assert found["SynapticOperations"]["Effective_ACs"] > 0
    assert found["MembraneUpdates"] > 0


def test_its_export_is_ours_after_register(tmp_path: Path) -> None:
    pytest.importorskip("neurobench")
    net, path = own(), tmp_path / "net.nir"
    st.register()
    try:
        benchmark(net).to_nir(torch.rand(1, 12), str(path), ignore_dims=[0])
    finally:
        st.unregister()
    neurons = [type(node).__name__ for node in graph.read(path).nodes.values()]
    assert {"Input", "Output", "Affine"} <= set(neurons)


def test_snntorch_is_what_neurobench_looks_for() -> None:
    assert isinstance(st.SNU(), snntorch.SpikingNeuron), "else its hooks count no spikes"
