"""The timings of neurons: every candidate runs, in turns, and is told in a table or in JSON."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from snu_plugin import implementations
from snu_plugin.bench import neuron
from snu_plugin.bench.alternate import FEWEST_ROUNDS, alternate

TINY = (neuron.Workload(4, 2, 5, 3),)


def test_candidates_take_turns() -> None:
    order: list[str] = []
    timings = alternate({n: functools.partial(order.append, n) for n in "ab"}, 1e-9)
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * FEWEST_ROUNDS
    assert timings["a"].rounds == FEWEST_ROUNDS
    assert timings["a"].low <= timings["a"].median <= timings["a"].high


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds is 0"):
        alternate({}, 0)


def test_every_implementation_is_timed_beside_its_product() -> None:
    answer = json.loads(neuron.run(json=True, seconds=1e-3, workloads=TINY, threads=1))
    assert answer["threads"] == 1
    found = {result["candidate"]: result for result in answer["results"]}
    for name, implementation in implementations().items():
        assert (f"product, SNU ({name})" in found) == implementation.available
    assert found["product alone"]["ratio"] == 1
    assert found["nn.LSTM"]["median"] > 0
    assert found["nn.LSTM"]["workload"] == {"steps": 4, "batch": 2, "inputs": 5, "outputs": 3}


def test_simulators_that_are_installed_are_timed() -> None:
    pytest.importorskip("snntorch")
    assert "product, neuron of snntorch" in neuron.run(seconds=1e-3, workloads=TINY)


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    neuron.run(seconds=1e-3, workloads=TINY, threads=1)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads is 0"):
        neuron.run(threads=0)
