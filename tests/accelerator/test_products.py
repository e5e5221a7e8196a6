"""Products of tiles are rounded alike however many rows there are and wherever they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_chips import chip_of, matrix
from snu_plugin.accelerator import PCM, crossbar
from snu_plugin.accelerator.geometry import even, product
from snu_plugin.accelerator.matrix import summable

sizes = st.integers(1, 40)


@settings(max_examples=60)
@given(inputs=sizes, outputs=sizes, rows=sizes, first=st.integers(0, 50), seed=st.integers(0, 99))
def test_some_rows_give_the_bits_that_all_give(
    inputs: int, outputs: int, rows: int, first: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, weight = (even(torch.randn(n, inputs, generator=draw)) for n in (first + rows + 7, outputs))
    whole = product(x[None], weight)[0]
    some = product(x[None, first : first + rows], weight)[0]
    assert torch.equal(some, whole[first : first + rows])
    assert some.is_contiguous()
    torch.testing.assert_close(some, x[first : first + rows] @ weight.T, rtol=1e-4, atol=1e-4)


def test_even_rows_are_filled_up_with_zeros() -> None:
    x = torch.ones(3, 2, 5)
    assert torch.equal(even(x)[..., :5], x)
    assert even(x).shape == (3, 2, 8)
    assert not even(x)[..., 5:].any()
    assert even(x[..., :4]).is_contiguous()


def test_spikes_add_up_to_the_same_bits_in_any_order() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = summable(torch.randn(500, 30, generator=draw) ** 3)
    x = (torch.rand(64, 500, generator=draw) < 0.5).float()
    order = torch.randperm(500, generator=draw)
    exact = (x.double() @ weight.double()).float()
    assert torch.equal(x @ weight, exact)
    assert torch.equal(x[:, order] @ weight[order], exact)
    rounded = torch.randn(500, 30, generator=draw)
    off = (summable(rounded) - rounded).abs().amax(0)
    assert bool((off <= 2.0**-24 * rounded.abs().sum(0)).all())


def test_spikes_that_are_walked_give_the_bits_of_those_that_are_multiplied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(5, 300, 300, generator=draw) < 0.1).float()
    found = {}
    for walked in (True, False):
        if not walked:
            monkeypatch.setattr(crossbar, "spike_bits", lambda *_: None)
        chip = chip_of(matrix(70, 300), PCM)
        chip.wait(1e4)
        found[walked] = chip.run(x)
    assert torch.equal(found[True][0], found[False][0])
    assert found[True][1].counts == found[False][1].counts


def test_a_step_of_spikes_is_the_same_beside_a_step_of_other_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    spikes = (torch.rand(5, 60, 300, generator=draw) < 0.1).float()
    mixed = torch.cat([spikes[:4], torch.rand(1, 60, 300, generator=draw)])
    alone, beside = (chip_of(matrix(70, 300), PCM).run(x)[0] for x in (spikes, mixed))
    assert torch.equal(alone[:4], beside[:4])
