"""Pools: torch's numbers and gradients, bit by bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snu_plugin.neuron import max_pool2d


def both(x: Tensor, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    found = []
    for call in (max_pool2d, F.max_pool2d):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = call(leaf, size)
        assert y.stride() == F.max_pool2d(x, size).stride()
        g = torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
        found.append((y.detach(), torch.autograd.grad(y, leaf, g)[0]))
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(2, 2), (3, 3), (1, 4), (5, 2), (7, 9)])
@pytest.mark.parametrize("kind", ["numbers", "spikes", "with NaN", "without end"])
def test_a_pool_has_the_numbers_gradients_and_order_in_memory_of_torch(
    kind: str, size: tuple[int, int], dtype: torch.dtype, order: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 7, 9, dtype=dtype)
    if kind == "spikes":
        x = (x > 1).to(dtype)
    if kind == "with NaN":
        x[torch.rand_like(x) < 0.2] = torch.nan
    if kind == "without end":
        x = torch.full_like(x, -torch.inf)
    x = x.contiguous(memory_format=order)
    for ours, theirs in both(x, size):
        assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
        assert torch.equal(ours.isnan(), theirs.isnan())


def test_a_pool_is_shared_by_threads() -> None:
    before = torch.get_num_threads()
    torch.manual_seed(0)
    x = torch.randn(64, 8, 32, 32)
    try:
        torch.set_num_threads(3)
        shared = both(x, (2, 2)) + both(x.contiguous(memory_format=torch.channels_last), (2, 2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(ours, theirs) for ours, theirs in shared)


def test_other_numbers_and_transforms_are_left_to_torch() -> None:
    x = torch.randn(3, 2, 6, 6)
    half = x.bfloat16()
    assert torch.equal(max_pool2d(half, (2, 2)), F.max_pool2d(half, 2))
    expected = torch.func.grad(lambda x: F.max_pool2d(x, 2).square().sum())(x)
    assert torch.equal(torch.func.grad(lambda x: max_pool2d(x, (2, 2)).square().sum())(x), expected)


def test_a_window_larger_than_the_image_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        max_pool2d(torch.rand(1, 1, 3, 3), (4, 4))
