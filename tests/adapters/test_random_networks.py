"""Random networks of everything that the hosts offer leave exactly, or are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

import fuzz_networks
from snu_plugin import simulators
from snu_plugin.testing import Choices, exchanged, random_network

SEEDS = [
    range(11, 19),
    *(pytest.param(range(n, n + 100), marks=pytest.mark.slow) for n in range(0, 2000, 100)),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of some neurons gain nothing by more, and wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("host", fuzz_networks.HOSTS)
def test_random_networks_give_the_same_everywhere_or_are_refused(host: str, seeds: range) -> None:
    adapter, everyone = simulators.adapter(host), fuzz_networks.runners()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that nothing makes fire
        lines = [fuzz_networks.entry(host, adapter, seed, everyone) for seed in seeds]
    wrong = [line for line in lines if line["status"] in ("different", "crash")]
    assert not wrong, wrong
    refused = [line for line in lines if line["status"].startswith("refused")]
    assert len(refused) <= 2, refused
    assert sum(line["fired"] for line in lines) > 0.8 * len(seeds)


@pytest.mark.parametrize("host", fuzz_networks.HOSTS)
def test_a_seed_is_a_network(host: str) -> None:
    adapter = simulators.adapter(host)
    for seed in range(5):
        first, again = random_network(adapter, seed), random_network(adapter, seed)
        assert first.told == again.told
        for a, b in zip(
            first.run(first.model, first.inputs[0]),
            again.run(again.model, again.inputs[0]),
            strict=True,
        ):
            assert a.equal(b)


@pytest.mark.parametrize("host", fuzz_networks.HOSTS)
def test_every_neuron_that_is_offered_is_drawn(host: str) -> None:
    adapter, kinds = simulators.adapter(host), set[str]()
    for seed in range(200):
        kinds.add(type(adapter.random_neuron(Choices(seed), (4,), False).module).__name__)
    assert len(kinds) >= 11, kinds


def test_a_network_whose_weights_change_on_the_way_is_found_out() -> None:
    adapter = simulators.adapter("snntorch")
    found = random_network(adapter, 1)
    assert exchanged(found, adapter, {}).status == "equal"

    class Damaged:
        @staticmethod
        def to_nir(*args: object, **settings: object) -> object:
            made = adapter.to_nir(*args, **settings)
            for node in made.nodes.values():
                if hasattr(node, "weight"):
                    node.weight = 2 * node.weight
            return made

    assert exchanged(found, Damaged, {}).status == "different"  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "seed"), [("snntorch", 1204), ("norse", 1219)])
def test_roundings_that_grow_in_cells_of_two_stable_states_are_no_difference(
    host: str, seed: int
) -> None:
    adapter = simulators.adapter(host)
    assert exchanged(random_network(adapter, seed), adapter, {}).status == "equal"


@pytest.mark.parametrize("seed", [10051, 10238])
def test_a_sum_with_what_flatten_gives_leaves(seed: int) -> None:
    adapter = simulators.adapter("norse")
    assert exchanged(random_network(adapter, seed), adapter, {}).status == "equal"


def test_what_is_too_small_beside_where_potentials_begin_is_no_difference() -> None:
    adapter = simulators.adapter("norse")  # an IAFCell that begins at its threshold
    assert exchanged(random_network(adapter, 51347), adapter, {}).status == "equal"
