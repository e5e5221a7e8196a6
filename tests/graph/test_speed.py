"""The strict reference is not slower than what a simulator makes of the same graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import nir
import numpy as np
import pytest
import torch

from snu_plugin.graph import network

DT = 1e-4


def braille_like() -> nir.NIRGraph:
    """12 inputs, 38 recurrent units with two states, 7 outputs, as the NIR paper's third task."""
    random = np.random.default_rng(0)

    def cuba(size: int) -> nir.NIRNode:
        syn, mem = np.full(size, DT / 0.45), np.full(size, DT / 0.1)
        zero, one = np.zeros(size), np.ones(size)
        return nir.CubaLIF(syn, mem, mem / DT, zero, one, zero, syn / DT)

    nodes = {
        "input": nir.Input(input_type={"input": np.array([12])}),
        "fc1": nir.Affine(random.normal(0, 0.4, (38, 12)), random.normal(0, 0.1, 38)),
        "lif1": cuba(38),
        "rec": nir.Linear(random.normal(0, 0.1, (38, 38))),
        "fc2": nir.Affine(random.normal(0, 0.4, (7, 38)), random.normal(0, 0.1, 7)),
        "lif2": cuba(7),
        "output": nir.Output(output_type={"output": np.array([7])}),
    }
    edges = [("input", "fc1"), ("fc1", "lif1"), ("lif1", "rec"), ("rec", "lif1"), ("lif1", "fc2")]
    edges += [("fc2", "lif2"), ("lif2", "output")]
    return nir.NIRGraph(nodes, edges, {}, type_check=False)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:nirtorch.load is being deprecated:DeprecationWarning")
@torch.no_grad()
def test_the_reference_is_at_least_as_fast_as_norse() -> None:
    norse = pytest.importorskip("norse.torch", reason="norse is not installed")
    x = (torch.rand(256, 128, 12, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    ours, theirs = network(braille_like(), dt=DT), norse.from_nir(braille_like(), dt=DT)

    def step_by_step() -> None:
        state = None
        for x_t in x:
            _, state = theirs(x_t, state)

    pairs = [(seconds(lambda: ours(x)), seconds(step_by_step)) for _ in range(5)]
    assert median(a for a, _ in pairs) <= median(b for _, b in pairs)
