"""The adapter of the guide: it knows public names alone, and all that is promised of one holds."""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from same_process import simulators_forked
from snu_plugin import accelerate, graph, simulators, testing

GUIDE = Path(__file__).parents[2] / "docs" / "howto" / "own_adapter.md"
SOURCE = GUIDE.read_text(encoding="utf-8").partition("```py\n")[2].partition("```")[0]
FRONTS = ("snu_plugin.neuron", "snu_plugin.schedule")


@pytest.fixture
def toyspike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The adapter, installed and found by its entry point; for processes started here, too."""
    monkeypatch.delitem(sys.modules, "toyspike", raising=False)
    (tmp_path / "toyspike.py").write_text(SOURCE, encoding="utf-8")
    info = tmp_path / "toyspike-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyspike\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{simulators.GROUP}]\ntoyspike = toyspike\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return simulators.adapter("toyspike")


@pytest.mark.parametrize("claim", testing.CLAIMS, ids=lambda claim: claim.__name__)
def test_the_claims_of_an_adapter_hold_for_one_from_outside(
    toyspike: ModuleType, claim: testing.Claim
) -> None:
    claim(toyspike)


@pytest.mark.parametrize("kind", ["recurrent", "convolutional"])
def test_it_is_verified_in_a_process_of_its_own(
    toyspike: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulators_forked(monkeypatch)
    report = graph.verify(testing.network(kind), simulators=["toyspike"])
    ours, theirs = report.runs
    assert report.exact
    assert (ours.importer, ours.status) == ("plugin", "exact")
    assert theirs.message == "ValueError: toyspike reads no NIR of its own; use its adapter"


class Own(nn.Module):
    """A network with a loop of its own."""

    def __init__(self, toyspike: ModuleType) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.fire = toyspike.Fire(torch.full((4,), 0.75), torch.linspace(0.1, 0.7, 4))

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x:
            y, state = self.fire(self.fc(x_t), state)
            outputs.append(y)
        return torch.stack(outputs)


def test_accelerate_says_in_a_line_that_it_knows_no_neuron_of_an_adapter_without_rules_of_them(
    toyspike: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snu_plugin.acceleration.neurons._names", lambda: ("toyspike",))
    with pytest.raises(ValueError, match="finds no neuron in Own that it knows"):
        accelerate(Own(toyspike), torch.rand(7, 3, 5))


def test_a_network_with_a_loop_of_its_own_leaves_with_the_neurons_it_has(
    toyspike: ModuleType, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Own(toyspike)
    x = (torch.rand(20, 3, 5) < 0.5).float()
    graph.write(tmp_path / "own.nir", toyspike.to_nir(net, x))
    g = graph.read(tmp_path / "own.nir")
    with torch.no_grad():
        wanted = net(x).numpy()
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(toyspike.simulate(g, x.numpy()), wanted)
    np.testing.assert_array_equal(testing.expected(g, x), wanted)


def test_it_uses_nothing_but_what_the_doors_offer() -> None:
    tree = ast.parse(SOURCE)
    doors = {"graph": "snu_plugin.graph", "layers": "snu_plugin.graph.layers"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("snu_plugin"):
            assert node.module in ("snu_plugin", "snu_plugin.graph", *FRONTS)
            offered = getattr(importlib.import_module(node.module), "__all__", None)
            for alias in node.names:
                assert alias.name in doors or not offered or alias.name in offered
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            door = doors.get(node.value.id)
            if door is not None:
                assert node.attr in importlib.import_module(door).__all__
