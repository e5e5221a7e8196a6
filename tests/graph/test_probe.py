"""Inputs found by trying."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from snu_plugin.graph.proving.probe import probe, shares_fired

SHAPE = (20, 2, 3)


def window(low: float, high: float, x: Tensor) -> float:
    """Share of neurons that fires where an input lies between two bounds."""
    return shares_fired({"": (x > low) & (x < high)})[""]


def test_the_first_inputs_that_make_every_layer_fire_are_taken() -> None:
    found = probe(lambda x: {"a": window(10, 99, x)}, SHAPE)
    assert found.how == "seeded spikes of rate 0.3 times 16"
    assert sorted(set(found.x.flatten().tolist())) == [0.0, 16.0]
    assert found.fired == {"a": 1.0}
    assert torch.equal(found.x, probe(lambda x: {"a": window(10, 99, x)}, SHAPE).x)


def test_where_no_input_makes_all_layers_fire_several_lie_side_by_side() -> None:
    found = probe(lambda x: {"a": window(10, 20, x), "b": window(50, 70, x)}, SHAPE)
    assert found.x.shape == (20, 4, 3)
    assert found.how == "seeded spikes of rate 0.3 times 16; seeded spikes of rate 0.3 times 64"
    assert found.fired == {"a": 1.0, "b": 1.0}


def test_what_nothing_makes_fire_stays_at_0() -> None:
    found = probe(lambda x: {"a": window(0.5, 2, x), "b": 0.0}, SHAPE)
    assert found.fired == {"a": 1.0, "b": 0.0}
    assert probe(lambda x: {"b": 0.0}, SHAPE).how == "seeded spikes of rate 0.3"


def test_a_difference_that_must_last_is_found() -> None:
    def fired(x: Tensor) -> dict[str, float]:
        return {"a": float(((x[..., 0] - x[..., 1]) / x.abs().amax()).mean(0).amax() > 0.5)}

    assert probe(fired, SHAPE).how.startswith("seeded normal values held over all steps")


def test_inputs_that_are_given_come_first() -> None:
    given = torch.full(SHAPE, 2.0)
    assert probe(lambda x: {"a": window(1, 3, x)}, SHAPE, given=given).how == "the inputs given"
    found = probe(lambda x: {"a": window(7, 9, x)}, SHAPE, given=given)
    assert (found.how, float(found.x.max())) == ("the inputs given times 4", 8.0)


def test_a_network_without_spikes_takes_what_comes_first_and_torchs_random_state_stays() -> None:
    before = torch.get_rng_state()
    assert probe(lambda x: {}, SHAPE).how == "seeded spikes of rate 0.3"
    assert torch.equal(torch.get_rng_state(), before)


def test_no_more_inputs_are_tried_than_allowed() -> None:
    seen: list[Tensor] = []

    def silent(x: Tensor) -> dict[str, float]:
        seen.append(x)
        return {"a": 0.0}

    probe(silent, SHAPE, tries=3)
    assert len(seen) == 3
    with pytest.raises(ValueError, match="tries is 0"):
        probe(silent, SHAPE, tries=0)
