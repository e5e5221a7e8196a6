"""Nodes of NIR as torch's own layers: they compute what the strict reference computes."""

import nir
import numpy as np
import pytest
import torch
from torch import nn

from snu_plugin.graph import network
from snu_plugin.graph.layers import torch_layer

draw = np.random.default_rng(0)


def eighths(*shape: int) -> np.ndarray:
    """Weights whose sums are exact in any order."""
    return draw.integers(-8, 9, shape) / 8


NODES = {
    "Linear": (nir.Linear(eighths(3, 5)), (5,)),
    "Affine": (nir.Affine(eighths(3, 5), eighths(3)), (5,)),
    "Conv1d": (nir.Conv1d(8, eighths(4, 1, 3), 2, 1, 1, 2, np.ones(4)), (2, 8)),
    "Conv2d": (
        nir.Conv2d((7, 6), eighths(3, 2, 3, 3), 1, "same", (1, 2), 1, np.ones(3)),
        (2, 7, 6),
    ),
    "AvgPool2d": (nir.AvgPool2d(np.array([2, 3]), np.array([2, 1]), np.array([1, 0])), (2, 6, 5)),
    "SumPool2d": (nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 1])), (2, 6, 6)),
    "Flatten": (nir.Flatten({"input": np.array([2, 3, 4])}, 1, -1), (2, 3, 4)),
}


@pytest.mark.parametrize("kind", NODES)
def test_a_layer_computes_what_the_reference_computes(kind: str) -> None:
    node, shape = NODES[kind]
    x = (torch.rand(1, 4, *shape, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    layer = torch_layer(node)
    assert layer is not None
    y = layer(x[0])
    ports = {
        "in": nir.Input({"input": np.array(shape)}),
        "out": nir.Output({"output": np.array(y.shape[1:])}),
    }
    edges = [("in", "node"), ("node", "out")]  # nir's own check does not know groups
    graph = nir.NIRGraph({**ports, "node": node}, edges, type_check=False)
    expected, _ = network(graph, dt=2**-10).run(x)
    torch_name = {"Affine": "Linear", "SumPool2d": "AvgPool2d"}.get(kind, kind)
    assert type(layer) is getattr(nn, torch_name)
    assert torch.equal(y, expected["out"][0])


def test_a_layer_shares_nothing_with_its_node_and_draws_no_random_number() -> None:
    node = nir.Affine(np.ones((2, 2), dtype=np.float32), np.ones(2, dtype=np.float32))
    before = torch.get_rng_state()
    layer = torch_layer(node)
    assert layer is not None
    assert torch.equal(torch.get_rng_state(), before)
    node.weight[:] = 0
    assert layer.get_parameter("weight").all()


def test_a_node_that_torch_has_no_layer_for_gives_none() -> None:
    assert torch_layer(nir.Scale(np.ones(2))) is None
    assert torch_layer(nir.Linear(np.ones((2, 3, 4)))) is None
