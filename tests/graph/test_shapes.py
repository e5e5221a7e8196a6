"""Shapes that a graph does not say, or says otherwise than its nodes, are found or refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

from snu_plugin import graph

ANY = {"input": None}


def chain(
    *nodes: nir.NIRNode, shape: tuple[int, ...] | None, gives: tuple[int, ...] | None = None
) -> nir.NIRGraph:
    """Nodes in a row between an Input and an Output of these shapes."""
    first = nir.Input({"input": None if shape is None else np.array(shape)})
    named = {"in": first, **{f"n{i}": node for i, node in enumerate(nodes)}}
    named["out"] = nir.Output({"output": None if gives is None else np.array(gives)})
    return nir.NIRGraph(named, list(pairwise(named)), type_check=False)


def linear(outputs: int, inputs: int) -> nir.Linear:
    return nir.Linear(np.random.default_rng(0).normal(size=(outputs, inputs)))


def run(g: nir.NIRGraph, *shape: int) -> Tensor:
    net, x = graph.network(g, dt=1.0), torch.rand(3, 2, *shape)
    y = net(x)[0]
    assert isinstance(y, Tensor)
    return y


def repaired(g: nir.NIRGraph, folder: Path) -> list[str]:
    """What is said of a graph whose file is read."""
    nir.write(folder / "g.nir", g)
    said: list[str] = graph.declared(graph.read(folder / "g.nir"))["repaired"]
    return said


def test_a_flatten_that_counts_the_batch_is_read_as_what_reads_it_takes(
    tmp_path: Path,
) -> None:
    g = chain(
        nir.Flatten({"input": np.array([2, 3, 3])}, 1, -1),
        linear(4, 18),
        shape=(2, 3, 3),
        gives=(4,),
    )
    assert run(g, 2, 3, 3).shape == (3, 2, 4)
    told = "Flatten 'n0' counts a batch dimension; it was left out"
    assert repaired(g, tmp_path) == [told]


def test_an_input_has_the_shape_that_its_readers_take(tmp_path: Path) -> None:
    g = chain(linear(4, 16), shape=(4, 4), gives=(4,))
    assert run(g, 16).shape == (3, 2, 4)
    told = "Input 'in' has shape (4, 4); its readers take (16,)"
    assert repaired(g, tmp_path) == [told]
    with pytest.raises(ValueError, match=r"'in' \(Input\) gives \(9,\), .*'n0' .*takes \(16,\)"):
        run(chain(linear(4, 16), shape=(9,)), 9)


def test_a_shape_that_nobody_says_is_that_of_the_parameters() -> None:
    g = chain(nir.Threshold(np.array([0.5, 0.2])), shape=None)
    assert run(g, 2).shape == (3, 2, 2)


def test_a_shape_that_cannot_be_found_is_asked_for() -> None:
    with pytest.raises(ValueError, match="'in' takes cannot be found; give its Input a shape"):
        run(chain(nir.Flatten(ANY, 0, -1), shape=None), 4)


@pytest.mark.parametrize(
    ("node", "shape", "why"),
    [
        (nir.Flatten(ANY, 0, 3), (2, 3), r"joins the dimensions 0 to 3, but is given \(2, 3\)"),
        (
            nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            (6, 6),
            r"\(SumPool2d\) is given \(6, 6\); it takes \(C, H, W\)",
        ),
        (nir.Scale(np.ones(3)), (4,), r"takes \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(
    node: nir.NIRNode, shape: tuple[int, ...], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        run(chain(node, shape=shape), *shape)
