"""States that land exactly on their threshold decide alike wherever a graph runs.

Weights lie on a grid, as a chip has them; decays and gains are no short binary fractions, so that
every rounding counts.
"""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import SNU, network, read, write
from snu_plugin.graph.verification import near_threshold

SIZE = 12


def full(*values: float) -> list[np.ndarray]:
    return [np.full(SIZE, value) for value in values]


NEURONS: dict[str, tuple[nir.NIRNode, float]] = {
    "IF": (nir.IF(*full(100.0, 1.0, 0.0)), 1e-3),
    "LIF, r = 1": (nir.LIF(*full(0.0025, 1.0, 0.0, 0.04, 0.0)), 1e-4),
    "LIF, r = tau/dt": (nir.LIF(*full(0.001, 10.0, 0.0, 0.75, 0.0)), 1e-4),
    "LIF, leak and reset": (nir.LIF(*full(2.5, 1.0, 0.25, 0.35, -0.1)), 1.0),
    "CubaLIF": (nir.CubaLIF(*full(3.0, 10.0, 1.0, 0.0, 0.025, 0.0, 0.75)), 1.0),
    "CubaLIF, gains of 1": (nir.CubaLIF(*full(2.5, 5.0, 5.0, 0.0, 0.75, 0.0, 2.5)), 1.0),
    "SNU": (SNU(*full(0.9, 0.5), g="relu"), 2.0**-10),
}


def graph(neuron: nir.NIRNode, looped: bool) -> nir.NIRGraph:
    random = np.random.default_rng(0)
    nodes = {
        "input": nir.Input(input_type={"input": np.array([8])}),
        "w": nir.Linear(random.integers(-4, 7, (SIZE, 8)) / 8),
        "neuron": neuron,
        "output": nir.Output(output_type={"output": np.array([SIZE])}),
    }
    edges = [("input", "w"), ("w", "neuron"), ("neuron", "output")]
    if looped:
        nodes["back"] = nir.Linear(random.integers(-2, 3, (SIZE, SIZE)) / 8)
        edges += [("neuron", "back"), ("back", "neuron")]
    return nir.NIRGraph(nodes, edges, type_check=False)


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("adapter", ["snu_snntorch", "snu_norse"])
@pytest.mark.covering(2)
def test_a_tie_is_decided_alike_everywhere(
    adapter: str, kind: str, looped: bool, tmp_path: Path
) -> None:
    host = pytest.importorskip(adapter)
    neuron, dt = NEURONS[kind]
    made = graph(neuron, looped)
    x = (torch.rand(150, 4, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    net = network(made, dt)
    values, _ = net.run(x)
    assert near_threshold(net, values) > 0
    expected = values["output"].detach()
    assert 0.02 < expected.mean() < 0.98
    assert np.array_equal(host.simulate(made, x.numpy(), dt), expected.numpy())
    write(tmp_path / "graph.nir", made)
    assert torch.equal(network(read(tmp_path / "graph.nir"), dt)(x)[0], expected)
    write(tmp_path / "again.nir", host.to_nir(host.from_nir(made, dt), x[0]))
    assert torch.equal(network(read(tmp_path / "again.nir"))(x)[0], expected)
