"""What a path that feeds back delivers at the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from snu_plugin.accelerator import IDEAL, Accelerator
from snu_plugin.compiler import compile, plan
from snu_plugin.graph import check, discretise, network, read, stamp, verify, write
from snu_plugin.hil.forward import forward

DT = 2.0**-10


def looped(back: nir.NIRNode, **more: nir.NIRNode) -> nir.NIRGraph:
    """Return input -> lif -> output, with ``back`` from lif to lif; decay 1/2, threshold 1."""
    full = {"tau": 2 * DT, "r": 2.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0}
    nodes = {
        "input": nir.Input(input_type={"input": np.array([2])}),
        "lif": nir.LIF(**{field: np.full(2, value) for field, value in full.items()}),
        "back": back,
        "output": nir.Output(output_type={"output": np.array([2])}),
    } | more
    edges = [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")]
    return stamp(nir.NIRGraph(nodes, edges, {}, type_check=False), DT)


def affine() -> nir.Affine:
    return nir.Affine(np.array([[0.0, -1.0], [-1.0, 0.0]]), np.array([1.5, 0.25]))


def spikes(graph: nir.NIRGraph, steps: int = 5, **how: Any) -> list[list[float]]:
    y, _ = network(graph, **how)(torch.zeros(steps, 1, 2))
    return y[:, 0].detach().tolist()  # type: ignore[no-any-return]


def test_a_bias_that_feeds_back_acts_from_the_second_step_unless_told() -> None:
    assert spikes(looped(affine()), 3) == [[0, 0], [1, 0], [1, 0]]
    assert spikes(looped(affine()), 3, feedback="biased") == [[1, 0], [1, 0], [1, 0]]


def test_a_biased_way_back_is_a_bias_in_front_of_the_neuron() -> None:
    back, x = affine(), torch.rand(40, 3, 2, generator=torch.Generator().manual_seed(0))
    front = nir.Affine(np.eye(2), back.bias)
    graph = looped(nir.Linear(back.weight), front=front)
    graph.edges = [("input", "front"), ("front", "lif"), *graph.edges[1:]]
    expected = network(graph)(x)[0]
    assert 0 < expected.mean() < 1
    assert torch.equal(network(looped(back), feedback="biased")(x)[0], expected)


def test_a_way_back_without_a_bias_is_the_same_either_way() -> None:
    graph = looped(nir.Linear(affine().weight))
    assert discretise(graph).wiring == discretise(graph, feedback="biased").wiring


def test_a_way_back_of_several_nodes_begins_where_it_leaves_the_neuron() -> None:
    graph = looped(affine(), gain=nir.Scale(np.array([1.0, 4.0])))
    graph.edges[2:3] = [("back", "gain"), ("gain", "lif")]
    assert spikes(graph, 2) == [[0, 0], [1, 0]]
    assert spikes(graph, 2, feedback="biased") == [[1, 0], [1, 0]]
    (block,) = (b for b in discretise(graph, feedback="biased").wiring.blocks if b.delayed)
    assert block == (("back", "gain", "lif"), frozenset({("lif", "back")}))


def test_a_declared_feedback_counts_survives_a_file_and_settles_the_verdict(tmp_path: Path) -> None:
    graph = stamp(looped(affine()), DT, feedback="biased")
    write(tmp_path / "biased.nir", graph)
    again = read(tmp_path / "biased.nir")
    assert spikes(again) == spikes(looped(affine()), feedback="biased")
    assert spikes(again, feedback="silent") == spikes(looped(affine()))
    assert {v.verdict for v in check(again)} == {"exact"}
    verdicts = {v.name: v for v in check(looped(affine()))}
    assert verdicts["back"].verdict == "approximate"
    assert "feedback='biased' applies it at once" in verdicts["back"].reason


def test_a_sequence_in_two_parts_equals_the_whole_with_a_biased_way_back() -> None:
    net = network(looped(affine()), feedback="biased")
    x = torch.rand(12, 3, 2, generator=torch.Generator().manual_seed(1))
    whole, _ = net(x)
    first, state = net(x[:5])
    second, _ = net(x[5:], state)
    assert torch.equal(torch.cat([first, second]), whole)


@pytest.mark.parametrize("adapter", ["snu_snntorch", "snu_norse"])
def test_adapters_begin_as_they_are_told_and_say_so_when_they_leave(adapter: str) -> None:
    host = pytest.importorskip(adapter)
    x = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(2))
    expected = network(looped(affine()), feedback="biased")(x)[0]
    again = host.to_nir(host.from_nir(looped(affine()), feedback="biased"))
    assert torch.equal(network(again)(x)[0], expected)
    given = torch.tensor(host.simulate(again, x.numpy()))
    assert torch.equal(given, expected.detach())


def test_a_bias_anywhere_on_the_way_back_is_found() -> None:
    graph = looped(affine(), gain=nir.Scale(np.array([1.0, 4.0])))
    graph.edges[2:3] = [("back", "gain"), ("gain", "lif")]
    assert [(v.name, v.field) for v in check(graph) if v.verdict != "exact"] == [("back", "bias")]
    assert "the bias of 'back' feeds back" in discretise(graph).notes[0]


@pytest.mark.parametrize("feedback", ["silent", "biased"])
def test_a_choice_that_is_given_is_exact(feedback: Any) -> None:
    assert {v.verdict for v in check(looped(affine()), feedback=feedback)} == {"exact"}
    declared = stamp(looped(affine()), DT, feedback=feedback)
    assert {v.verdict for v in check(declared)} == {"exact"}


def test_a_bias_in_front_of_a_branch_is_never_left_out_in_silence() -> None:
    graph = looped(affine(), gain=nir.Scale(np.ones(2)))
    graph.edges[2:3] = [("back", "gain"), ("gain", "lif"), ("gain", "output")]
    with pytest.raises(ValueError, match=r"node 'gain' .* 1 inputs and 2 readers"):
        network(graph, feedback="biased")


def test_a_threshold_behind_a_membrane_may_feed_other_nodes_beside_the_bias() -> None:
    li = nir.LI(*(np.full(2, value) for value in (2 * DT, 2.0, 0.0)))
    nodes: dict[str, nir.NIRNode] = {
        "input": nir.Input(np.array([2])), "li": li, "fire": nir.Threshold(np.ones(2)),
        "back": affine(), "output": nir.Output(np.array([2])),
    }  # fmt: skip
    edges = [("input", "li"), ("li", "fire"), ("fire", "back"), ("back", "li"), ("fire", "output")]
    graph = stamp(nir.NIRGraph(nodes, edges), DT)
    assert spikes(graph, 2) == [[0, 0], [1, 0]]
    assert spikes(graph, 2, feedback="biased") == [[1, 0], [1, 0]]


@pytest.mark.parametrize("feedback", [None, "silent", "biased"])
def test_a_chip_runs_and_remembers_the_choice(tmp_path: Path, feedback: Any) -> None:
    x = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(2))
    expected = network(looped(affine()), feedback=feedback)(x)[0].detach()
    chip = Accelerator(compile(looped(affine()), IDEAL, feedback=feedback), seed=0)
    chip.program()
    chip.save(tmp_path / "chip.npz")
    for one in (chip, Accelerator.load(tmp_path / "chip.npz")):
        assert torch.equal(one.run(x)[0], expected)
        assert torch.equal(network(one.to_nir())(x)[0], expected)
        verdicts = {v.verdict for v in check(one.to_nir())}
        assert ("approximate" in verdicts) == (feedback is None)
    assert plan(looped(affine()), IDEAL, feedback=feedback).fits


def test_the_twin_of_a_chip_begins_as_the_chip_does() -> None:
    x = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(2))
    chip = Accelerator(compile(looped(affine()), IDEAL, feedback="biased"), seed=0)
    chip.program()
    twin = forward(chip, x, chip.read_weights())
    assert torch.equal(twin.output, network(looped(affine()), feedback="biased")(x)[0])


def test_what_has_no_one_meaning_is_refused() -> None:
    now: Any = "now"
    for call in (discretise, check, verify, lambda g, **how: compile(g, IDEAL, **how)):
        with pytest.raises(ValueError, match="feedback is 'now'; it must be 'silent' or 'biased'"):
            call(looped(affine()), feedback=now)
    with pytest.raises(ValueError, match="declares the feedback 7; it must be last step or"):
        discretise(stamp(looped(affine()), DT, feedback=7))
    shared = looped(affine())
    shared.edges.append(("back", "output"))
    with pytest.raises(ValueError, match=r"node 'back' .* 1 inputs and 2 readers"):
        discretise(shared, feedback="biased")
    declared = stamp(shared, DT, feedback="biased")
    (verdict,) = check(declared)
    assert (verdict.verdict, verdict.field) == ("unsupported", "bias")
