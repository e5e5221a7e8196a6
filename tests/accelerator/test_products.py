"""Products of tiles are rounded alike however many rows there are and wherever they lie."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snu_plugin.accelerator import crossbar

sizes = st.integers(1, 40)


@settings(max_examples=60)
@given(inputs=sizes, outputs=sizes, rows=sizes, first=st.integers(0, 50), seed=st.integers(0, 99))
def test_some_rows_give_the_bits_that_all_give(
    inputs: int, outputs: int, rows: int, first: int, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, weight = (
        crossbar.even(torch.randn(n, inputs, generator=draw)) for n in (first + rows + 7, outputs)
    )
    whole = crossbar.product(x[None], weight)[0]
    some = crossbar.product(x[None, first : first + rows], weight)[0]
    assert torch.equal(some, whole[first : first + rows])
    assert some.is_contiguous()
    torch.testing.assert_close(some, x[first : first + rows] @ weight.T, rtol=1e-4, atol=1e-4)


def test_even_rows_are_filled_up_with_zeros() -> None:
    x = torch.ones(3, 2, 5)
    assert torch.equal(crossbar.even(x)[..., :5], x)
    assert crossbar.even(x).shape == (3, 2, 8)
    assert not crossbar.even(x)[..., 5:].any()
    assert crossbar.even(x[..., :4]).is_contiguous()
