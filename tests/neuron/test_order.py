"""Sequences of images in any order in memory: the same numbers, in that order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from snu_plugin import SNU, SNUConfig
from snu_plugin.neuron import LIF, State, lif_scan
from snu_plugin.neuron.memory import Order

SHAPE = 5, 2, 3, 4, 6


def drive(view: Callable[[Tensor], Tensor]) -> Tensor:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 2
    return view(x)


def last(x: Tensor) -> Tensor:
    whole = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return whole.view(x.shape)


VIEWS = [
    last,
    lambda x: x.transpose(3, 4).contiguous().transpose(3, 4),
    lambda x: x[..., ::2],
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
]


@pytest.mark.parametrize("view", VIEWS)
def test_an_snu_does_the_same_in_any_order(view: Callable[[Tensor], Tensor]) -> None:
    x = drive(view)
    config = SNUConfig(decay=0.7, learn_decay=True, learn_threshold=True)
    layer = SNU(tuple(x.shape[2:]), config)
    with torch.no_grad():
        layer.threshold.copy_(torch.linspace(0.5, 1.5, layer.threshold.numel()).view(x.shape[2:]))
    begin = State(*(torch.rand_like(x[0]) for _ in range(2)))
    found = []
    for given in (x, x.contiguous()):
        leaf = given.detach().requires_grad_()
        assert leaf.stride() == given.stride()
        y, state = layer(leaf, begin)
        g = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))[..., : x.shape[-1]]
        found.append((y, *state, *torch.autograd.grad(y, [leaf, *layer.parameters()], g)))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[0][0], found[1][0])
    if Order.of(x) is not None:
        assert found[0][0].stride() == x.stride()
        assert found[0][3].stride() == x.stride()


@pytest.mark.parametrize("view", VIEWS)
def test_a_host_s_neuron_does_the_same_in_any_order(view: Callable[[Tensor], Tensor]) -> None:
    x = drive(view)
    threshold = torch.linspace(0.5, 1.5, x.shape[2]).view(-1, 1, 1)
    neuron = LIF(a=torch.tensor(0.8), threshold=threshold, reset="subtract", slope="atan")
    found = []
    for given in (x, x.contiguous()):
        leaf = given.detach().requires_grad_()
        y, v, _ = lif_scan(leaf, neuron, torch.full_like(x[0], 0.3))
        assert v is not None
        found.append((y, v, torch.autograd.grad((y + v).square().sum(), leaf)[0]))
    for ours, plain in zip(*found, strict=True):
        assert torch.equal(ours, plain)
    if Order.of(x) is not None:
        assert found[0][0].stride() == x.stride()


def test_gaps_and_time_that_is_not_outermost_have_no_order() -> None:
    x = torch.rand(SHAPE)
    assert Order.of(x) is None
    assert Order.of(x[..., ::2]) is None
    assert Order.of(x.transpose(0, 1).contiguous().transpose(0, 1)) is None
