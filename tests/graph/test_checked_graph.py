"""A graph is checked once, at the door, and what is inside cannot be changed any more."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from snu_plugin import graph
from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile, plan
from snu_plugin.graph import files, flattening
from snu_plugin.neuron import SNUConfig


def nested() -> nir.NIRGraph:
    """Input 3 -> a sub-graph of weights and neurons -> Output; float32 weights of our own."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    inner = nir.NIRGraph(
        {
            "input": nir.Input({"input": np.array([3])}),
            "fc": nir.Linear(weight),
            "lif": graph.encode_snu(SNUConfig(), np.full(4, 0.5), np.full(4, 0.75), dt=2.0**-10),
            "output": nir.Output({"output": np.array([4])}),
        },
        [("input", "fc"), ("fc", "lif"), ("lif", "output")],
    )
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "sub": inner,
        "output": nir.Output({"output": np.array([4])}),
    }
    return graph.stamp(nir.NIRGraph(nodes, list(itertools.pairwise(nodes))), 2.0**-10)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how often a graph is laid out, and how often a node is built anew."""
    counted: Counter[str] = Counter()

    def watch(module: Any, name: str) -> None:
        original = getattr(module, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counting)

    watch(flattening, "expand")
    watch(files, "expand")
    watch(flattening, "rebuild")
    return counted


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda g: compile(g, IDEAL), id="compile"),
        pytest.param(lambda g: plan(g, IDEAL), id="plan"),
        pytest.param(lambda g: graph.network(g), id="network"),
        pytest.param(lambda g: graph.check(g), id="check"),
        pytest.param(lambda g: graph.verify(g, simulators=[]), id="verify"),
    ],
)
def test_a_graph_that_comes_in_is_checked_once(
    call: Callable[[nir.NIRGraph], object], checks: Counter[str]
) -> None:
    call(nested())
    assert checks == {"expand": 1, "rebuild": 6}  # each of its six nodes


def test_what_was_read_is_not_built_a_second_time(tmp_path: Path, checks: Counter[str]) -> None:
    chip = Accelerator(compile(nested(), IDEAL), seed=0)
    chip.program()
    chip.save(tmp_path / "chip.npz")
    checks.clear()
    Accelerator.load(tmp_path / "chip.npz")
    assert checks == {"expand": 1}


def test_a_checked_graph_cannot_be_changed_and_the_graph_it_came_from_can() -> None:
    g = nested()
    checked = graph.checked_graph(g)
    with pytest.raises(ValueError, match="read-only"):
        checked.nodes["sub.fc"].weight[0, 0] = 7
    g.nodes["sub"].nodes["fc"].weight[0, 0] = 7
    graph.flatten(g).nodes["sub.fc"].weight[0, 0] = 8


@pytest.mark.parametrize("ports", [False, True])
def test_an_edge_that_names_a_node_of_a_sub_graph_means_it_where_the_sub_graph_talks_by_it(
    ports: bool, tmp_path: Path
) -> None:
    lif = nir.LIF(*(np.full(2, v) for v in (2.0, 2.0, 0.0, 1.0)))
    inside = [nir.Input({"input": np.array([2])}), nir.Output({"output": np.array([2])})]
    parts = {"in": inside[0], "lif": lif, "out": inside[1]} if ports else {"lif": lif}
    within = [("in", "lif"), ("lif", "out")] if ports else []
    sub = nir.NIRGraph(parts, within, type_check=False)
    ends = {"input": nir.Input({"input": np.array([2])}), "sub": sub}
    ends["output"] = nir.Output({"output": np.array([2])})
    g = nir.NIRGraph(ends, [("input", "sub.lif"), ("sub.lif", "output")], type_check=False)
    assert sorted(graph.flatten(g).edges) == [("input", "sub.lif"), ("sub.lif", "output")]
    graph.write(tmp_path / "g.nir", g)
    assert sorted(graph.flatten(graph.read(tmp_path / "g.nir")).edges) == [
        ("input", "sub.lif"), ("sub.lif", "output")
    ]  # fmt: skip


def test_an_edge_to_a_node_that_a_sub_graph_feeds_itself_is_refused_in_one_line() -> None:
    g = nested()
    g.edges = [(a, "sub.lif" if b == "sub" else b) for a, b in g.edges]
    with pytest.raises(ValueError, match=r"whose target 'sub\.lif' does not exist; its nodes: "):
        graph.flatten(g)


def test_a_graph_goes_through_bytes_as_through_a_file(tmp_path: Path) -> None:
    g = nested()
    graph.write(tmp_path / "g.nir", g)
    by_file = graph.checked_graph(graph.read(tmp_path / "g.nir"))
    by_bytes = graph.from_bytes(graph.to_bytes(graph.checked_graph(g)))
    assert by_bytes.nodes.keys() == by_file.nodes.keys() == {"input", "sub.fc", "sub.lif", "output"}
    assert by_bytes.edges == by_file.edges
    assert by_bytes.declared == by_file.declared
    for name, node in by_file.nodes.items():
        for field, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(by_bytes.nodes[name], field), value)


@pytest.mark.parametrize("source", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_bytes_that_are_no_file_are_refused_in_a_line(source: bytes) -> None:
    with pytest.raises(ValueError, match=r"the NIR file: is not an HDF5 file"):
        graph.from_bytes(source)
