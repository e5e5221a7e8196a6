"""Graphs joined of others: what their parts declare holds for them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.graph import (
    check,
    checked_graph,
    discretise,
    encode_snu,
    flatten,
    network,
    read,
    stamp,
    verify,
    write,
)
from snu_plugin.neuron import SNUConfig

X = (torch.rand(30, 2, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def line(*nodes: nir.NIRNode, size: int = 4, **more: nir.NIRNode) -> nir.NIRGraph:
    """Nodes one after the other."""
    named: dict[str, nir.NIRNode] = {"input": nir.Input(np.array([size]))}
    named |= {f"n{i}": node for i, node in enumerate(nodes)} | more
    named["output"] = nir.Output(np.array([size]))
    return nir.NIRGraph(named, list(itertools.pairwise(named)))


def layer(dt: float, seed: int) -> nir.NIRGraph:
    """Weights and neurons, made for ``dt``."""
    weight = np.random.default_rng(seed).normal(0, 0.8, (4, 4))
    unit = encode_snu(SNUConfig(), np.full(4, 0.8), np.full(4, 0.7), dt=dt)
    return line(nir.Linear(weight), unit)


def outputs(graph: nir.NIRGraph, **how: Any) -> torch.Tensor:
    out: torch.Tensor = network(graph, **how)(X)[0].detach()
    return out


def test_the_dt_on_which_the_parts_agree_is_that_of_the_whole(tmp_path: Path) -> None:
    alone = [stamp(layer(0.003, seed), 0.003) for seed in (1, 2)]
    joined = line(*alone)
    assert "dt" not in joined.metadata
    x = X
    for part in alone:
        x = network(part)(x)[0]
    assert 0.05 < x.mean() < 0.95
    write(tmp_path / "joined.nir", joined)
    for graph in (joined, read(tmp_path / "joined.nir"), flatten(joined), line(line(*alone))):
        assert torch.equal(outputs(graph), x)
        assert {v.verdict for v in check(graph)} == {"exact"}


def test_parts_that_declare_different_dts_are_named_and_a_dt_settles_it() -> None:
    joined = line(stamp(layer(0.003, 1), 0.003), stamp(layer(0.0001, 2), 0.0001))
    with pytest.raises(ValueError, match=r"different values of dt: n0 0\.003, n1 0\.0001; give dt"):
        network(joined)
    found = {v.name: v for v in check(joined) if v.verdict != "exact"}
    assert found.keys() == {"n0.n1", "n1.n1"}
    assert all(v.field == "dt" and "n0 0.003" in v.reason for v in found.values())
    given = discretise(joined, 0.0001)
    assert (
        "dt is 0.0001 as given; the parts of the graph declare n0 0.003, n1 0.0001" in given.notes
    )
    with pytest.raises(ValueError, match=r"the graph 0\.25, n0 0\.003"):
        network(stamp(line(stamp(layer(0.003, 1), 0.003)), 0.25))


def test_a_part_without_neurons_has_no_say_on_dt() -> None:
    head = stamp(line(nir.Linear(np.eye(4))), 2.0**-10)
    assert discretise(line(stamp(layer(0.003, 1), 0.003), head)).dt == 0.003


def test_input_gains_speak_for_a_part_that_declares_nothing() -> None:
    declared, silent = stamp(layer(0.003, 1), 0.003), layer(0.0001, 2)
    with pytest.raises(ValueError, match=r"n0 0\.003, n1\.n1 0\.0001"):
        network(line(declared, silent))
    assert discretise(line(declared, layer(0.003, 2))).dt == 0.003


def test_how_parts_read_r_holds_and_differences_are_named() -> None:
    integrate = nir.IF(*(np.full(4, v) for v in (0.5, 1.0)))
    step, ode = (stamp(line(integrate), 0.25, **{"if": how}) for how in ("step", "ode"))
    assert torch.equal(outputs(line(step)), outputs(step))
    assert not torch.equal(outputs(line(step)), outputs(line(ode)))
    with pytest.raises(ValueError, match="different values of if: n0 step, n1 ode; give reading"):
        network(line(step, ode))
    assert [v.verdict for v in check(line(step, ode))].count("unsupported") == 1
    assert network(line(step, ode), reading="step") is not None


def looped(feedback: str | None) -> nir.NIRGraph:
    """A neuron whose way back has a bias."""
    graph = layer(0.25, 3)
    graph.nodes["back"] = nir.Affine(np.eye(4) / 4, np.full(4, 0.9))
    graph.edges += [("n1", "back"), ("back", "n1")]
    return stamp(graph, 0.25, **({} if feedback is None else {"feedback": feedback}))


def test_the_feedback_of_a_part_holds_and_differences_are_named(tmp_path: Path) -> None:
    biased = looped("biased")
    assert torch.equal(outputs(line(biased)), outputs(biased))
    assert not torch.equal(outputs(biased), outputs(looped("silent")))
    assert torch.equal(outputs(line(biased, looped(None))), outputs(line(biased, biased)))
    both = line(biased, looped("silent"))
    with pytest.raises(ValueError, match="of feedback: n0 biased, n1 silent; give feedback"):
        network(both)
    (verdict,) = check(both)
    assert (verdict.name, verdict.verdict) == ("", "unsupported")
    expected = outputs(both, feedback="biased")
    assert torch.equal(expected, outputs(line(biased, biased)))
    chip = Accelerator(compile(both, IDEAL, feedback="biased"), seed=0)
    chip.program()
    chip.save(tmp_path / "chip.npz")
    for one in (chip, Accelerator.load(tmp_path / "chip.npz")):
        assert torch.equal(one.run(X)[0], expected)
        assert torch.equal(outputs(one.to_nir()), expected)


def test_a_part_whose_feedback_changes_nothing_has_no_say() -> None:
    plain = stamp(layer(0.25, 1), 0.25, feedback="silent")
    assert discretise(line(looped("biased"), plain)).feedback == "biased"


def test_what_parts_say_of_their_nodes_is_said_under_the_new_names() -> None:
    left = {"nodes": {"n1": "it subtracts"}, "differing": 0.25, "steps": 9, "batch": 2}
    first = stamp(layer(0.25, 1), 0.25, no_v_reset=["n1"])
    second = stamp(layer(0.25, 2), 0.25, approximate=left)
    found = {v.name: v for v in check(line(first, second, line(second)))}
    assert found["n0.n1"].reason.endswith("the file has no v_reset, read as 0")
    assert found["n1.n1"].verdict == found["n2.n0.n1"].verdict == "approximate"
    assert "it subtracts; exported as the nearest NIR node: 25.00%" in found["n1.n1"].reason


def test_a_graph_of_which_a_part_left_unchecked_says_so() -> None:
    said = "the graph left its model unchecked (check=False): that they agree is not shown"
    unchecked = stamp(layer(0.25, 1), 0.25, unchecked=True)
    for graph in (unchecked, line(stamp(layer(0.25, 2), 0.25), unchecked)):
        assert said in discretise(graph).notes
        assert f"note: {said}" in str(verify(graph, simulators=[]))
    assert not discretise(stamp(layer(0.25, 1), 0.25)).notes


def test_a_part_that_declares_what_cannot_be_is_named() -> None:
    joined = line(stamp(layer(0.25, 1), 0.25))
    joined.nodes["n0"].metadata["snu"] = "{"
    with pytest.raises(ValueError, match=r"sub-graph 'n0': metadata 'snu' is '\{'"):
        checked_graph(joined)
