"""Steps of a sequence are multiplied alike wherever they lie in memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from snu_plugin.schedule import aligned, wire


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(2, 5, 9), (3, 33, 17), (1, 7, 5)])
def test_a_step_of_a_sequence_gives_the_bits_of_the_same_step_alone(
    batch: int, inputs: int, outputs: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw)
    x = torch.randn(20, batch, inputs, generator=draw)
    for x_t in x:
        alone = torch.tensor(x_t.tolist())
        assert torch.equal(F.linear(aligned(x_t), weight), F.linear(alone, weight))


def test_what_lies_well_is_not_copied() -> None:
    x = torch.zeros(4, 2, 8)
    assert all(aligned(x_t).data_ptr() == x_t.data_ptr() for x_t in x)


def test_gradients_pass_a_step_that_was_moved() -> None:
    x = torch.ones(3, 5, requires_grad=True)
    torch.stack([aligned(x_t) for x_t in x]).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(3, 5))


def test_names_are_in_the_order_of_a_step_whatever_their_alphabet() -> None:
    names = ("0", "1", "10", "2", "input", "output")
    edges = [("input", "0"), ("0", "1"), ("1", "2"), ("2", "10"), ("10", "output"), ("2", "0")]
    assert wire(names, edges, ["input"]).names == ("input", "0", "1", "2", "10", "output")
